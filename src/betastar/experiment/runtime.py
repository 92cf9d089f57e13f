"""What computes: the device, how much fits its memory at once, models loaded once, and the task's grader."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import final

import torch

from betastar.data.chat import ChatFormat, end_tokens
from betastar.data.graders import Grader
from betastar.data.tasks import task_grader
from betastar.disk import read_json
from betastar.experiment.memory import READ_REMEDY, Room
from betastar.experiment.store import Artefact
from betastar.models.bank import AdapterBank, Adapters, checkpoint_layers
from betastar.models.devices import choose_device
from betastar.models.loading import Base, load_base
from betastar.models.logprobs import grid_logprobs, grid_pair_logprobs, grid_token_logprobs
from betastar.models.rewards import RewardEnsemble, Scored, score
from betastar.models.sequences import Pair, Row, Told
from betastar.progress import Reporter
from betastar.settings.config import Config
from betastar.settings.sections import PretrainedBase, ResolvedAdapter


@final
@dataclass(frozen=True)
class AdaptedModel:
    """A base with an adapter bank on it: all policies, or all reward models.

    `settings`: where the base comes from; `chat`: how it is spoken to; `pad`: the padding token; `ends`: the tokens
    that end a response.
    """

    settings: PretrainedBase
    base: Base
    bank: AdapterBank
    chat: ChatFormat
    pad: int
    ends: Sequence[int]


@final
class Runtime:
    """What it loads stays loaded. Everything is set up when it is first asked for: a finished run loads nothing."""

    def __init__(self, config: Config, reporter: Reporter):
        self._compute, self._chat, self._task, self._reporter = config.compute, config.chat, config.task, reporter
        self._target_modules = config.adapter.target_modules
        self._bases: dict[str, Base] = {}
        self._models: dict[tuple[str, ResolvedAdapter], AdaptedModel] = {}

    @cached_property
    def device(self) -> torch.device:
        """The configured device, checked and set up; CPU threads are set here once."""
        torch.set_num_threads(self._compute.threads or os.cpu_count() or 1)
        return choose_device(self._compute.device, deterministic=self._compute.deterministic)

    @cached_property
    def room(self) -> Room:
        """How much is computed at once; it shrinks where memory runs out."""
        return Room(self._compute.tokens_per_forward, self._compute.rows_per_decode, self._reporter)

    @cached_property
    def grade(self) -> Grader:
        """The task's grader."""
        return task_grader(self._task)

    def bare(self, base: Artefact) -> AdaptedModel:
        """The policy's base model of an artefact before the shape of its adapters is known: for its tokens, and for
        samples without adapters. Layers to adapt that it does not have are refused now."""
        return self.adapted(base, ResolvedAdapter(1, 1.0, 0.0, self._target_modules))

    def adapted(self, base: Artefact, adapter: ResolvedAdapter) -> AdaptedModel:
        """The base model of an artefact with a bank of such adapters on it, loaded once per process."""
        if (base.key, adapter) not in self._models:
            self._models[base.key, adapter] = self._load(base, adapter)
        return self._models[base.key, adapter]

    def _load(self, artefact: Artefact, adapter: ResolvedAdapter) -> AdaptedModel:
        settings = base_settings(artefact)
        if artefact.key not in self._bases:
            self._bases[artefact.key] = load_base(settings, self.device)
        base = self._bases[artefact.key]
        bank = AdapterBank(base.model, adapter.target_modules, adapter.rank, adapter.alpha)
        bank.plain_decoding = self._compute.decoding == "plain"
        if self._compute.gradient_checkpointing:
            checkpoint_layers(bank)
        pad = base.tokenizer.pad_token_id
        assert isinstance(pad, int)  # load_base sees to it
        chat = ChatFormat(base.tokenizer, self._chat.thinking, self._chat.system)
        return AdaptedModel(settings, base, bank, chat, pad, end_tokens(base.model, base.tokenizer))

    def row_logprobs(
        self, model: AdaptedModel, adapters: Adapters | None, grid: Sequence[Sequence[Row]], temperature: float = 1.0
    ) -> torch.Tensor:
        """Response log-probabilities `[C, B]`, no gradients, in pieces that fit the memory."""
        return self._in_pieces(partial(grid_logprobs, temperature=temperature), model, adapters, grid)

    def token_logprobs(
        self, model: AdaptedModel, adapters: Adapters | None, grid: Sequence[Sequence[Row]], temperature: float = 1.0
    ) -> torch.Tensor:
        """Log-probabilities `[C, B, T]` of single response tokens, likewise; zero beyond a response's end."""
        return self._in_pieces(partial(grid_token_logprobs, temperature=temperature), model, adapters, grid)

    def pair_logprobs(
        self,
        model: AdaptedModel,
        adapters: Adapters | None,
        grid: Sequence[Sequence[Pair]],
        told: Told | None = None,
    ) -> torch.Tensor:
        """Log-probabilities `[2, C, B]` of chosen and rejected responses, no gradients, likewise; `told` hears how many
        pairs are done."""
        return self._in_pieces(partial(grid_pair_logprobs, told=told), model, adapters, grid)

    def _in_pieces(
        self, compute: Callable, model: AdaptedModel, adapters: Adapters | None, grid: Sequence
    ) -> torch.Tensor:
        longest = max(item.length for row in grid for item in row)
        return self.room.for_tokens(
            longest, lambda most: compute(model.bank, adapters, grid, model.pad, most), READ_REMEDY
        )

    def scored(
        self,
        model: AdaptedModel,
        ensemble: RewardEnsemble,
        rows: Sequence[Row],
        embed: bool = False,
        told: Told | None = None,
    ) -> Scored:
        """Scores of rows by all members of an ensemble, in pieces that fit the memory; `told` hears how many rows are
        done."""
        longest = max(row.length for row in rows) * len(ensemble)
        return self.room.for_tokens(
            longest,
            lambda most: score(model.bank, ensemble, rows, model.pad, most, embed, told),
            f"lower rewards.members (all {len(ensemble)} of a bank score a sequence together), or {READ_REMEDY}",
        )


def base_settings(base: Artefact) -> PretrainedBase:
    """The model of an artefact: in it, or the user's own that it points to."""
    pointer = base.folder / "pretrained.json"
    if pointer.exists():
        return PretrainedBase(**read_json(pointer))
    return PretrainedBase(source="pretrained", model=str(base.folder / "model"), dtype="float32")
