"""The gap so far, and the threshold at which it stops a training at a stated rate of false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import isnan, nan, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from betastar.maths.goodhart import paper_gap, paper_gap_undefined, standardised_gap

NODES = 80


def start_noise(scores: ArrayLike, answers: int = 1) -> float:
    """σ: standard deviation of ȳ, the mean score of one evaluation, from R evaluations of the start, `scores` [R, n],
    of n = P·A answers, A in a row to each of P problems.

    σ² = mean over problems of the variance over the R·A scores (R·A − 1 in the denominator), divided by P·A. The gap
    between two independent evaluations of the start has standard deviation σ√2: the A/A noise. Problems with an
    undefined score are left out; NaN with fewer than two scores to a problem, or problems.
    """
    each = np.asarray(scores, dtype=np.float64)
    known = _defined(each.reshape(len(each), -1, answers).swapaxes(1, 2).reshape(len(each) * answers, -1))
    several, problems = known.shape
    if several < 2 or problems < 2:
        return nan
    return sqrt(float(known.var(axis=0, ddof=1).mean()) / (problems * answers))


def own_noise(scores: ArrayLike, start: ArrayLike, answers: int = 1) -> float:
    """σ as one evaluation shows it: the standard error of its own gap, divided by √2.

    `scores`, `start`: [n], n = P·A answers as in `start_noise`. The gap is the mean over P problems of the differences
    of their mean scores, with standard error sd/√P. Problems with an undefined score are left out; NaN with fewer than
    two.
    """
    both = np.array([scores, start], dtype=np.float64)
    now, before = _defined(both.reshape(2, -1, answers).mean(axis=2))
    return float((now - before).std(ddof=1)) / sqrt(2 * now.size) if now.size > 1 else nan


def false_alarm_rate(height: float, evaluations: int, degrees: int) -> float:
    """Probability that at least one of m = `evaluations` gaps passes `height` · σ̂ under the null hypothesis.

    1 − ∫∫ Φ(h·s + z)^m φ(z) f(s) dz ds: z is the start's noise in units of σ, and s = σ̂/σ, where degrees · s² is
    chi-squared with `degrees` degrees of freedom. Exact for normal, independent means.
    """
    z, weight = np.polynomial.hermite_e.hermegauss(NODES)
    from scipy import stats  # slow to import, and a finished run does without

    s = np.sqrt(stats.chi2.ppf((np.arange(NODES) + 0.5) / NODES, degrees) / degrees)
    quiet = stats.norm.cdf(height * s[:, None] + z) ** evaluations
    return float(1 - (quiet @ weight / weight.sum()).mean())


@lru_cache(maxsize=64)
def critical_height(evaluations: int, degrees: int, rate: float) -> float:
    """The height h at which `false_alarm_rate` is `rate`. Raises ValueError for a rate outside (0, 0.5], which no
    positive height may have, or no evaluation."""
    if not 0 < rate <= 0.5 or evaluations < 1 or degrees < 1:
        raise ValueError(f"rate in (0, 0.5], evaluations and degrees >= 1, got {rate}, {evaluations}, {degrees}")
    from scipy import optimize

    height: Any = optimize.brentq(lambda h: false_alarm_rate(h, evaluations, degrees) - rate, 0.0, 1e3)
    return float(height)


def threshold(height: float, noise: float, own: float) -> float:
    """The gap above which an evaluation alarms: `height` · max(`noise`, `own`), σ by the start and by itself.

    The start alone knows too little of heavy tails: one response with a huge proxy reward, of a kind that the start's
    replicates happened not to hold, would alarm. That response also makes the gap's own standard error large. Under the
    null hypothesis differences to the start are symmetric, and for these a bound by the own standard error holds
    whatever the tails (Efron, JASA 64, 1969). NaN where either is.
    """
    return height * float(np.maximum(noise, own))


def _defined(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The columns of `scores` [R, n] without an undefined value."""
    return scores[:, np.isfinite(scores).all(axis=0)]


def planned_looks(start: int, last: int, every: int) -> int:
    """How many evaluations follow step `start` in a run to step `last` that evaluates every `every` steps and last."""
    return last // every - start // every + (last % every != 0) if last > start else 0


class Start(NamedTuple):
    """The evaluation that gaps are measured from: `proxy` and `true` rewards of n responses, [n].

    `noise`: σ, the standard deviation that sampling gives the mean score of one evaluation (`start_noise`); NaN where
    it was not measured. `looks`: how many evaluations follow in the planned run. `answers`: in a row to each problem.
    """

    proxy: NDArray[np.float64]
    true: NDArray[np.float64]
    noise: float
    looks: int
    answers: int = 1

    @property
    def degrees(self) -> int:
        """Degrees of freedom with which the noise is taken to be known, fewer than the replicates give."""
        return self.proxy.size // self.answers - 1


def start_of(replicates: Sequence[tuple[ArrayLike, ArrayLike]], looks: int, answers: int = 1) -> Start:
    """The start from its evaluations, each (proxy [n], true [n]): the first is the start, and all give the noise."""
    proxy, true = replicates[0]
    start = Start(np.asarray(proxy, dtype=np.float64), np.asarray(true, dtype=np.float64), nan, looks, answers)
    return start._replace(noise=start_noise([scores(start, *rewards) for rewards in replicates], answers))


def scores(start: Start, proxy: ArrayLike, true: ArrayLike) -> NDArray[np.float64]:
    """[n] scores proxy/s_proxy − true/s_true, whose mean changes as the standardised gap does; NaN without a scale."""
    s_proxy, s_true = _scales(start)
    return np.asarray(proxy, dtype=np.float64) / s_proxy - np.asarray(true, dtype=np.float64) / s_true


def gap_fields(
    start: Start, proxy: ArrayLike, true: ArrayLike, stop_above: float | str | None, rate: float
) -> dict[str, Any]:
    """Fields of a row for rewards [n] of one evaluation: both forms of the gap and the threshold, NaN where undefined,
    and `missing`, the reasons."""
    proxies, trues = [mean_of(start.proxy), mean_of(proxy)], [mean_of(start.true), mean_of(true)]
    s_proxy, s_true = _scales(start)
    n, correct = start.true.size, int(start.true.sum()) if is_binary(start.true) else 0
    parts = standardised_gap(proxies, trues, s_proxy, correct, n)
    # A true reward that is more than right or wrong has its own standard deviation in place of the binomial one.
    gap = parts.gap[1] if is_binary(start.true) else parts.z_proxy[1] - (trues[1] - trues[0]) / s_true
    missing = {}
    if isnan(gap):
        missing["gap_standardised"] = parts.reason or "the true rewards at the start have no spread"
    if reason := paper_gap_undefined(proxies[0], trues[0]):
        missing["gap_paper"] = reason
    limit, reason = _limit(start, scores(start, proxy, true), stop_above, rate)
    if reason is not None:
        missing["threshold"] = reason
    return {
        "gap_standardised": float(gap),
        "gap_paper": nan if "gap_paper" in missing else float(paper_gap(proxies, trues)[1]),
        "threshold": limit,
        **({"missing": missing} if missing else {}),
    }


def mean_of(rewards: ArrayLike) -> float:
    """Mean of the defined rewards; NaN without any."""
    values = np.asarray(rewards, dtype=np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else nan


def rate_of(start: Start, limit: float) -> float:
    """The false-alarm rate, over the planned run, of the fixed threshold `limit`; NaN where the noise is unknown."""
    return false_alarm_rate(limit / start.noise, start.looks, start.degrees) if start.noise > 0 else nan


def is_binary(true: NDArray[np.float64]) -> bool:
    """Whether every true reward [n] is 0 or 1, wrong or right."""
    return bool(np.isin(true, (0.0, 1.0)).all())


def _limit(
    start: Start, now: NDArray[np.float64], stop_above: float | str | None, rate: float
) -> tuple[float, str | None]:
    """The threshold of an evaluation with the scores `now` [n], or NaN and the reason."""
    if isinstance(stop_above, int | float):
        return float(stop_above), None
    if isnan(start.noise):
        return nan, "the noise of the gap at the start is unknown"
    if start.noise == 0:
        return nan, "sampling noise changes no reward at the start"
    own = own_noise(now, scores(start, start.proxy, start.true), start.answers)
    return threshold(critical_height(start.looks, start.degrees, rate), start.noise, own), None


def _scales(start: Start) -> tuple[float, float]:
    """s_proxy and s_true of the standardised gap (`betastar.maths.goodhart`); NaN where there is no spread."""
    proxy = start.proxy[np.isfinite(start.proxy)]
    spread = float(proxy.std(ddof=1)) if proxy.size > 1 else nan
    if is_binary(start.true):
        q = (start.true.sum() + 1) / (start.true.size + 2)
        return spread or nan, sqrt(q * (1 - q))
    return spread or nan, float(start.true.std(ddof=1)) or nan
