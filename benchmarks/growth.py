"""How the cost of a whole run grows with conditions, seeds, evaluation problems and online steps.

    python benchmarks/growth.py [--only AXIS …] [--keep DIR]

Each axis has four sizes, each twice the last, and everything else stays; base, problems and pairs are made once. Every
run is a process of its own with one thread, and its CPU seconds count, with imports, the record and the report in
them. Of sizes n, 2n, 4n and 8n the three increments say how the cost grows, whatever a run costs at n = 0: twice the
last increment for a cost that is proportional, four times for one that is quadratic. So the exponent is the base-2
logarithm of the ratio of the last two. Goal: at most 1.3.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from processes import Took, betastar

GOAL = 1.3
COMMON = (
    "base.training.steps=60",
    "preferences.prompts=400",
    "task.test_problems=400",
    "rewards={members: 2, epochs: 0.5, batch_size: 32}",
    "offline={epochs: 1, batch_size: 32}",
    "variants={paper: null}",
    "online={steps: 10, batch_size: 16}",
    "evaluation={every: 5, problems: 32, answers: 2, best_of: 0, plasticity: 0}",
    "lengths.response=24",
    "compute.threads=1",
)
ONE, TWO = "grid={method: list, values: [0.1]}", "grid={method: list, values: [0.1, 1.0]}"


class Axis:
    """What grows: sizes, and the settings of a run of one size."""

    def __init__(self, first: int, settings: Callable[[int], Sequence[str]]):
        self.sizes = [first * 2**i for i in range(4)]
        self.settings = settings


AXES = {
    "conditions": Axis(4, lambda n: ["seeds=[0]", f"grid={{method: geometric, low: 0.05, high: 5, n: {n}}}"]),
    "seeds": Axis(2, lambda n: [f"seeds={list(range(n))}", ONE]),
    "problems": Axis(50, lambda n: ["seeds=[0]", TWO, f"evaluation.problems={n}"]),
    "steps": Axis(20, lambda n: ["seeds=[0]", TWO, f"online.steps={n}", "evaluation.every=10"]),
}


def told(folder: Path, more: Sequence[str]) -> list[str]:
    """A run of micro with `COMMON` and `more`."""
    return ["run", "micro", "--out", str(folder), *(part for s in (*COMMON, *more) for part in ("--set", s))]


def begun(folder: Path) -> Path:
    """A store with base, problems and pairs and nothing else."""
    betastar(told(folder / "least", ["seeds=[0]", ONE, "online.steps=1", "evaluation.every=1"]), folder / "least.txt")
    for stage in ("base", "task", "preferences"):
        shutil.copytree(folder / "least/store" / stage, folder / "begun/store" / stage)
    shutil.copy(folder / "least/store/settings.json", folder / "begun/store")
    return folder / "begun"


def exponent(costs: Sequence[float]) -> float:
    """p of a + b n^p, from the costs of 2n, 4n and 8n; NaN where they do not rise."""
    before, last = costs[-2] - costs[-3], costs[-1] - costs[-2]
    return math.log2(last / before) if before > 0 and last > 0 else math.nan


def measured(name: str, axis: Axis, start: Path, folder: Path) -> bool:
    """Runs and prints one axis; whether its exponent meets the goal."""
    took: list[Took] = []
    for size in axis.sizes:
        run = folder / f"{name}-{size}"
        shutil.copytree(start, run)
        took.append(betastar(told(run, axis.settings(size)), folder / f"{name}-{size}.txt"))
        print(f"{name:<12}{size:>6}{took[-1].cpu:>10.1f} s{took[-1].peak_gb * 1000:>10.0f} MB", flush=True)
    p, span = exponent([t.cpu for t in took]), axis.sizes[-1] - axis.sizes[0]
    seconds, megabytes = ((getattr(took[-1], k) - getattr(took[0], k)) / span for k in ("cpu", "peak_gb"))
    met = p <= GOAL
    print(
        f"{name:<12}{seconds:.3g} s and {1000 * megabytes:.3g} MB each; exponent {p:.2f}, goal ≤ {GOAL}: "
        f"{'met' if met else 'MISSED'}\n",
        flush=True,
    )
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description="How a run's cost grows.")
    parser.add_argument("--only", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--keep", type=Path, help="a folder for the runs; it must not exist")
    options = parser.parse_args()
    if options.keep and options.keep.exists():
        sys.exit(f"{options.keep} exists; name a folder that does not.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        start = begun(folder)
        met = [measured(name, AXES[name], start, folder) for name in options.only]
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
