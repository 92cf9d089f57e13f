"""Readers of what stages leave in the store, so that no stage has to import another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from betastar.data.chat import prompt_tokens, response_tokens
from betastar.data.preferences import PreferencePair, Splits, load_pairs
from betastar.data.tasks import Problem
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.peft_io import import_adapter
from betastar.models.rewards import RewardEnsemble
from betastar.models.sequences import Row
from betastar.store import Artefact
from betastar.workbench.context import Context, read_json


class PairRows(NamedTuple):
    """A preference pair as token ids."""

    chosen: Row
    rejected: Row


class SplitRows(NamedTuple):
    train: list[PairRows]
    validation: list[PairRows]
    test: list[PairRows]


class Problems(NamedTuple):
    train: list[Problem]
    test: list[Problem]


class Rewards(NamedTuple):
    """The ensemble; the judge (an ensemble of one, kept out of training) where there is one; the `centroid [d]` of
    Eq. 12; and each member's mean score on the validation pairs, `offset [K]`."""

    ensemble: RewardEnsemble
    judge: RewardEnsemble | None
    centroid: Tensor
    offset: Tensor


def pair_rows(ctx: Context, base: Artefact, preferences: Artefact) -> SplitRows:
    """All splits in tokens of this base's tokenizer, cut to the lengths that the preferences stage decided."""
    limits = read_json(preferences.folder / "statistics.json")["lengths"]

    def rows(pairs: list[PreferencePair]) -> list[PairRows]:
        tokenizer = ctx.policy(base).base.tokenizer
        prompts = prompt_tokens(tokenizer, [p.prompt for p in pairs], limits["prompt"])
        chosen = response_tokens(tokenizer, [p.chosen for p in pairs], limits["response"])
        rejected = response_tokens(tokenizer, [p.rejected for p in pairs], limits["response"])
        return [PairRows(Row(x, w), Row(x, l)) for x, w, l in zip(prompts, chosen, rejected, strict=True)]  # noqa: E741

    return SplitRows(*(rows(load_pairs(preferences.folder / f"{name}.jsonl")) for name in Splits._fields))


def problems(artefact: Artefact) -> Problems:
    """The problems to adapt on and to be evaluated on."""
    return Problems(*([Problem(**row) for row in read_json(artefact.folder / f"{p}.json")] for p in ("train", "test")))


def base_logprobs(artefact: Artefact) -> dict[str, Tensor]:
    """Per split, log-probabilities `[2, n]` of chosen and rejected responses under the base, nats."""
    return load_file(artefact.folder / "logprobs.safetensors")


def rewards(ctx: Context, artefact: Artefact) -> Rewards:
    state = {
        name: tensor.to(ctx.device) for name, tensor in load_file(artefact.folder / "ensemble.safetensors").items()
    }
    centroid = state.pop("centroid")
    everyone = RewardEnsemble.from_state(state, ctx.config.adapter.alpha / ctx.config.adapter.rank)
    metrics = read_json(artefact.folder / "metrics.json")
    members = metrics["members"]
    judge = everyone[members:] if len(everyone) > members else None
    offset = torch.tensor(metrics["validation"]["member_mean"], device=ctx.device)
    return Rewards(everyone[:members], judge, centroid, offset)


def checkpoints(bank: AdapterBank, folders: Sequence[Path]) -> Adapters:
    """The adapters in these folders of the offline stage as one stack."""
    return Adapters.concatenate([import_adapter(folder / "adapter", bank)[0] for folder in folders])


def response_limit(ctx: Context, preferences: Artefact) -> int:
    """The limit of a sampled response, tokens."""
    generated = ctx.config.lengths.generated
    return (
        read_json(preferences.folder / "statistics.json")["lengths"]["response"] if generated == "auto" else generated
    )
