"""How often Gao's forms are named where they are not there, and how often the interval of the maximum covers it.

    python benchmarks/distance.py [--repeats 1000]

Prints the numbers of docs/distance.md, in about two minutes on one core. Goal: at most 5 % false curves.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from betastar.maths.gao import FORMS, gao_curve, gao_fit
from betastar.maths.statistics import aicc

Array = NDArray[np.float64]
CURVES = ("quadratic", "logarithmic")
NOISES = (
    ("independent", 0.0, 0.0),
    ("AR(1), ρ 0.7", 0.7, 0.0),
    ("AR(1), ρ 0.9", 0.9, 0.0),
    ("slopes by seed", 0.0, 1.0),
)
SHAPES = ((3, 17), (5, 17), (5, 60), (10, 30))


def experiment(
    rng: np.random.Generator,
    truth: tuple[str, float, float],
    n_seeds: int,
    n_points: int,
    rho: float,
    slopes: float,
    farthest: float = 3.0,
) -> tuple[list[Array], list[Array]]:
    """Distances and rewards by seed: AR(1) noise with variance 1, and α that differs between seeds by `slopes`."""
    distance, reward = [], []
    for far in rng.uniform(0.8, 1, n_seeds) * farthest:
        d, noise = np.sqrt(np.linspace(0, far**2, n_points)), rng.normal(size=n_points)
        for t in range(1, n_points):
            noise[t] = rho * noise[t - 1] + np.sqrt(1 - rho**2) * noise[t]
        distance.append(d)
        reward.append(gao_curve(truth[0], d, truth[1] + slopes * rng.normal(), truth[2]) + noise + rng.normal())
    return distance, reward


def naive(distance: list[Array], reward: list[Array]) -> str | None:
    """The form that is best by 2 if every point counts as independent."""
    scores = {}
    rewards = np.concatenate([y - y.mean() for y in reward])
    for form in FORMS:
        size = {"none": 0, "line": 1}.get(form, 2)
        units = np.eye(2)[:size]
        columns = [np.concatenate([c - c.mean() for c in (gao_curve(form, d, *u) for d in distance)]) for u in units]
        design = np.column_stack(columns) if columns else np.zeros((rewards.size, 0))
        error = rewards - design @ np.linalg.lstsq(design, rewards, rcond=None)[0]
        scores[form] = aicc(float(error @ error), rewards.size - len(reward), size + 1)
    first, second = sorted(scores.values())[:2]
    return min(scores, key=lambda form: scores[form]) if second - first >= 2 else None


def false_curves(repeats: int) -> None:
    """Prints the table of false curves."""
    heads = [f"{s} seeds × {t} points" for s, t in SHAPES]
    print(f"| truth, noise | {' | '.join(heads)} |\n| --- |{' --- |' * len(heads)}")
    for truth in (("none", 0.0, 0.0), ("line", 1.0, 0.0)):
        for name, rho, slopes in NOISES:
            cells = []
            for place, (n_seeds, n_points) in enumerate(SHAPES):
                rng = np.random.default_rng([place, int(10 * rho), int(slopes), len(truth[0])])
                ours = plain = 0
                for _ in range(repeats):
                    data = experiment(rng, truth, n_seeds, n_points, rho, slopes)
                    ours += gao_fit(*data).best in CURVES
                    plain += naive(*data) in CURVES
                cells.append(f"{100 * ours / repeats:.1f} ({100 * plain / repeats:.1f})")
            print(f"| {truth[0]}, {name} | {' | '.join(cells)} |", flush=True)


def maxima(repeats: int) -> None:
    """Prints how often a clear curve is found, and how often the maximum's interval covers it."""
    rng = np.random.default_rng(0)
    found = [gao_fit(*experiment(rng, ("quadratic", 12, 3), 5, 17, 0.7, 0.0)).plausible for _ in range(repeats)]
    share = np.mean([bool(set(CURVES) & set(names)) for names in found])
    print(f"\nd(12 − 3d), 5 seeds × 17 points, AR(1) ρ 0.7: a curve among the plausible forms in {share:.1%}")
    for form, peak in (("quadratic", 1.25), ("logarithmic", float(np.exp(1.5)))):
        for n_seeds in (3, 5, 10):
            truth = (form, 5.0, 2.0)
            fits = [gao_fit(*experiment(rng, truth, n_seeds, 20, 0.7, 0.3, 7.0)) for _ in range(repeats)]
            bounds = np.array([fit.forms[form].peak.interval[:2] for fit in fits], dtype=float)
            covered = (bounds[:, 0] < peak) & (peak < bounds[:, 1])
            known = np.isfinite(bounds[:, 0])
            print(
                f"{form}, {n_seeds} seeds: interval in {known.mean():.1%}, of which {covered[known].mean():.1%} cover"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    repeats = parser.parse_args().repeats
    false_curves(repeats)
    maxima(repeats)
