"""The whole experiment, arXiv:2606.30627 Algorithm 1, in the paper's order. Each stage leaves its result in the store
and takes what it needs from there; what is there already is not made again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from betastar.experiment.conditions import Condition, Inputs
from betastar.experiment.context import Context
from betastar.experiment.stages import (
    base,
    best_of_n,
    contexts,
    hyperparameters,
    offline,
    offline_curve,
    online,
    plasticity,
    preferences,
    probe,
    publish,
    reference,
    rewards,
    task,
)
from betastar.experiment.store import Artefact
from betastar.settings.config import Config, Resolved

Begin = Callable[[str], None]


class Opening(NamedTuple):
    """What everything else starts from, and `ctx` with a number for every setting that said `auto`; `numbers`: the
    record of those."""

    ctx: Context[Resolved]
    policy_base: Artefact
    reward_base: Artefact
    problems: Artefact
    pairs: Artefact
    numbers: dict[str, Any]


def opening(given: Context[Config], begin: Begin) -> Opening:
    """The bases, the task, the preference pairs, and the settings that follow from them: lines 1-2."""
    config = given.config
    begin("base")
    policy_base = base.run(given, config.base)
    reward_base = base.run(given, config.reward_base) if config.reward_base else policy_base
    begin("task")
    problems = task.run(given)
    begin("preferences")  # lengths from the data: line 2
    pairs = preferences.run(given, policy_base)
    resolved, numbers = hyperparameters.run(given, policy_base, reward_base, pairs)  # what says auto: Appendix C
    ctx = Context(resolved, given.store, given.reporter, given.runtime, given.declared)
    begin("contexts")  # too long a problem is said before anything is trained
    contexts.run(ctx, policy_base, reward_base, pairs, problems)
    return Opening(ctx, policy_base, reward_base, problems, pairs, numbers)


def reference_grid(start: Opening, begin: Begin) -> tuple[Artefact, list[Condition]]:
    """The β grid from reference log-ratios: line 3. Returns the log-probabilities and the conditions of the run."""
    ctx = start.ctx
    begin("reference")
    logprobs = reference.run(ctx, start.policy_base, start.pairs)
    betas = reference.beta_grid(ctx.config.grid, logprobs)
    return logprobs, [Condition(beta, seed) for seed in ctx.config.seeds for beta in betas]


def sweep(
    start: Opening, logprobs: Artefact, conditions: Sequence[Condition], begin: Begin
) -> tuple[Inputs, publish.Made]:
    """Every stage that has a part for each condition or seed: lines 4-23. With `declared` in the context they only say
    what they would make."""
    ctx, policy_base, pairs = start.ctx, start.policy_base, start.pairs
    begin("rewards")  # K bootstrap reward models for every seed: line 4
    ensembles = rewards.run(ctx, start.reward_base, pairs)
    begin("offline")  # DPO of every (β, seed): lines 5-6
    checkpoints = offline.run(ctx, policy_base, pairs, logprobs, conditions)
    begin("probe")  # entropy, distance, alignment of every checkpoint: lines 7-8
    inputs = Inputs(policy_base, start.reward_base, pairs, ensembles, start.problems)
    probes = probe.run(ctx, inputs, checkpoints)
    begin("best_of_n")  # what the proxy is worth without an optimiser
    sampled = best_of_n.run(ctx, inputs, checkpoints)
    begin("offline_curve")  # the way to each checkpoint, where asked for
    curves = offline_curve.run(ctx, inputs, checkpoints)
    begin("online")  # adaptation against the proxy, truth watched: lines 10-23
    adapted = online.run(ctx, inputs, checkpoints, probes)
    begin("plasticity")  # what every network can still learn, before and after
    networks = plasticity.run(ctx, inputs, checkpoints, adapted)
    return inputs, publish.Made(checkpoints, probes, adapted, sampled, curves, networks)
