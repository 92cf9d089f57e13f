"""Outcomes of one condition: what happened to the true reward, how much of it is noise, and what the proxy had to do
with it. (MEASURES: the truth leads, the gap explains.)

Truth by problem is `[T, P]`, evaluation points × problems, the mean over a problem's answers where it has several. All
comparisons within a condition are paired by problem, for the problems and mostly the sampling noise are the same at
every point. Changes of a share of right answers are in percentage points (pp) once a caller multiplies by 100; nothing
here does.
"""

from __future__ import annotations

from functools import lru_cache
from math import inf, isnan, nan, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats
from scipy.signal import fftconvolve

from .statistics import LEVEL, Interval

Array = NDArray[np.float64]

N_SPLITS = 32
"""Random halvings of the problems that a regret is averaged over."""

FEWEST_FOR_SERIES_NOISE = 6
"""Evaluation points from which the noise of a series can be read off the series itself."""

SHARED_CHOICE = 1.2
"""The interval of a regret is this much wider than problems taken one by one make it: the best step is chosen by all
problems of a half, so what they add is not independent. Measured: their standard error alone is 9 to 20 % too small
(docs/statistics.md)."""

SAME_SERIES = 1e-3
"""Two series are one if a line through them leaves less than this share of the spread."""


# Change from one point to another, paired by problem.


def sign_flip_p(differences: ArrayLike) -> float:
    """Exact two-sided p that paired `differences` [P], multiples of one unit, are as likely −d as d (Fisher 1935).

    The null distribution of Σd is the convolution of one scaled binomial for each size |d|. For differences of −1, 0
    and 1, single answers before and after, this is McNemar's exact test. Differences that are multiples of nothing
    coarser than 1/64 (true rewards that are scores) get Student's paired t instead. NaN without differences.
    """
    d = np.ravel(np.asarray(differences, dtype=np.float64))
    d = d[~np.isnan(d)]
    if d.size == 0:
        return nan
    units = next((k for k in range(1, 65) if np.abs(d * k - np.rint(d * k)).max() < 1e-6), None)
    if units is None:
        test: Any = stats.ttest_1samp(d, 0.0) if d.size > 1 and np.ptp(d) > 0 else None
        return nan if test is None else float(test.pvalue)
    sizes = np.rint(np.abs(d) * units).astype(np.int64)
    total = int(np.rint(d * units).sum())
    counts = np.bincount(sizes)[1:]
    if not counts.any():
        return 1.0
    kinds = [(size, int(count)) for size, count in enumerate(counts, start=1) if count]
    if len(kinds) == 1:
        ((size, count),) = kinds
        return float(stats.binomtest((total // size + count) // 2, count).pvalue)
    law = np.ones(1)
    for size, count in kinds:
        one = np.zeros(2 * size * count + 1)
        one[:: 2 * size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        law = np.maximum(fftconvolve(law, one), 0.0)
    sums = np.arange(law.size) - law.size // 2
    return float(min(1.0, law[np.abs(sums) >= abs(total)].sum() / law.sum()))


def mean_interval(contributions: ArrayLike, *, size: float = 0.0, level: float = LEVEL) -> Interval:
    """Interval of the mean of `contributions` [P], one of each problem.

    `size`: the largest difference that a problem can have; one pseudo-problem of +size and one of −size are then added,
    which for single answers is the interval of Bonett and Price (2012) for paired proportions. It does not collapse
    where all differences are equal. With 0, Student's t. NaN with a reason for fewer than two problems.
    """
    d = np.ravel(np.asarray(contributions, dtype=np.float64))
    d = d[~np.isnan(d)]
    if d.size < 2:
        return Interval(nan, nan, "an interval over problems needs two problems")
    if size > 0:
        n = d.size + 2
        centre = d.sum() / n
        reach = stats.norm.ppf((1 + level) / 2) * sqrt((((d**2).sum() + 2 * size**2) / n - centre**2) / n)
        method = "paired by problem, Bonett–Price"
    else:
        if np.ptp(d) == 0:
            return Interval(nan, nan, f"all {d.size} problems have the same value: their spread is unknown")
        centre = d.mean()
        reach = stats.t.ppf((1 + level) / 2, d.size - 1) * d.std(ddof=1) / sqrt(d.size)
        method = "paired by problem, Student's t"
    return Interval(float(centre - reach), float(centre + reach), None, level, method)


# The best step, and what was lost since.


class Regret(NamedTuple):
    """`value`: truth at the best step less truth at the end, best step and truth from different halves of the problems;
    `contributions` [P]: what each problem adds, `value` their mean; `peak`: index of the best step by all problems."""

    value: float
    contributions: Array
    peak: int


def split_half_regret(truth: ArrayLike, rng: np.random.Generator, n_splits: int = N_SPLITS) -> Regret:
    """What stopping at the best step would have kept, r*(t̂) − r*(T), of `truth` [T, P] without NaN.

    The plain maximum of T noisy means exceeds the end even where nothing happens. Here the best step t̂ is chosen on one
    half of the problems and measured on the other, both ways, averaged over `n_splits` random halvings: the value is
    unbiased for the regret of that choice, may be negative, and is 0 on average where the truth is flat. Of equal
    steps the earliest is the best. Raises ValueError for fewer than two problems.
    """
    x = np.asarray(truth, dtype=np.float64)
    n = x.shape[1]
    if n < 2:
        raise ValueError(f"halves of the problems need two problems, got {n}")
    rounded = np.round(x, 12)  # equal means must tie, whatever the order of their sum
    first = np.zeros((n_splits, n), dtype=bool)
    for row in first:
        row[rng.permutation(n)[: n // 2]] = True
    sums = first @ rounded.T
    best = np.round(sums, 9).argmax(axis=1)  # [R] chosen on the first half
    other = np.round(rounded.sum(axis=1) - sums, 9).argmax(axis=1)
    kept = np.where(first, x[other], x[best])  # [R, P] each problem at the step that the other half chose
    contributions = kept.mean(axis=0) - x[-1]
    return Regret(float(contributions.mean()), contributions, int(np.round(rounded.mean(axis=1), 9).argmax()))


def regret_interval(regret: Regret, *, size: float = 0.0, level: float = LEVEL) -> Interval:
    """`mean_interval` of what the problems add, widened about its centre by `SHARED_CHOICE`."""
    found = mean_interval(regret.contributions, size=size, level=level)
    centre, reach = (found.low + found.high) / 2, SHARED_CHOICE * (found.high - found.low) / 2
    return found._replace(low=centre - reach, high=centre + reach)


def split_half_lowest(truth: ArrayLike, rng: np.random.Generator, n_splits: int = N_SPLITS) -> float:
    """The lowest mean of `truth` [T, P], its step chosen on one half of the problems and measured on the other: the
    plain minimum of T noisy means lies below the lowest truth."""
    flipped = -np.asarray(truth, dtype=np.float64)
    return -(split_half_regret(flipped, rng, n_splits).value + float(flipped[-1].mean()))


class Peak(NamedTuple):
    """The plain best step of a curve of means. `at`: its index; `fall` since, max − end; `floor`: how much noise
    alone would give on average; `low`: lower bound of the true fall; `p`: how often noise alone gives as much."""

    at: int
    fall: float
    floor: float
    low: float
    p: float


def plain_peak(means: ArrayLike, noise: float, freedom: float = inf, level: float = LEVEL) -> Peak:
    """The peak of `means` [T] whose errors are independent with standard deviation `noise`, known with `freedom`
    degrees of freedom.

    `low` and `p` are Dunnett's (1955), every step against the end: exact where `freedom` is infinite, else scaled by
    Student's t. `low` is one-sided at (1 + level)/2, as the lower end of a two-sided interval is.
    """
    x = np.asarray(means, dtype=np.float64)
    index = int(np.round(x, 12).argmax())
    fall = float(x[index] - x[-1])
    if x.size < 2 or isnan(noise):
        return Peak(index, fall, nan, nan, nan)
    tail = (1 + level) / 2
    wider = float(stats.t.ppf(tail, freedom) / stats.norm.ppf(tail)) if freedom < inf else 1.0
    low = fall - dunnett_quantile(x.size - 1, tail) * wider * noise
    p = 1.0 if noise == 0 and fall == 0 else 0.0
    if noise > 0:
        p = 1 - dunnett_probability(x.size - 1, fall / noise / wider)
    return Peak(index, fall, noise * expected_maximum(x.size), float(low), float(p))


def paired_peak(truth: ArrayLike, rng: np.random.Generator, n_draws: int = 1000, level: float = LEVEL) -> Peak:
    """The peak of the means of `truth` [T, P], whose errors are paired by problem.

    As `plain_peak`, with the law of the largest difference to the end by a multiplier bootstrap over problems
    (Chernozhukov, Chetverikov & Kato 2013), which keeps how points hang together.
    """
    x = np.asarray(truth, dtype=np.float64)
    means = np.round(x.mean(axis=1), 9)
    index = int(means.argmax())
    fall = float(x[index].mean() - x[-1].mean())
    if len(x) < 2:
        return Peak(index, fall, nan, nan, nan)
    difference = x[:-1] - x[-1]
    centred = difference - difference.mean(axis=1, keepdims=True)
    largest = (rng.standard_normal((n_draws, x.shape[1])) @ centred.T / x.shape[1]).max(axis=1)
    low = fall - float(np.quantile(largest, (1 + level) / 2))
    p = float((1 + (largest >= fall - 1e-12).sum()) / (n_draws + 1)) if fall > 0 else 1.0
    return Peak(index, fall, float(np.maximum(largest, 0).mean()), low, p)


@lru_cache(maxsize=256)
def expected_maximum(n: int) -> float:
    """Mean of the largest of `n` independent standard normals."""
    z = np.linspace(-10, 10, 8001)
    return float(np.trapezoid(z * n * stats.norm.pdf(z) * stats.norm.cdf(z) ** (n - 1), z))


def dunnett_probability(n_steps: int, difference: float) -> float:
    """Probability that none of `n_steps` standard normals exceeds another one, the end, by more than `difference`."""
    z = np.linspace(-9, 9, 2001)
    return float(min(1.0, np.trapezoid(stats.norm.pdf(z) * stats.norm.cdf(z + difference) ** n_steps, z)))


@lru_cache(maxsize=256)
def dunnett_quantile(n_steps: int, level: float) -> float:
    """The difference that `dunnett_probability` gives `level`."""
    root: Any = optimize.brentq(lambda q: dunnett_probability(n_steps, q) - level, -5.0, 20.0)
    return float(root)


class SeriesNoise(NamedTuple):
    """Standard deviation of one value of a series about a smooth course, and the degrees of freedom behind it."""

    deviation: float
    freedom: float


def series_noise(steps: ArrayLike, values: ArrayLike) -> SeriesNoise:
    """The noise of `values` [T] about a smooth course over `steps` [T], from each value's distance to the line through
    its neighbours (Gasser, Sroka & Jennen-Steinmetz 1986): a straight course adds nothing, a bend makes it larger.

    What is common to all points, such as a hard choice of problems, is not in it. NaN with fewer than
    `FEWEST_FOR_SERIES_NOISE` values.
    """
    t, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    known = ~np.isnan(y)
    t, y = t[known], y[known]
    if y.size < FEWEST_FOR_SERIES_NOISE:
        return SeriesNoise(nan, nan)
    before = (t[2:] - t[1:-1]) / (t[2:] - t[:-2])
    after = 1 - before
    residual = (before * y[:-2] + after * y[2:] - y[1:-1]) / np.sqrt(before**2 + after**2 + 1)
    # Neighbouring residuals share values: correlations −2/3 and 1/6, so n of them count for n/(1 + 2·(4/9 + 1/36)).
    return SeriesNoise(float(np.sqrt(np.mean(residual**2))), residual.size / (1 + 2 * (4 / 9 + 1 / 36)))


# Areas over time, and what noise alone makes of them.


def time_weights(steps: ArrayLike) -> Array:
    """Weights [T] of the trapezoid rule over `steps` [T]: their product with a curve is its area."""
    t = np.asarray(steps, dtype=np.float64)
    gaps = np.diff(t)
    return (np.append(gaps, 0.0) + np.append(0.0, gaps)) / 2


def points_lost(steps: ArrayLike, truth: ArrayLike) -> float:
    """Mean over time of max(r*(0) − r*(t), 0) of `truth` [T], in its unit. NaN with fewer than two points or a NaN."""
    weights, x = time_weights(steps), np.asarray(truth, dtype=np.float64)
    if x.size < 2:
        return nan
    return float(weights @ np.maximum(x[0] - x, 0.0) / weights.sum()) if not np.isnan(x).any() else nan


def positive_area_floor(steps: ArrayLike, deviation: float) -> float:
    """Mean area under the positive part of pure noise at `steps` [T].

    `deviation`: standard deviation of a point's difference to the start, as two evaluations of one checkpoint (A/A)
    show it; fresh at each point, 0 at the start. E max(N(0, s²), 0) = s/√(2π).
    """
    return deviation * float(time_weights(steps)[1:].sum()) / sqrt(2 * np.pi)


def area_floor(steps: ArrayLike, deviation: float) -> float:
    """Standard deviation of the signed area of the same noise. Half the variance of a difference to the start is the
    start's own, and common to all points."""
    weights = time_weights(steps)[1:]
    return deviation * sqrt(float((weights**2).sum() + weights.sum() ** 2) / 2)


# Proxy against truth.


class Adjusted(NamedTuple):
    """`gap`: the truth that is missing, r·z_p − z_t; `departure`: how far the policy left the cloud of the start's
    responses, (z_p − r·z_t)/√(1 − r²). Standard deviations at the start."""

    gap: float
    departure: float


def regression_adjusted(z_proxy: float, z_truth: float, correlation: float) -> Adjusted:
    """Gap against what the proxy promised: over the start's own responses, a proxy higher by z_p goes with a truth
    higher by r·z_p. A weak proxy (small r) promises little; an exploited one promised, and did not keep it.
    `departure` is NaN for |r| = 1, where proxy and truth are one."""
    rest = 1 - correlation**2
    departure = (z_proxy - correlation * z_truth) / sqrt(rest) if rest > 1e-12 else nan
    return Adjusted(correlation * z_proxy - z_truth, departure)


def is_the_truth(proxy: ArrayLike, truth: ArrayLike) -> bool:
    """Whether `proxy` is `truth` on another scale: a rising line through the pairs leaves less than a thousandth of
    the spread. Three pairs or fewer must be equal to rounding; a constant truth shows nothing."""
    p, t = np.ravel(np.asarray(proxy, dtype=np.float64)), np.ravel(np.asarray(truth, dtype=np.float64))
    known = ~(np.isnan(p) | np.isnan(t))
    p, t = p[known], t[known]
    if t.size < 2 or np.ptp(t) <= 1e-9 * max(1.0, float(np.abs(t).max())):
        return False
    if np.abs(p - t).max() <= 1e-9 * max(1.0, float(np.abs(t).max())):
        return True
    if t.size < 4 or np.ptp(p) == 0 or np.unique(t).size < 2:
        return False
    centred_p, centred_t = p - p.mean(), t - t.mean()
    slope = float(centred_p @ centred_t / (centred_t @ centred_t))
    rest = centred_p - slope * centred_t
    return slope > 0 and float(np.sqrt(rest @ rest)) < SAME_SERIES * float(np.sqrt(centred_p @ centred_p))
