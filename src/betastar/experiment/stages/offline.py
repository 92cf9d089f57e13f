"""Stage: offline training of every condition: DPO (arXiv:2606.30627 Eq. 1), or the objective of its method.

All conditions of methods that differ only in their loss train in one bank; with TRL, one condition after the other.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from betastar.disk import write_json, write_jsonl
from betastar.experiment import readers
from betastar.experiment.conditions import Condition, Parts
from betastar.experiment.context import Context
from betastar.experiment.making import made_parts
from betastar.experiment.objective import BatchTerms, ConditionLoss, digests, pair_losses
from betastar.experiment.runtime import AdaptedModel
from betastar.experiment.store import Artefact, content_key
from betastar.experiment.training import Losses, PairTrainer, Part, batches, train, trl_job, trl_progress
from betastar.maths.objectives import Pairs, implicit_reward_margin
from betastar.models.bank import Adapters
from betastar.models.logprobs import pair_logprobs
from betastar.models.peft_io import export_adapter, import_adapter
from betastar.models.sequences import Pair, pair_pad
from betastar.models.trl.engine import train_policy
from betastar.randomness import numpy_generator, stream_key
from betastar.settings.config import Resolved
from betastar.settings.phases import Offline

VERSION = 4
STAGE = "offline"
SHOWN: dict[str, Callable[[ConditionLoss], bool]] = {  # logged of the whole batch, if a condition of the bank has it
    "mismatch": lambda condition: condition.entry.mismatched,
    "strength": lambda condition: condition.settings.beta_schedule is not None,
}
LOG_RATIOS = ("chosen_log_ratio", "rejected_log_ratio")  # log π/π⁽⁰⁾, nats; in the log their batch means


def run(
    ctx: Context[Resolved], base: Artefact, preferences: Artefact, logprobs: Artefact, conditions: Sequence[Condition]
) -> Parts[Condition]:
    """A folder for each condition with its adapter, log and metrics."""
    config = ctx.config
    banks: dict[str, list[Condition]] = {}
    keys: dict[Condition, str] = {}
    for name in config.methods:
        method = config.method(name).offline
        settings = [
            method.model_dump(exclude={"conditions_at_once"}),
            config.adapter.model_dump(),
            config.root_seed,
            *digests(method),
        ]
        mine = [condition for condition in conditions if condition.method == name]
        # Methods that differ only in the loss go through the same batches and can share a bank.
        banks.setdefault(content_key(method.model_dump(exclude=Offline.LOSS)), []).extend(mine)
        for c in mine:
            keys[c] = content_key(STAGE, VERSION, settings, c.beta, c.seed, base.key, preferences.key)
    made: Parts[Condition] = Parts({}, {})
    for some in filter(None, banks.values()):
        # TRL trains one condition at a time anyway: each becomes an artefact as soon as it is done.
        with_trl = config.method(some[0].method).offline.engine == "trl"
        made = made.joined(
            made_parts(
                ctx,
                STAGE,
                {condition: keys[condition] for condition in some},
                lambda todo, o, k: _make(ctx, base, preferences, logprobs, todo, o, k),
                1 if with_trl else config.offline.conditions_at_once,
            )
        )
    return made.renamed({condition: condition for condition in conditions})


def _make(
    ctx: Context[Resolved],
    base: Artefact,
    preferences: Artefact,
    logprobs: Artefact,
    conditions: Sequence[Condition],
    folders: Sequence[Path],
    key: str,
) -> None:
    of = [ConditionLoss(ctx.config.method(c.method).offline, c.beta) for c in conditions]
    settings, seed, policy = of[0].settings, ctx.config.root_seed, ctx.policy(base)
    pairs = readers.token_pairs(policy.chat, preferences)
    # All β of a seed start from the same adapter and see the pairs in the same order: a paired design.
    streams = [stream_key(seed, "offline", "adapter", c.seed) for c in conditions]
    start = policy.bank.create(streams)
    order = [batches(numpy_generator(seed, "offline", "order", c.seed), len(pairs.train), settings) for c in conditions]
    base_logprobs = {name: tensor.to(ctx.runtime.device) for name, tensor in readers.base_logprobs(logprobs).items()}
    work, dropout = ctx.store.checkpoint(STAGE, key), ctx.config.policy_adapter.dropout
    if settings.engine == "trl":
        (condition,) = conditions
        job = trl_job(ctx, policy, settings, pairs.train, order[0], start, streams[0], dropout)
        options = {option.trl: of[0].options[name] for name, option in of[0].entry.options.items()}
        job = replace(job, loss_type=of[0].entry.trl, loss_options=options)
        log = [train_policy(job, condition.beta, work.folder, trl_progress(ctx, job))]
        trained = import_adapter(work.folder / "adapter", policy.bank)[0]
    else:
        trained = start.trainable()
        given = base_logprobs["train"]
        whole = BatchTerms(of, policy.bank, trained, policy.pad, given) if BatchTerms.wanted(of) else None
        losses = partial(_losses, ctx, policy, trained, of, given)
        trainer = PairTrainer(
            STAGE,
            list(map(str, conditions)),
            settings,
            trained.parameters(),
            pairs.train,
            order,
            losses,
            ctx.runtime.room,
            dropout,
            streams,
            whole,
        )
        keep = partial(_keep, policy, trained, conditions, work.folder / readers.ON_THE_WAY, settings.evaluate_every)
        log = train(trainer, work, ctx.reporter.progress, keep)
        for condition, folder in zip(conditions, folders, strict=True):
            if (way := work.folder / readers.ON_THE_WAY / str(condition)).is_dir():
                shutil.copytree(way, folder / readers.ON_THE_WAY)
    _write(ctx, policy, trained.frozen(), conditions, of, folders, pairs.test, base_logprobs["test"], log)


def _keep(
    policy: AdaptedModel,
    adapters: Adapters,
    conditions: Sequence[Condition],
    folder: Path,
    every: int | None,
    steps: int,
) -> None:
    """Write each condition's adapter after so many steps, where it is time for one."""
    if every is not None and steps % every == 0:
        for c, condition in enumerate(conditions):
            out = folder / str(condition) / str(steps) / "adapter"
            export_adapter(out, adapters, c, policy.base.name, fan_in_fan_out=policy.bank.conv1d)


def _losses(
    ctx: Context[Resolved],
    policy: AdaptedModel,
    adapters: Adapters,
    of: Sequence[ConditionLoss],
    reference: Tensor,
    part: Part,
) -> Losses:
    """The loss of each pair of a part by the objectives `of` the bank's conditions, and log π/π⁽⁰⁾ of both its
    responses; `reference [2, n]` are the base's log-probabilities."""
    with policy.bank.use(adapters[part.conditions], part.dropout):
        logprobs = pair_logprobs(policy.bank.model, pair_pad(part.items, policy.pad, ctx.runtime.device))
    chosen, rejected = logprobs.view(*part.which.shape, 2).unbind(-1)
    mine, device = of[part.conditions], ctx.runtime.device
    base_chosen, base_rejected = reference[:, part.which.to(device)]
    lengths = torch.tensor([[len(pair.chosen), len(pair.rejected)] for pair in part.items], device=device)
    chosen_tokens, rejected_tokens = lengths.view(*part.which.shape, 2).unbind(-1)
    strength = part.whole.get("strength", torch.tensor([c.strength for c in mine], device=device))[:, None]
    mismatch = part.whole.get("mismatch", torch.zeros(len(mine), device=device))[:, None]
    pairs = Pairs(chosen, rejected, base_chosen, base_rejected, chosen_tokens, rejected_tokens, mismatch)
    loss = pair_losses(mine, pairs, strength)
    logged: dict[str, Tensor] = dict(zip(LOG_RATIOS, (chosen - base_chosen, rejected - base_rejected), strict=True))
    for name, condition_wants in SHOWN.items():
        if any(map(condition_wants, of)):
            logged[name] = part.whole[name][:, None].expand_as(loss)
    return Losses(loss, logged)


def _write(
    ctx: Context[Resolved],
    policy: AdaptedModel,
    adapters: Adapters,
    conditions: Sequence[Condition],
    of: Sequence[ConditionLoss],
    folders: Sequence[Path],
    test: Sequence[Pair],
    reference: Tensor,
    log: Sequence[Sequence[Mapping[str, float]]],
) -> None:
    """Each condition's adapter, training log, how well its implicit reward ranks the test pairs, and what became of the
    likelihood of their responses. The implicit reward is β·log π/π⁽⁰⁾, or log π/π⁽⁰⁾ where the strength is no β: one
    yardstick for all methods, with a reference in their loss or without."""
    scales = [c.strength if c.entry.reference and c.entry.strength == "β" else 1.0 for c in of]
    betas = torch.tensor(scales, device=ctx.runtime.device)[:, None]

    def told(done: int, of: int) -> None:
        ctx.reporter.progress(done, of, "pairs", "held-out pairs, read by each policy")

    chosen, rejected = ctx.runtime.pair_logprobs(policy, adapters, [test] * len(conditions), told)
    margin = implicit_reward_margin(chosen, rejected, reference[0], reference[1], betas)
    moved = dict(zip(LOG_RATIOS, (chosen - reference[0], rejected - reference[1]), strict=True))
    for c, (condition, folder) in enumerate(zip(conditions, folders, strict=True)):
        export_adapter(folder / "adapter", adapters, c, policy.base.name, fan_in_fan_out=policy.bank.conv1d)
        write_jsonl(folder / "training.jsonl", log[c])
        metrics = {
            "beta": condition.beta,
            "seed": condition.seed,
            **({"method": condition.method} if condition.named else {}),
            "pair_accuracy": (margin[c] > 0).float().mean().item(),
            "pair_margin": margin[c].mean().item(),
            "test_pairs": len(test),
            "steps": len(log[c]),
            **{name: _mean_and_error(values[c]) for name, values in moved.items()},
        }
        write_json(folder / "metrics.json", metrics)


def _mean_and_error(values: Tensor) -> dict[str, float]:
    """Mean of values `[n]` and its standard error, NaN for n = 1."""
    error = (values.std(correction=1) / len(values) ** 0.5).item() if len(values) > 1 else math.nan
    return {"mean": values.mean().item(), "standard_error": error}
