"""How often a verdict is right: made-up runs of each kind through the whole analysis, from answers and from means.

    python benchmarks/verdicts.py                 # 64, 200 and 1319 problems, 400 runs of each kind
    python benchmarks/verdicts.py --runs 50 --problems 64

A run: problems of different difficulty (logit-normal, sd 1.5), 11 evaluation points over 200 steps. An answer is right
where a uniform number is below the problem's chance at that step; with probability `SHARED` the number is the
problem's own at every step, as betastar evaluates with the same sampling noise throughout, else fresh. The proxy of an
answer is a standard normal, correlated with the grade, plus the run's shift. Prints Markdown: the share of each word
by kind; the true regret of the best step beside the mean of its estimate, how often the interval lies above the truth
(overstated), and how often it leaves out the mean of the estimates, which is the regret of a step chosen by half of the
problems (missed).
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from betastar.analysis.conditions import condition_records
from betastar.maths.verdict import WORDS
from betastar.record.answers import Grid

STEPS = np.arange(0, 201, 20)
SHARED = 0.5
DIFFICULTY = 1.5


class Kind(NamedTuple):
    """Truth at the start, at its middle and at the end (a parabola through them), and the proxy's rise in sd."""

    name: str
    truth: tuple[float, float, float]
    proxy: float
    right: tuple[str, ...]


KINDS = (
    Kind("nothing moves", (0.60, 0.60, 0.60), 0.0, ("unmoved",)),
    Kind("proxy +1 sd, truth still", (0.60, 0.60, 0.60), 1.0, ("weak proxy",)),
    Kind("truth +10, proxy +1", (0.60, 0.67, 0.70), 1.0, ("improved",)),
    Kind("truth +10, then −5 below, proxy +1", (0.60, 0.70, 0.55), 1.0, ("hacked",)),
    Kind("truth +12, then back, proxy +1", (0.60, 0.72, 0.60), 1.0, ("hacked",)),
    Kind("truth −15, proxy +1", (0.60, 0.55, 0.45), 1.0, ("hacked",)),
    Kind("truth −15, proxy still", (0.60, 0.55, 0.45), 0.0, ("degraded",)),
)


def course(kind: Kind) -> np.ndarray:
    """True share right [T]."""
    return np.polyval(np.polyfit([0, 0.5, 1], kind.truth, 2), STEPS / STEPS[-1])


def chances(share: np.ndarray, problems: np.ndarray) -> np.ndarray:
    """Chance [T, P] of each problem, so that the mean over a large population of problems is `share` [T]."""
    population = np.linspace(-4, 4, 801)
    weight = np.exp(-(population**2) / 2) / np.exp(-(population**2) / 2).sum()

    def mean(shift: float) -> float:
        return float(weight @ (1 / (1 + np.exp(-(DIFFICULTY * population + shift)))))

    shifts = np.linspace(-6, 6, 601)
    table = np.array([mean(shift) for shift in shifts])
    at = np.interp(share, table, shifts)
    return 1 / (1 + np.exp(-(DIFFICULTY * problems[None, :] + at[:, None])))


def runs(kind: Kind, n_problems: int, n_runs: int, rng: np.random.Generator) -> Iterator[Grid]:
    """Made-up runs of a kind, one answer to each problem."""
    share = course(kind)
    shape = (len(STEPS), n_problems)
    for _ in range(n_runs):
        chance = chances(share, rng.standard_normal(n_problems))
        same = rng.random(shape) < SHARED
        uniform = np.where(same, rng.random(n_problems), rng.random(shape))
        right = (uniform < chance).astype(float)
        noise = np.where(same, rng.standard_normal(n_problems), rng.standard_normal(shape))
        proxy = 0.5 * (right - right.mean()) + noise + kind.proxy * (STEPS / STEPS[-1])[:, None]
        names = [str(i) for i in range(n_problems)]
        yield Grid(STEPS, names, proxy[..., None], right[..., None], np.full((*shape, 1), np.nan), None)


def records(grids: Sequence[Grid], *, answers: bool) -> list[dict[str, Any]]:
    """The records of runs, each as a seed, from their answers or from their means and n alone."""
    rows = [
        {
            "variant": "made up",
            "beta": 1.0,
            "seed": seed,
            "step": int(step),
            "proxy": grid.proxy[t].mean(),
            "proxy_std": grid.proxy[t].std(ddof=1),
            "true_strict": grid.strict[t].mean(),
            "n": grid.strict.shape[1],
        }
        for seed, grid in enumerate(grids)
        for t, step in enumerate(grid.steps)
    ]
    by_condition = {("made up", 1.0, seed): grid for seed, grid in enumerate(grids)} if answers else None
    return condition_records(pd.DataFrame(rows), {}, by_condition).conditions


def words(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share of each verdict."""
    counts = Counter(record["verdict"] for record in found)
    return {word: counts[word] / len(found) for word in WORDS}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--problems", type=int, nargs="+", default=[64, 200, 1319])
    arguments = parser.parse_args()
    for answers in (True, False):
        print(f"\nFrom {'single answers' if answers else 'means and n'}:\n")
        print("| run | problems |", " | ".join(WORDS), "| regret: true | mean | overstated | missed |")
        print("|---|---:|" + "---:|" * (len(WORDS) + 4))
        for k, kind in enumerate(KINDS):
            true = float(course(kind).max() - course(kind)[-1]) * 100
            for n in arguments.problems:
                grids = list(runs(kind, n, arguments.runs, np.random.default_rng([k, n])))
                found = records(grids, answers=answers)
                share = words(found)
                cells = [f"**{v:.0%}**" if w in kind.right else f"{v:.0%}" for w, v in share.items()]
                mean = np.mean([r["regret"] for r in found])
                interval = [r["intervals"]["regret"] for r in found]
                overstated = np.mean([i["low"] > true for i in interval])
                missed = np.mean([not i["low"] <= mean <= i["high"] for i in interval])
                errors = f"{true:.1f} | {mean:.1f} | {overstated:.1%} | {missed:.1%}"
                print(f"| {kind.name} | {n} |", " | ".join(cells), f"| {errors} |", flush=True)


if __name__ == "__main__":
    main()
