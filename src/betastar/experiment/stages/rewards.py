"""Stage: the reward ensemble, K bootstrap-trained Bradley–Terry models on one base (arXiv:2606.30627 Eq. 5).

Where the world has no annotator, one more member is trained and kept out of the ensemble: the judge of win rates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from betastar.disk import write_json, write_jsonl
from betastar.experiment import readers
from betastar.experiment.context import Context
from betastar.experiment.making import made
from betastar.experiment.runtime import AdaptedModel
from betastar.experiment.store import Artefact, Checkpoint
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

VERSION = 2
STAGE = "rewards"


def run(ctx: Context[Resolved], base: Artefact, preferences: Artefact) -> Artefact:
    config = ctx.config
    settings = [
        VERSION,
        config.rewards.model_dump(),
        (config.reward_adapter or config.adapter).model_dump(),
        config.root_seed,
    ]
    sources, names = [base.key, preferences.key], _names(config)
    return made(ctx, STAGE, settings, sources, lambda o, k: _make(ctx, base, preferences, names, o, k), names)


def _names(config: Config) -> list[str]:
    """What the members are called; last the judge, where there is one."""
    judge = ["judge"] if config.preferences.kind != "micro" else []
    return [f"member-{k}" for k in range(config.rewards.members)] + judge


def _make(
    ctx: Context[Resolved], base: Artefact, preferences: Artefact, names: Sequence[str], out: Path, key: str
) -> None:
    config, seed, model = ctx.config, ctx.config.root_seed, ctx.reward_model(base)
    splits = readers.token_pairs(model.chat, preferences)
    members = config.rewards.members
    everyone = range(len(names))
    streams = [stream_key(seed, "rewards", "member", k) for k in everyone]
    width = hidden_size(model.base.model)
    draws = [torch.randn(width, generator=torch_generator(seed, "rewards", "head", k)) for k in everyone]
    start = RewardEnsemble(model.bank.create(streams), (torch.stack(draws) / math.sqrt(width)).to(ctx.runtime.device))
    order = [
        batches(numpy_generator(seed, "rewards", "order", k), len(splits.train), config.rewards, bootstrap=True)
        for k in everyone
    ]
    train_with = _with_trl if config.rewards.engine == "trl" else _in_bank
    frozen, log = train_with(ctx, model, start, splits.train, order, streams, names, ctx.store.checkpoint(STAGE, key))

    # Reference centroid of Eq. 12: member 0 on ⌈√n⌉ training examples, chosen responses.
    n_reference = math.isqrt(len(splits.train) - 1) + 1
    sample = numpy_generator(seed, "rewards", "centroid").choice(len(splits.train), n_reference, replace=False)
    rows = [splits.train[i].rows()[0] for i in sample]
    embedded = ctx.runtime.scored(model, frozen, rows, embed=True).embedding
    assert embedded is not None
    save_file({**frozen.state(), "centroid": embedded.mean(dim=0)}, out / "ensemble.safetensors")
    for k, name in enumerate(names):
        export_adapter(
            out / name, frozen.adapters, k, model.base.name, frozen.head[k], fan_in_fan_out=model.bank.conv1d
        )
        write_jsonl(out / name / "training.jsonl", log[k])
    metrics = {"members": members, "validation": _accuracy(ctx, model, frozen[:members], splits.validation)}
    metrics["test"] = _accuracy(ctx, model, frozen[:members], splits.test)
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
    scores = ctx.runtime.scored(model, ensemble, rows).scores.view(len(ensemble), 2, -1)
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
