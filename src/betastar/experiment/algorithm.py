"""The whole experiment, arXiv:2606.30627 Algorithm 1, in the paper's order. Each stage leaves its result in the store
and takes what it needs from there; what is there already is not made again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from betastar.experiment.conditions import Condition, Inputs, Parts
from betastar.experiment.context import Context
from betastar.experiment.stages import (
    base,
    best_of_n,
    contexts,
    distances,
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


class Strengths(NamedTuple):
    """`logprobs` under the base; the `conditions` of the run; and how far the strengths that were tried for a grid of
    distances got."""

    logprobs: Artefact
    conditions: list[Condition]
    reached: Parts[Condition]


def reference_grid(start: Opening, begin: Begin) -> Strengths:
    """The strengths of every method: β from reference log-ratios (line 3), or, for a grid of distances, from a search,
    which trains and measures."""
    config, given = start.ctx.config, start.ctx
    begin("reference")
    logprobs = reference.run(given, start.policy_base, start.pairs)
    strengths = {name: reference.beta_grid(config.method(name).grid, logprobs) for name in config.methods}
    ctx = Context(config, given.store, given.reporter, given.runtime)  # the conditions depend on the search: it is made
    tried = distances.tried(config)
    searched = offline.run(ctx, start.policy_base, start.pairs, logprobs, tried) if tried else Parts({}, {})
    reached = distances.run(ctx, start.policy_base, start.pairs, start.problems, searched)
    strengths |= distances.strengths(config, reached)
    conditions = [
        Condition(beta, seed, name, not config.default_methods)
        for name, betas in strengths.items()
        for seed in config.seeds
        for beta in betas
    ]
    return Strengths(logprobs, conditions, reached)


def sweep(start: Opening, strengths: Strengths, begin: Begin) -> tuple[Inputs, publish.Made]:
    """Every stage that has a part for each condition or seed: lines 4-23. With `declared` in the context they only say
    what they would make."""
    ctx, policy_base, pairs = start.ctx, start.policy_base, start.pairs
    begin("rewards")  # K bootstrap reward models for every seed: line 4
    ensembles = rewards.run(ctx, start.reward_base, pairs)
    begin("offline")  # DPO, or another method, of every (β, seed): lines 5-6
    checkpoints = offline.run(ctx, policy_base, pairs, strengths.logprobs, strengths.conditions)
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
    return inputs, publish.Made(checkpoints, probes, adapted, sampled, curves, networks, strengths.reached)
