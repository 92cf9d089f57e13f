"""The whole experiment, arXiv:2606.30627 Algorithm 1, in the paper's order. Each stage leaves its result in the store
and takes what it needs from there; what is there already is not made again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from betastar.errors import BetastarError
from betastar.experiment.conditions import Condition, Inputs
from betastar.experiment.context import Context
from betastar.experiment.place import Place
from betastar.experiment.runtime import Runtime
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
    report,
    rewards,
    task,
)
from betastar.experiment.store import WRITER, Artefact, Store
from betastar.experiment.work import write_settings
from betastar.live.status import followed
from betastar.progress import STAGES, Reporter
from betastar.record.files import read_results
from betastar.settings.config import Config, Resolved

Begin = Callable[[str], None]


def run(config: Config, folder: Path, reporter: Reporter | None = None, command: str = "") -> dict[str, Any]:
    """Run the experiment in `folder`, or finish it, or find it finished; returns what `results.json` holds. `command`
    is what those who watch it are told to continue it with.

    Raises BetastarError where the input or the machine does not allow it; what was finished before stays.
    """
    teller, engine = reporter or Reporter(), config.compute.engine
    place = None if engine.store is None else Place(engine.store, WRITER, teller.say)
    with (
        Store(folder, teller.say, config.compute.checkpoint_seconds, place=place) as store,
        followed(config, folder, teller, command) as everyone,
    ):
        write_settings(folder, config, place)
        if engine.kind == "ray":  # fills the store; what follows finds everything there
            config = _distributed(config, store, everyone)
        given = Context(config, store, everyone, Runtime(config, everyone))
        began: dict[str, tuple[float, float]] = {}  # by stage: when, and what had been measured by then

        def begin(name: str) -> None:
            everyone.stage(name, STAGES.index(name) + 1, len(STAGES))
            began[name] = time.monotonic(), store.measured

        start = opening(given, begin)
        logprobs, conditions = reference_grid(start, begin)
        inputs, made = sweep(start, logprobs, conditions, begin)
        begin("results")  # AUGC, law, β★: lines 24-26
        results = publish.run(start.ctx, start.pairs, inputs.ensembles, start.problems, made, start.numbers)
        begin("report")  # what a person looks at
        report.run(start.ctx, results)
        if cost := cost_of_measuring({**began, "": (time.monotonic(), store.measured)}):
            everyone.say(cost)
        return dict(read_results(folder))


def _distributed(config: Config, store: Store, reporter: Reporter) -> Config:
    try:
        from betastar.experiment.ray_engine import distribute
    except ImportError as error:
        if error.name != "ray":
            raise
        raise BetastarError(
            "ray is not installed", where="compute.engine.kind", remedy="pip install 'betastar[ray]'"
        ) from None
    reporter.stage("rewards", STAGES.index("rewards") + 1, len(STAGES))
    return distribute(config, store, reporter)


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


def cost_of_measuring(began: Mapping[str, tuple[float, float]]) -> str | None:
    """One line on the share of a run that went into measuring, by stage; None where nothing was measured. `began`: for
    each stage, and for the end of the run, when it began and what had been measured by then, in seconds."""
    stages = [
        (name, after[0] - before[0], after[1] - before[1]) for (name, before), (_, after) in pairwise(began.items())
    ]
    whole, measured = sum(seconds for _, seconds, _ in stages), sum(seconds for *_, seconds in stages)
    parts = [f"{name} {spent:.0f} of {seconds:.0f} s" for name, seconds, spent in stages if spent > 0]
    share = f"measuring took {measured:.0f} of {whole:.0f} s ({measured / whole:.0%})" if parts else ""
    return f"{share}: {', '.join(parts)}; evaluation.* can lower it" if parts else None
