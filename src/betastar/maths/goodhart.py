"""How far the proxy reward has run ahead of the true reward, as a curve over online steps and as one number.

Positive gap: relative to the start, the proxy grew more than the true reward did. (The paper's text says the reverse
of its own Eq. 2; the code follows the equation.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .constants import EPSILON

HACKING_PERCENTILE = 75
"""The hacking threshold is this percentile of all positive gap values (arXiv:2606.30627 §7.1)."""

ROUNDING = 1e-6
"""Gaps up to this are rounding of rewards in float32: as positive values they would set τ where nothing moved."""

NEAR_ZERO_STANDARD_ERRORS = 10
"""A start this many of its own standard errors from zero, or fewer, cannot carry the paper's division by it."""


class StandardisedGap(NamedTuple):
    """Rewards since the start, each in the start's own per-response standard deviations; all of shape [T]."""

    z_proxy: NDArray[np.float64]
    z_true: NDArray[np.float64]
    gap: NDArray[np.float64]

    @property
    def reason(self) -> str | None:
        """Why the gap is undefined at some evaluation point; None where it is defined at all of them."""
        if not np.isnan(self.gap).any():
            return None
        if np.isnan(self.z_proxy).all():
            return "the proxy rewards at the start have no finite, positive standard deviation"
        return "a mean reward is undefined at some evaluation point"


def paper_gap(proxy_mean: ArrayLike, true_mean: ArrayLike) -> NDArray[np.float64]:
    """Goodhart gap `[T]` of mean rewards `[T]`, each divided by |its first entry| + ε (arXiv:2606.30627 Eq. 2).

    A ratio to the start: it changes when a constant is added to the proxy, and a true reward of 0 at the start makes
    it as large as 1/ε. See `start_is_near_zero` and `standardised_gap`. Raises ValueError unless both are `[T]`, T > 0.
    """
    proxy, true = _curves(proxy_mean, true_mean)
    return proxy / (abs(proxy[0]) + EPSILON) - true / (abs(true[0]) + EPSILON)


def paper_gap_undefined(proxy_start: float, true_start: float) -> str | None:
    """Why the paper's form means nothing for these starts; None where it does.

    Def. 3.1 divides by |start|, so at t=0 it is sign(proxy) − sign(truth): for a negative proxy −2, and no rise shows;
    for a true reward of 0 it is 1, and a policy that does nothing has an area. Defined is it for positive starts.
    """
    for name, start in (("proxy reward", proxy_start), ("true reward", true_start)):
        if start <= 0:
            return f"Def. 3.1 divides by the start, and the {name} at the start is {start:.3g}: it takes a positive one"
    return None


def standardised_gap(
    proxy_mean: ArrayLike, true_mean: ArrayLike, proxy_std_start: float, correct_start: int, n: int
) -> StandardisedGap:
    """Goodhart gap in standard deviations of the start (ours; stands in for arXiv:2606.30627 Eq. 2).

    `proxy_mean`, `true_mean`: [T], the first entry is the start. `proxy_std_start`: standard deviation of per-response
    proxy rewards at the start. `correct_start` of `n` responses were right at the start: the true reward's standard
    deviation is √(q(1−q)) with q = (correct_start + 1)/(n + 2), which is never 0.

    `z_proxy` and `gap` are NaN where `proxy_std_start` is not finite and positive. Adding a constant to the proxy, or
    rescaling it by a positive factor, changes nothing. Raises ValueError for shapes other than [T] or a count outside
    0..n.
    """
    proxy, true = _curves(proxy_mean, true_mean)
    if n < 1 or not 0 <= correct_start <= n:
        raise ValueError(f"correct_start must lie in 0..n with n >= 1, got {correct_start} of {n}")
    q = (correct_start + 1) / (n + 2)
    usable = np.isfinite(proxy_std_start) and proxy_std_start > 0
    z_proxy = (proxy - proxy[0]) / (proxy_std_start if usable else np.nan)
    z_true = (true - true[0]) / np.sqrt(q * (1 - q))
    return StandardisedGap(z_proxy, z_true, z_proxy - z_true)


def area_under_positive_gap(steps: ArrayLike, gap: ArrayLike) -> float:
    """AUGC: trapezoid of max(gap, 0) over the evaluation points, in gap × steps (arXiv:2606.30627 Eq. 3).

    `steps`, `gap`: [T]. The positive part is taken at the points, so a crossing of zero between two points is not
    located. NaN with fewer than two points or a NaN in `gap`. Raises ValueError unless `steps` strictly increases.
    """
    times, values = _timed(steps, gap)
    if values.size < 2 or np.isnan(values).any():
        return float("nan")
    return float(np.trapezoid(np.maximum(values, 0.0), times))


def share_positive(gap: ArrayLike) -> float:
    """Share of evaluation points with gap > 0; NaN if there are none or one is NaN."""
    values = np.asarray(gap, dtype=np.float64)
    if values.size == 0 or np.isnan(values).any():
        return float("nan")
    return float(np.mean(values > 0))


def hacking_threshold(gaps: Iterable[ArrayLike]) -> float:
    """τ: 75th percentile of the positive gap values of all conditions pooled (arXiv:2606.30627 §7.1).

    NaN where no value is positive by more than rounding. Undefined (NaN) values are not positive and take no part.
    """
    pooled = np.concatenate([np.zeros(0), *(np.ravel(np.asarray(gap, dtype=np.float64)) for gap in gaps)])
    positive = pooled[pooled > ROUNDING]
    return float(np.percentile(positive, HACKING_PERCENTILE)) if positive.size else float("nan")


def onset_step(steps: ArrayLike, gap: ArrayLike, threshold: float) -> int | None:
    """First evaluation point with gap > threshold; None where there is none, or where the threshold is NaN.

    `steps`, `gap`: [T]. Raises ValueError unless `steps` strictly increases.
    """
    times, values = _timed(steps, gap)
    above = np.flatnonzero(values > threshold)
    return int(times[above[0]]) if above.size else None


def start_is_near_zero(mean_start: float, standard_error_start: float) -> bool:
    """Whether the mean reward at the start is too near zero for the paper's form: |mean| ≤ 10 standard errors.

    The bound counts as near, so 0 right answers (mean 0, standard error 0) warn; so does a NaN on either side.
    """
    return not abs(mean_start) > NEAR_ZERO_STANDARD_ERRORS * standard_error_start


def _curves(proxy_mean: ArrayLike, true_mean: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    proxy, true = np.asarray(proxy_mean, dtype=np.float64), np.asarray(true_mean, dtype=np.float64)
    if proxy.ndim != 1 or proxy.shape != true.shape or proxy.size == 0:
        raise ValueError(f"proxy and true means must both be [T] with T > 0, got {proxy.shape} and {true.shape}")
    return proxy, true


def _timed(steps: ArrayLike, gap: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    times, values = np.asarray(steps, dtype=np.float64), np.asarray(gap, dtype=np.float64)
    if times.ndim != 1 or times.shape != values.shape:
        raise ValueError(f"steps and gap must both be [T], got {times.shape} and {values.shape}")
    if not np.all(np.diff(times) > 0):
        raise ValueError("steps must strictly increase")
    return times, values
