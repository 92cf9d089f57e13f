"""How often a signal that warns of nothing is said to warn, in worlds that fool simpler tests.

    python benchmarks/warning_signs.py [--repeats 100]

Prints the table of docs/warning_signs.md, in a few minutes on one core. Goal: every signal at most 5 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from betastar.analysis.signals import ADDS, WARNS, WORDS, candidates, warning_signs
from betastar.record.entries import REGISTRY

Array = NDArray[np.float64]
PROBLEMS, POINTS, BETAS = 200, 17, (0.1, 1.0, 10.0)
BETTER = WORDS["clock"][0]
LEVELS = {"response_tokens": 100.0, "proxy_std": 5.0, "response_entropy": 5.0}  # others start at 1


def wandering(rng: np.random.Generator) -> tuple[Array, Callable[[Array], Array]]:
    """As the clock, but signals are random walks with a drift and a pace of the run's own."""
    t, fall = np.arange(POINTS), int(rng.integers(8, 15))
    truth = np.where(t >= fall, 0.35, 0.6)
    return truth, lambda _: np.cumsum(rng.normal(0.1 * rng.uniform(0.5, 1.5), 0.1, POINTS))


def drifting(rng: np.random.Generator) -> tuple[Array, Callable[[Array], Array]]:
    """Truth falls for good at a step drawn late; every signal drifts with the step and is noise besides."""
    t, fall = np.arange(POINTS), int(rng.integers(8, 15))
    return np.where(t >= fall, 0.35, 0.6), lambda _: 0.1 * t + 0.1 * rng.normal(size=POINTS)


def unmoved(rng: np.random.Generator) -> tuple[Array, Callable[[Array], Array]]:
    """Truth stays; signals follow the sampling noise of the very evaluation."""
    return np.full(POINTS, 0.5), lambda seen: 4 * (seen - 0.5) + 0.1 * rng.normal(size=POINTS)


def warned(rng: np.random.Generator) -> tuple[Array, Callable[[Array], Array]]:
    """Truth falls for good at any step, in half of the runs; signals are up in the three points before."""
    t, fall = np.arange(POINTS), int(rng.integers(4, 14)) if rng.random() < 0.5 else POINTS + 9
    return np.where(t >= fall, 0.35, 0.6), lambda _: ((t >= fall - 3) & (t < fall)) + 0.5 * rng.normal(size=POINTS)


WORLDS = {"pure drift": drifting, "random walks": wandering, "regression to the mean": unmoved}
POWER = {"a sign three points ahead": warned}


def runs(rng: np.random.Generator, world: Callable[..., Any], n_seeds: int) -> list[dict[str, Any]]:
    """Records of an experiment: three β per seed."""
    names = [m.name for m in REGISTRY.signals if not m.derived]
    found = []
    for seed in range(n_seeds):
        for beta in BETAS:
            truth, signal = world(rng)
            seen = rng.binomial(PROBLEMS, truth) / PROBLEMS
            direction = {s.name: s.direction for s in candidates()}
            series = {name: LEVELS.get(name, 1.0) + direction[name] * signal(seen) for name in names}
            series |= {"proxy": signal(seen), "true_strict": seen, "step": 5.0 * np.arange(POINTS)}
            record = {"variant": "a", "beta": beta, "seed": seed, "n": PROBLEMS, "onset_step": None}
            found.append({**record, "series": {name: values.tolist() for name, values in series.items()}})
    return found


def said(world: Callable[..., Any], n_seeds: int, repeats: int, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """By signal, in % of experiments: how often it is said to warn, or to add to accuracy; how often it does better
    than the clock, whatever accuracy does; and how often its area over all steps at once is above one half."""
    rng = np.random.default_rng([seed, n_seeds])
    counts = {m.name: np.zeros(4) for m in REGISTRY.signals if not m.derived}
    for _ in range(repeats):
        records = runs(rng, world, n_seeds)
        ours = warning_signs(records, horizons=[2])["pooled"]["signals"]
        for record in records:  # one step for all: a stratum that holds everything
            record["series"]["step"] = [0.0] * POINTS
        pooled = warning_signs(records, horizons=[2])["pooled"]["signals"]
        for name, count in counts.items():
            clock, at_once = (part[name]["roc"][0]["minus_clock"]["verdict"] for part in (ours, pooled))
            verdict = ours[name]["verdict"]
            count += [verdict == WARNS, verdict == ADDS, clock == BETTER, at_once == BETTER]
    return {name: 100 * count / repeats for name, count in counts.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    repeats = parser.parse_args().repeats
    print("| world | seeds | warns | adds to accuracy | better than the clock | area over all steps above 0.5 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for title, world in {**WORLDS, **POWER}.items():
        for n_seeds in (3, 5, 10):
            found = np.array(list(said(world, n_seeds, repeats).values()))
            cells = " | ".join(
                f"{mean:.1f} ({most:.0f})" for mean, most in zip(found.mean(0), found.max(0), strict=True)
            )
            print(f"| {title} | {n_seeds} | {cells} |", flush=True)
