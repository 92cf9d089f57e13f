"""Whether data speak for the power law: against simpler models by AICc, and by predicting a β that was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .power_law import NEEDS_POSITIVE, PowerLawFit, fit_power_laws
from .statistics import aicc

Array = NDArray[np.float64]

PARAMETERS = {"power law": 4, "constant": 2, "linear": 3, "logarithmic": 3}
"""Models of AUGC(β): a·β^b + c with a, b, c ≥ 0; c; c + s·β; c + s·log β with s of either sign. The residual variance
counts as a parameter."""


@dataclass(frozen=True)
class Comparison:
    """AICc of each model of PARAMETERS over `n` points, the difference from the least, and the model that has it.

    An AICc is NaN where a model has too many parameters for n (the power law needs six points). Then there is no
    `best`, and `reason` says why. A difference under about 2 means that the data hardly tell the models apart.
    """

    aicc: Mapping[str, float]
    difference: Mapping[str, float]
    best: str | None
    n: int
    reason: str | None = None


class Prediction(NamedTuple):
    """Mean AUGC over seeds at a `beta` that was left out, as measured and as each model predicts it from the rest."""

    beta: float
    measured: float
    predicted: Mapping[str, float]


@dataclass(frozen=True)
class LeaveOneOut:
    """Root mean square error of each model's prediction of a left-out β, over `n_beta` β (in AUGC units); the smallest
    and largest β are extrapolations. NaN with a `reason` where there are fewer than four β, one is 0, or AUGC is
    undefined."""

    error: Mapping[str, float]
    predictions: tuple[Prediction, ...]
    n_beta: int
    reason: str | None = None


def compare_models(beta: ArrayLike, augc: ArrayLike, fit: PowerLawFit) -> Comparison:
    """Compare `fit`, the power law of `augc` [n] at `beta` [n], with the other models of PARAMETERS by AICc."""
    x, y = np.asarray(beta, dtype=np.float64), np.asarray(augc, dtype=np.float64)
    if fit.refusal:
        undefined = dict.fromkeys(PARAMETERS, nan)
        return Comparison(undefined, undefined, None, x.size, fit.reason)
    scores = {"power law": fit.aicc}
    for name, parameters in list(PARAMETERS.items())[1:]:
        error = y - _predict(name, x, y, x)
        scores[name] = aicc(float(error @ error), x.size, parameters)
    undefined = [name for name, score in scores.items() if isnan(score)]
    if undefined:
        reason = f"{x.size} points are too few for the AICc of: {', '.join(undefined)}"
        return Comparison(scores, dict.fromkeys(scores, nan), None, x.size, reason)
    least = min(scores.values())
    difference = {name: 0.0 if score == least else score - least for name, score in scores.items()}
    return Comparison(scores, difference, min(scores, key=lambda name: scores[name]), x.size)


def leave_one_beta_out(beta: ArrayLike, augc_by_seed: ArrayLike) -> LeaveOneOut:
    """Fit every model to all β but one of `augc_by_seed` [S, B], and predict the mean over seeds at that one."""
    x, means = np.asarray(beta, dtype=np.float64), np.mean(np.asarray(augc_by_seed, dtype=np.float64), axis=0)
    reason = None
    if not (x > 0).all():
        reason = NEEDS_POSITIVE
    elif x.size < 4:
        reason = f"leaving out one of {x.size} values of β leaves too few for a law with three parameters"
    elif not np.isfinite(means).all():
        reason = "AUGC is undefined in some condition"
    if reason:
        return LeaveOneOut(dict.fromkeys(PARAMETERS, nan), (), x.size, reason)
    predictions = []
    for i, left_out in enumerate(x):
        rest, known = np.delete(x, i), np.delete(means, i)
        guesses = {name: float(_predict(name, rest, known, left_out)) for name in PARAMETERS}
        predictions.append(Prediction(float(left_out), float(means[i]), guesses))
    error = {
        name: sqrt(float(np.mean([(p.predicted[name] - p.measured) ** 2 for p in predictions]))) for name in PARAMETERS
    }
    return LeaveOneOut(error, tuple(predictions), x.size)


def _predict(model: str, x: Array, y: Array, at: ArrayLike) -> Array:
    """The least-squares `model` of `y` [n] at `x` [n], evaluated at β `at`."""
    where = np.asarray(at, dtype=np.float64)
    if model == "power law":
        a, b, c = (values[0] for values in fit_power_laws(x, y[None]))
        return a * where**b + c
    if model == "constant":
        return np.full(where.shape, y.mean())
    scale = np.log if model == "logarithmic" else np.asarray
    return np.polyval(np.polyfit(scale(x), y, 1), scale(where)).astype(np.float64)
