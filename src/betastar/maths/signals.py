"""Does a signal warn of a fall of the true reward? Events ahead, later correlation, area under ROC, alarms.

A series holds one run's evaluation points, the first of which is t=0. Points of many runs are pooled in blocks, one per
seed, because the runs of a seed share prompts, data order and sampling noise: intervals leave blocks out whole.
"""

from __future__ import annotations

from collections.abc import Callable
from math import floor, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from .statistics import LEVEL, Interval, pearson

FALSE_ALARM_RATE = 0.1
"""Share of quiet runs that may leave the band at some point."""

REPEAT_DEVIATIONS = 3
"""Half-width of the band in standard deviations of repeated evaluations of one policy: a normal deviation is larger
with probability 0.27 %, so that 40 of them hold one with probability of at most 11 %."""


class Contests(NamedTuple):
    """Every pair of a point before an event and a point before none, counted by their blocks, both [S, S].

    `pairs[a, b]`: pairs with the event in block a and the other point in block b. `won`: those in which the event point
    has the higher score; ties count one half.
    """

    won: NDArray[np.float64]
    pairs: NDArray[np.float64]


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


def later_correlation(signal: ArrayLike, gap: ArrayLike, lag: int) -> float:
    """Spearman's ρ of `signal` [T] with `gap` [T] `lag` points later, within one run.

    Ranks, not values: the gap of a run that hacks can grow tenfold between two points, and Pearson's r would then speak
    of those two alone; and signals come in units (nats, tokens, shares near 0 or 1) that are not linear in each other.
    Pairs with an undefined value are left out. NaN with fewer than three pairs or a constant side. Raises ValueError
    for a lag below 1 or unequal shapes.
    """
    first, second = np.asarray(signal, dtype=np.float64), np.asarray(gap, dtype=np.float64)
    if lag < 1 or first.shape != second.shape:
        raise ValueError(f"lag must be at least 1 and shapes equal, got {lag}, {first.shape} and {second.shape}")
    now, later = first[:-lag], second[lag:]
    defined = np.isfinite(now) & np.isfinite(later)
    if defined.sum() < 3:
        return float("nan")
    return pearson(_midranks(now[defined]), _midranks(later[defined]))


def contests(score: ArrayLike, event: ArrayLike, block: ArrayLike) -> Contests:
    """Contests between the points of `score` [N] with `event` [N] 1 and those with 0, by the S distinct values of
    `block` [N] in ascending order. No value may be NaN."""
    scores, events = np.asarray(score, dtype=np.float64), np.asarray(event, dtype=np.float64) > 0
    names, home = np.unique(np.asarray(block), return_inverse=True)

    def by_block(points: NDArray[np.bool_], weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        return np.bincount(home[points], weights, minlength=names.size).astype(np.float64)

    won = np.zeros((names.size, names.size))
    for b in range(names.size):
        others = np.sort(scores[~events & (home == b)])
        below = np.searchsorted(others, scores[events], "left") + np.searchsorted(others, scores[events], "right")
        won[:, b] = by_block(events, below / 2)
    return Contests(won, np.outer(by_block(events), by_block(~events)))


def roc_area(found: Contests, counts: ArrayLike) -> NDArray[np.float64]:
    """[R] areas under the ROC curve with every block taken `counts` [R, S] times: won pairs over all pairs (the
    Mann–Whitney statistic). NaN where there is no pair. Counts of 1 give the area itself."""
    taken = np.asarray(counts, dtype=np.float64)
    won, pairs = (((taken @ table) * taken).sum(axis=1) for table in found)
    return np.divide(won, pairs, out=np.full(won.shape, np.nan), where=pairs > 0)


def block_mean(values: ArrayLike, block: ArrayLike, counts: ArrayLike) -> NDArray[np.float64]:
    """[R] means of `values` [N], each taken as often as `counts` [R, S] says of its block; S distinct values of `block`
    [N] in ascending order. NaN where none is taken."""
    _, home = np.unique(np.asarray(block), return_inverse=True)
    weight = np.asarray(counts, dtype=np.float64)[:, home]
    total = weight.sum(axis=1)
    return np.divide(weight @ np.asarray(values), total, out=np.full(total.shape, np.nan), where=total > 0)


def jackknife_interval(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]], n_blocks: int, bounds: tuple[float, float]
) -> Interval:
    """95 % interval of a statistic of S = `n_blocks` blocks, cut to `bounds`, the range that the statistic has:
    Student's t with S − 1 degrees of freedom, the standard error from leaving out one block at a time.

    `statistic`: how often to take each block, [R, S], to values [R]; the difference of two is a paired one. The
    percentile bootstrap of whole seeds calls noise a warning far too often where seeds are few: measured side by side
    in docs/warning_signs.md. NaN with a reason for one block, or where a value is undefined without one of them.
    """
    if n_blocks < 2:
        return Interval(np.nan, np.nan, "an interval over seeds needs two seeds")
    value, without = statistic(np.ones((1, n_blocks)))[0], statistic(1 - np.eye(n_blocks))
    if np.isnan(without).any():
        return Interval(np.nan, np.nan, "it depends on a single seed and is undefined without it")
    error = sqrt((n_blocks - 1) / n_blocks * ((without - without.mean()) ** 2).sum())
    reach = float(stats.t.ppf((1 + LEVEL) / 2, n_blocks - 1)) * error
    low, high = np.clip([value - reach, value + reach], *bounds)
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


def _midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks 1..n, ties sharing the mean of theirs."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1) / 2
