"""The conservatism law: how hacking damage depends on β, and β★, with intervals over seeds.
Damage is AUGC, the area under the positive Goodhart gap: `goodhart.area_under_positive_gap`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isnan, nan
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from .constants import INTERPOLATION
from .intervals import draws_interval, mean_draws
from .model_choice import Comparison, LeaveOneOut, compare_models, leave_one_beta_out
from .power_law import (
    NEEDS_POSITIVE,
    SMALLEST_REFERENCE,
    TOLERATED_DAMAGE,
    PowerLawFit,
    PowerLaws,
    Reference,
    first_above,
    fit_power_law,
    fit_power_laws,
    steepest_exponent,
)
from .statistics import Interval
from .trend import residuals, trend_test

Array = NDArray[np.float64]
Status = Literal[
    "estimate", "no dependence", "not a rising law", "no rise", "not resolved", "never exceeded", "refused"
]
LEVEL = 0.05

"""Said of a law with as many parameters as there are β, and of its β★."""


@dataclass(frozen=True)
class BetaStar:
    """β★ of `n_seeds` seeds, with everything that keeps it from being a bare point.

    `value`: NaN unless `status` is "estimate". `interval`: 95 % over seeds; a bound of infinity says that such draws
    never exceed the threshold up to 2·β_max. `label`: what a reader must know beside the number, empty if nothing.
    `reason`: one sentence, why there is no number or what speaks for it. `augc`: the fitted AUGC at β★, and
    `augc_interval` the mean AUGC at that very β by the same draws.
    """

    value: float
    interval: Interval
    status: Status
    label: str
    reason: str
    reference: Reference
    n_seeds: int
    augc: float
    augc_interval: Interval


@dataclass(frozen=True)
class ConservatismLaw:
    """The law fitted to S seeds × B β; `intervals` of a, b, c; whether another model describes the data better, and
    predicts an unmeasured β better; β★ by either reading of Eq. 15."""

    fit: PowerLawFit
    intervals: Mapping[str, Interval]
    comparison: Comparison
    leave_one_beta_out: LeaveOneOut
    beta_star: Mapping[Reference, BetaStar]
    label: str


@dataclass(frozen=True)
class DistanceStar:
    """d★: the distance below which the fitted AUGC exceeds 1.5 × that of the farthest checkpoint, √nats; fields as of
    `BetaStar`. A bound of 0 says that such draws never exceed the threshold."""

    value: float
    interval: Interval
    status: Status
    label: str
    reason: str
    n_seeds: int


@dataclass(frozen=True)
class DistanceLaw:
    """AUGC = a·d^−b + c in the distance d of the checkpoint from the base; `aicc_beta`: AICc of the law in β, with as
    many parameters, at the same points."""

    fit: PowerLawFit
    intervals: Mapping[str, Interval]
    aicc_beta: float
    star: DistanceStar
    label: str


@dataclass(frozen=True)
class DefinitionBetaStar:
    """β★ of Def. 6.1 over `n_seeds` seeds: the measured β with the least AUGC − λ·𝒜, its interval, and the share of
    draws of the mean curves in which each β is the least."""

    value: float
    interval: Interval
    share: Mapping[float, float]
    n_seeds: int
    reason: str | None = None


def conservatism_law(
    beta: ArrayLike,
    augc_by_seed: ArrayLike,
    *,
    rng: np.random.Generator,
    n_draws: int = 1000,
    refusal: str | None = None,
) -> ConservatismLaw:
    """The law of `augc_by_seed` [S, B] at `beta` [B] ascending (arXiv:2606.30627 Eq. 14–15), β★ or reasoned refusals.

    The law is fitted to all S·B points and must beat a constant by AICc, wherever that is defined, for a β★ to be
    given. Intervals: `n_draws` draws of the mean curve (`intervals.mean_draws`; a negative mean AUGC counts as 0), the
    law fitted to each. A β of 0, which runs without a penalty have, is refused by name. So is a β★ whose law is as
    steep as these β can tell (`power_law.steepest_exponent`): it may lie anywhere before the last. `refusal`: why there
    may be no β★ whatever the fit, for example that the primary test of the run sees no rise. Raises ValueError for
    shapes, or negative AUGC.
    """
    x, table = np.asarray(beta, dtype=np.float64), np.asarray(augc_by_seed, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] == 0 or x.shape != table.shape[1:]:
        raise ValueError(f"beta must be [B] and augc_by_seed [S, B], got {x.shape} and {table.shape}")
    if (x > 0).all():
        fit = fit_power_law(np.tile(x, table.shape[0]), table.ravel())
    else:
        numbers = nan, nan, nan, nan, table.size, x.size, nan, nan
        fit = PowerLawFit(*numbers, None, "β not above 0", NEEDS_POSITIVE)
    laws, no_draws = None, fit.reason
    if fit.refusal is None:
        no_draws = "an interval over seeds needs two seeds"
        if table.shape[0] > 1:
            laws = fit_power_laws(x, np.maximum(mean_draws(table, rng, n_draws), 0))
    without = Interval(nan, nan, no_draws)
    return ConservatismLaw(
        fit,
        {name: draws_interval(getattr(laws, name)) if laws else without for name in ("a", "b", "c")},
        compare_models(np.tile(x, table.shape[0]), table.ravel(), fit),
        leave_one_beta_out(x, table),
        {reference: _beta_star(x, table, fit, laws, reference, refusal) for reference in get_args(Reference)},
        INTERPOLATION if fit.n_beta == 3 and fit.refusal is None else "",
    )


def distance_law(
    beta: ArrayLike,
    distance: ArrayLike,
    augc_by_seed: ArrayLike,
    *,
    rng: np.random.Generator,
    n_draws: int = 1000,
    refusal: str | None = None,
) -> DistanceLaw:
    """The law of `conservatism_law` with measured conservatism in the place of β: 1/d, for `distance` [B] = √KL of the
    checkpoints from the base, mean over seeds, at `beta` [B]. (Near its limit the KL-regularised optimum is √KL ∝ 1/β
    away from the base, so the law keeps its form.) Intervals take the distances as known. Raises ValueError for shapes,
    distances not positive, or negative AUGC."""
    d, table = np.asarray(distance, dtype=np.float64), np.asarray(augc_by_seed, dtype=np.float64)
    if not (np.isfinite(d).all() and (d > 0).all()):
        raise ValueError("distances must be finite and positive")
    order = np.argsort(-d)
    x = 1 / d[order]
    found = conservatism_law(x, table[:, order], rng=rng, n_draws=n_draws, refusal=refusal)
    b, star = np.asarray(beta, dtype=np.float64), found.beta_star["beta_min"]
    over_beta = fit_power_law(np.tile(b, len(table)), table.ravel()).aicc if (b > 0).all() else nan
    near, last = d[order][max(0, len(d) - 2)], d[order][-1]
    reasons: dict[Status, str] = {
        "no dependence": "AUGC does not depend on the distance from the base in these data",
        "not a rising law": "AUGC changes with the distance in these data, but no power law beats a constant",
        "no rise": str(refusal),
        "never exceeded": f"the fit stays within {TOLERATED_DAMAGE} times its reference down to half the least d",
        "not resolved": f"AUGC is flat down to d = {near:.3g} and exceeds the threshold at {last:.3g}; where between "
        "them it crosses is for a finer grid to say",
        "refused": found.fit.reason or f"the fitted AUGC is 0 at the reference, and so is {TOLERATED_DAMAGE} times it",
    }
    reason = star.reason if star.status == "estimate" else f"no d★: {reasons[star.status]}"
    low, high = star.interval.low, star.interval.high
    inverse = Interval(nan, nan, reason if isnan(star.value) else star.interval.reason)
    if not isnan(low):
        inverse = star.interval._replace(low=1 / high, high=1 / low)
    return DistanceLaw(
        found.fit,
        found.intervals,
        over_beta,
        DistanceStar(1 / star.value, inverse, star.status, star.label, reason, len(table)),
        found.label,
    )


def definition_beta_star(
    beta: ArrayLike,
    augc_by_seed: ArrayLike,
    alignment_by_seed: ArrayLike,
    lam: float,
    *,
    rng: np.random.Generator,
    n_draws: int = 1000,
) -> DefinitionBetaStar:
    """The measured β with the least AUGC(β) − λ·𝒜(β) of the means over seeds (arXiv:2606.30627 Def. 6.1); the smallest
    such β on a tie.

    `augc_by_seed`, `alignment_by_seed`: [S, B] at `beta` [B]. `lam`: AUGC units one would pay for one unit of alignment
    quality. NaN with a reason where any AUGC or alignment is undefined. Raises ValueError for unequal shapes or a λ not
    finite and at least 0.
    """
    x, damage, quality = (np.asarray(values, dtype=np.float64) for values in (beta, augc_by_seed, alignment_by_seed))
    if damage.ndim != 2 or not damage.size or not damage.shape == quality.shape == (len(damage), *x.shape):
        raise ValueError(f"need beta [B] and tables [S, B], got {x.shape}, {damage.shape}, {quality.shape}")
    if not 0 <= lam < inf:
        raise ValueError(f"lam must be finite and at least 0, got {lam}")
    cost, n_seeds = damage - lam * quality, len(damage)
    if undefined := int(np.isnan(cost).any(axis=1).sum()):
        reason = f"AUGC or alignment is undefined in {undefined} of {n_seeds} seeds"
        return DefinitionBetaStar(nan, Interval(nan, nan, reason), {}, n_seeds, reason)
    order = np.argsort(x)
    x, cost = x[order], cost[:, order]
    value = float(x[cost.mean(axis=0).argmin()])
    if n_seeds < 2:
        return DefinitionBetaStar(value, Interval(nan, nan, "an interval over seeds needs two seeds"), {}, n_seeds)
    best = mean_draws(cost, rng, n_draws).argmin(axis=1)
    share = {float(b): float(np.mean(best == i)) for i, b in enumerate(x)}
    return DefinitionBetaStar(value, draws_interval(x[best]), share, n_seeds)


def _beta_star(
    x: Array, table: Array, fit: PowerLawFit, laws: PowerLaws | None, reference: Reference, refusal: str | None
) -> BetaStar:
    n_seeds = len(table)

    def none(status: Status, reason: str) -> BetaStar:
        sentence = f"no β★: {reason}"
        nothing = Interval(nan, nan, sentence)
        return BetaStar(nan, nothing, status, "", sentence, reference, n_seeds, nan, nothing)

    if fit.refusal == "constant AUGC":
        return none("no dependence", "AUGC does not depend on β in these data")
    if fit.refusal:
        return none("refused", fit.reason or fit.refusal)
    if fit.beats_constant is False:
        return none(*_why_not_the_law(table))
    if refusal:
        return none("no rise", refusal)
    value = float(first_above(fit.as_laws(), x, reference)[0])
    steepest = fit.b > 0.99 * steepest_exponent(x)
    if isnan(value) or (steepest and fit.c <= SMALLEST_REFERENCE * float(fit(x.max()))):
        return none("refused", f"the fitted AUGC is 0 at the reference, and so is {TOLERATED_DAMAGE} times it")
    if value == inf:
        return none("never exceeded", f"the fit stays within {TOLERATED_DAMAGE} times its reference up to 2 β_max")
    before, last = np.unique(x)[-2:]
    if steepest and value <= last:
        return none(
            "not resolved",
            f"AUGC is flat up to β = {before:g} and exceeds the threshold at {last:g}; where between them it crosses "
            "is for a finer grid to say",
        )
    untested = fit.beats_constant is None
    labels = [INTERPOLATION] if fit.n_beta == 3 else ["not tested against a constant"] * untested
    labels += ["extrapolated"] * (not x.min() <= value <= x.max())
    reason = f"{fit.n} points cannot tell the power law from a constant (AICc is undefined)"
    if not untested:
        reason = f"the power law beats a constant by {fit.aicc_constant - fit.aicc:.1f} in AICc over {fit.n} points"
    interval = augc_interval = Interval(nan, nan, "an interval over seeds needs two seeds")
    if laws is not None:
        interval = draws_interval(first_above(laws, x, reference))
        with np.errstate(over="ignore"):  # a steep law of some draw may reach infinity beyond the measured β
            augc_interval = draws_interval(laws.a * value**laws.b + laws.c)
    return BetaStar(
        value, interval, "estimate", "; ".join(labels), reason, reference, n_seeds, float(fit(value)), augc_interval
    )


def _why_not_the_law(table: Array) -> tuple[Status, str]:
    """What the tests say of data [S, B] that the law does not describe: nothing, a fall, or another shape.

    The law can only rise, so losing to a constant is no proof that AUGC ignores β: Page's trend tells a fall, and the
    F test of β against its residual within seeds a difference of any shape; each at half of LEVEL, for they are two.
    """
    n_seeds, n_beta = table.shape
    if n_seeds < 2:
        return "no dependence", "the law does not beat a constant by AICc, and one seed cannot show more"
    trend = trend_test(table)
    if trend.p_two_sided <= LEVEL / 2:
        way = "falls" if trend.p_less < trend.p_greater else "rises"
        p = f"Page's trend, p = {trend.p_two_sided:.2g}"
        return "not a rising law", f"AUGC {way} with β in these data ({p}), but no power law beats a constant"
    freedom = (n_seeds - 1) * (n_beta - 1)
    between = n_seeds * table.mean(axis=0).var(ddof=1)
    within = float((residuals(table) ** 2).sum()) / freedom
    if within > 0 and stats.f.sf(between / within, n_beta - 1, freedom) <= LEVEL / 2:
        return "not a rising law", "AUGC differs between values of β in these data, but no power law beats a constant"
    return "no dependence", "these data show no dependence of AUGC on β"
