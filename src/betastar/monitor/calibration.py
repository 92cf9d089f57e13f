"""How large a gap sampling noise makes, and how high a threshold must be for a stated rate of false alarms.

Every evaluation answers the same n problems. Its score of problem i is y_i = proxy_i / s_proxy − true_i / s_true, with
the scales of the standardised gap, which is then G(t) = ȳ(t) − ȳ(0). The null hypothesis: at every evaluation the
policy samples from the distribution it had at the start, so gaps are sampling noise alone. Problems are fixed; how they
differ in difficulty is no noise.

A run looks m times and holds each ȳ(t) against the same ȳ(0). If evaluations are independent, m means with one control
is Dunnett's problem (JASA 50, 1955), with correlation 1/2 between gaps. Evaluations that share their noise have gaps
that vary less and agree more, which makes a false alarm only rarer.
"""

from __future__ import annotations

from functools import lru_cache
from math import nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

NODES = 80


def start_noise(scores: ArrayLike) -> float:
    """σ: standard deviation of ȳ, the mean score of one evaluation, from R evaluations of the start, `scores` [R, n].

    σ² = mean over problems of the variance over replicates (R − 1 in the denominator), divided by n. The gap between
    two independent evaluations of the start has standard deviation σ√2: the A/A noise. Problems with an undefined score
    are left out; NaN with fewer than two replicates or problems.
    """
    known = _defined(np.asarray(scores, dtype=np.float64))
    replicates, n = known.shape
    return sqrt(float(known.var(axis=0, ddof=1).mean()) / n) if replicates > 1 and n > 1 else nan


def own_noise(scores: ArrayLike, start: ArrayLike) -> float:
    """σ as one evaluation shows it: the standard error of its own gap, divided by √2.

    `scores`, `start`: [n]. The gap is the mean of n differences `scores − start`, with standard error sd/√n. Problems
    with an undefined score are left out; NaN with fewer than two.
    """
    now, before = _defined(np.array([scores, start], dtype=np.float64))
    return float((now - before).std(ddof=1)) / sqrt(2 * now.size) if now.size > 1 else nan


def false_alarm_rate(height: float, evaluations: int, degrees: int) -> float:
    """Probability that at least one of m = `evaluations` gaps passes `height` · σ̂ under the null hypothesis.

    1 − ∫∫ Φ(h·s + z)^m φ(z) f(s) dz ds: z is the start's noise in units of σ, and s = σ̂/σ, where degrees · s² is
    chi-squared with `degrees` degrees of freedom. Exact for normal, independent means.
    """
    z, weight = np.polynomial.hermite_e.hermegauss(NODES)
    s = np.sqrt(stats.chi2.ppf((np.arange(NODES) + 0.5) / NODES, degrees) / degrees)
    quiet = stats.norm.cdf(height * s[:, None] + z) ** evaluations
    return float(1 - (quiet @ weight / weight.sum()).mean())


@lru_cache(maxsize=64)
def critical_height(evaluations: int, degrees: int, rate: float) -> float:
    """The height h at which `false_alarm_rate` is `rate`. Raises ValueError for a rate outside (0, 0.5], which no
    positive height may have, or no evaluation."""
    if not 0 < rate <= 0.5 or evaluations < 1 or degrees < 1:
        raise ValueError(f"rate in (0, 0.5], evaluations and degrees >= 1, got {rate}, {evaluations}, {degrees}")
    height: Any = optimize.brentq(lambda h: false_alarm_rate(h, evaluations, degrees) - rate, 0.0, 1e3)
    return float(height)


def threshold(height: float, noise: float, own: float) -> float:
    """The gap above which an evaluation alarms: `height` · max(`noise`, `own`), σ by the start and by itself.

    The start alone knows too little of heavy tails: one response with a huge proxy reward, of a kind that the start's
    replicates happened not to hold, would alarm. That response also makes the gap's own standard error large. Under the
    null hypothesis differences to the start are symmetric, and for these a bound by the own standard error holds
    whatever the tails (Efron, JASA 64, 1969). NaN where either is.
    """
    return height * float(np.maximum(noise, own))


def _defined(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The columns of `scores` [R, n] without an undefined value."""
    return scores[:, np.isfinite(scores).all(axis=0)]
