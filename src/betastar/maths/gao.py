"""Reward as a function of distance: the forms of Gao, Schulman & Hilton (2023), "Scaling Laws for Reward Model
Overoptimization", in d = √KL, compared by AICc over seeds whose points are correlated; and curves read at equal d.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, isnan, nan, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from .statistics import LEVEL, Interval, aicc

Array = NDArray[np.float64]

FORMS: tuple[str, ...] = ("none", "line", "quadratic", "logarithmic")
"""Reward less a constant of its seed: 0, α·d, d(α − δ·d) (Gao's best-of-n form), d(α − δ·log d) (Gao's RL form)."""

INDISTINCT = 2.0
"""Forms whose AICc differs by less than this cannot be told apart (Burnham & Anderson 2002, section 2.6)."""

FEWEST_EFFECTIVE = 8.0
"""Below this many independent points AICc's small-sample term, not the data, would choose the form."""

CLEAR = 2.0
"""Standard errors by which a mean log-ratio must exceed 0 to be taken as it is."""


class Distances(NamedTuple):
    """`values` [T]: √KL in √nats. In `n_k3` of them KL is the k3 estimate, in `n_clamped` a negative k1 became 0."""

    values: Array
    n_k3: int
    n_clamped: int


class Peak(NamedTuple):
    """Where a form is highest: `distance` in √nats with interval, `height` above d = 0 in units of the reward.
    `inside`: whether it lies among the distances measured; else it is extrapolated."""

    distance: float
    interval: Interval
    height: float
    inside: bool | None
    reason: str | None = None


class Form(NamedTuple):
    """Coefficients of a form in units of the reward per √nat, with intervals over seeds: α, and δ if it has one."""

    alpha: float
    alpha_interval: Interval
    delta: float
    delta_interval: Interval
    peak: Peak


@dataclass(frozen=True)
class GaoFit:
    """How a reward depends on d = √KL over the `n` points of `n_seeds` seeds, worth `n_effective` independent ones.

    `aicc` and `difference` from the least, by form; `plausible`: the forms within INDISTINCT of it; `best`: the only
    plausible one, or None. `verdict`: the best, "not distinguishable" or "undefined", with the `reason`. `turns`:
    whether every plausible form has its maximum among the distances measured, `lowest` to `highest`, so that the turn
    does not depend on the form. `forms`: coefficients of all but "none", whichever is best.
    """

    forms: Mapping[str, Form]
    aicc: Mapping[str, float]
    difference: Mapping[str, float]
    plausible: tuple[str, ...]
    best: str | None
    verdict: str
    turns: bool | None
    n: int
    n_seeds: int
    n_effective: float
    lowest: float
    highest: float
    reason: str | None = None


def root_kl(kl: ArrayLike, error: ArrayLike | None = None, k3: ArrayLike | None = None) -> Distances:
    """d = √KL from mean log-ratios `kl` [T] (k1, nats), their standard errors and the k3 estimates, where known.

    k1 is unbiased but may be negative near 0, where its error is larger than KL itself. k3 = E[r − 1 − log r],
    r = π_ref/π, is unbiased too (Schulman 2020), never negative, and far less noisy there; far out it is the noisier
    one. So k3 counts where k1 is not clear of 0 by CLEAR standard errors (negative, if its error is unknown); without a
    k3, a negative k1 counts as 0. Raises ValueError for unequal shapes.
    """
    mean = np.asarray(kl, dtype=np.float64)
    spread, other = (np.full(mean.shape, nan) if x is None else np.asarray(x, dtype=np.float64) for x in (error, k3))
    if not mean.shape == spread.shape == other.shape:
        raise ValueError(f"kl, error and k3 must have equal shapes, got {mean.shape}, {spread.shape} and {other.shape}")
    unclear = np.where(np.isnan(spread), mean < 0, mean < CLEAR * spread)
    swapped = unclear & np.isfinite(other)
    clamped = ~swapped & (mean < 0)
    chosen = np.where(swapped, np.maximum(other, 0), np.where(clamped, 0, mean))
    return Distances(np.sqrt(chosen), int(swapped.sum()), int(clamped.sum()))


def gao_fit(distance: Sequence[ArrayLike], reward: Sequence[ArrayLike]) -> GaoFit:
    """Fit FORMS to `reward` at `distance`, one array [T_s] per seed in the order of steps; undefined points are left
    out.

    Least squares with a constant of its own for every seed: the start is measured with noise, and in changes from it
    that noise would sit in every point. Intervals: seeds are clusters; the covariance of (α, δ) is the delete-one-seed
    jackknife's, with Student's t of S − 1 degrees of freedom. The peak's is Fieller's, from the ratio α/δ.

    Evaluations of one run are not independent. AICc counts n_effective = (n − S)/D points, D the larger of (a) the mean
    eigenvalue of the jackknife covariance against that of independent points, averaged over forms, from three seeds on
    (Lumley & Scott 2015 for AIC under clustering), and (b) 1 + 2·Σρ_k, autocorrelations of the residuals pooled over
    seeds up to the first that is not positive (Geyer 1992). Raises ValueError for sides of different lengths.
    """
    if len(distance) != len(reward):
        raise ValueError(
            f"distance and reward must have one array per seed each, got {len(distance)} and {len(reward)}"
        )
    seeds = [_defined(d, y) for d, y in zip(distance, reward, strict=True)]
    seeds = [(d, y) for d, y in seeds if d.size > 1]
    n, n_seeds = sum(d.size for d, _ in seeds), len(seeds)
    all_d = np.concatenate([np.zeros(0), *(d for d, _ in seeds)])
    lowest, highest = (float(all_d.min()), float(all_d.max())) if n else (nan, nan)
    reason = None
    if n - n_seeds < 5 or np.unique(all_d).size < 4:
        reason = f"{n} points in {n_seeds} seed{'s' * (n_seeds != 1)} are too few for a curve"
    elif all(np.ptp(d) == 0 for d, _ in seeds):
        reason = "the distance does not change within any seed"
    elif all(np.ptp(y) == 0 for _, y in seeds):
        reason = "the reward does not change within any seed"
    if reason:
        return no_fit(reason, n, n_seeds, nan, lowest, highest)

    fits: dict[str, _Fit] = {form: _least_squares(form, seeds) for form in FORMS}
    flexible = min(FORMS[2:], key=lambda form: fits[form].squares)
    design = [_design_effect(fit, n - n_seeds) for fit in fits.values() if fit.theta.size and n_seeds > 2]
    spread = max(_serial_effect(fits[flexible].residuals), float(np.mean(design)) if design else 1.0)
    effective = (n - n_seeds) / spread
    forms = {form: _form(form, fit, lowest, highest) for form, fit in fits.items() if form != "none"}
    if effective < FEWEST_EFFECTIVE or isnan(effective):
        few = f"{n} correlated points are worth about {effective:.1f} independent ones, too few to choose a form"
        return no_fit(few, n, n_seeds, effective, lowest, highest, forms)

    # aicc() takes a sum of squares of n points: at n_effective of them the mean square stays what it is.
    scale = effective / (n - n_seeds)
    scores: dict[str, float] = {
        form: aicc(fit.squares * scale, effective, fit.theta.size + 1) for form, fit in fits.items()
    }
    least = min(scores.values())
    difference = {form: 0.0 if score == least else score - least for form, score in scores.items()}
    plausible = tuple(form for form, more in difference.items() if more < INDISTINCT)
    best = plausible[0] if len(plausible) == 1 else None
    return GaoFit(
        forms=forms,
        aicc=scores,
        difference=difference,
        plausible=plausible,
        best=best,
        verdict=best or "not distinguishable",
        turns=all(form in forms and bool(forms[form].peak.inside) for form in plausible),
        n=n,
        n_seeds=n_seeds,
        n_effective=effective,
        lowest=lowest,
        highest=highest,
        reason=None if best else f"AICc differs by less than {INDISTINCT:g} between {', '.join(plausible)}",
    )


def no_fit(
    reason: str,
    n: int = 0,
    n_seeds: int = 0,
    effective: float = nan,
    lowest: float = nan,
    highest: float = nan,
    forms: Mapping[str, Form] | None = None,
) -> GaoFit:
    """What `gao_fit` gives where there is nothing to choose, for this `reason`."""
    nothing = Interval(nan, nan, reason)
    empty: dict[str, Form] = {
        form: Form(nan, nothing, nan, nothing, Peak(nan, nothing, nan, None, reason)) for form in FORMS[1:]
    }
    scores: dict[str, float] = dict.fromkeys(FORMS, nan)
    return GaoFit(
        forms or empty, scores, scores, (), None, "undefined", None, n, n_seeds, effective, lowest, highest, reason
    )


def gao_curve(form: str, distance: ArrayLike, alpha: float, delta: float = 0.0) -> Array:
    """A form's reward above d = 0 at `distance` [...] ≥ 0. Raises KeyError for an unknown form."""
    d = np.asarray(distance, dtype=np.float64)
    columns = _columns(form, d)
    return columns @ np.array([alpha, delta])[: columns.shape[-1]]


def at_distance(distance: ArrayLike, reward: ArrayLike, values: ArrayLike) -> Array:
    """`reward` [T] where the run first gets as far as each of `values` [K]: linear between the two points around the
    first crossing. A run may come back; what it does later does not count. NaN beyond its reach, and below its start,
    which is no crossing. Undefined points are left out."""
    d, y = _defined(distance, reward)
    wanted = np.asarray(values, dtype=np.float64)
    if d.size == 0:
        return np.full(wanted.shape, nan)
    after = np.searchsorted(np.maximum.accumulate(d), wanted, side="left")  # first point at least as far
    inside = (after < d.size) & (wanted >= d[0])
    after = np.clip(after, 1, max(d.size - 1, 1)) if d.size > 1 else np.zeros_like(after)
    before = np.maximum(after - 1, 0)
    step = d[after] - d[before]
    share = np.divide(wanted - d[before], step, out=np.zeros(wanted.shape), where=step != 0)
    found = np.where(wanted == d[0], y[0], y[before] + share * (y[after] - y[before]))
    return np.where(inside, found, nan)


class _Fit(NamedTuple):
    """Least squares of one form: `theta` [P], the `residuals` [T_s] of each seed and their sum of `squares`; `gram`
    [P, P], the normal equations' matrix, and `without` [S, P], theta leaving out each seed."""

    theta: Array
    residuals: list[Array]
    squares: float
    gram: Array
    without: Array


def _columns(form: str, d: Array) -> Array:
    """[..., P]: what α and δ multiply."""
    if form == "none":
        return np.zeros((*d.shape, 0))
    logarithm = np.log(d, out=np.zeros_like(d), where=d > 0)  # d·log d → 0 as d → 0
    columns = {"line": (d,), "quadratic": (d, -(d**2)), "logarithmic": (d, -d * logarithm)}
    return np.stack(columns[form], axis=-1)


def _defined(distance: ArrayLike, reward: ArrayLike) -> tuple[Array, Array]:
    d, y = np.asarray(distance, dtype=np.float64), np.asarray(reward, dtype=np.float64)
    if d.shape != y.shape or d.ndim != 1:
        raise ValueError(f"distance and reward of a seed must both be [T], got {d.shape} and {y.shape}")
    known = np.isfinite(d) & np.isfinite(y)
    return d[known], y[known]


def _least_squares(form: str, seeds: Sequence[tuple[Array, Array]]) -> _Fit:
    columns = [_columns(form, d) for d, _ in seeds]
    centred = [x - x.mean(axis=0) for x in columns]
    rewards = [y - y.mean() for _, y in seeds]
    grams = np.stack([x.T @ x for x in centred])
    sides = np.stack([x.T @ y for x, y in zip(centred, rewards, strict=True)])
    gram, side = grams.sum(axis=0), sides.sum(axis=0)
    theta = _solve(gram, side)
    left_out = np.stack([_solve(gram - g, side - s) for g, s in zip(grams, sides, strict=True)])
    residuals = [y - x @ theta for x, y in zip(centred, rewards, strict=True)]
    return _Fit(theta, residuals, float(sum(r @ r for r in residuals)), gram, left_out)


def _solve(gram: Array, side: Array) -> Array:
    """Solution of the normal equations; NaN where they do not determine it."""
    scale = np.sqrt(np.diag(gram))
    if side.size == 0 or not (scale > 0).all():
        return np.full(side.size, nan)
    scaled = gram / np.outer(scale, scale)
    if np.linalg.cond(scaled) > 1e12:
        return np.full(side.size, nan)
    return np.linalg.solve(scaled, side / scale) / scale


def _covariance(fit: _Fit) -> Array:
    """[P, P] by the jackknife that leaves out one seed at a time."""
    n_seeds = len(fit.without)
    deviation = fit.without - fit.without.mean(axis=0)
    return (n_seeds - 1) / n_seeds * deviation.T @ deviation


def _design_effect(fit: _Fit, freedom: int) -> float:
    """Mean eigenvalue of the clustered covariance against that of independent points."""
    independent = fit.squares / (freedom - fit.theta.size)
    return float(np.trace(fit.gram @ _covariance(fit)) / independent / fit.theta.size) if independent > 0 else 1.0


def _serial_effect(residuals: Sequence[Array]) -> float:
    """1 + 2·Σρ_k of series of residuals, pooled."""
    longest = max(r.size for r in residuals)
    lags = np.zeros(longest)
    for series in residuals:
        spectrum = np.abs(np.fft.rfft(series, 2 * series.size)) ** 2
        lags[: series.size] += np.fft.irfft(spectrum)[: series.size]
    if lags[0] <= 0:
        return 1.0
    below = np.flatnonzero(lags <= 0)
    return float(1 + 2 * lags[1 : below[0] if below.size else longest].sum() / lags[0])


def _form(form: str, fit: _Fit, lowest: float, highest: float) -> Form:
    n_seeds = len(fit.residuals)
    covariance = _covariance(fit)
    if n_seeds < 2:
        reason = "an interval over seeds needs two seeds"
    elif np.isnan(covariance).any():
        reason = "undefined without one of the seeds"
    else:
        reason = None
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, n_seeds - 1)) if n_seeds > 1 else nan

    def interval(place: int) -> Interval:
        if reason:
            return Interval(nan, nan, reason)
        reach = quantile * sqrt(covariance[place, place])
        return Interval(float(fit.theta[place] - reach), float(fit.theta[place] + reach), method=METHOD)

    alpha = float(fit.theta[0])
    if form == "line":
        none = Interval(nan, nan, "a line has no δ")
        return Form(alpha, interval(0), nan, none, Peak(nan, Interval(nan, nan, NO_PEAK), nan, None, NO_PEAK))
    delta = float(fit.theta[1])
    ratio = Interval(nan, nan, reason) if reason else fieller(alpha, delta, covariance, n_seeds - 1)
    return Form(alpha, interval(0), delta, interval(1), _peak(form, alpha, delta, ratio, lowest, highest))


METHOD = "Student's t, leaving out one seed at a time"
NO_PEAK = "a line has no maximum"


def fieller(above: float, below: float, covariance: ArrayLike, freedom: int, level: float = LEVEL) -> Interval:
    """Interval of the ratio `above`/`below` of two estimates with the `covariance` [2, 2] (Fieller 1954), Student's t
    with `freedom` degrees of freedom. NaN with a reason where `below` cannot be told from 0: the set is then unbounded.
    """
    v = np.asarray(covariance, dtype=np.float64)
    t2 = float(stats.t.ppf((1 + level) / 2, freedom)) ** 2
    a, b, c = below**2 - t2 * v[1, 1], above * below - t2 * v[0, 1], above**2 - t2 * v[0, 0]
    if not a > 0:
        return Interval(nan, nan, "δ cannot be told from 0, so the maximum may lie anywhere")
    root = sqrt(max(b * b - a * c, 0.0))
    low, high = float((b - root) / a), float((b + root) / a)
    return Interval(low, high, level=level, method="Fieller, leaving out one seed at a time")


def _peak(form: str, alpha: float, delta: float, ratio: Interval, lowest: float, highest: float) -> Peak:
    """d* = α/(2δ) of the quadratic form, exp(α/δ − 1) of the logarithmic one."""
    reason = None
    if isnan(delta):
        reason = "the points do not determine α and δ"
    elif delta <= 0:
        reason = "no maximum: δ ≤ 0, so the curve bends upwards"
    elif form == "quadratic" and alpha <= 0:
        reason = "no maximum: α ≤ 0, so the reward falls from the start"
    if reason:
        return Peak(nan, Interval(nan, nan, reason), nan, None, reason)

    def place(of: float) -> float:
        return max(of / 2, 0.0) if form == "quadratic" else exp(min(of - 1, 700.0))

    distance = place(alpha / delta)
    height = alpha**2 / (4 * delta) if form == "quadratic" else delta * distance
    bounds = ratio if isnan(ratio.low) else ratio._replace(low=place(ratio.low), high=place(ratio.high))
    return Peak(distance, bounds, height, lowest <= distance <= highest)
