"""How small a dependence on β can a grid with so many seeds find? Simulated with the very test of the headline."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import inf

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from betastar.randomness import numpy_generator

from .statistics import LARGEST_EXACT_N
from .trend import inflation, page_scores, residuals, shrunk, spread_slopes

Array = NDArray[np.float64]

POWER, LEVEL = 0.8, 0.05
N_SIMULATED = 2000
"""Data sets of a simulation. The standard error of a power of 80 % is 0.9 points."""
PRECISION = 0.01
"""Of the smallest effect, in residual standard deviations: bisection stops there."""
LARGEST = 64.0
"""Effects beyond this many residual standard deviations are not searched."""


def power_of(rise: float, n_seeds: int, beta: ArrayLike, level: float = LEVEL) -> float:
    """Share of simulated experiments in which `trend_test` finds a rise, two-sided p ≤ `level`.

    `rise`: from the smallest to the largest β, in residual standard deviations, evenly in log β. `beta`: [B] ascending
    and positive; or an int, so many evenly spaced in log. Residuals are independent and normal; what a seed has in
    common for all its β does not matter. The stream of noise is fixed, so the same question has the same answer.
    Raises ValueError for a β not positive.
    """
    x = _positions(beta)
    if n_seeds < 2 or x.size < 3:
        return 0.0
    return float(np.mean(_finds(_noise(n_seeds, x.size) + rise * x, level)))


def smallest_rise(n_seeds: int, beta: ArrayLike, power: float = POWER, level: float = LEVEL) -> float:
    """The smallest rise (see `power_of`) that is found with probability `power`; infinity where no rise can be, as with
    one seed, two β, or two seeds and three β."""
    return _smallest(n_seeds, tuple(_positions(beta).tolist()), power, level)


def smallest_rises(seeds: Sequence[int], betas: Sequence[int]) -> Array:
    """`smallest_rise` [len(seeds), len(betas)] for numbers of seeds and of β evenly spaced in log."""
    return np.array([[smallest_rise(s, b) for b in betas] for s in seeds])


def residual_deviation(table: ArrayLike) -> tuple[float, int]:
    """Standard deviation of what is left of `table` [S, B] without the means of its seeds and columns, and its degrees
    of freedom (S − 1)(B − 1); NaN with none."""
    values = np.asarray(table, dtype=np.float64)
    freedom = (values.shape[0] - 1) * (values.shape[1] - 1)
    if freedom < 1:
        return float("nan"), 0
    return float(np.sqrt((residuals(values) ** 2).sum() / freedom)), freedom


def _positions(beta: ArrayLike) -> Array:
    """Where each β lies in log between the first (0) and the last (1)."""
    values = np.asarray(beta, dtype=np.float64)
    if values.ndim == 0:
        return np.linspace(0, 1, int(values))
    if not (values > 0).all():
        raise ValueError("power needs β > 0")
    logs = np.log(values)
    return (logs - logs[0]) / (logs[-1] - logs[0]) if logs.size > 1 and logs[-1] > logs[0] else np.zeros(logs.size)


@lru_cache(maxsize=8)
def _noise(n_seeds: int, n_beta: int) -> Array:
    values = numpy_generator(0, "power", n_seeds, n_beta).normal(size=(N_SIMULATED, n_seeds, n_beta))
    values.flags.writeable = False  # cached: callers share it
    return values


def _finds(tables: Array, level: float) -> NDArray[np.bool_]:
    """Whether `trend_test` finds a rise in each of `tables` [R, S, B], which have no ties."""
    _, n_seeds, n_beta = tables.shape
    places = tables.argsort(axis=-1) + 1  # of the values in order: Σ_j j·rank_j is Σ_rank rank·place
    scores = (places @ np.arange(1, n_beta + 1)).sum(axis=1)
    middle = n_seeds * n_beta * (n_beta + 1) ** 2 / 4
    if n_beta <= LARGEST_EXACT_N:
        lowest, tail = _tails(n_seeds, n_beta)
        p = tail[scores - lowest]
    else:  # Page's normal approximation
        spread = np.sqrt(n_seeds * n_beta**2 * (n_beta + 1) * (n_beta**2 - 1) / 144)
        p = np.asarray(stats.norm.sf((scores - middle) / spread))
    found = (scores > middle) & (2 * p <= level)
    rows = np.flatnonzero(found)  # the correction only raises p
    wider = inflation(spread_slopes(tables[rows]), n_beta)
    found[rows] = 2 * shrunk(p[rows], wider) <= level
    return found


@lru_cache(maxsize=64)
def _tails(n_seeds: int, n_beta: int) -> tuple[int, Array]:
    """The smallest L, and P(L at least) for each L from there, without ties."""
    least, share = page_scores(tuple(range(1, n_beta + 1)))
    mass = np.ones(1)
    for _ in range(n_seeds):
        mass = np.convolve(mass, share)
    return n_seeds * least, np.cumsum(mass[::-1])[::-1]


@lru_cache(maxsize=512)
def _smallest(n_seeds: int, positions: tuple[float, ...], power: float, level: float) -> float:
    x = np.array(positions)
    if n_seeds < 2 or x.size < 3 or not x[-1] > x[0]:
        return inf
    noise = _noise(n_seeds, x.size)

    def found(rise: float) -> float:
        return float(np.mean(_finds(noise + rise * x, level)))

    high = 1.0
    while found(high) < power:
        high *= 2
        if high > LARGEST:
            return inf
    low = high / 2 if high > 1 else 0.0
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) >= power else (middle, high)
    return high
