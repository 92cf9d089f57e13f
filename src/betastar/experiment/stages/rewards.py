"""Stage: the reward ensembles, each K bootstrap-trained Bradley–Terry models on one base (arXiv:2606.30627 Eq. 5).

Every seed has its own, so that intervals over seeds cover another draw of it; or one serves the whole run, as in the
paper. All train in one bank, and a new seed trains only its own. Where the world has no annotator, one more member is
trained and kept out of each ensemble: the judge of win rates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

from betastar.disk import write_json, write_jsonl
from betastar.experiment import readers
from betastar.experiment.conditions import Ensemble, Parts
from betastar.experiment.context import Context
from betastar.experiment.making import made_parts
from betastar.experiment.runtime import AdaptedModel
from betastar.experiment.store import Artefact, Checkpoint, content_key
from betastar.experiment.training import Losses, PairTrainer, Part, batches, train, trl_job, trl_progress
from betastar.maths.objectives import bradley_terry_loss
from betastar.models.bank import Adapters
from betastar.models.loading import hidden_size
from betastar.models.peft_io import export_adapter, import_adapter
from betastar.models.rewards import RewardEnsemble, pair_scores
from betastar.models.sequences import Pair, pair_pad
from betastar.models.trl.engine import train_reward
from betastar.randomness import numpy_generator, stream_key, torch_generator
from betastar.settings.config import Config, Resolved

VERSION = 3
STAGE = "rewards"


def run(ctx: Context[Resolved], base: Artefact, preferences: Artefact) -> Parts[int]:
    """The folder of each seed's ensemble, which is the same for all seeds if `rewards.per` says so."""
    config = ctx.config
    settings = [
        VERSION,
        config.rewards.model_dump(exclude={"per", "seeds_at_once"}),
        (config.reward_adapter or config.adapter).model_dump(),
        config.root_seed,
    ]
    owners = {seed: Ensemble(seed if config.rewards.per == "seed" else None) for seed in config.seeds}
    keys = {owner: content_key(STAGE, settings, owner.seed, base.key, preferences.key) for owner in owners.values()}
    # TRL trains one model at a time anyway: each seed's become an artefact as soon as they are done.
    at_once = 1 if config.rewards.engine == "trl" else config.rewards.seeds_at_once
    return made_parts(
        ctx,
        STAGE,
        keys,
        lambda todo, o, k: _make(ctx, base, preferences, todo, o, k),
        at_once,
        lambda owner: owner.members(config.rewards.members, has_judge(config)),
    ).renamed(owners)


def has_judge(config: Config) -> bool:
    """Whether one more reward model is trained to judge win rates: where no annotator can."""
    return config.preferences.kind != "micro"


class _Member(NamedTuple):
    """One reward model: its ensemble's seed as a part of random streams, its place there, and its name."""

    owner: tuple[int, ...]
    place: int
    name: str


def _make(
    ctx: Context[Resolved],
    base: Artefact,
    preferences: Artefact,
    owners: Sequence[Ensemble],
    folders: Sequence[Path],
    key: str,
) -> None:
    """All reward models of some ensembles in one bank."""
    config, seed, model = ctx.config, ctx.config.root_seed, ctx.reward_model(base)
    splits = readers.token_pairs(model.chat, preferences)
    everyone = [
        _Member(() if owner.seed is None else (owner.seed,), k, name)
        for owner in owners
        for k, name in enumerate(owner.members(config.rewards.members, has_judge(config)))
    ]
    names = [m.name for m in everyone]
    streams = [stream_key(seed, "rewards", "member", *m.owner, m.place) for m in everyone]
    width = hidden_size(model.base.model)
    draws = [
        torch.randn(width, generator=torch_generator(seed, "rewards", "head", *m.owner, m.place)) for m in everyone
    ]
    start = RewardEnsemble(model.bank.create(streams), (torch.stack(draws) / math.sqrt(width)).to(ctx.runtime.device))
    order = [
        batches(
            numpy_generator(seed, "rewards", "order", *m.owner, m.place),
            len(splits.train),
            config.rewards,
            bootstrap=True,
        )
        for m in everyone
    ]
    train_with = _with_trl if config.rewards.engine == "trl" else _in_bank
    frozen, log = train_with(ctx, model, start, splits.train, order, streams, names, ctx.store.checkpoint(STAGE, key))

    for k, name in enumerate(names):
        place = folders[0].parent / name
        export_adapter(place, frozen.adapters, k, model.base.name, frozen.head[k], fan_in_fan_out=model.bank.conv1d)
        write_jsonl(place / "training.jsonl", log[k])
    size = len(everyone) // len(owners)
    for i, folder in enumerate(folders):
        first = everyone[i * size]
        _write(ctx, model, frozen[i * size : (i + 1) * size], splits, first.owner, folder)


def _write(
    ctx: Context[Resolved],
    model: AdaptedModel,
    everyone: RewardEnsemble,
    splits: readers.TokenPairs,
    owner: tuple[int, ...],
    out: Path,
) -> None:
    """An ensemble as one file with the reference centroid of Eq. 12 (member 0 on ⌈√n⌉ training examples, chosen
    responses), and how well it ranks pairs that it has not seen."""
    members, n = ctx.config.rewards.members, len(splits.train)
    sample = numpy_generator(ctx.config.root_seed, "rewards", "centroid", *owner).choice(
        n, math.isqrt(n - 1) + 1, replace=False
    )
    rows = [splits.train[i].rows()[0] for i in sample]
    embedded = ctx.runtime.scored(model, everyone, rows, embed=True).embedding
    assert embedded is not None
    state = {name: tensor.clone() for name, tensor in everyone.state().items()}  # not a view of all ensembles'
    save_file({**state, "centroid": embedded.mean(dim=0)}, out / "ensemble.safetensors")
    metrics = {"members": members, "validation": _accuracy(ctx, model, everyone[:members], splits.validation)}
    metrics["test"] = _accuracy(ctx, model, everyone[:members], splits.test)
    write_json(out / "metrics.json", metrics)


Log = Sequence[Sequence[Mapping[str, float]]]


def _in_bank(
    ctx: Context[Resolved],
    model: AdaptedModel,
    start: RewardEnsemble,
    pairs: Sequence[Pair],
    order: Sequence[np.ndarray],
    streams: Sequence[int],
    names: Sequence[str],
    work: Checkpoint,
) -> tuple[RewardEnsemble, Log]:
    """All members at once."""
    ensemble = RewardEnsemble(start.adapters.trainable(), start.head.clone().requires_grad_(True))

    def losses(part: Part) -> Losses:
        batch = pair_pad(part.items, model.pad, ctx.runtime.device)
        scores = pair_scores(model.bank, ensemble[part.conditions], batch, part.dropout)
        return Losses(bradley_terry_loss(*scores.unbind(-1)))

    settings, dropout = ctx.config.rewards, ctx.config.reward_model_adapter.dropout
    trainer = PairTrainer(
        STAGE, names, settings, ensemble.parameters(), pairs, order, losses, ctx.runtime.room, dropout, streams
    )
    log = train(trainer, work, ctx.reporter.progress)
    return RewardEnsemble(ensemble.adapters.frozen(), ensemble.head.detach()), log


def _with_trl(
    ctx: Context[Resolved],
    model: AdaptedModel,
    start: RewardEnsemble,
    pairs: Sequence[Pair],
    order: Sequence[np.ndarray],
    streams: Sequence[int],
    names: Sequence[str],
    work: Checkpoint,
) -> tuple[RewardEnsemble, Log]:
    """One member after the other; those that a killed run has finished are kept."""
    adapters, heads, log = [], [], []
    settings, dropout = ctx.config.rewards, ctx.config.reward_model_adapter.dropout
    for k, stream in enumerate(streams):
        job = trl_job(ctx, model, settings, pairs, order[k], start.adapters[k : k + 1], stream, dropout)
        folder = work.folder / names[k]
        log.append(train_reward(job, start.head[k], folder, trl_progress(ctx, job, k, len(streams))))
        adapter, head = import_adapter(folder / "adapter", model.bank)
        assert head is not None  # a reward model has one
        adapters.append(adapter)
        heads.append(head.to(ctx.runtime.device))
    return RewardEnsemble(Adapters.concatenate(adapters), torch.stack(heads)), log


def _accuracy(ctx: Context[Resolved], model: AdaptedModel, ensemble: RewardEnsemble, pairs: list[Pair]) -> dict:
    """Pair accuracy and mean margin of each member, accuracy of the mean, share of pairs with disagreeing signs."""
    rows = [pair.rows()[side] for side in (0, 1) for pair in pairs]

    def told(done: int, of: int) -> None:
        ctx.reporter.progress(done, of, "responses", "held-out pairs, scored")

    scores = ctx.runtime.scored(model, ensemble, rows, told=told).scores.view(len(ensemble), 2, -1)
    margin = scores[:, 0] - scores[:, 1]
    positive = (margin > 0).float().mean(dim=0)
    return {
        "pairs": len(pairs),
        "member_mean": scores.mean(dim=(1, 2)).tolist(),
        "member_accuracy": (margin > 0).float().mean(dim=1).tolist(),
        "member_margin": margin.mean(dim=1).tolist(),
        "mean_accuracy": (margin.mean(dim=0) > 0).float().mean().item(),
        "sign_disagreement": ((positive > 0) & (positive < 1)).float().mean().item(),
    }
