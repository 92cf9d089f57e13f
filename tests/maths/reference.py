"""A plain reference for intervals of weighted values, against which the vectorised ones are held."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from betastar.maths.statistics import Interval


def weighted_interval(values: ArrayLike, weights: ArrayLike, level: float) -> Interval:
    """Central `level` of `values` [R] with `weights` [R]: the values at which the cumulated weight first reaches
    (1 − level)/2 and (1 + level)/2. No value may be NaN; infinity is allowed."""
    ordered, mass = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    order = np.argsort(ordered)
    ordered, cumulated = ordered[order], np.cumsum(mass[order]) / mass.sum()
    # Cumulated weights carry rounding: a bound that is met to twelve digits is met.
    places = np.searchsorted(cumulated, np.array([1 - level, 1 + level]) / 2 - 1e-12)
    return Interval(float(ordered[places[0]]), float(ordered[places[1]]))
