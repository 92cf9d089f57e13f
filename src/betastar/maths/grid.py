"""The conservatism grid: which β to train."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np
from numpy.typing import ArrayLike, NDArray

from betastar.errors import BetastarError
from betastar.maths.constants import EPSILON

Array = NDArray[np.float64]


def log_ratio_magnitude(logp_chosen: ArrayLike, logp_rejected: ArrayLike) -> Array:
    """δ [n] = |log π(chosen) − log π(rejected)| in nats under the base policy (arXiv:2606.30627 Eq. 6).
    Raises ValueError for unequal shapes."""
    chosen, rejected = np.asarray(logp_chosen, dtype=np.float64), np.asarray(logp_rejected, dtype=np.float64)
    if chosen.shape != rejected.shape:
        raise ValueError(f"one log-probability per chosen and rejected response: {chosen.shape}, {rejected.shape}")
    return np.abs(chosen - rejected)


def percentile_grid(deltas: ArrayLike, percentiles: Sequence[float] = (20, 50, 80)) -> Array:
    """β [B]: percentiles of δ over its median plus ε, so percentile 50 gives β = 1 (arXiv:2606.30627 Eq. 7).

    Raises ValueError unless `percentiles` increase inside [0, 100]; BetastarError where δ yields no usable grid.
    """
    points = np.asarray(percentiles, dtype=np.float64)
    if points.size == 0 or points[0] < 0 or points[-1] > 100 or not np.all(np.diff(points) > 0):
        raise ValueError(f"percentiles must increase inside [0, 100], got {list(percentiles)}")
    values = np.ravel(np.asarray(deltas, dtype=np.float64))
    remedy = "check the preference pairs, move the percentiles apart, or give an explicit list of values of β."
    if (finite := int(np.isfinite(values).sum())) < max(values.size, 1):
        raise BetastarError(f"The β grid needs finite log-ratios, but only {finite} of {values.size} are: {remedy}")
    beta = np.percentile(values, points) / (np.median(values) + EPSILON)
    if np.median(values) == 0 or beta[0] <= 0 or not np.all(np.diff(beta) > 0):
        raise BetastarError(
            f"The log-ratios give the β grid {beta.tolist()}, which is not positive and increasing: {remedy}"
        )
    return beta


def geometric_grid(low: float, high: float, n: int) -> Array:
    """`n` values of β from `low` to `high`, each the same multiple of the one before.
    Raises ValueError unless 0 < low < high and n ≥ 2."""
    if not 0 < low < high < inf or n < 2:
        raise ValueError(f"a geometric grid needs 0 < low < high and n >= 2, got {low}, {high}, {n}")
    return np.geomspace(low, high, n)


def strengths_at(targets: Sequence[float], strengths: Sequence[float], distances: Sequence[float]) -> Array:
    """Strengths [n] at which a method goes the `targets` [n] far, from those tried and the distance that each reached.

    log strength is interpolated linearly in √distance (KL is quadratic in a small change of the policy), after the
    distances are made monotone by pooling neighbours that are out of order, as noise makes them. Raises BetastarError
    where a target is not between the smallest and the largest distance reached.
    """
    order = np.argsort(np.asarray(strengths, dtype=np.float64))
    log_strength = np.log(np.asarray(strengths, dtype=np.float64)[order])
    distance = np.asarray(distances, dtype=np.float64)[order]
    falls = bool(distance[-1] < distance[0])
    from scipy import optimize  # slow to import, and most runs do without

    fitted = optimize.isotonic_regression(np.sqrt(np.maximum(distance, 0)), increasing=not falls).x
    if falls:
        log_strength, fitted = log_strength[::-1], fitted[::-1]
    wanted = np.sqrt(np.asarray(targets, dtype=np.float64))
    for target, root in zip(targets, wanted, strict=True):
        if not fitted[0] <= root <= fitted[-1]:
            raise BetastarError(
                f"the distance {target:g} nats is outside of the {fitted[0] ** 2:.3g} to {fitted[-1] ** 2:.3g} nats "
                f"that strengths from {min(strengths):g} to {max(strengths):g} reached; move low and high apart, train "
                "longer, or change values."
            )
    levels = np.unique(fitted)  # neighbours that were pooled stand for one point in their middle
    middles = [log_strength[fitted == level].mean() for level in levels]
    return np.exp(np.interp(wanted, levels, middles))
