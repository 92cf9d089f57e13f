"""Does damage rise with β? Tests and measures of a trend over β within seeds, for tables [S seeds, B β ascending]."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import nan

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from .statistics import LARGEST_EXACT_N, all_orders, doubled_ranks

Array = NDArray[np.float64]

ALTERNATIVES = {
    "p_greater": "one-sided: rises with β",
    "p_less": "one-sided: falls with β",
    "p_two_sided": "two-sided: rises or falls with β",
}
"""What each p-value of a trend test is against; the null hypothesis of all is that the order of β does not matter."""


@dataclass(frozen=True)
class Page:
    """Page's L of `n_seeds` seeds and `n_beta` β, and its p-values: L at least the one seen, at most, as far from its
    mean. `method`: "exact" counts every order within every seed, ties included; SciPy's for more than nine β."""

    L: float
    p_greater: float
    p_less: float
    p_two_sided: float
    n_seeds: int
    n_beta: int
    method: str
    reason: str | None = None


def page_trend(data: ArrayLike) -> Page:
    """Page's trend test of `data` [S, B]: does every seed tend to be larger in later columns?

    L = Σ_seeds Σ_j j·rank_j (midranks for ties), against all orders within each seed: exact for up to nine columns.
    The null distribution is that of the very ranks seen, so ties are counted, where SciPy's test ignores them. NaN with
    fewer than two seeds or three columns, or with an undefined value. Raises ValueError unless `data` is 2-D.
    """
    table = np.asarray(data, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"data must be [S, B], got shape {table.shape}")
    n_seeds, n_beta = table.shape
    reason = None
    if n_seeds < 2 or n_beta < 3:
        reason = f"Page's L needs two seeds and three values of β (seeds: {n_seeds}, values of β: {n_beta})"
    elif np.isnan(table).any():
        reason = f"undefined in {np.isnan(table).any(axis=1).sum()} of {n_seeds} seeds"
    if reason:
        return Page(nan, nan, nan, nan, n_seeds, n_beta, "undefined", reason)
    if n_beta > LARGEST_EXACT_N:
        rising, falling = (stats.page_trend_test(table[:, ::way]) for way in (1, -1))
        up, down = float(rising.pvalue), float(falling.pvalue)
        method = f"SciPy, {rising.method}, ties ignored"
        return Page(float(rising.statistic), up, down, min(1.0, 2 * min(up, down)), n_seeds, n_beta, method)

    ranks = np.stack([doubled_ranks(row) for row in table])  # doubled midranks are integers: L compares exactly
    seen, mass = int((ranks @ np.arange(1, n_beta + 1)).sum()), np.ones(1)
    lowest = 0
    for row in np.sort(ranks, axis=1).tolist():
        least, share = page_scores(tuple(row))
        lowest, mass = lowest + least, np.convolve(mass, share)
    place, middle = seen - lowest, (mass.size - 1) / 2  # orders and their reversals make the distribution symmetric
    far = np.abs(np.arange(mass.size) - middle) >= abs(place - middle)
    up, down, either = (min(1.0, float(mass[part].sum())) for part in (slice(place, None), slice(place + 1), far))
    return Page(seen / 2, up, down, either, n_seeds, n_beta, "exact")


def spearman_within(data: ArrayLike) -> Array:
    """Spearman's ρ between the column and the value in each row of `data` [S, B]; ties get midranks. NaN where a row
    is constant or has an undefined value, or with fewer than two columns."""
    table = np.asarray(data, dtype=np.float64)
    if table.shape[1] < 2:
        return np.full(table.shape[0], nan)
    ranks = np.asarray(stats.rankdata(table, axis=1), dtype=np.float64)  # a NaN makes its whole row NaN
    ranks -= (table.shape[1] + 1) / 2
    order = np.arange(table.shape[1]) - (table.shape[1] - 1) / 2
    length = np.sqrt((ranks**2).sum(axis=1) * (order @ order))
    return np.divide(ranks @ order, length, out=np.full(table.shape[0], nan), where=length > 0)


def slope_within(beta: ArrayLike, data: ArrayLike) -> Array:
    """Least-squares slope of each row of `data` [S, B] per unit of log10 β: the change per tenfold β. NaN with fewer
    than two distinct β, a β of 0, or an undefined value."""
    x, table = np.asarray(beta, dtype=np.float64), np.asarray(data, dtype=np.float64)
    if not (x > 0).all():
        return np.full(table.shape[0], nan)
    x = np.log10(x)
    x = x - x.mean()
    return table @ x / (x @ x) if x.size > 1 and np.ptp(x) > 0 else np.full(table.shape[0], nan)


@lru_cache(maxsize=256)
def page_scores(ranks: tuple[int, ...]) -> tuple[int, NDArray[np.float64]]:
    """Distribution of Σ_j j·rank_j over all orders of `ranks`: its smallest value, and the share of each from there."""
    scores = np.asarray(ranks)[all_orders(len(ranks))] @ np.arange(1, len(ranks) + 1)
    least = int(scores.min())
    return least, np.bincount(scores - least) / scores.size


@dataclass(frozen=True)
class TrendTest:
    """Page's test with its p-values corrected for a spread that changes with β.

    `page`: the exact test as it is. `spread_ratio`: residual spread at the last column over that at the first, from a
    log-linear fit. `inflation`: by how much that widens the null distribution of L (variance, at least 1); the other p
    are those of `page` with z/√inflation in place of z. NaN with `page.reason` where Page's test is undefined.
    """

    page: Page
    spread_ratio: float
    inflation: float
    p_greater: float
    p_less: float
    p_two_sided: float


LEAST_SHARE = 0.25
"""A column's estimated variance counts as at least this share of its own residuals' mean square: with few seeds the
estimate may be negative. A quarter keeps the level where the spread grows fivefold; less costs power."""


ROUNDING = 1e-12
"""Residuals below this share of the largest value are rounding."""


def trend_test(data: ArrayLike) -> TrendTest:
    """Does every seed of `data` [S, B] tend to be larger, or smaller, in later columns?

    Page's test takes values within a seed for exchangeable. If the mean is flat but the spread grows fivefold, it
    raises a false alarm in up to 6.7 % of data sets with seven β; the correction brings that to 5 % and costs about
    two points of power where the spread is constant (docs/statistics.md).
    """
    table = np.asarray(data, dtype=np.float64)
    page = page_trend(table)
    if page.reason:
        return TrendTest(page, nan, nan, nan, nan, nan)
    slope = float(spread_slopes(table[None])[0])
    wider = float(inflation(slope, page.n_beta))
    up, down, either = (float(shrunk(p, wider)) for p in (page.p_greater, page.p_less, page.p_two_sided / 2))
    return TrendTest(page, float(np.exp(slope)), wider, up, down, min(1.0, 2 * either))


def spread_slopes(tables: ArrayLike) -> Array:
    """Log of the ratio of spreads between the last and the first column of each of `tables` [R, S, B ≥ 3]: a line
    through the logs of the columns' standard deviations. 0 where there is no residual.

    Residuals without the means of seeds and columns mix the columns' noise; Grubbs's (1948) estimator of each column's
    own variance takes that out: B/(B − 2)·(u_j − Σu/(B(B − 1))) for mean squares u_j.
    """
    values = np.asarray(tables, dtype=np.float64)
    n_beta = values.shape[2]
    square = np.mean(residuals(values) ** 2, axis=1)
    square = np.where(square > (ROUNDING * np.abs(values).max(axis=(1, 2), initial=0)[:, None]) ** 2, square, 0.0)
    shared = square.sum(axis=1, keepdims=True) / (n_beta * (n_beta - 1))
    own = np.maximum((square - shared) * n_beta / (n_beta - 2), LEAST_SHARE * square)
    least = np.maximum(
        1e-4 * own.max(axis=1, keepdims=True), np.finfo(float).tiny
    )  # a column may have no spread at all
    place = np.arange(n_beta) / (n_beta - 1) - 0.5
    return np.log(np.maximum(own, least)) / 2 @ place / (place @ place)


def residuals(tables: ArrayLike) -> Array:
    """What is left of tables [..., S, B] without the means of their seeds and of their columns."""
    values = np.asarray(tables, dtype=np.float64)
    rows, columns = values.mean(axis=-1, keepdims=True), values.mean(axis=-2, keepdims=True)
    return values - rows - columns + values.mean(axis=(-2, -1), keepdims=True)


def inflation(log_ratio: ArrayLike, n_beta: int) -> Array:
    """Variance of Page's L when spreads grow evenly in log by `log_ratio` [...] from the first to the last column, over
    that for equal spreads; normal values.

    L = const + Σ_{i<j} (j − i)·sign(x_j − x_i)/2, and the signs of two normal variables with correlation ρ have the
    covariance (2/π)·arcsin ρ (Sheppard 1899). Interpolated in a table up to a ratio of e⁵.
    """
    at, wider = _inflations(n_beta)
    return np.interp(np.abs(np.asarray(log_ratio, dtype=np.float64)), at, wider)


def shrunk(p: ArrayLike, wider: ArrayLike) -> Array:
    """One-sided p-values [...] of a statistic whose null variance is `wider` [...] times what they were made for."""
    given, scale = np.asarray(p, dtype=np.float64), np.sqrt(wider)
    return np.where(scale == 1, given, stats.norm.sf(stats.norm.isf(np.clip(given, 0, 1)) / scale))  # an exact p stays


@lru_cache(maxsize=64)
def _inflations(n_beta: int) -> tuple[Array, Array]:
    at = np.linspace(0, 5, 51)
    first, last = np.triu_indices(n_beta, 1)
    weight = (last - first).astype(np.float64)
    variances = []
    for log_ratio in at:
        square = np.exp(2 * log_ratio * np.linspace(0, 1, n_beta))
        # Covariance of x_j − x_i and x_l − x_k: shared columns count with the sign in which they enter.
        pairs = np.zeros((first.size, n_beta))
        pairs[np.arange(first.size), last] = 1
        pairs[np.arange(first.size), first] = -1
        covariance = (pairs * square) @ pairs.T
        scale = np.sqrt(np.diag(covariance))
        correlation = np.clip(covariance / np.outer(scale, scale), -1, 1)
        variances.append(weight @ (2 / np.pi * np.arcsin(correlation)) @ weight / 4)
    return at, np.maximum(np.array(variances) / variances[0], 1.0)


def holm(p: ArrayLike) -> Array:
    """Holm's (1979) adjusted p-values of `p` [n]; NaN stays NaN and does not count."""
    values = np.asarray(p, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    adjusted = np.full(values.shape, nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return adjusted
