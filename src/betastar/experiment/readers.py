"""Readers of what stages leave in the store, so that no stage has to import another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from betastar.data.chat import ChatFormat
from betastar.data.preferences import PreferencePair, Splits, load_pairs
from betastar.data.tasks import Problem
from betastar.disk import read_json
from betastar.experiment.context import Context
from betastar.experiment.store import Artefact
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.peft_io import import_adapter
from betastar.models.rewards import RewardEnsemble
from betastar.models.sequences import Pair
from betastar.settings.config import Config, Resolved

ON_THE_WAY = "on_the_way"  # in a folder of the offline stage: adapters of earlier steps, where asked for


class TokenPairs(NamedTuple):
    """The preference pairs of each split as token ids."""

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]


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


def token_pairs(chat: ChatFormat, preferences: Artefact) -> TokenPairs:
    """All splits in tokens of this base's tokenizer, cut to the lengths that the preferences stage decided."""
    limits = read_json(preferences.folder / "statistics.json")["lengths"]

    def pairs_of(pairs: list[PreferencePair]) -> list[Pair]:
        prompts = chat.prompts([p.prompt for p in pairs], limits["prompt"])
        chosen = chat.responses([p.chosen for p in pairs], limits["response"])
        rejected = chat.responses([p.rejected for p in pairs], limits["response"])
        return [Pair(*parts) for parts in zip(prompts, chosen, rejected, strict=True)]

    return TokenPairs(*(pairs_of(load_pairs(preferences.folder / f"{name}.jsonl")) for name in Splits._fields))


def problems(artefact: Artefact) -> Problems:
    """The problems to adapt on and to be evaluated on."""
    return Problems(*([Problem(**row) for row in read_json(artefact.folder / f"{p}.json")] for p in ("train", "test")))


def base_logprobs(artefact: Artefact) -> dict[str, Tensor]:
    """Per split, log-probabilities `[2, n]` of chosen and rejected responses under the base, nats."""
    return load_file(artefact.folder / "logprobs.safetensors")


def rewards(ctx: Context[Resolved], ensembles: Mapping[int, Path], seeds: Sequence[int]) -> list[Rewards]:
    """What scores the conditions of these seeds; seeds that share an ensemble share the object."""
    loaded = {folder: _rewards(ctx, folder) for folder in {ensembles[seed] for seed in seeds}}
    return [loaded[ensembles[seed]] for seed in seeds]


def _rewards(ctx: Context[Resolved], folder: Path) -> Rewards:
    device = ctx.runtime.device
    state = {name: tensor.to(device) for name, tensor in load_file(folder / "ensemble.safetensors").items()}
    centroid = state.pop("centroid")
    adapter = ctx.config.reward_model_adapter
    everyone = RewardEnsemble.from_state(state, adapter.alpha / adapter.rank)
    metrics = read_json(folder / "metrics.json")
    members = metrics["members"]
    judge = everyone[members:] if len(everyone) > members else None
    offset = torch.tensor(metrics["validation"]["member_mean"], device=device)
    return Rewards(everyone[:members], judge, centroid, offset)


def checkpoints(bank: AdapterBank, folders: Sequence[Path]) -> Adapters:
    """The adapters in these folders of the offline stage as one stack."""
    return Adapters.concatenate([import_adapter(folder / "adapter", bank)[0] for folder in folders])


def log_ratio_noise(probe: Path) -> float:
    """The noise of log-ratios that the probe of a checkpoint measured, nats."""
    return read_json(probe / "point.json")["log_ratio_noise"]


def response_limit(ctx: Context[Config], preferences: Artefact) -> int:
    """The limit of a sampled response, tokens."""
    generated = ctx.config.lengths.generated
    return (
        read_json(preferences.folder / "statistics.json")["lengths"]["response"] if generated == "auto" else generated
    )
