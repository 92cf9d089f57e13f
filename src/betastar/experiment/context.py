"""What every stage is given: the configuration, the store, a reporter, the device, and models loaded once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from betastar.data.chat import ChatFormat, end_tokens
from betastar.data.graders import Grader
from betastar.data.tasks import task_grader
from betastar.experiment.memory import Room, one_sentence_without_memory
from betastar.experiment.store import MANIFEST, Artefact, Store, content_key, write_atomically
from betastar.maths.appendix_c import lora_rank
from betastar.models.bank import AdapterBank, Adapters, checkpoint_layers
from betastar.models.devices import choose_device
from betastar.models.loading import Base, hidden_size, load_base
from betastar.models.logprobs import grid_logprobs, grid_pair_logprobs
from betastar.models.rewards import RewardEnsemble, Scored, score
from betastar.models.sequences import Pair, Row
from betastar.progress import Reporter
from betastar.settings.config import Config
from betastar.settings.sections import Adapter, PretrainedBase

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Condition:
    """One offline condition."""

    beta: float
    seed: int

    def __str__(self) -> str:
        return f"beta-{self.beta:g}-seed-{self.seed}"


@dataclass(frozen=True)
class OnlineCondition:
    """One online condition: a variant of the online phase from one checkpoint."""

    variant: str
    checkpoint: Condition

    def __str__(self) -> str:
        return f"{self.variant}-{self.checkpoint}"


class Inputs(NamedTuple):
    """Artefacts from which checkpoints are evaluated and adapted."""

    base: Artefact
    reward_base: Artefact
    preferences: Artefact
    ensemble: Artefact
    problems: Artefact


class Parts(dict[K, Path], Generic[K]):
    """Folders by condition; `keys_of` maps each condition to its content key."""

    def __init__(self, folders: Mapping[K, Path], keys_of: Mapping[K, str]):
        super().__init__(folders)
        self.keys_of = dict(keys_of)


@dataclass
class Policy:
    """A base with an adapter bank on it, how it is spoken to, and its special tokens."""

    settings: PretrainedBase
    base: Base
    bank: AdapterBank
    chat: ChatFormat
    pad: int
    ends: list[int]


@dataclass
class Context:
    config: Config
    store: Store
    reporter: Reporter
    _bases: dict[str, Base] = field(default_factory=dict)
    _policies: dict[tuple[str, Adapter], Policy] = field(default_factory=dict)

    @cached_property
    def device(self) -> torch.device:
        """The configured device, checked and set up; CPU threads are set here once."""
        compute = self.config.compute
        torch.set_num_threads(compute.threads or os.cpu_count() or 1)
        return choose_device(compute.device, deterministic=compute.deterministic)

    @cached_property
    def room(self) -> Room:
        """How much is computed at once; it shrinks where memory runs out."""
        return Room(self.config.compute.tokens_per_forward, self.config.compute.rows_per_decode, self.reporter)

    @cached_property
    def grade(self) -> Grader:
        """The task's grader."""
        return task_grader(self.config.task)

    def policy(self, base: Artefact) -> Policy:
        """The base model of an artefact with a bank of policy adapters on it, loaded once per process."""
        return self._adapted(base, self.config.adapter)

    def reward_model(self, base: Artefact) -> Policy:
        """The same for reward models, whose adapters may have another shape."""
        return self._adapted(base, self.config.reward_adapter or self.config.adapter)

    def row_logprobs(
        self, policy: Policy, adapters: Adapters | None, grid: Sequence[Sequence[Row]], temperature: float = 1.0
    ) -> torch.Tensor:
        """Response log-probabilities `[C, B]`, no gradients, in pieces that fit the memory."""
        return self._in_pieces(partial(grid_logprobs, temperature=temperature), policy, adapters, grid)

    def pair_logprobs(self, policy: Policy, adapters: Adapters | None, grid: Sequence[Sequence[Pair]]) -> torch.Tensor:
        """Log-probabilities `[2, C, B]` of chosen and rejected responses, no gradients, likewise."""
        return self._in_pieces(grid_pair_logprobs, policy, adapters, grid)

    def _in_pieces(self, compute: Callable, policy: Policy, adapters: Adapters | None, grid: Sequence) -> torch.Tensor:
        longest = max(item.length for row in grid for item in row)
        return self.room.for_tokens(longest, lambda most: compute(policy.bank, adapters, grid, policy.pad, most))

    def scored(self, model: Policy, ensemble: RewardEnsemble, rows: Sequence[Row], embed: bool = False) -> Scored:
        """Scores of rows by all members of an ensemble, in pieces that fit the memory."""
        longest = max(row.length for row in rows) * len(ensemble)
        return self.room.for_tokens(longest, lambda most: score(model.bank, ensemble, rows, model.pad, most, embed))

    def _adapted(self, artefact: Artefact, adapter: Adapter) -> Policy:
        if (artefact.key, adapter) not in self._policies:
            settings = base_settings(artefact)
            if artefact.key not in self._bases:
                self._bases[artefact.key] = load_base(settings, self.device)
            base, chat = self._bases[artefact.key], self.config.chat
            rank = int(lora_rank(hidden_size(base.model)).value) if adapter.rank == "auto" else adapter.rank
            alpha = 2 * rank if adapter.alpha == "auto" else adapter.alpha
            bank = AdapterBank(base.model, adapter.target_modules, rank, alpha)
            if self.config.compute.gradient_checkpointing:
                checkpoint_layers(bank)
            pad = base.tokenizer.pad_token_id
            assert isinstance(pad, int)  # load_base sees to it
            spoken = ChatFormat(base.tokenizer, chat.thinking, chat.system)
            self._policies[artefact.key, adapter] = Policy(
                settings, base, bank, spoken, pad, end_tokens(base.model, base.tokenizer)
            )
        return self._policies[artefact.key, adapter]

    def made(
        self,
        stage: str,
        settings: Any,
        inputs: list[str],
        build: Callable[[Path, str], None],
        members: Sequence[str] = (),
    ) -> Artefact:
        """The artefact of a stage with these settings and input keys: found, or built now by `build(folder, key)`.
        `members` are subfolders with logs of their own."""
        key = content_key(stage, settings, inputs)
        found = self.store.find(stage, key)
        folder = self.store.place(stage, key)
        places = {name: folder / name for name in members} or {key: folder}
        self.reporter.places(stage, places, [] if found else list(places))
        if found is None:
            with self.store.write(stage, key) as folder, one_sentence_without_memory(stage):
                build(folder, key)
            found = self.store.find(stage, key)
            assert found is not None  # it was just written
        else:
            self.reporter.say(f"{stage}: reused")
        return found

    def made_parts(
        self,
        stage: str,
        keys: Mapping[K, str],
        build: Callable[[Sequence[K], Sequence[Path], str], None],
        at_once: int | None = None,
    ) -> Parts[K]:
        """A folder for each condition: found in any artefact of the stage, or built now, `at_once` conditions in one
        bank, by `build(conditions, folders, key)`. Conditions built together become an artefact together."""
        found = self.store.find_parts(stage)
        missing = [condition for condition, key in keys.items() if key not in found]
        if len(missing) < len(keys):
            some = "" if not missing else f" {len(keys) - len(missing)} of {len(keys)} conditions"
            self.reporter.say(f"{stage}: reused{some}")
        size = at_once or max(1, len(missing))
        groups: dict[str, list[K]] = {}
        for start in range(0, len(missing), size):
            todo = missing[start : start + size]
            groups[content_key(stage, [keys[condition] for condition in todo])] = todo
        places = {str(condition): found[key] for condition, key in keys.items() if key in found}
        for group, todo in groups.items():
            places |= {str(condition): self.store.place(stage, group) / str(condition) for condition in todo}
        self.reporter.places(stage, places, list(map(str, missing)))
        for group, todo in groups.items():
            with (
                self.store.write(stage, group, {keys[condition]: str(condition) for condition in todo}) as folder,
                one_sentence_without_memory(stage, len(todo)),
            ):
                for condition in todo:
                    (folder / str(condition)).mkdir()
                build(todo, [folder / str(condition) for condition in todo], group)
        if missing:
            found = self.store.find_parts(stage)
        return Parts({condition: found[key] for condition, key in keys.items()}, keys)


def base_settings(base: Artefact) -> PretrainedBase:
    """The model of an artefact: in it, or the user's own that it points to."""
    pointer = base.folder / "pretrained.json"
    if pointer.exists():
        return PretrainedBase(**read_json(pointer))
    return PretrainedBase(source="pretrained", model=str(base.folder / "model"), dtype="float32")


def copy_out(made: Artefact, folder: Path) -> None:
    """Copy an artefact's files to where a person looks for them."""
    for path in sorted(made.folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            target = folder / path.relative_to(made.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, path.read_bytes())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=True) + "\n")


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_jsonl_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
