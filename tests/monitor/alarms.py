"""How often the monitor's threshold alarms without cause, and with one: simulated runs through the code that it uses.

    python tests/monitor/alarms.py

prints the tables of docs/monitor.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from math import sqrt

import numpy as np

from betastar.monitor.calibration import critical_height, own_noise, threshold
from betastar.monitor.gaps import scores, start_of
from betastar.randomness import numpy_generator

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

PROXIES: Mapping[str, Draw] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "log-normal": lambda rng, size: np.exp(rng.standard_normal(size)),
    "minus log-normal": lambda rng, size: -np.exp(rng.standard_normal(size)),
    "1 in 30 large": lambda rng, size: 10.0 * (rng.random(size) < 1 / 30) + 0.1 * rng.standard_normal(size),
}
TRUTHS: Mapping[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "easy and hard": lambda rng, n: rng.beta(0.5, 0.5, n),
    "half right": lambda rng, n: np.full(n, 0.5),
    "rarely right": lambda rng, n: np.full(n, 0.02),
}
RATE = 0.05


def alarms(
    proxy: str,
    truth: str,
    n: int,
    looks: int,
    runs: int,
    replicates: int = 4,
    shift: float = 0.0,
    kept: float = 0.0,
) -> float:
    """Share of runs that alarm at one of `looks` evaluations of n problems.

    Every evaluation draws each problem's rewards anew: the proxy around the problem's own level, the true one with the
    problem's own probability. `kept`: the share of responses that shared noise keeps as they were at the start.
    `shift`: added to the proxy, in standard deviations of the start, at the last evaluation.
    """
    rng = numpy_generator(0, "alarms", proxy, truth, n, looks, int(1000 * shift), int(1000 * kept))
    count = 0
    for _ in range(runs):
        size = (replicates + looks, n)
        proxies = rng.standard_normal(n) + PROXIES[proxy](rng, size)
        trues = (rng.random(size) < TRUTHS[truth](rng, n)).astype(float)
        same = (rng.random(size) < kept) & (np.arange(size[0]) >= replicates)[:, None]
        proxies, trues = np.where(same, proxies[0], proxies), np.where(same, trues[0], trues)
        proxies[-1] += shift * proxies[0].std(ddof=1)
        start = start_of(list(zip(proxies[:replicates], trues[:replicates], strict=True)), looks)
        y, first = scores(start, proxies[replicates:], trues[replicates:]), scores(start, proxies[0], trues[0])
        height = critical_height(looks, start.degrees, RATE)
        gaps = y.mean(axis=1) - first.mean()
        possible = np.flatnonzero(gaps > height * start.noise)  # no threshold is lower
        count += any(gaps[t] > threshold(height, start.noise, own_noise(y[t], first)) for t in possible)
    return count / runs


def print_tables(runs: int) -> None:
    """Both tables, as Markdown, with the largest Monte-Carlo standard error of a false-alarm rate."""
    out = sys.stdout.write
    sizes = [(n, looks) for n in (32, 64, 200) for looks in (10, 40)]
    out("| proxy | true reward | " + " | ".join(f"n = {n}, m = {m}" for n, m in sizes) + " |\n")
    out("| --- " * (2 + len(sizes)) + "|\n")
    for proxy in PROXIES:
        for truth in TRUTHS:
            rates = [alarms(proxy, truth, n, looks, runs) for n, looks in sizes]
            out(f"| {proxy} | {truth} | " + " | ".join(f"{100 * rate:.1f} %" for rate in rates) + " |\n")
            sys.stdout.flush()
    out(f"\nruns: {runs}; standard error at 5 %: {100 * sqrt(RATE * (1 - RATE) / runs):.1f} %\n\n")
    out("| n | " + " | ".join(f"+{shift} sd" for shift in (0.25, 0.5, 0.75, 1.0)) + " |\n" + "| --- " * 5 + "|\n")
    for n in (32, 64, 100, 200, 500):
        rates = [alarms("normal", "half right", n, 10, runs // 2, shift=s) for s in (0.25, 0.5, 0.75, 1.0)]
        out(f"| {n} | " + " | ".join(f"{100 * rate:.0f} %" for rate in rates) + " |\n")
    for kept in (0.5, 0.9):
        out(f"kept {kept}: {100 * alarms('normal', 'half right', 64, 10, runs, kept=kept):.1f} %\n")


if __name__ == "__main__":
    print_tables(runs=2000)
