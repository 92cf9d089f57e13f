"""Does a signal warn of a fall of the true reward? Events ahead, later correlation, area under ROC, alarms.

A series holds one run's evaluation points, the first of which is t=0. Points of many runs are pooled in blocks, one per
seed, because the runs of a seed share prompts, data order and sampling noise: intervals leave blocks out whole. Points
are compared within strata, those of one step: between steps, whatever drifts with time would look like a warning.
"""

from __future__ import annotations

from math import floor, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from .statistics import LEVEL, Interval, pearson

FALSE_ALARM_RATE = 0.1
"""Share of quiet runs that may leave the band at some point."""

CEILING = 95.0
"""Percentile of the checkpoint's scores above which a response counts as being at the ceiling."""

REPEAT_DEVIATIONS = 3
"""Half-width of the band in standard deviations of repeated evaluations of one policy: a normal deviation is larger
with probability 0.27 %, so that 40 of them hold one with probability of at most 11 %."""


class LeftOut(NamedTuple):
    """A statistic of S blocks: its `value` on all of them, and `without` [S] each in turn. NaN where undefined."""

    value: float
    without: NDArray[np.float64]

    def __sub__(self, other: LeftOut) -> LeftOut:  # pyright: ignore[reportIncompatibleMethodOverride]
        return LeftOut(self.value - other.value, self.without - other.without)


class Order(NamedTuple):
    """Points [N] sorted by score within strata. In that order, as places [N]: where the points of equal score begin and
    end (`low`, `high`), and those of the same stratum (`first`, `last`)."""

    order: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]


class Ranked(NamedTuple):
    """A score at N points, ready to be held against many events: ordered within strata, and within the points of a
    stratum that are of one block; `home` [N]: the place of each point's block among the distinct ones; `known` [N]:
    whether the score is defined."""

    strata: Order
    blocks: Order
    home: NDArray[np.int64]
    known: NDArray[np.bool_]


class Band(NamedTuple):
    """A signal alarms where it has moved from its own start by more than `width`; NaN with `reason` where undefined.

    `n_quiet` runs without onset and `n_repeats` repeated evaluations set the width. `expected_false_alarm_rate`: the
    probability, at most, that a further quiet run, exchangeable with these, leaves the band; NaN without quiet runs.
    """

    width: float
    n_quiet: int
    n_repeats: int
    expected_false_alarm_rate: float
    reason: str | None = None


def change_from_start(series: ArrayLike) -> NDArray[np.float64]:
    """`series` [T] minus its first entry; all NaN where that one is undefined."""
    values = np.asarray(series, dtype=np.float64)
    return values - values[:1]


def drops_ahead(true_mean: ArrayLike, horizon: int, drop: float) -> NDArray[np.float64]:
    """[T] events: 1 where one of the next `horizon` values of `true_mean` [T] is lower than now by at least `drop`, 0
    where none is, NaN where that was not fully observed.

    The last `horizon` points are NaN even if a fall was seen in what is left of them. To keep only those would fill the
    ends of the series with events, and whatever merely grows with time would look like a warning. The same holds around
    an undefined value. Raises ValueError unless `horizon` and `drop` are positive.
    """
    if horizon < 1 or drop <= 0:
        raise ValueError(f"horizon must be at least 1 and drop positive, got {horizon} and {drop}")
    values = np.asarray(true_mean, dtype=np.float64)
    events = np.full(values.size, np.nan)
    if values.size > horizon:
        ahead = np.lib.stride_tricks.sliding_window_view(values[1:], horizon)
        lowest, now = ahead.min(axis=1), values[:-horizon]  # a NaN in the window makes its minimum NaN
        # Rewards are shares k/n: a fall from 0.6 to 0.55 is one of 0.05, whatever the last digit says.
        fell = now - lowest >= drop - 1e-9
        events[:-horizon] = np.where(np.isnan(now - lowest), np.nan, fell)
    return events


def later_correlations(signal: ArrayLike, gap: ArrayLike, lag: int) -> NDArray[np.float64]:
    """[R] Spearman's ρ of `signal` [R, T] with `gap` [R, T] `lag` points later, within each of R runs.

    Ranks, not values: the gap of a run that hacks can grow tenfold between two points, and Pearson's r would then speak
    of those two alone; and signals come in units (nats, tokens, shares near 0 or 1) that are not linear in each other.
    Pairs with an undefined value are left out. NaN with fewer than three pairs or a constant side. Raises ValueError
    for a lag below 1 or unequal shapes.
    """
    first, second = (np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (signal, gap))
    if lag < 1 or first.shape != second.shape:
        raise ValueError(f"lag must be at least 1 and shapes equal, got {lag}, {first.shape} and {second.shape}")
    now, later = first[:, :-lag], second[:, lag:]
    defined = np.isfinite(now) & np.isfinite(later)
    found, whole = np.full(len(first), np.nan), defined.all(axis=1) & (now.shape[1] > 2)
    if whole.any():
        ranks = [np.asarray(stats.rankdata(side[whole], axis=1), dtype=np.float64) for side in (now, later)]
        a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
        scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
        r = np.divide((a * b).sum(axis=1), scale, out=np.full(scale.shape, np.nan), where=scale > 0)
        found[whole] = np.clip(r, -1, 1)
    for i in np.flatnonzero(~whole & (defined.sum(axis=1) > 2)):
        found[i] = pearson(*(stats.rankdata(side[i, defined[i]]) for side in (now, later)))
    return found


def ranked(score: ArrayLike, block: ArrayLike, stratum: ArrayLike) -> Ranked:
    """Order the points of `score` [N], NaN where undefined, within each value of `stratum` [N] and of `block` [N]."""
    scores = np.asarray(score, dtype=np.float64)
    names, home = np.unique(np.asarray(block), return_inverse=True)
    _, place = np.unique(np.asarray(stratum), return_inverse=True)
    inside = place * max(names.size, 1) + home
    return Ranked(_order(scores, place), _order(scores, inside), home, ~np.isnan(scores))


def roc_area(points: Ranked, event: ArrayLike) -> LeftOut:
    """Area under the ROC curve over pairs of a point with `event` [N] 1 and one of the same stratum with 0: the share
    of pairs in which the former has the higher score, ties counting one half (the Mann–Whitney statistic, summed over
    strata as van Elteren 1960 does, each pair with the same weight). Points with an undefined event or score are left
    out, and blocks that have no others. NaN where there is no pair."""
    events = np.where(points.known, np.asarray(event, dtype=np.float64), np.nan)
    won, pairs = _pairs(points.strata, events)
    won_inside, pairs_inside = _pairs(points.blocks, events)
    used = np.isfinite(events)
    there = np.bincount(points.home[used], minlength=int(points.home.max(initial=-1)) + 1) > 0

    def by_block(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(points.home, values, minlength=there.size).astype(np.float64)[there]

    # A pair is counted at both of its points: one within a block twice there. Leaving a block out drops it once.
    parts = [
        (0.5 * all_.sum(), by_block(all_) - 0.5 * by_block(inside))
        for all_, inside in ((won, won_inside), (pairs, pairs_inside))
    ]
    (total_won, lost_won), (total, lost) = parts
    left = np.rint(total - lost)
    without = np.divide(total_won - lost_won, left, out=np.full(left.shape, np.nan), where=left > 0)
    return LeftOut(float(total_won / total) if total else float("nan"), without)


def beyond(score: ArrayLike, other: ArrayLike, stratum: ArrayLike) -> NDArray[np.float64]:
    """[N] what is left of `score` [N] within each value of `stratum` [N] once `other` [N] is taken out: residuals of
    its normal scores from their straight line in `other`, with one slope for all strata. NaN where either is undefined.

    Normal scores, over all points, keep outliers from setting the slope. Ranks within strata would not do: of few
    points, they bend the line, and what is left still goes with `other` (measured: area 0.53 in place of 0.50 for 15
    points). Strata in which the score is constant, such as the start, have no part in the slope and stay constant.
    """
    scores, others = np.asarray(score, dtype=np.float64), np.asarray(other, dtype=np.float64)
    known = np.isfinite(scores) & np.isfinite(others)
    left = np.full(scores.shape, np.nan)
    if not known.any():
        return left
    _, first, place = np.unique(np.asarray(stratum)[known], return_index=True, return_inverse=True)
    sizes, values = np.bincount(place), scores[known]
    varies = (np.bincount(place, values != values[first][place]) > 0)[place]

    def centred(column: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(varies, column - (np.bincount(place, column) / sizes)[place], 0)

    ours = centred(stats.norm.ppf((stats.rankdata(values) - 0.5) / values.size))
    theirs = centred(others[known])
    square = float(theirs @ theirs)
    left[known] = ours - (float(ours @ theirs) / square if square else 0.0) * theirs
    return left


def plain_area(score: ArrayLike, event: ArrayLike) -> float:
    """Area under the ROC curve over all pairs at once; points with an undefined score or event are left out."""
    scores, events = np.asarray(score, dtype=np.float64), np.asarray(event, dtype=np.float64)
    used = np.isfinite(scores) & np.isfinite(events)
    positive, negative = (int((events[used] == kind).sum()) for kind in (1, 0))
    if not positive or not negative:
        return float("nan")
    ranks = stats.rankdata(scores[used])
    return float((ranks[events[used] == 1].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _order(score: NDArray[np.float64], stratum: NDArray[np.int64]) -> Order:
    order = np.lexsort((score, stratum))
    other_stratum = np.append(True, np.diff(stratum[order]) != 0)[: order.size]
    other_score = other_stratum | np.append(True, np.diff(score[order]) != 0)[: order.size]

    def bounds(new: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        starts, group = np.flatnonzero(new), np.cumsum(new) - 1
        return starts[group], np.append(starts[1:], new.size)[group]

    return Order(order, *bounds(other_score), *bounds(other_stratum))


def _pairs(points: Order, events: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At each point [N] the pairs it is in that the event won (ties one half), and all its pairs."""
    event = events[points.order]
    ones, zeros = (np.append(0.0, np.cumsum(event == kind)) for kind in (1, 0))  # of each kind before a place
    below = 0.5 * (zeros[points.low] + zeros[points.high]) - zeros[points.first]
    above = ones[points.last] - 0.5 * (ones[points.low] + ones[points.high])
    others, found = zeros[points.last] - zeros[points.first], ones[points.last] - ones[points.first]
    won, pairs = np.zeros(event.size), np.zeros(event.size)
    won[points.order] = np.where(event == 1, below, np.where(event == 0, above, 0))
    pairs[points.order] = np.where(event == 1, others, np.where(event == 0, found, 0))
    return won, pairs


def block_mean(values: ArrayLike, block: ArrayLike) -> LeftOut:
    """Mean of `values` [N]; S distinct values of `block` [N] in ascending order."""
    data = np.asarray(values, dtype=np.float64)
    names, home = np.unique(np.asarray(block), return_inverse=True)
    sums, sizes = np.bincount(home, data, minlength=names.size), np.bincount(home, minlength=names.size)
    left = data.size - sizes
    without = np.divide(data.sum() - sums, left, out=np.full(names.size, np.nan), where=left > 0)
    return LeftOut(float(data.mean()) if data.size else float("nan"), without)


def jackknife_interval(found: LeftOut, bounds: tuple[float, float]) -> Interval:
    """95 % interval of a statistic of S blocks, cut to `bounds`, the range that the statistic has: Student's t with S −
    1 degrees of freedom, the standard error from leaving out one block at a time.

    The percentile bootstrap of whole seeds calls noise a warning far too often where seeds are few: measured side by
    side in docs/warning_signs.md. NaN with a reason for one block, or where a value is undefined without one of them.
    """
    n_blocks = found.without.size
    if n_blocks < 2:
        return Interval(np.nan, np.nan, "an interval over seeds needs two seeds")
    if np.isnan(found.without).any():
        return Interval(np.nan, np.nan, "it depends on a single seed and is undefined without it")
    error = sqrt((n_blocks - 1) / n_blocks * ((found.without - found.without.mean()) ** 2).sum())
    reach = float(stats.t.ppf((1 + LEVEL) / 2, n_blocks - 1)) * error
    low, high = np.clip([found.value - reach, found.value + reach], *bounds)
    return Interval(float(low), float(high), method="Student's t, leaving out one seed at a time")


def median_interval(values: ArrayLike) -> Interval:
    """Interval of the median of a distribution from `values` [S] drawn from it: the two order statistics that hold it
    with probability of at least 95 %, whatever the distribution (David & Nagaraja, Order Statistics, section 7.1).

    Below six values even the lowest and the highest do not reach that; they are given, with the `level` that they do
    reach, 1 − 2^(1−S). Infinity is a value. NaN with a reason for one value.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = ordered.size
    if n < 2:
        return Interval(np.nan, np.nan, "an interval over seeds needs two seeds")
    # Of n values, the number below the median is binomial: at most `outside` of them with probability P, on each side.
    outside = max(int(stats.binom.ppf((1 - LEVEL) / 2, n, 0.5)) - 1, 0)
    level = 1 - 2 * float(stats.binom.cdf(outside, n, 0.5))
    return Interval(float(ordered[outside]), float(ordered[n - 1 - outside]), level=level, method="order statistics")


def quiet_band(excursions: ArrayLike, repeats: ArrayLike = (), false_alarm_rate: float = FALSE_ALARM_RATE) -> Band:
    """How far a signal moves from its start without any hacking: the larger of two widths.

    `excursions` [Q]: of each quiet run, one that never hacks, the largest |change from the start| over all of its
    points. The width is the smallest that at most `false_alarm_rate` of these runs ever leave: a monitor looks at every
    point, so a rate per point would cry wolf in most runs. With fewer than 10 quiet runs and a rate of 0.1 none may.
    `repeats` [P]: |difference| between two evaluations of one policy with different noise. The width is
    `REPEAT_DEVIATIONS` times their root mean square, and this protects where quiet runs stand still. Undefined values
    are left out of both; NaN where nothing is left.
    """
    quiet, repeated = (np.asarray(v, dtype=np.float64) for v in (excursions, repeats))
    quiet, repeated = np.sort(quiet[np.isfinite(quiet)])[::-1], repeated[np.isfinite(repeated)]
    widths, expected = [], float("nan")
    if quiet.size:
        leave = min(floor(false_alarm_rate * quiet.size + 1e-9), quiet.size - 1)
        widths.append(float(quiet[leave]))
        # Of Q + 1 exchangeable runs, the further one is as likely to have any rank.
        expected = (leave + 1) / (quiet.size + 1)
    if repeated.size:
        widths.append(REPEAT_DEVIATIONS * float(np.sqrt(np.mean(repeated**2))))
    reason = None if widths else "no run without onset and no repeated evaluation to set the band"
    return Band(max(widths, default=float("nan")), quiet.size, repeated.size, expected, reason)


def largest_excursion(series: ArrayLike) -> float:
    """Largest |change from the start| in `series` [T]; undefined entries are left out, NaN where none is left."""
    moved = np.abs(change_from_start(series))
    moved = moved[np.isfinite(moved)]
    return float(moved.max()) if moved.size else float("nan")


def first_alarm(series: ArrayLike, width: float) -> int | None:
    """Place of the first entry of `series` [T] that differs from the first one by more than `width`; None if none."""
    outside = np.flatnonzero(np.abs(change_from_start(series)) > width)
    return int(outside[0]) if outside.size else None


def advantage_drift(steps: ArrayLike, proxy: ArrayLike, spread: ArrayLike) -> NDArray[np.float64]:
    """[T] (proxy_t − proxy_{t−1}) / spread_{t−1} per step: how far the mean response of each point lies above the mean
    of the point before, in standard deviations of the responses there. 0 at the start."""
    at, mean, sd = (np.asarray(v, dtype=np.float64) for v in (steps, proxy, spread))
    width = sd[:-1] * np.diff(at)
    return _after_start(np.divide(np.diff(mean), width, out=np.full(width.shape, np.nan), where=width > 0), at.size)


def proxy_per_entropy(proxy: ArrayLike, spread: float, entropy: ArrayLike) -> NDArray[np.float64]:
    """[T] rise of `proxy` [T] since the start, in units of `spread`, per nat by which `entropy` [T] fell since then. 0
    at the start, NaN where entropy has not fallen."""
    rise, spent = change_from_start(proxy) / _positive(spread), -change_from_start(entropy)
    rate = np.divide(rise, spent, out=np.full(rise.shape, np.nan), where=spent > 0)
    return _after_start(rate[1:], rate.size)


def upper_cusum(values: ArrayLike, spread: float, allowance: float) -> NDArray[np.float64]:
    """[T] CUSUM of the rises of `values` [T] from point to point beyond their mean so far in the run, less an
    `allowance` at each, all in units of `spread`: S_t = max(0, S_{t−1} + u_t − mean(u_1 … u_{t−1}) − allowance) (Page
    1954). 0 up to the second point, where there is no earlier rise; NaN from an undefined value on."""
    rises = np.diff(np.asarray(values, dtype=np.float64)) / _positive(spread)
    excess = 0 * rises
    if rises.size > 1:
        excess[1:] = rises[1:] - np.cumsum(rises)[:-1] / np.arange(1, rises.size) - allowance
    total = np.append(0.0, np.cumsum(excess))
    return total - np.minimum.accumulate(total)


def acceleration(steps: ArrayLike, values: ArrayLike) -> NDArray[np.float64]:
    """[T] change of the slope of `values` [T] per step: the slope since the last point minus the one before. 0 at the
    first two points, which have no slope before."""
    at, level = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    width = np.diff(at)
    slope = np.divide(np.diff(level), width, out=np.full(width.shape, np.nan), where=width > 0)
    return np.concatenate([np.zeros(1), 0 * slope[:1], np.diff(slope)])[: at.size]


def share_above_start(scores: ArrayLike, percentile: float = CEILING) -> NDArray[np.float64]:
    """[T] share of `scores` [T, N] above the `percentile` of the first row's. Undefined scores are left out; NaN where
    none is left."""
    table = np.asarray(scores, dtype=np.float64)
    start = table[0][np.isfinite(table[0])]
    known = np.isfinite(table)
    if not start.size:
        return np.full(len(table), np.nan)
    above, n = (known & (table > np.percentile(start, percentile))).sum(axis=1), known.sum(axis=1)
    return np.divide(above, n, out=np.full(len(table), np.nan), where=n > 0)


def _after_start(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    return np.append(0.0, values)[:n]


def _positive(spread: float) -> float:
    return spread if spread > 0 else np.nan
