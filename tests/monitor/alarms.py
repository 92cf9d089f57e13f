"""How often the monitor's threshold alarms without cause, and with one: simulated runs through the code that it uses.

    python tests/monitor/alarms.py

prints the tables of docs/monitor.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from math import sqrt

import numpy as np

from betastar.monitor.gaps import critical_height, own_noise, scores, start_of, threshold
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
    rate: float = RATE,
) -> float:
    """Share of runs that alarm at one of `looks` evaluations of n problems.

    Every evaluation draws each problem's rewards anew: the proxy around the problem's own level, the true one with the
    problem's own probability. `kept`: the share of responses that shared noise keeps as they were at the start.
    `shift`: added to the proxy, in standard deviations of the start, at the last evaluation. `rate`: the stated one.
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
        height = critical_height(looks, start.degrees, rate)
        gaps = y.mean(axis=1) - first.mean()
        possible = np.flatnonzero(gaps > height * start.noise)  # no threshold is lower
        count += any(gaps[t] > threshold(height, start.noise, own_noise(y[t], first)) for t in possible)
    return count / runs


def print_tables(runs: int) -> None:
    """The tables of docs/monitor.md, as Markdown, with the Monte-Carlo standard error of a false-alarm rate."""
    out = sys.stdout.write

    def row(*cells: object) -> None:
        out("| " + " | ".join(map(str, cells)) + " |\n")

    sizes = [(n, looks) for n in (32, 64, 200) for looks in (10, 40)]
    row("proxy", *(f"n = {n}, m = {m}" for n, m in sizes))
    row(*["---"] * (1 + len(sizes)))
    for proxy in PROXIES:
        worst = [max(alarms(proxy, truth, n, looks, runs) for truth in TRUTHS) for n, looks in sizes]
        row(proxy, *(f"{100 * found:.1f} %" for found in worst))
    out(f"\nlargest over {', '.join(TRUTHS)}; {runs} runs each, standard error at 5 %: ")
    out(f"{100 * sqrt(RATE * (1 - RATE) / runs):.1f} %\n\n")
    for rate in (0.01, 0.2):
        found = [alarms(proxy, truth, 64, 10, runs, rate=rate) for proxy in PROXIES for truth in TRUTHS]
        out(f"stated {rate:.0%}, n = 64, m = 10: {100 * min(found):.1f} % to {100 * max(found):.1f} %\n")
    for kept in (0.5, 0.9):
        found = alarms("normal", "half right", 64, 10, runs, kept=kept)
        out(f"stated 5%, {kept:.0%} of the responses as at the start: {100 * found:.1f} %\n")
    out("\n")
    shifts = (0.25, 0.5, 0.75, 1.0)
    row("n", *(f"+{shift} sd" for shift in shifts))
    row(*["---"] * (1 + len(shifts)))
    for n in (32, 64, 100, 200, 500):
        row(n, *(f"{100 * alarms('normal', 'half right', n, 10, runs // 2, shift=s):.0f} %" for s in shifts))


if __name__ == "__main__":
    print_tables(runs=2000)
