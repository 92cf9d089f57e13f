"""The conservatism law: how hacking damage depends on β, and β★.
Damage is AUGC, the area under the positive Goodhart gap: `goodhart.area_under_positive_gap`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import inf, isnan, nan
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from .statistics import Interval, aicc, seed_resamples, weighted_interval

Array = NDArray[np.float64]
Reference = Literal["beta_min", "grid"]
Refusal = Literal["undefined AUGC", "too few β", "constant AUGC", "no convergence"]
Status = Literal["estimate", "no dependence", "not a rising law", "never exceeded", "refused"]

TOLERATED_DAMAGE = 1.5  # β★: the fitted AUGC first exceeds this many times its reference (arXiv:2606.30627 Eq. 15)

# Exponents of the two starts tried besides the paper's, from which alone about 1 % of random data sets end in a local
# minimum; that would decide wrongly whether AUGC depends on β. The lowest sum of squares wins.
FURTHER_EXPONENTS = (1.0, 10.0)
FLAT = 1e-9  # a fit with R² below this is a constant, reported as a = b = 0
SMALLEST_REFERENCE = 1e-6  # a reference below this share of the fit at the largest β is rounding noise: no threshold
FEWEST_RESAMPLES = 0.95  # no interval where less than this share of the seed resamples lets β★ be computed


@dataclass(frozen=True)
class PowerLawFit:
    """AUGC(β) = a·β^b + c fitted to `n` points at `n_beta` distinct β; every number is NaN where `refusal` is set.

    `aicc`, `aicc_constant`: corrected Akaike information criterion of the law (a, b, c and the residual variance) and
    of a constant (mean and variance); lower is better; NaN where undefined (n ≤ parameters + 1, so n ≤ 5 for the law).
    `beats_constant`: whether the law's is lower; None where undefined, since nothing then speaks for the law.
    """

    a: float
    b: float
    c: float
    r_squared: float
    n: int
    n_beta: int
    aicc: float
    aicc_constant: float
    beats_constant: bool | None
    refusal: Refusal | None = None
    reason: str | None = None

    def __call__(self, beta: ArrayLike) -> Array:
        """Fitted AUGC at `beta`, shaped as `beta`; NaN where the fit was refused."""
        with np.errstate(over="ignore"):  # a steep law may reach infinity beyond the measured β
            return self.a * np.asarray(beta, dtype=np.float64) ** self.b + self.c


def fit_power_law(beta: ArrayLike, augc: ArrayLike) -> PowerLawFit:
    """Least-squares fit of AUGC ≈ a·β^b + c with a, b, c ≥ 0 (arXiv:2606.30627 Eq. 14, Appendix E).

    `beta`, `augc`: [n], one point per condition. β repeats when there are several seeds: give the points, not their
    means, for only the spread between seeds can say whether AUGC depends on β at all. (The points of a seed share
    noise, which the AICc comparison counts as residual; that makes it slower to find a dependence, not faster.)

    Bounds, initial values (from the mean AUGC per β) and 10 000 evaluations are Appendix E's; b₀ = 1 where an AUGC of
    about 0 leaves its logarithm undefined. The problem is solved in units of the largest β and AUGC, which changes the
    path of the search and not its minimum; see FURTHER_EXPONENTS for the extra starts. With a, b, c ≥ 0 the law can
    only rise: falling data come out as a constant.

    Raises ValueError for unequal shapes, β not finite and positive, or negative AUGC.
    """
    x, y = np.asarray(beta, dtype=np.float64), np.asarray(augc, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"beta and augc must both be [n], got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and (x > 0).all()) or (y < 0).any():
        raise ValueError("beta must be finite and positive, and augc at least 0")
    levels = np.unique(x)

    def refused(name: Refusal, reason: str) -> PowerLawFit:
        return PowerLawFit(nan, nan, nan, nan, x.size, levels.size, nan, nan, None, name, reason)

    if bad := int((~np.isfinite(y)).sum()):
        return refused("undefined AUGC", f"AUGC is undefined in {bad} of {x.size} conditions")
    if levels.size < 3:
        return refused("too few β", f"a power law has three parameters and there are {levels.size} distinct β")
    if (y == y[0]).all():
        return refused("constant AUGC", f"AUGC is {y[0]:g} in every condition")

    means = np.array([y[x == level].mean() for level in levels])
    if (found := _least_squares(x / levels[-1], y / y.max(), levels, means / y.max())) is None:
        return refused("no convergence", "the least-squares search did not converge in 10 000 evaluations")
    (scaled_a, b, c), rss = found[1] * [y.max(), 1, y.max()], found[0] * float(y.max()) ** 2
    a, tss = scaled_a * levels[-1] ** -b, float(np.sum((y - y.mean()) ** 2))
    if rss > (1 - FLAT) * tss:  # a flat fit leaves open how it splits into a, b and c
        a, b, c, rss = 0.0, 0.0, y.mean(), tss
    law, constant = aicc(rss, x.size, 4), aicc(tss, x.size, 2)
    beats = None if isnan(law) else law < constant  # the constant's is defined wherever the law's is
    return PowerLawFit(float(a), float(b), float(c), 1 - rss / tss, x.size, levels.size, law, constant, beats)


def practical_beta_star(fit: PowerLawFit, beta: ArrayLike, reference: Reference) -> float:
    """First β of 1 000 even points on [0.1·β_min, 2·β_max] where the fit exceeds 1.5 × its reference value.

    `beta`: the measured values. `reference="beta_min"`: the fit at the smallest measured β (arXiv:2606.30627 Eq. 15);
    `"grid"`: the smallest fitted value on those points (the sentence before Eq. 15; gives the paper's 1.082, but where
    c is about 0 it says more about 0.1·β_min than about the data). Resolution: the step of the points, about β_max/500.
    NaN where the fit was refused, stays under the threshold, or is 0 at the reference (see SMALLEST_REFERENCE).
    """
    value = _first_above(fit, beta, reference)
    return nan if value == inf else value


def definition_beta_star(beta: ArrayLike, augc: ArrayLike, alignment: ArrayLike, lam: float) -> float:
    """The measured β with the least AUGC(β) − λ·𝒜(β) (arXiv:2606.30627 Def. 6.1); the smallest such β on a tie.

    `beta`, `augc`, `alignment`: [B]. `lam`: AUGC units one would pay for one unit of alignment quality. NaN where any
    AUGC or alignment is undefined. Raises ValueError for unequal shapes or a λ not finite and at least 0.
    """
    x, damage, quality = (np.asarray(values, dtype=np.float64) for values in (beta, augc, alignment))
    if x.ndim != 1 or x.size == 0 or not x.shape == damage.shape == quality.shape or not 0 <= lam < inf:
        raise ValueError(f"arrays must be [B], lam at least 0: {x.shape}, {damage.shape}, {quality.shape}, {lam}")
    cost = damage - lam * quality
    return nan if np.isnan(cost).any() else float(x[cost == cost.min()].min())


@dataclass(frozen=True)
class BetaStar:
    """β★ with everything that keeps it from being a bare point.

    `value`: NaN unless `status` is "estimate". `interval`: 95 % over resampled seeds; a bound of infinity says that
    those resamples never exceed the threshold up to 2·β_max. `label`: what a reader must know beside the number, empty
    if nothing. `reason`: one sentence, why there is no number or what speaks for it.
    """

    value: float
    interval: Interval
    status: Status
    label: str
    reason: str
    reference: Reference
    fit: PowerLawFit


def beta_star(
    beta: ArrayLike, augc_by_seed: ArrayLike, *, reference: Reference, rng: np.random.Generator, n_resamples: int = 1000
) -> BetaStar:
    """Practical β★ of `augc_by_seed` [S, B] at `beta` [B] (arXiv:2606.30627 Eq. 14–15), or a reasoned refusal.

    The law is fitted to all S·B points and must beat a constant by AICc wherever that is defined. The interval comes
    from resampling whole seeds: all distinct resamples with their exact weights if there are at most `n_resamples` of
    them (S ≤ 6 for 1 000), else that many draws from `rng`. Raises ValueError for shapes, or as `fit_power_law`.
    """
    x, table = np.asarray(beta, dtype=np.float64), np.asarray(augc_by_seed, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] == 0 or x.shape != table.shape[1:]:
        raise ValueError(f"beta must be [B] and augc_by_seed [S, B], got {x.shape} and {table.shape}")
    points, augc = np.tile(x, table.shape[0]), table.ravel()
    fit = fit_power_law(points, augc)

    def none(status: Status, reason: str) -> BetaStar:
        sentence = f"no β★: {reason}"
        return BetaStar(nan, Interval(nan, nan, sentence), status, "", sentence, reference, fit)

    if fit.refusal == "constant AUGC":
        return none("no dependence", "AUGC does not depend on β in this data")
    if fit.refusal:
        return none("refused", fit.reason or fit.refusal)
    if fit.beats_constant is False:
        return none(*_why_not_the_law(points, augc))
    value = _first_above(fit, x, reference)
    if isnan(value):
        return none("refused", f"the fitted AUGC is 0 at the reference, and so is {TOLERATED_DAMAGE} times it")
    if value == inf:
        return none("never exceeded", f"the fit stays within {TOLERATED_DAMAGE} times its reference up to 2 β_max")
    untested = fit.beats_constant is None
    labels = ["interpolation, not evidence"] if fit.n_beta == 3 else ["not tested against a constant"] * untested
    labels += ["extrapolated"] * (not x.min() <= value <= x.max())
    reason = f"{fit.n} points cannot tell the power law from a constant (AICc is undefined)"
    if not untested:
        reason = f"the power law beats a constant by {fit.aicc_constant - fit.aicc:.1f} in AICc over {fit.n} points"
    interval = _seed_interval(x, table, reference, rng, n_resamples)
    return BetaStar(value, interval, "estimate", "; ".join(labels), reason, reference, fit)


@np.errstate(over="ignore", invalid="ignore")  # of trial steps inside SciPy
def _least_squares(x: Array, y: Array, levels: Array, means: Array) -> tuple[float, Array] | None:
    """Residual sum of squares and (a, b, c) for `x`, `y` in units of their largest; None where no search converged.

    `levels`: distinct β in their own units, for Appendix E's start is stated in those. `means`: mean y per level.
    """
    low, high = means.min(), means.max()
    steepest = 600 / max(abs(np.log(levels[-1])), 1e-3)  # beyond it `a` in β's own units leaves the range of floats
    b0 = min(np.log(high / low) / np.log(levels[-1] / levels[0]), steepest / 2) if low > FLAT else 1.0
    starts = [((high - low) * levels[-1] ** b0, b0, low)]  # Eq. C.1 to C.3
    starts += [(high - low, further, low) for further in FURTHER_EXPONENTS]

    def law(x: Array, a: float, b: float, c: float) -> Array:
        return a * x**b + c

    def slopes(x: Array, a: float, b: float, c: float) -> Array:
        return np.stack([x**b, a * x**b * np.log(x), np.ones_like(x)], axis=1)

    options: Any = {"max_nfev": 10_000, "ftol": 1e-10, "xtol": 1e-10, "gtol": 1e-10}
    found: list[tuple[float, Array]] = []
    for start in starts:
        try:
            with warnings.catch_warnings():  # three points leave no covariance to estimate, and none is used
                warnings.simplefilter("ignore", OptimizeWarning)
                solution, _ = curve_fit(law, x, y, start, bounds=(0, (inf, steepest, inf)), jac=slopes, **options)
        except RuntimeError:  # out of evaluations
            continue
        found.append((float(np.sum((law(x, *solution) - y) ** 2)), solution))
    return min(found, key=lambda candidate: candidate[0], default=None)


def _why_not_the_law(beta: Array, augc: Array) -> tuple[Status, str]:
    """What data show that the law does not describe: nothing, a fall, or another shape.

    The law can only rise, so losing to a constant is no proof that AUGC ignores β: a line and a parabola in log β are
    compared with the constant too.
    """
    curves = [np.polyfit(np.log(beta), augc, degree) for degree in range(3)]
    errors = [augc - np.polyval(curve, np.log(beta)) for curve in curves]
    scores = [aicc(float(error @ error), beta.size, degree + 2) for degree, error in enumerate(errors)]
    if min(scores) == scores[0]:
        return "no dependence", "AUGC does not depend on β in this data"
    if scores[1] < scores[0] and curves[1][0] < 0:
        return "not a rising law", "AUGC falls with β in this data, and the power law can only rise"
    return "not a rising law", "AUGC changes with β in this data, but not by a power law that beats a constant"


def _first_above(fit: PowerLawFit, beta: ArrayLike, reference: Reference) -> float:
    """As `practical_beta_star`, but infinity (the infimum of nothing) where the fit stays under the threshold."""
    measured = np.asarray(beta, dtype=np.float64)
    grid = np.linspace(0.1 * measured.min(), 2 * measured.max(), 1000)
    values = fit(grid)
    base = float(fit(measured.min())) if reference == "beta_min" else float(values.min())
    if not base > SMALLEST_REFERENCE * float(fit(measured.max())):  # true of a refused fit's NaN too
        return nan
    above = np.flatnonzero(values > TOLERATED_DAMAGE * base)
    return float(grid[above[0]]) if above.size else inf


def _seed_interval(beta: Array, table: Array, reference: Reference, rng: np.random.Generator, n: int) -> Interval:
    """95 % interval of β★ over resamples of the rows of `table` [S, B]."""
    if table.shape[0] < 2:
        return Interval(nan, nan, "an interval over seeds needs two seeds")

    def resampled(draw: NDArray[np.int64]) -> float:
        fit = fit_power_law(beta, table[draw].mean(axis=0))  # the means of balanced points have their least squares
        return inf if fit.refusal == "constant AUGC" else _first_above(fit, beta, reference)

    draws, weights = seed_resamples(table.shape[0], rng, n)
    values = np.array([resampled(draw) for draw in draws])
    defined = ~np.isnan(values)
    if (share := float(weights[defined].sum())) < FEWEST_RESAMPLES:
        return Interval(nan, nan, f"only {share:.0%} of the seed resamples allow a β★ to be computed")
    return weighted_interval(values[defined], weights[defined], 0.95)
