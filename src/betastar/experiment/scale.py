"""How a run would spread over many workers: the engine's own schedule, played with the cost of every unit and no work
done. A simulation, not a measurement: it is as good as its costs."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from betastar.experiment.schedule import Schedule
from betastar.experiment.work import OPENING, REFERENCE, Unit, Work, planned_units
from betastar.planning.plan import Plan

UNIT_SECONDS = 1.0
"""What a unit is assumed to cost beside its work, for a plan: handing it out, reading its inputs and writing its files.
In the micro world it was 0.05 s (docs/benchmarks.md); adapters of large models take longer to read and write."""
Cost = Callable[[Unit], float]
"""Seconds that a worker takes for a unit."""


class Simulated(NamedTuple):
    """A schedule that was played: seconds until everything is made, seconds of work in all, how many units there were,
    and the longest way through their needs, in seconds."""

    makespan: float
    work: float
    units: int
    longest: float


def declared(plan: Plan) -> list[Work[tuple[int, ...]]]:
    """The parts of a planned run and their needs, by place of β, seed and variant, as its stages would declare them."""
    config, counts = plan.config, plan.counts
    seeds, betas, variants = len(config.seeds), counts.checkpoints // len(config.seeds), len(config.variants)
    offline = [(beta, seed) for seed in range(seeds) for beta in range(betas)]
    online = [(variant, beta, seed) for variant in range(variants) for beta, seed in offline]
    planned = {stage.name for stage in plan.stages}

    def no_build(*args: object) -> None:
        raise AssertionError

    def keys(stage: str, conditions: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], str]:
        return {condition: f"{stage} {condition}" for condition in conditions}

    def scored(condition: tuple[int, ...]) -> list[str]:
        *_, beta, seed = condition
        return [f"offline {(beta, seed)}", f"rewards {(seed % counts.ensembles,)}"]

    at_once, trl = config.online.conditions_at_once, config.offline.engine == "trl"
    works: list[Work[Any]] = [
        Work("rewards", keys("rewards", [(seed,) for seed in range(counts.ensembles)]), no_build,
             1 if config.rewards.engine == "trl" else config.rewards.seeds_at_once),
        Work("offline", keys("offline", offline), no_build, 1 if trl else config.offline.conditions_at_once),
        Work("probe", keys("probe", offline), no_build, at_once, scored),
        *(Work(stage, keys(stage, offline), no_build, at_once, scored)
          for stage in ("best_of_n", "offline_curve") if stage in planned),
        Work("online", keys("online", online), no_build, at_once,
             lambda c: [*scored(c), f"probe {c[1:]}"]),
    ]  # fmt: skip
    if "plasticity" in planned:
        trained = keys("plasticity", [*offline, *online])
        works.append(
            Work("plasticity", trained, no_build, at_once,
                 lambda c: [f"{'offline' if len(c) == 2 else 'online'} {c}"])
        )  # fmt: skip
    return works


def simulate(
    works: Sequence[Work[Any]], cost: Cost, workers: int, units_per_worker: int = 2, start: float = 0.0
) -> Simulated:
    """Play a run on so many workers, each of which takes `start` seconds to load its models."""
    schedule, now, total, units = Schedule(workers * units_per_worker), 0.0, 0.0, 0
    free, running = workers, list[tuple[float, int, Unit]]()
    cold = workers  # workers that have not loaded anything yet
    schedule.add(OPENING)
    ways: dict[str, float] = {}
    opened = False
    while schedule.waiting or running:
        while free and (unit := schedule.next()) is not None:
            seconds = cost(unit) + (start if cold else 0)
            cold = max(0, cold - 1)
            free, units, total = free - 1, units + 1, total + seconds
            heapq.heappush(running, (now + seconds, units, unit))
        now, _, unit = heapq.heappop(running)
        free += 1
        schedule.done(unit, cost(unit))
        before = max((ways.get(need, 0.0) for key in unit.keys for need in schedule.needs(key)), default=0.0)
        base = 0.0 if unit == OPENING else ways[OPENING.stage]
        if unit.stage not in (OPENING.stage, REFERENCE.stage, "rewards"):
            base = ways[REFERENCE.stage]
        length = max(before, base) + cost(unit)
        ways |= dict.fromkeys(unit.keys or [unit.stage], length)
        if unit == OPENING and not opened:
            opened = True
            schedule.plan([work for work in works if work.stage == "rewards"], ())
            schedule.add(REFERENCE)
        elif unit == REFERENCE:
            schedule.plan(works, schedule.finished)
    return Simulated(now, total, units, max(ways.values()))


def alone(works: Sequence[Work[Any]], cost: Cost) -> float:
    """Seconds in one process, with banks as large as the settings allow."""
    units = planned_units(works, 1)
    return sum(cost(unit) for unit in [OPENING, REFERENCE, *units])


def unit_cost(plan: Plan, seconds: dict[str, float | None], overhead: float) -> Cost:
    """The cost of a unit when a stage takes `seconds` for all its parts, whatever the size of a bank, and each unit
    `overhead` seconds more. Stages that were not measured cost nothing."""
    parts = {work.stage: len(work.keys) for work in declared(plan)}
    known = {stage: value or 0.0 for stage, value in seconds.items()}

    def cost(unit: Unit) -> float:
        if unit == OPENING:
            return overhead + known.get("base", 0) + known.get("preferences", 0)
        if unit == REFERENCE:
            return overhead + known.get("reference", 0)
        return overhead + known.get(unit.stage, 0) * len(unit.keys) / parts[unit.stage]

    return cost
