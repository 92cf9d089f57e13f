"""The power law AUGC(β) = a·β^b + c (arXiv:2606.30627 Eq. 14): one careful fit, many quick ones, and where it crosses
a threshold."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import inf, isnan, nan
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from .statistics import aicc

Array = NDArray[np.float64]
Reference = Literal["beta_min", "grid"]
Refusal = Literal["β not above 0", "undefined AUGC", "too few β", "constant AUGC", "no convergence"]

NEEDS_POSITIVE = "the power law needs β > 0"

TOLERATED_DAMAGE = 1.5  # β★: the fitted AUGC first exceeds this many times its reference (arXiv:2606.30627 Eq. 15)

# Exponents of the two starts tried besides the paper's, from which alone about 1 % of random data sets end in a local
# minimum; that would decide wrongly whether AUGC depends on β. The lowest sum of squares wins.
FURTHER_EXPONENTS = (1.0, 10.0)
FLAT = 1e-9  # a fit with R² below this is a constant, reported as a = b = 0
SMALLEST_REFERENCE = 1e-6  # a reference below this share of the fit at the largest β is rounding noise: no threshold

NEGLIGIBLE_RISE = 0.01
"""The exponent is bounded where the rising part at the second-largest β would fall below this share of that at the
largest: beyond, all β but the last are at c, and data say nothing of b or of where the law leaves c."""

# The quick fit scans exponents, then closes in on the best. Below the least the law cannot be told from a constant.
LEAST_EXPONENT = 1e-2
SCANNED, CLOSER, ROUNDS = 64, 9, 5
ROWS_AT_ONCE = 2048  # keeps the scan's temporaries in the processor's cache


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

    def as_laws(self) -> PowerLaws:
        """The fit as one row of `PowerLaws`."""
        return PowerLaws(*(np.array([value]) for value in (self.a, self.b, self.c)))


class PowerLaws(NamedTuple):
    """Parameters of many laws, each [R]."""

    a: Array
    b: Array
    c: Array


def fit_power_law(beta: ArrayLike, augc: ArrayLike) -> PowerLawFit:
    """Least-squares fit of AUGC ≈ a·β^b + c with a, b, c ≥ 0 (arXiv:2606.30627 Eq. 14, Appendix E).

    `beta`, `augc`: [n], one point per condition. β repeats when there are several seeds: give the points, not their
    means, for only the spread between seeds can say whether AUGC depends on β at all. (The points of a seed share
    noise, which the AICc comparison counts as residual; that makes it slower to find a dependence, not faster.)

    Bounds (but for `steepest_exponent`), initial values (from the mean AUGC per β) and 10 000 evaluations are Appendix
    E's; b₀ = 1 where an AUGC of about 0 leaves its logarithm undefined. The problem is solved in units of the largest β
    and AUGC, which changes the path of the search and not its minimum; see FURTHER_EXPONENTS for the extra starts. With
    a, b, c ≥ 0 the law can only rise: falling data come out as a constant.

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
        return refused(
            "too few β", f"a power law has three parameters, but there are only {levels.size} distinct values of β"
        )
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


def fit_power_laws(beta: ArrayLike, augc: ArrayLike) -> PowerLaws:
    """The same least squares as `fit_power_law` for every row of `augc` [R, B] at `beta` [B], thousands at a time.

    For a given exponent the best a, c ≥ 0 have a closed form, so only b is searched: a scan, then rounds that close in
    around the best. A constant row gives a = b = 0. For the mean curve over seeds this is the fit to all points.
    """
    x, y = np.asarray(beta, dtype=np.float64), np.asarray(augc, dtype=np.float64)
    parts = [_fit_rows(x, y[i : i + ROWS_AT_ONCE]) for i in range(0, len(y), ROWS_AT_ONCE)]
    return PowerLaws(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def first_above(laws: PowerLaws, beta: ArrayLike, reference: Reference) -> Array:
    """First of 1 000 even points on [0.1·β_min, 2·β_max] where each law exceeds 1.5 × its reference value, [R].

    `beta`: the measured values. `reference="beta_min"`: the law at the smallest measured β (arXiv:2606.30627 Eq. 15);
    `"grid"`: its smallest value on those points (the sentence before Eq. 15; gives the paper's 1.082, but where c is
    about 0 it says more about 0.1·β_min than about the data). Resolution: the step of the points, about β_max/500.

    Infinity (the infimum of nothing) where a law stays under the threshold, NaN where it is undefined or 0 at the
    reference (see SMALLEST_REFERENCE).
    """
    measured = np.asarray(beta, dtype=np.float64)
    largest = measured.max()
    points = np.linspace(0.1 * measured.min(), 2 * largest, 1000)
    start = (measured.min() if reference == "beta_min" else points[0]) / largest  # a law is least at its left end
    with np.errstate(all="ignore"):
        height = laws.a * largest**laws.b  # of the rising part, at the largest β
        base = height * start**laws.b + laws.c
        threshold = TOLERATED_DAMAGE * start**laws.b + (TOLERATED_DAMAGE - 1) * laws.c / height
        crossing = np.where(height > 0, largest * threshold ** (1 / laws.b), inf)
    place = np.searchsorted(points, crossing, side="right")
    value = np.append(points, inf)[np.minimum(place, points.size)]
    return np.where(base > SMALLEST_REFERENCE * (height + laws.c), value, nan)


def practical_beta_star(fit: PowerLawFit, beta: ArrayLike, reference: Reference) -> float:
    """`first_above` of one fit; NaN also where the fit was refused or stays under the threshold."""
    value = float(first_above(fit.as_laws(), beta, reference)[0])
    return nan if value == inf else value


@np.errstate(over="ignore", invalid="ignore")  # of trial steps inside SciPy
def _least_squares(x: Array, y: Array, levels: Array, means: Array) -> tuple[float, Array] | None:
    """Residual sum of squares and (a, b, c) for `x`, `y` in units of their largest; None where no search converged.

    `levels`: distinct β in their own units, for Appendix E's start is stated in those. `means`: mean y per level.
    """
    low, high = means.min(), means.max()
    steepest = steepest_exponent(levels)
    b0 = min(np.log(high / low) / np.log(levels[-1] / levels[0]) if low > FLAT else 1.0, steepest / 2)
    starts = [((high - low) * levels[-1] ** b0, b0, low)]  # Eq. C.1 to C.3
    starts += [(high - low, min(further, steepest / 2), low) for further in FURTHER_EXPONENTS]

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
    # Where the law is nearly flat in b, searches stop short of the minimum; a scan over b does not.
    scanned = np.minimum([float(values[0]) for values in _fit_rows(x, y[None])], (inf, steepest, inf))
    if found:
        found.append((float(np.sum((law(x, *scanned) - y) ** 2)), scanned))
    return min(found, key=lambda candidate: candidate[0], default=None)


def steepest_exponent(beta: ArrayLike) -> float:
    """The largest exponent that values of β, at least two of them distinct and all positive, can tell from a larger one
    (NEGLIGIBLE_RISE), and whose `a` in β's own units stays within the range of floats."""
    logs = np.log(np.unique(np.asarray(beta, dtype=np.float64)))
    resolved = -float(np.log(NEGLIGIBLE_RISE)) / (logs[-1] - logs[-2])
    return float(min(resolved, 600 / max(abs(logs[-1]), 1e-3)))


def _fit_rows(beta: Array, augc: Array) -> PowerLaws:
    largest, unit = beta.max(), np.maximum(augc.max(axis=1), np.finfo(float).tiny)[:, None]
    x, y = np.log(beta / largest), augc / unit
    end = steepest_exponent(beta)
    tried = np.geomspace(min(LEAST_EXPONENT, end / 2), end, SCANNED)
    a, c, error = _best_for_exponents(np.exp(x[:, None, None] * tried), y)
    rows, tried = np.arange(len(y)), np.broadcast_to(tried, (len(y), SCANNED))
    for _ in range(ROUNDS):
        best = error.argmin(axis=1)
        low, high = tried[rows, np.maximum(best - 1, 0)], tried[rows, np.minimum(best + 1, tried.shape[1] - 1)]
        tried = low[:, None] * (high / low)[:, None] ** np.linspace(0, 1, CLOSER)
        a, c, error = _best_for_exponents(np.exp(x[:, None, None] * tried), y)
    best = error.argmin(axis=1)
    a, b, c, error = a[rows, best], tried[rows, best], c[rows, best], error[rows, best]
    mean = y.mean(axis=1)
    flat = error >= (1 - FLAT) * ((y - mean[:, None]) ** 2).sum(axis=1)
    a, b, c = np.where(flat, 0, a), np.where(flat, 0, b), np.where(flat, mean, c)
    return PowerLaws(a * unit[:, 0] * largest**-b, b, c * unit[:, 0])


def _best_for_exponents(power: Array, y: Array) -> tuple[Array, Array, Array]:
    """Non-negative a, c and residual sum of squares, each [R, E], for `power` = x^b [B, R or 1, E] and `y` [R, B]."""
    level = y.mean(axis=1)[:, None]
    middle, square = power.mean(axis=0), (power**2).mean(axis=0)  # over the first axis, which NumPy does fast
    product = (y @ power[:, 0] if power.shape[1] == 1 else (power * y.T[:, :, None]).sum(axis=0)) / y.shape[1]
    a = np.maximum((product - middle * level) / (square - middle**2), 0)
    c = level - a * middle
    a, c = np.where(c < 0, product / square, a), np.maximum(c, 0)
    # Mean of (y − a·x^b − c)², multiplied out; y is at most 1, so this is exact to about 1e-16.
    spread = (y**2).mean(axis=1)[:, None]
    error = spread - 2 * (a * product + c * level) + a**2 * square + 2 * a * c * middle + c**2
    return a, c, error * y.shape[1]
