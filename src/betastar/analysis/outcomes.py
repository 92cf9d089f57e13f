"""The outcomes of a condition, from single answers where they are known and from means where they are not.

Values, intervals and noise floors are paired by problem where the run has a table of answers. From means alone the
noise of a mean is the binomial one, or what the series shows (see `Trajectory.truth_noise`), and only what follows from
that gets an interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from betastar.analysis.trajectory import (
    NO_TRUTH,
    Array,
    Estimate,
    Floor,
    Trajectory,
    Undefined,
    Value,
    computes,
    once,
)
from betastar.maths.answers import within_problem_auroc
from betastar.maths.goodhart import area_under_positive_gap
from betastar.maths.outcomes import (
    Peak,
    Regret,
    SeriesNoise,
    area_floor,
    expected_maximum,
    mean_interval,
    paired_peak,
    plain_peak,
    points_lost,
    positive_area_floor,
    regression_adjusted,
    regret_interval,
    sign_flip_p,
    split_half_lowest,
    split_half_regret,
    time_weights,
)
from betastar.maths.statistics import LEVEL, Interval, pearson
from betastar.maths.verdict import UNMOVED, Evidence, Measured, Verdict, verdict
from betastar.randomness import numpy_generator

PP = 100.0  # percentage points in one; of a true reward that is a score, hundredths of its unit
NEEDS_ANSWERS = "it needs single answers, and only means are known"
UNKNOWN_NOISE = (
    "the noise of a mean is unknown: neither the number of responses is logged nor are there enough points to see it"
)
TWO_POINTS = "an outcome needs two evaluation points, there is one"
NO_MEAN = "a mean reward is undefined at some evaluation point"
INDEPENDENT = "from means: errors taken as independent"


def _unusable(run: Trajectory) -> Undefined | None:
    """Why the course of the true reward has no outcome, if it has none."""
    if len(run.steps) < 2:
        return Undefined(TWO_POINTS)
    unknown = np.isnan(run.column("true_strict"))
    if unknown.all():
        return Undefined(NO_TRUTH)
    return Undefined(NO_MEAN) if unknown.any() else None


def _scaled(interval: Interval, factor: float = PP) -> Interval:
    return interval._replace(low=interval.low * factor, high=interval.high * factor)


def _of_means(value: float, noise: SeriesNoise, factor: float = math.sqrt(2)) -> Interval:
    """Interval of a difference of two means with this noise each."""
    if math.isnan(noise.deviation):
        return Interval(math.nan, math.nan, UNKNOWN_NOISE)
    reach = factor * noise.deviation * _quantile(noise)
    return Interval(value - reach, value + reach, None, LEVEL, INDEPENDENT)


def _quantile(noise: SeriesNoise) -> float:
    tail = (1 + LEVEL) / 2
    return float(stats.norm.ppf(tail) if math.isinf(noise.freedom) else stats.t.ppf(tail, noise.freedom))


# The truth: its change, its best step, and what was lost.


@computes("end_change", "end_change_lenient")
def _end_change(run: Trajectory, name: str) -> Value:
    lenient = name.endswith("lenient")
    if unusable := _unusable(run):
        return unusable
    by_problem = run.lenient if lenient else run.truth
    size = 1.0 if run.share else 0.0
    if by_problem is not None:
        change = by_problem[-1] - by_problem[0]
        return Estimate(PP * float(change.mean()), _scaled(mean_interval(change, size=size)))
    means = run.column("true_lenient" if lenient else "true_strict")
    value = float(means[-1] - means[0])
    if math.isnan(value):
        return Undefined("a lenient grade is not logged at the start and the end")
    return Estimate(PP * value, _scaled(_of_means(value, run.truth_noise)))


@computes("end_change_p")
def _end_change_p(run: Trajectory) -> Value:
    if unusable := _unusable(run):
        return unusable
    if run.truth is not None:
        p = sign_flip_p(run.truth[-1] - run.truth[0])
        return Undefined("all problems changed by the same amount: their spread is unknown") if math.isnan(p) else p
    means, noise = run.column("true_strict"), run.truth_noise
    if math.isnan(noise.deviation):
        return Undefined(UNKNOWN_NOISE)
    change = abs(means[-1] - means[0])
    if noise.deviation == 0:
        return 1.0 if change == 0 else Undefined("the true reward shows no noise to hold the change against")
    ratio = change / (math.sqrt(2) * noise.deviation)
    return float(2 * (stats.norm.sf(ratio) if math.isinf(noise.freedom) else stats.t.sf(ratio, noise.freedom)))


@once
def _peak(run: Trajectory) -> Peak:
    """The plain best step, and what was lost since."""
    if run.truth is not None:
        return paired_peak(run.truth, numpy_generator(0, "peak of the truth"))
    return plain_peak(run.column("true_strict"), *run.truth_noise)


@once
def _halves(run: Trajectory) -> Regret | None:
    """The same without the luck of the best step; None without single answers."""
    if run.truth is None:
        return None
    return split_half_regret(run.truth, numpy_generator(0, "halves of the problems"))


@computes("regret")
def _regret(run: Trajectory) -> Value:
    if unusable := _unusable(run):
        return unusable
    halves, peak = _halves(run), _peak(run)
    if halves is not None:
        interval = regret_interval(halves, size=1.0 if run.share else 0.0)
        return Estimate(PP * halves.value, _scaled(interval), Floor(0.0, "chosen on one half of the problems"))
    return Estimate(PP * peak.fall, _scaled(_since(peak)), _luck(PP * peak.floor))


def _since(peak: Peak) -> Interval:
    """Interval of the fall since the peak, simultaneous for all steps."""
    if math.isnan(peak.low):
        return Interval(math.nan, math.nan, UNKNOWN_NOISE)
    return Interval(peak.low, 2 * peak.fall - peak.low, None, LEVEL, "simultaneous for all steps against the end")


def _luck(value: float) -> Floor:
    """What the best of several noisy points owes to luck, were the truth the same at all of them."""
    known = not math.isnan(value)
    return Floor(value, "mean of the largest difference that noise alone gives", None if known else UNKNOWN_NOISE)


@computes("turnover_step")
def _turnover_step(run: Trajectory) -> Value:
    return _unusable(run) or int(run.steps[_peak(run).at])


@computes("turnover_proxy")
def _turnover_proxy(run: Trajectory) -> Value:
    return _unusable(run) or float(run.column("proxy")[_peak(run).at])


@computes("turnover_distance")
def _turnover_distance(run: Trajectory) -> Value:
    if unusable := _unusable(run):
        return unusable
    kl = float(run.column("kl")[_peak(run).at])
    # The mean of log-ratios is unbiased and may be negative where the policy has hardly moved.
    return Undefined("KL is not logged at that step") if math.isnan(kl) else math.sqrt(max(kl, 0.0))


@computes("true_peak")
def _true_peak(run: Trajectory) -> Value:
    return _unusable(run) or float(run.column("true_strict")[_peak(run).at])


@computes("since_peak")
def _since_peak(run: Trajectory) -> Value:
    if unusable := _unusable(run):
        return unusable
    peak = _peak(run)
    fall = _since(peak)
    turned = fall._replace(low=0.0 - PP * fall.high, high=0.0 - PP * fall.low)
    return Estimate(0.0 - PP * peak.fall, turned, _luck(0.0 - PP * peak.floor))


@computes("since_peak_p")
def _since_peak_p(run: Trajectory) -> Value:
    if unusable := _unusable(run):
        return unusable
    p = _peak(run).p
    return Undefined(UNKNOWN_NOISE) if math.isnan(p) else p


@computes("true_lowest")
def _true_lowest(run: Trajectory) -> Value:
    means = run.column("true_strict")
    if np.isnan(means).all():
        return Undefined("not logged")
    if run.truth is not None and len(run.steps) > 1:
        lowest = split_half_lowest(run.truth, numpy_generator(0, "halves of the problems"))
        return Estimate(_within(lowest, run), None, Floor(0.0, "chosen on one half of the problems"))
    noise = run.truth_noise.deviation
    return Estimate(float(np.nanmin(means)), None, _luck(-noise * expected_maximum(len(means))))


def _within(value: float, run: Trajectory) -> float:
    """An unbiased estimate of a share can leave 0 to 1 by rounding."""
    return min(max(value, 0.0), 1.0) if run.share else value


@computes("points_lost")
def _points_lost(run: Trajectory) -> Value:
    if unusable := _unusable(run):
        return unusable
    value = points_lost(run.steps, run.column("true_strict"))
    repeat = _repeat(run, "truth")
    span = float(run.steps[-1] - run.steps[0])
    floor = repeat._replace(value=PP * positive_area_floor(run.steps, repeat.value) / span)
    if run.truth is None:
        return Estimate(PP * value, Interval(math.nan, math.nan, NEEDS_ANSWERS), floor)
    weights = time_weights(run.steps) / span
    below = run.truth.mean(axis=1) < run.truth[0].mean()
    interval = mean_interval((weights * below) @ (run.truth[0] - run.truth))
    return Estimate(PP * value, _scaled(interval), floor)


# Areas of the gap in each of its forms.


@computes("augc_standardised", "augc_paper", "augc_common")
def _augc(run: Trajectory, name: str) -> Value:
    form = name.removeprefix("augc_")
    area = area_under_positive_gap(run.steps, run.gap[form])
    if math.isnan(area):
        return Undefined(run.undefined[form] or "an area needs at least two evaluation points")
    return _with_noise(run, form, area, run.gap[form] > 0, positive_area_floor)


@computes("gap_area_standardised", "gap_area_paper", "gap_area_common")
def _gap_area(run: Trajectory, name: str) -> Value:
    form = name.removeprefix("gap_area_")
    gap = run.gap[form]
    if len(gap) < 2 or np.isnan(gap).any():
        return Undefined(run.undefined[form] or "an area needs at least two evaluation points")
    area = float(time_weights(run.steps) @ gap)
    return _with_noise(run, form, area, np.ones(len(gap), dtype=bool), area_floor)


def _with_noise(
    run: Trajectory, form: str, area: float, counted: np.ndarray, floor: Callable[[Array, float], float]
) -> Estimate:
    """An area with its interval over problems, the scale of the gap taken as known, and with its floor."""
    repeat = _repeat(run, form)
    least = repeat._replace(value=floor(run.steps, repeat.value))
    scale = run.scales[form]
    if run.truth is None or run.proxy is None:
        return Estimate(area, Interval(math.nan, math.nan, NEEDS_ANSWERS), least)
    gaps = (run.proxy - run.proxy[0]) / scale.proxy - (run.truth - run.truth[0]) / scale.truth
    return Estimate(area, mean_interval((time_weights(run.steps) * counted) @ gaps), least)


def _repeat(run: Trajectory, form: str) -> Floor:
    """Standard deviation of a difference between two evaluations of one policy, of the gap in a form or of the truth:
    from the checkpoint's two evaluations (A/A), by problem or over the variant's conditions, else from the noise of a
    mean."""
    scale = run.scales.get(form)
    if run.again is not None:
        proxy, truth = run.again
        difference = truth if scale is None else proxy / scale.proxy - truth / scale.truth
        method = "A/A, by problem"
        return Floor(float(difference.std(ddof=1)) / math.sqrt(difference.size), method)
    pooled = run.repeats.get(form, math.nan)
    if not math.isnan(pooled):
        return Floor(pooled, "A/A, over the conditions of the variant")
    proxy, truth = run.proxy_noise.deviation, run.truth_noise.deviation
    single = truth if scale is None else math.hypot(proxy / scale.proxy, truth / scale.truth)
    if math.isnan(single):
        return Floor(math.nan, None, "the checkpoint was not evaluated twice, and the noise of a mean is unknown")
    return Floor(math.sqrt(2) * single, INDEPENDENT)


# Proxy against truth.


@computes("proxy_truth_correlation")
def _proxy_truth_correlation(run: Trajectory) -> Value:
    if run.grid is None:
        return Undefined(NEEDS_ANSWERS)
    proxy, truth = run.grid.proxy[0], run.grid.strict[0]
    known = ~(np.isnan(proxy) | np.isnan(truth))
    r = pearson(proxy[known], truth[known])
    if math.isnan(r):
        return Undefined("proxy or truth is the same for all responses at the start")
    n = int(known.any(axis=1).sum())  # answers to one problem count as one: that is on the safe side
    if abs(r) == 1 or n < 4:
        return Estimate(r, Interval(math.nan, math.nan, "Fisher's interval needs four problems and |r| < 1"))
    centre, reach = math.atanh(r), float(stats.norm.ppf((1 + LEVEL) / 2)) / math.sqrt(n - 3)
    method = "Fisher's z over problems"
    return Estimate(r, Interval(math.tanh(centre - reach), math.tanh(centre + reach), None, LEVEL, method))


class _Rises(NamedTuple):
    """Rise of each reward from start to end in standard deviations at the start, and of both by problem, if known."""

    proxy: float
    truth: float
    by_problem: tuple[Array, Array] | None


def _rises(run: Trajectory) -> _Rises | Undefined:
    if unusable := _unusable(run):
        return unusable
    scale = run.scales["standardised"]
    if run.undefined["standardised"] is not None:
        return Undefined(run.undefined["standardised"])
    proxy, truth = run.column("proxy"), run.column("true_strict")
    by_problem = None
    if run.proxy is not None and run.truth is not None:
        by_problem = (run.proxy[-1] - run.proxy[0]) / scale.proxy, (run.truth[-1] - run.truth[0]) / scale.truth
    return _Rises((proxy[-1] - proxy[0]) / scale.proxy, (truth[-1] - truth[0]) / scale.truth, by_problem)


@computes("gap_adjusted_end", "departure_end")
def _adjusted(run: Trajectory, name: str) -> Value:
    correlation = _proxy_truth_correlation(run)
    if not isinstance(correlation, Estimate):
        return correlation
    rises = _rises(run)
    if isinstance(rises, Undefined):
        return rises
    r = correlation.value
    found = regression_adjusted(rises.proxy, rises.truth, r)
    value = found.gap if name == "gap_adjusted_end" else found.departure
    if math.isnan(value):
        return Undefined("proxy and truth are one at the start: |r| is 1")
    assert rises.by_problem is not None  # there is a correlation only where there are single answers
    proxy, truth = rises.by_problem
    of_each = r * proxy - truth if name == "gap_adjusted_end" else (proxy - r * truth) / math.sqrt(1 - r**2)
    return Estimate(float(value), mean_interval(of_each))


@computes("ranking_start", "ranking_end")
def _ranking(run: Trajectory, name: str) -> Value:
    at = 0 if name == "ranking_start" else -1
    if run.grid is not None and run.grid.proxy.shape[2] > 1:
        areas = within_problem_auroc(run.grid.proxy[at], run.grid.strict[at])
        areas = areas[~np.isnan(areas)]
        if areas.size:
            return Estimate(float(areas.mean()), mean_interval(areas))
        return Undefined("no problem has both a right and a wrong answer there")
    logged = run.column("ranking")[at] if "ranking" in run.points else math.nan
    if not math.isnan(logged):
        return float(logged)
    return Undefined("a ranking within problems needs two answers to a problem (evaluation.answers)")


# The verdict.


@computes("verdict")
def _verdict(run: Trajectory) -> Value:
    return _unusable(run) or _judged(run).word


@computes("verdict_reason")
def _verdict_reason(run: Trajectory) -> Value:
    return _unusable(run) or _judged(run).reason


@once
def _judged(run: Trajectory) -> Verdict:
    change, regret = _end_change(run, "end_change"), _regret(run)
    peak = _peak(run).at
    correlation, rises = _proxy_truth_correlation(run), _rises(run)
    promised = math.nan
    if isinstance(correlation, Estimate) and isinstance(rises, _Rises):
        promised = PP * correlation.value * rises.proxy * run.scales["standardised"].truth
    return verdict(
        Evidence(
            change=_measured(change),
            regret=_measured(regret),
            rise=_proxy_rise(run, 0),
            rise_since=_proxy_rise(run, peak),
            peak_step=float(run.steps[peak]),
            promised=promised,
            proxy_is_truth=run.is_the_truth,
            unmoved=UNMOVED if run.share else _tenth(run.start("true_std")),
        )
    )


def _tenth(deviation: float) -> float:
    """Of a score: a tenth of its standard deviation, as 5 points are of a share of one half. 0 if it is unknown."""
    return 0.0 if math.isnan(deviation) else PP * deviation / 10


def _measured(value: Value) -> Measured:
    if not isinstance(value, Estimate) or value.interval is None:
        return Measured(math.nan, math.nan, math.nan)
    return Measured(value.value, value.interval.low, value.interval.high)


def _proxy_rise(run: Trajectory, since: int) -> Measured:
    """Of the proxy, from a point to the end, in its own unit."""
    if run.proxy is not None:
        rise = run.proxy[-1] - run.proxy[since]
        interval = mean_interval(rise)
        if math.isnan(interval.low) and rise.size > 1:  # the same rise for every problem
            interval = Interval(float(rise[0]), float(rise[0]))
        return Measured(float(rise.mean()), interval.low, interval.high)
    proxy = run.column("proxy")
    rise = float(proxy[-1] - proxy[since])
    interval = _of_means(rise, run.proxy_noise)
    return Measured(rise, interval.low, interval.high)
