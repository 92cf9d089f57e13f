"""What every stage is given: the configuration, the store, a reporter, the device, and models loaded once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from betastar.config import Config
from betastar.data.chat import end_tokens
from betastar.errors import BetastarError
from betastar.models.bank import AdapterBank
from betastar.models.loading import Base, load_base
from betastar.progress import Reporter
from betastar.store import Artefact, Store, content_key

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
    """A base with its bank, tokenizer and special tokens."""

    base: Base
    bank: AdapterBank
    pad: int
    ends: list[int]


@dataclass
class Context:
    config: Config
    store: Store
    reporter: Reporter
    _policies: dict[str, Policy] = field(default_factory=dict)

    @cached_property
    def device(self) -> torch.device:
        """The configured device, checked; CPU threads are set here once."""
        wanted = self.config.compute.device
        torch.set_num_threads(self.config.compute.threads or os.cpu_count() or 1)
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            return torch.zeros(1, device=wanted).device
        except (RuntimeError, AssertionError) as error:
            first = str(error).split("\n")[0]
            raise BetastarError(f"compute.device: {wanted} cannot be used ({first}); choose cpu or auto.") from None

    def policy(self, base: Artefact) -> Policy:
        """The base model of an artefact with an adapter bank on it, loaded once per process."""
        if base.key not in self._policies:
            loaded = load_base(base_folder(base), self.device)
            adapter = self.config.adapter
            bank = AdapterBank(loaded.model, adapter.target_modules, adapter.rank, adapter.alpha)
            ends = end_tokens(loaded.model, loaded.tokenizer)
            pad = loaded.tokenizer.pad_token_id
            assert isinstance(pad, int)  # load_base sees to it
            self._policies[base.key] = Policy(loaded, bank, pad, ends)
        return self._policies[base.key]

    def made(self, stage: str, settings: Any, inputs: list[str], build: Callable[[Path, str], None]) -> Artefact:
        """The artefact of a stage with these settings and input keys: found, or built now by `build(folder, key)`."""
        key = content_key(stage, settings, inputs)
        found = self.store.find(stage, key)
        if found is None:
            with self.store.write(stage, key) as folder:
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
        for start in range(0, len(missing), size):
            todo = missing[start : start + size]
            group = content_key(stage, [keys[condition] for condition in todo])
            with self.store.write(stage, group, {keys[condition]: str(condition) for condition in todo}) as folder:
                for condition in todo:
                    (folder / str(condition)).mkdir()
                build(todo, [folder / str(condition) for condition in todo], group)
        if missing:
            found = self.store.find_parts(stage)
        return Parts({condition: found[key] for condition, key in keys.items()}, keys)


def base_folder(base: Artefact) -> Path:
    """Where the base's model folder is: in the artefact, or the user's own folder that it points to."""
    pointer = base.folder / "folder.json"
    return Path(json.loads(pointer.read_text())["folder"]) if pointer.exists() else base.folder / "model"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=True) + "\n")


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_jsonl_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
