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
        reason = f"Page's L needs two seeds and three values of β, there are {n_seeds} and {n_beta}"
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
        least, share = _scores(tuple(row))
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
def _scores(ranks: tuple[int, ...]) -> tuple[int, NDArray[np.float64]]:
    """Distribution of Σ_j j·rank_j over all orders of `ranks`: its smallest value, and the share of each from there."""
    scores = np.asarray(ranks)[all_orders(len(ranks))] @ np.arange(1, len(ranks) + 1)
    least = int(scores.min())
    return least, np.bincount(scores - least) / scores.size
