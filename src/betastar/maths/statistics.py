"""Small-sample statistics over seeds and over β: exact where few values allow it, NaN with a reason where undefined."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import chain, combinations_with_replacement, permutations
from math import comb, factorial, prod
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.95
"""Of every interval."""

LARGEST_EXACT_N = 9
"""Up to this many pairs (9! = 362 880 orders) the permutation p of Spearman's ρ is exact."""


class MeanAndError(NamedTuple):
    """Mean of `n` values and its standard error (sample standard deviation over √n)."""

    mean: float
    standard_error: float
    n: int

    @property
    def reason(self) -> str | None:
        """Why the mean or the standard error is NaN; None where both are numbers."""
        if self.n == 0:
            return "there are no values"
        if np.isnan(self.mean):
            return "a value is undefined"
        return "a standard error needs two values" if self.n == 1 else None


class Interval(NamedTuple):
    """An interval `low`..`high` of a stated `level` and `method`; both bounds NaN where undefined, with the reason."""

    low: float
    high: float
    reason: str | None = None
    level: float = LEVEL
    method: str | None = None


class Resamples(NamedTuple):
    """Bootstrap resamples of seeds: `draws` [R, S] seed indices, each row sorted and distinct; `weights` [R], sum 1."""

    draws: NDArray[np.int64]
    weights: NDArray[np.float64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How often each resample holds each seed, [R, S]."""
        n_draws, n = self.draws.shape
        places = self.draws + n * np.arange(n_draws)[:, None]
        return np.bincount(places.ravel(), minlength=n_draws * n).reshape(n_draws, n)


@dataclass(frozen=True)
class Spearman:
    """Spearman's ρ of `n` pairs and its permutation p-values.

    `p_greater`: share of orders with ρ at least the one seen; `p_less`: at most; `p_two_sided`: |ρ| at least. `exact`
    says that all n! orders were counted; otherwise a random sample was, and the identity order with it.
    """

    rho: float
    p_greater: float
    p_less: float
    p_two_sided: float
    n: int
    exact: bool
    reason: str | None = None


def mean_and_standard_error(values: ArrayLike) -> MeanAndError:
    """Mean and standard error of `values` (flattened). Fewer than two values: the standard error is NaN, never 0."""
    flat = np.ravel(np.asarray(values, dtype=np.float64))
    mean = float(flat.mean()) if flat.size else float("nan")
    error = float(flat.std(ddof=1) / np.sqrt(flat.size)) if flat.size > 1 else float("nan")
    return MeanAndError(mean, error, flat.size)


def seed_resamples(n_seeds: int, rng: np.random.Generator, n_resamples: int) -> Resamples:
    """Resamples of `n_seeds` seeds with replacement, equal ones merged into one weight.

    If at most `n_resamples` distinct ones exist (3 seeds have 10, 6 have 462), all are listed with their exact
    probabilities and nothing is drawn; otherwise `n_resamples` are drawn from `rng`. Raises ValueError for a number
    below 1.
    """
    if n_seeds < 1 or n_resamples < 1:
        raise ValueError(f"n_seeds and n_resamples must be at least 1, got {n_seeds} and {n_resamples}")
    if comb(2 * n_seeds - 1, n_seeds) <= n_resamples:
        draws = np.array(list(combinations_with_replacement(range(n_seeds), n_seeds)), dtype=np.int64)
        orders = [factorial(n_seeds) // prod(factorial(int(m)) for m in np.bincount(draw)) for draw in draws]
        return Resamples(draws, np.array(orders) / n_seeds**n_seeds)
    drawn = np.sort(rng.integers(n_seeds, size=(n_resamples, n_seeds)), axis=1)
    draws, counts = np.unique(drawn, axis=0, return_counts=True)
    return Resamples(draws, counts / n_resamples)


def spearman_exact(
    x: ArrayLike, y: ArrayLike, rng: np.random.Generator | None = None, n_permutations: int = 20_000
) -> Spearman:
    """Spearman's ρ of `x` and `y`, both [n], with permutation p-values; ties get midranks.

    For n ≤ 9 all n! orders are counted, so the p-values are exact: with three pairs the smallest one-sided p is 1/6.
    For larger n, `n_permutations` orders are drawn from `rng` and p = (count + 1)/(n_permutations + 1). NaN with fewer
    than two pairs, a NaN, or a constant input. Raises ValueError for unequal shapes, or n > 9 without `rng`.
    """
    first, second = _paired(x, y)
    n = first.size
    exact = n <= LARGEST_EXACT_N
    if rng is None and not exact:
        raise ValueError(f"{n} pairs are too many for all orders (at most {LARGEST_EXACT_N}): give rng")
    if reason := _undefined(first, second, at_least=2):
        nan = float("nan")
        return Spearman(nan, nan, nan, nan, n, exact, reason)

    # Doubled midranks are integers, so ρ values compare without rounding: ρ orders as Σ rank_x·rank_y does.
    rank_x, rank_y = doubled_ranks(first), doubled_ranks(second)
    seen, centre = int(rank_x @ rank_y), n * (n + 1) ** 2
    if rng is None or exact:
        sums = _permuted(rank_y) @ rank_x
        extra = 0
    else:
        sums = rng.permuted(np.tile(rank_y, (n_permutations, 1)), axis=1) @ rank_x
        extra = 1

    def share(at_least_as_far: NDArray[np.bool_]) -> float:
        return float((at_least_as_far.sum() + extra) / (sums.size + extra))

    return Spearman(
        rho=pearson(rank_x, rank_y) if n > 2 else float(np.sign(seen - centre)),
        p_greater=share(sums >= seen),
        p_less=share(sums <= seen),
        p_two_sided=share(np.abs(sums - centre) >= abs(seen - centre)),
        n=n,
        exact=exact,
    )


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's r of `x` and `y`, both [n]; NaN with n < 3, a value that is not finite, or a constant input.

    Raises ValueError for unequal shapes.
    """
    first, second = _paired(x, y)
    if _undefined(first, second, at_least=3) or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return float("nan")
    # Dividing by the largest magnitude first keeps the squares from under- and overflowing.
    first, second = first / np.abs(first).max(), second / np.abs(second).max()
    first, second = first - first.mean(), second - second.mean()
    scale = np.linalg.norm(first) * np.linalg.norm(second)
    return float(np.clip(first @ second / scale, -1.0, 1.0)) if scale > 0 else float("nan")


def aicc(residual_sum_of_squares: float, n: float, n_parameters: int) -> float:
    """Corrected Akaike information criterion of a Gaussian model of `n` points; lower is better.

    `n_parameters` counts the variance; `n` need not be whole if points are correlated. NaN where undefined (n ≤
    n_parameters + 1), −inf for an exact fit.
    """
    if n <= n_parameters + 1:
        return float("nan")
    if residual_sum_of_squares <= 0:
        return float("-inf")
    correction = 2 * n_parameters * (n_parameters + 1) / (n - n_parameters - 1)
    return n * float(np.log(residual_sum_of_squares / n)) + 2 * n_parameters + correction


def _paired(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"x and y must both be [n], got {first.shape} and {second.shape}")
    return first, second


def _undefined(x: NDArray[np.float64], y: NDArray[np.float64], at_least: int) -> str | None:
    """Why a correlation of `x` and `y` is undefined, or None."""
    if x.size < at_least:
        return f"a correlation needs {at_least} pairs, there are {x.size}"
    if np.isnan(x).any() or np.isnan(y).any():
        return "a value is undefined"
    if (x == x[0]).all() or (y == y[0]).all():
        return "one side is constant"
    return None


def doubled_ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(2 * stats.rankdata(values, method="average")).astype(np.int64)


@cache
def all_orders(n: int) -> NDArray[np.int8]:
    """All n! orders of 0..n−1, [n!, n]."""
    flat = chain.from_iterable(permutations(range(n)))
    orders = np.fromiter(flat, dtype=np.int8, count=factorial(n) * n).reshape(-1, n)
    orders.flags.writeable = False  # cached: callers share it
    return orders


def _permuted(values: NDArray[np.int64]) -> NDArray[np.int64]:
    return values[all_orders(values.size)]
