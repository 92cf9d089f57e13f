"""95 % intervals over few seeds. Seeds are resampled whole, so all β of a seed stay together.

Two methods, each chosen by measured coverage (docs/statistics.md): the studentised bootstrap for means over seeds,
and draws of the mean curve for statistics of a curve over β, such as β★. The percentile bootstrap covers only 75 %
with three seeds and 84 % with five, so nothing here uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import inf, nan, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from betastar.randomness import numpy_generator

from .statistics import LEVEL, Interval, Resamples, mean_and_standard_error, seed_resamples

Array = NDArray[np.float64]

FEWEST_FOR_BOOTSTRAP = 5
"""With three seeds 1/9 of the resamples repeat one seed three times and have no spread to studentise by. With four, one
studentised interval in twenty is more than twice as wide as Student's t."""

N_RESAMPLES = 2000
"""Resamples of the studentised bootstrap; up to 7 seeds have no more distinct ones, which are then all listed."""

SMALLEST_SPREAD = 0.25
"""A resample's standard error counts as at least this share of the data's. Otherwise a resample that leaves out the one
seed that is far from the others has hardly any spread, and a bound ends up many standard errors away. A floor of
0.1 made one interval in twenty about three times as wide as Student's t with five seeds; this one 1.6 times, at up to
two points of coverage where that is promised (docs/statistics.md)."""

FEWEST_DEFINED = 0.95
"""No interval where the statistic is defined on less than this share of the draws: leaving those out narrows it."""

EQUAL = 1e-12
"""Values that differ by less than this share of the largest are equal: the difference is rounding."""


class SeedMean(NamedTuple):
    """Mean over `n` seeds, its standard error and 95 % interval; `reason` says why the mean or the error is NaN."""

    mean: float
    standard_error: float
    interval: Interval
    n: int
    reason: str | None = None

    def record(self) -> dict[str, Any]:
        """As `results.json` holds it."""
        return {**self._asdict(), "interval": self.interval._asdict()}


def seed_mean(values: ArrayLike, *, bounds: tuple[float, float] = (-inf, inf), root_seed: int = 0) -> SeedMean:
    """Mean, standard error and 95 % interval of `values` [n], one per seed (or one paired difference per seed).

    `bounds`: the range that a mean can have at all, to which the interval is cut; that loses no coverage. With two to
    four seeds the interval is Student's t, from five on the studentised bootstrap of seeds, see `mean_limits`. It is
    NaN with a reason for fewer than two values, an undefined one, or values that are all equal. `root_seed` names the
    draws that eight or more seeds need.
    """
    data = np.ravel(np.asarray(values, dtype=np.float64))
    centre = mean_and_standard_error(data)
    if undefined := int((~np.isfinite(data)).sum()):
        reason = f"undefined in {undefined} of {data.size} seeds"
        return SeedMean(nan, nan, _none(reason), data.size, reason)
    if data.size < 2:
        return SeedMean(*centre[:2], _none("an interval over seeds needs two seeds"), data.size, centre.reason)
    if np.ptp(data) <= EQUAL * np.abs(data).max():
        return SeedMean(*centre[:2], _none(f"all {data.size} values are equal: their spread is unknown"), data.size)
    low, high = mean_limits(data, _resamples(root_seed, data.size))
    method = "Student's t over seeds" if data.size < FEWEST_FOR_BOOTSTRAP else "studentised bootstrap of seeds"
    cut = np.clip([float(low), float(high)], *bounds)
    return SeedMean(*centre[:2], Interval(float(cut[0]), float(cut[1]), method=method), data.size)


class Difference(NamedTuple):
    """Difference of the means of `n` values and of `n_minus` independent others; otherwise as `SeedMean`."""

    mean: float
    standard_error: float
    interval: Interval
    n: int
    n_minus: int
    reason: str | None = None

    def record(self) -> dict[str, Any]:
        """As a file holds it."""
        return {**self._asdict(), "interval": self.interval._asdict()}


def welch_difference(
    values: ArrayLike, minus: ArrayLike, *, bounds: tuple[float, float] = (-inf, inf), level: float = LEVEL
) -> Difference:
    """Mean of `values` [n] less that of `minus` [m], independent samples whose spreads may differ (Welch 1947).

    Interval: Student's t with the Welch–Satterthwaite degrees of freedom, cut to `bounds`. NaN with a reason where a
    value is undefined, a side has fewer than two, or neither side has any spread.
    """
    sides = [np.ravel(np.asarray(side, dtype=np.float64)) for side in (values, minus)]
    sizes = [side.size for side in sides]

    def without(reason: str, mean: float = nan, error: float = nan) -> Difference:
        return Difference(mean, error, _none(reason), sizes[0], sizes[1], None if mean == mean else reason)

    if undefined := sum(int((~np.isfinite(side)).sum()) for side in sides):
        return without(f"undefined in {undefined} of {sum(sizes)} seeds")
    if min(sizes) < 2:
        return without("a difference between independent seeds needs two on either side")
    mean = float(sides[0].mean() - sides[1].mean())
    error = sqrt(sum(float(side.var(ddof=1)) / side.size for side in sides))
    if error <= EQUAL * max(float(np.abs(side).max()) for side in sides):
        return without("the values of each side are equal: their spread is unknown", mean, error)
    limits: Any = stats.ttest_ind(*sides, equal_var=False).confidence_interval(level)
    low, high = (float(np.clip(bound, *bounds)) for bound in limits)
    return Difference(mean, error, Interval(low, high, None, level, "Welch's t over seeds"), sizes[0], sizes[1])


def mean_limits(values: ArrayLike, resamples: Resamples | None, level: float = LEVEL) -> tuple[Array, Array]:
    """Lower and upper limits [...] of the mean over the last axis of `values` [..., n ≥ 2].

    Bootstrap-t (Efron 1981; Hall 1988): the quantiles of (mean* − mean)/standard error* over resamples of seeds stand
    in for those of Student's t. That keeps the coverage for skewed data, such as areas under a positive part, for which
    the t interval is too short. With fewer than five seeds it is Student's t, and `resamples` is not read.
    """
    data = np.asarray(values, dtype=np.float64)
    n = data.shape[-1]
    if n < FEWEST_FOR_BOOTSTRAP or resamples is None:
        mean, deviation = data.mean(axis=-1), data.std(axis=-1, ddof=1)
        reach = float(stats.t.ppf((1 + level) / 2, n - 1)) * deviation / sqrt(n)
        return mean - reach, mean + reach
    return studentised_limits(data, resamples, SMALLEST_SPREAD, level)


def studentised_limits(
    values: Array, resamples: Resamples, smallest_spread: float, level: float = LEVEL
) -> tuple[Array, Array]:
    """The limits of the studentised bootstrap, a resample's standard error being at least `smallest_spread` times the
    data's; `values` [..., n]."""
    n, mean = values.shape[-1], values.mean(axis=-1)
    deviation = values - mean[..., None]
    error = np.sqrt((deviation**2).sum(axis=-1) / (n * (n - 1)))
    share = resamples.counts.T / n
    shift = deviation @ share  # of the resample's mean, [..., R]
    spread = np.sqrt(np.maximum((deviation**2) @ share - shift**2, 0) / (n - 1))
    ratio = shift / np.maximum(spread, np.maximum(smallest_spread * error, np.finfo(float).tiny)[..., None])
    low, high = weighted_quantiles(ratio, resamples.weights, ((1 - level) / 2, (1 + level) / 2))
    return mean - high * error, mean - low * error


def weighted_quantiles(values: Array, weights: Array, levels: Sequence[float]) -> list[Array]:
    """For each level, the values [...] at which the weight cumulated along the last axis of `values` first reaches it.

    `weights`: [R], sum 1.
    """
    order = np.argsort(values, axis=-1)
    cumulated, ordered = np.cumsum(weights[order], axis=-1), np.take_along_axis(values, order, axis=-1)
    last = values.shape[-1] - 1
    found = []
    for level in levels:  # cumulated weights carry rounding: a level met to twelve digits is met
        place = np.minimum((cumulated < level - 1e-12).sum(axis=-1, keepdims=True), last)
        found.append(np.take_along_axis(ordered, place, axis=-1)[..., 0])
    return found


def mean_draws(values_by_seed: ArrayLike, rng: np.random.Generator, n_draws: int) -> Array:
    """Draws [R, ...] of where the mean over seeds may lie, given `values_by_seed` [S ≥ 2, ...].

    Each draw moves the mean by the seeds' deviations with one normal weight per seed, scaled as Student's t with S − 1
    degrees of freedom: mean + T·Σ_s g_s (x_s − mean)/√(S(S−1)). All entries of a seed share its weight, so what the β
    of a seed have in common stays common. For a linear statistic the central 95 % of the draws is the t interval.
    """
    values = np.asarray(values_by_seed, dtype=np.float64)
    n = values.shape[0]
    if n < 2:
        raise ValueError(f"draws of a mean over seeds need two seeds, got {n}")
    scale = np.sqrt((n - 1) / rng.chisquare(n - 1, n_draws))[:, None] / sqrt(n * (n - 1))
    mean = values.mean(axis=0)
    return mean + np.tensordot(rng.normal(size=(n_draws, n)) * scale, values - mean, axes=1)


def draws_interval(draws: ArrayLike, level: float = LEVEL) -> Interval:
    """Central `level` of a statistic's values [R] on `mean_draws`; infinity is a value, NaN means undefined.

    NaN with a reason where more than 5 % of the draws are undefined.
    """
    values = np.asarray(draws, dtype=np.float64)
    defined = values[~np.isnan(values)]
    if defined.size < FEWEST_DEFINED * values.size:
        return _none(f"defined on only {defined.size / values.size:.0%} of the draws of the mean over seeds")
    equal = np.full(defined.size, 1 / defined.size)
    low, high = weighted_quantiles(defined, equal, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(low), float(high), level=level, method="draws of the mean over seeds, t scale")


def root_mean_square_interval(values_by_seed: Sequence[ArrayLike], level: float = LEVEL) -> Interval:
    """Interval of the standard deviation of values with mean zero, one array per seed.

    χ² with the degrees of freedom that values correlated within a seed leave (Satterthwaite): N²/Σ_s (m_s + m_s(m_s−1)
    r²) for N values, m_s of them in seed s, and their correlation r within seeds, estimated from the products of pairs.
    """
    seeds = [np.ravel(np.asarray(values, dtype=np.float64)) for values in values_by_seed]
    pooled = np.concatenate([np.zeros(0), *seeds])
    if pooled.size < 2 or np.isnan(pooled).any():
        return _none("an interval of a standard deviation needs two values, all defined")
    square = float(np.mean(pooled**2))
    if square == 0:
        return _none(f"all {pooled.size} values are 0: their spread is unknown")
    pairs = sum(v.size * (v.size - 1) for v in seeds)
    products = sum(float(v.sum() ** 2 - (v**2).sum()) for v in seeds)
    r = float(np.clip(products / pairs / square, 0, 1)) if pairs else 0.0
    freedom = pooled.size**2 / sum(v.size + v.size * (v.size - 1) * r**2 for v in seeds)
    quantiles = stats.chi2.ppf([(1 + level) / 2, (1 - level) / 2], freedom)
    low, high = np.sqrt(freedom * square / quantiles)
    return Interval(float(low), float(high), level=level, method="χ², correlation within seeds counted")


@lru_cache(maxsize=64)
def _resamples(root_seed: int, n_seeds: int) -> Resamples | None:
    if n_seeds < FEWEST_FOR_BOOTSTRAP:
        return None
    return seed_resamples(n_seeds, numpy_generator(root_seed, "seed resamples", n_seeds), N_RESAMPLES)


def _none(reason: str) -> Interval:
    return Interval(nan, nan, reason)
