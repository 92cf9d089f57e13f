"""The simulated schedule: what it must be by arithmetic, and the goal of the benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scripts import script

from betastar.api import plan, spread
from betastar.experiment import scale
from betastar.experiment.work import OPENING, REFERENCE, Unit, Work
from betastar.planning.plan import Timing

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def no_build(*args: object) -> None:
    raise AssertionError


def works(n: int) -> list[Work[Any]]:
    return [
        Work("rewards", {0: "rewards 0"}, no_build),
        Work("offline", {i: f"offline {i}" for i in range(n)}, no_build),
        Work("online", {i: f"online {i}" for i in range(n)}, no_build, needs=lambda i: [f"offline {i}", "rewards 0"]),
    ]


def cost(unit: Unit) -> float:
    """The opening 10 s, the reference 20, an ensemble 50, a checkpoint 100, a condition online 200."""
    each = {OPENING.stage: 10, REFERENCE.stage: 20, "rewards": 50, "offline": 100, "online": 200}
    return each[unit.stage] * max(1, len(unit.keys))


def test_one_worker_takes_the_sum_and_many_the_longest_chain() -> None:
    everything = 10 + 20 + 50 + 4 * 100 + 4 * 200
    one = scale.simulate(works(4), cost, 1, 1)
    assert (one.makespan, one.work) == (everything, everything)
    assert scale.alone(works(4), cost) == everything
    many = scale.simulate(works(4), cost, 100, 1)
    assert many.makespan == many.longest == 10 + 20 + 100 + 200
    assert many.units == 2 + 1 + 4 + 4
    # Two workers: 10 alone; 20 and 50 side by side; one begins the first pair at 30, the other the second at 60, each
    # 200 s; what follows is 400 s for each.
    two = scale.simulate(works(4), cost, 2, 1)
    assert two.makespan == 60 + 200 + 400
    assert scale.simulate(works(4), cost, 100, 1, start=7).makespan == many.makespan + 4 * 7


def test_a_plan_is_spread_over_workers() -> None:
    made = plan("micro")
    untimed = spread(made, None, 4)
    checkpoints, online = made.counts.checkpoints, made.counts.adapted
    assert {stage: sum(sizes) for stage, sizes in untimed.units.items()} == {
        "rewards": made.counts.ensembles,
        "offline": checkpoints,
        "probe": checkpoints,
        "best_of_n": checkpoints,
        "online": online,
        "plasticity": checkpoints + online,
    }
    assert max(untimed.units["online"]) == -(-online // (4 * 2))  # two units per worker
    assert untimed.makespan is None
    assert untimed.efficiency is None
    timed = spread(made, Timing({stage.name: 1000.0 for stage in made.stages}, "made up"), 4)
    assert timed.makespan is not None
    assert timed.longest is not None
    assert timed.efficiency is not None
    assert timed.alone is not None
    assert timed.alone == pytest.approx(1000 * len(made.stages), abs=20)  # and a second for each unit
    assert timed.longest <= timed.makespan < timed.alone
    assert timed.efficiency == timed.alone / 4 / timed.makespan


def test_the_sweep_of_the_benchmark_reaches_its_goal(capsys: pytest.CaptureFixture[str]) -> None:
    """And the page shows the numbers that the script prints."""
    module = script("benchmarks/scale.py")
    assert module.simulation()
    printed = capsys.readouterr().out
    page = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8").replace("**", "")
    rows = [line for line in printed.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert len(rows) == 9
    for row in rows:
        assert row.removesuffix(" |") in page.replace(" (goal 0.85)", "")
