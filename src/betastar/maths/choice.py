"""Which β to choose: the set that cannot be told from the best, and how far β moves a mean at all. Seeds are blocks.

The problems of an evaluation are a second source of chance, shared by all seeds: `problem_variance`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf, nan, sqrt
from typing import Any

import numpy as np
from numpy.polynomial.hermite import hermgauss
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from .statistics import LEVEL, Interval
from .trend import ROUNDING, residuals

Array = NDArray[np.float64]

FEWEST_SEEDS = 3
"""With two seeds a difference between two β has one degree of freedom of its own; nothing is said."""


@dataclass(frozen=True)
class Choice:
    """The columns of a table [S, B] that may be the best (largest mean).

    `best`: the column with the largest mean, `lead` what it is ahead of the second, with the interval of that
    difference; `candidates` [B]: whether the column cannot be told from the best. `behind` [B]: mean of the best other
    column minus the mean of this one (negative for the best), with simultaneous `low` and `high` (Hsu 1984). NaN with a
    reason where undefined.
    """

    best: int | None
    candidates: NDArray[np.bool_]
    behind: Array
    low: Array
    high: Array
    lead: float
    lead_interval: Interval
    n_seeds: int
    reason: str | None = None


def best_columns(table: ArrayLike, shared_variance: float = 0.0, level: float = LEVEL) -> Choice:
    """Multiple comparisons with the best (Hsu 1984) of the columns of `table` [S, B], in seeds as blocks.

    With probability `level` the truly best column is among the candidates. The variance of a difference between two
    columns is that of its own values over seeds or the pooled one, whichever is larger, on (S − 1)(B − 1) degrees of
    freedom; `shared_variance` of a column's mean is added, which all seeds share (see `problem_variance`).
    """
    values = np.asarray(table, dtype=np.float64)
    n_seeds, n_beta = values.shape
    none = np.full(n_beta, nan)

    def without(reason: str) -> Choice:
        nothing = Interval(nan, nan, reason)
        return Choice(None, np.ones(n_beta, bool), none, none, none, nan, nothing, n_seeds, reason)

    if n_beta < 2:
        return without("there is only one β")
    if not np.isfinite(values).all():
        return without(f"undefined in {(~np.isfinite(values)).any(axis=1).sum()} of {n_seeds} seeds")
    if n_seeds < FEWEST_SEEDS:
        return without(f"cannot be said: it takes {FEWEST_SEEDS} seeds that have every β, there are {n_seeds}")
    means = values.mean(axis=0)
    error = _errors(values, shared_variance)
    reach = dunnett_quantile(n_beta, (n_seeds - 1) * (n_beta - 1), level) * error
    difference = means[None, :] - means[:, None]  # [this, other]
    np.fill_diagonal(difference, -inf)
    behind = difference.max(axis=1)
    low, high = (difference - reach).max(axis=1), (difference + reach).max(axis=1)
    best = int(means.argmax())
    second = int(difference[best].argmax())
    lead, width = float(-behind[best]), float(reach[best, second])
    interval = Interval(lead - width, lead + width, None, level, "multiple comparisons with the best (Hsu)")
    if not error.any():
        interval = Interval(nan, nan, _agree(n_seeds))
    return Choice(best, low <= 0, behind, low, high, lead, interval, n_seeds)


def spread_of_means(table: ArrayLike, shared_variance: float = 0.0, level: float = LEVEL) -> tuple[float, Interval]:
    """The largest difference between column means of `table` [S, B], and its interval.

    Tukey's simultaneous intervals of all differences, seeds as blocks: the largest true difference lies between the
    largest lower and the largest upper bound. Variances as in `best_columns`.
    """
    values = np.asarray(table, dtype=np.float64)
    n_seeds, n_beta = values.shape
    means = values.mean(axis=0)
    width = float(np.ptp(means)) if n_beta else nan
    if n_beta < 2 or np.isnan(width):
        why = "there is only one β" if n_beta < 2 else "the end truth is undefined somewhere"
        return nan, Interval(nan, nan, why)
    if n_seeds < 2:
        return width, Interval(nan, nan, "an interval over seeds needs two seeds")
    error = _errors(values, shared_variance)
    if not error.any():
        return width, Interval(nan, nan, _agree(n_seeds))
    difference = means[:, None] - means[None, :]
    reach = _tukey_quantile(n_beta, (n_seeds - 1) * (n_beta - 1), level) / sqrt(2) * error
    low, high = float((difference - reach).max()), float((difference + reach).max())
    return width, Interval(max(low, 0.0), high, None, level, "Tukey's simultaneous intervals, seeds as blocks")


def problem_variance(values: ArrayLike) -> tuple[float, int]:
    """What the draw of problems adds to the variance of a mean over seeds and problems, and how many problems.

    `values` [S, P]: an outcome by seed and problem, for the same problems in every seed. Two-way random effects: with
    the mean squares of problems and of the residual, (MS_problems − MS_residual)/(S·P) estimates σ²_problems/P
    (Cornfield and Tukey 1956), at least 0. The variance over seeds holds the rest. With one seed the two cannot be told
    apart: then all of the spread over problems, which is more. NaN with fewer than two problems.
    """
    table = np.asarray(values, dtype=np.float64)
    n_seeds, n_problems = table.shape
    if n_problems < 2 or n_seeds < 1:
        return nan, n_problems
    between = n_seeds * float(table.mean(axis=0).var(ddof=1))
    if n_seeds == 1:
        return between / n_problems, n_problems
    within = float((residuals(table) ** 2).sum()) / ((n_seeds - 1) * (n_problems - 1))
    return max(between - within, 0.0) / (n_seeds * n_problems), n_problems


def widened(interval: Interval, mean: float, variance: float, n: int) -> Interval:
    """`interval` of `mean` with an independent source of chance added: `variance` of the mean, from `n` draws of it.

    Half-widths add in squares (MOVER: Zou and Donner 2008), each at its own degrees of freedom.
    """
    if np.isnan([interval.low, interval.high]).any() or not variance > 0:
        return interval
    half = float(stats.t.ppf((1 + interval.level) / 2, n - 1)) * sqrt(variance)
    low = mean - sqrt((mean - interval.low) ** 2 + half**2)
    high = mean + sqrt((interval.high - mean) ** 2 + half**2)
    return interval._replace(low=low, high=high, method=f"{interval.method}, problems drawn anew")


@lru_cache(maxsize=64)
def dunnett_quantile(k: int, freedom: int, level: float = LEVEL) -> float:
    """One-sided Dunnett quantile of `k` − 1 comparisons with one column, equal sizes: P(max of the k − 1 t statistics,
    which share denominator and control, ≤ d) = `level` (Dunnett 1955)."""
    nodes, weights = hermgauss(48)
    z, w = sqrt(2) * nodes, weights / sqrt(np.pi)
    share, share_weights = leggauss(64)
    scale = np.sqrt(stats.chi2.ppf((share + 1) / 2, freedom) / freedom)  # of the estimated deviation, by its quantiles

    def covered(d: float) -> float:
        inner = stats.norm.cdf(z[:, None] + sqrt(2) * d * scale) ** (k - 1)
        return float(w @ inner @ (share_weights / 2))

    found: Any = optimize.brentq(lambda d: covered(d) - level, 0.0, 400.0)
    return float(found)


def _errors(values: Array, shared_variance: float) -> Array:
    """Standard errors [B, B] of differences between column means."""
    n_seeds, n_beta = values.shape
    left = residuals(values)
    if np.abs(left).max() <= ROUNDING * np.abs(values).max():  # what is left is rounding, not a spread over seeds
        return np.sqrt(np.full((n_beta, n_beta), 2 * shared_variance))
    pooled = 2 * (left**2).sum() / ((n_seeds - 1) * (n_beta - 1))
    own = (values[:, :, None] - values[:, None, :]).var(axis=0, ddof=1)
    return np.sqrt(np.maximum(own, pooled) / n_seeds + 2 * shared_variance)


def _agree(n_seeds: int) -> str:
    return f"all {n_seeds} seeds agree exactly: their spread is unknown"


@lru_cache(maxsize=64)
def _tukey_quantile(k: int, freedom: int, level: float) -> float:
    return float(stats.studentized_range.ppf(level, k, freedom))
