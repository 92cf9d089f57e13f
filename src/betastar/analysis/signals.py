"""Do the warning signs warn? Each candidate signal against the later gap, the onset and later falls of the true reward.

What each number means and how it was chosen: docs/warning_signs.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from betastar.maths.signals import (
    FALSE_ALARM_RATE,
    Band,
    LeftOut,
    Ranked,
    acceleration,
    advantage_drift,
    beyond,
    block_mean,
    change_from_start,
    drops_ahead,
    first_alarm,
    jackknife_interval,
    largest_excursion,
    later_correlations,
    median_interval,
    plain_area,
    proxy_per_entropy,
    quiet_band,
    ranked,
    roc_area,
    share_above_start,
    upper_cusum,
)
from betastar.maths.statistics import Interval
from betastar.record.answers import Grid
from betastar.record.entries import REGISTRY

HEADLINE_HORIZON = 2
"""The verdict on a signal is read at this horizon, fixed in advance so that nobody picks the best of five."""

UNDEFINED = nan
NEVER = float("-inf")
WARNS, ADDS, NO_BETTER = "warns", "adds to accuracy", "no better than current accuracy"
BEYOND = (ADDS, "adds nothing to accuracy", "adds in the other direction")
OPPONENTS = {"step": "clock", "true_strict": "accuracy", "proxy": "proxy"}
"""The baselines that a signal is compared with, and what they are called in the record."""

WORDS = {
    "clock": ("better than the clock", "no better than the clock", "warns in the other direction"),
    "accuracy": ("better than accuracy", "no better than accuracy", "worse than accuracy"),
    "proxy": ("better than the proxy", "no better than the proxy", "worse than the proxy"),
}


class Signal(NamedTuple):
    """A column of the evaluation points; `direction` +1 where a rise is to warn, −1 where a fall is. `change`: it is
    read as its change since t=0 in its own run; else as it is."""

    name: str
    direction: int
    source: str
    change: bool = True


BASELINES = (
    Signal("constant", +1, "baseline: carries no information, so its area is 0.5"),
    Signal("step", +1, "baseline: the step number; among points of one step it is a constant"),
    Signal(
        "true_strict",
        +1,
        "baseline: current accuracy; measured with noise, a high value tends to be followed by a lower one",
        change=False,
    ),
    Signal("proxy", +1, "baseline: the reward being maximised"),
)

MOST_POINTS, KEPT_POINTS = 50_000, 50
Array = NDArray[np.float64]
Answers = Mapping[tuple[Any, ...], Grid]


def candidates() -> list[Signal]:
    """The measures of a point that the registry names as warning signs."""
    return [Signal(m.name, m.warns, m.warns_because, not m.derived) for m in REGISTRY.signals if m.warns is not None]


def all_signals() -> list[Signal]:
    """Candidates, then baselines."""
    return [*candidates(), *BASELINES]


class Run(NamedTuple):
    """One condition. `gap` and `signals`: [T] by name, all NaN where not measured; `onset`: place of the onset among
    the points; `repeats`: |second evaluation of t=0 − first| by signal name, where it was made."""

    variant: str
    seed: Any
    steps: Array
    true: Array
    gap: Array
    signals: dict[str, Array]
    onset: int | None
    repeats: dict[str, float]


class Points(NamedTuple):
    """All points [N] of a set of runs: the `seed` and the `stratum` (variant and step) of each, its `score` by signal,
    in the direction that is to warn, and whether a fall is ahead (`events`, by horizon; NaN where unknown)."""

    seed: NDArray[Any]
    stratum: NDArray[np.int64]
    score: dict[str, Array]
    events: dict[int, Array]


def warning_signs(
    records: Sequence[Mapping[str, Any]],
    horizons: Iterable[int] = range(1, 6),
    drop: float = 0.05,
    answers: Answers | None = None,
) -> dict[str, Any]:
    """How well each signal warns, by variant and with all runs pooled; `records` as `condition_records` gives them,
    `answers` by (variant, β, seed) for signals that need single answers.

    Of every signal: `later_gap`, Spearman's ρ within runs with the standardised gap h points later; `lead`, how long
    before the onset it leaves the band of quiet runs; `roc`, whether it tells the points after which the strict true
    reward falls by at least `drop` within h points from others of the same step. A signal warns if its area is above
    that of the clock and above that of current accuracy, and adds to accuracy if it still beats the clock once what
    accuracy explains is taken out; intervals keep all runs of a seed together. `verdict` says so at horizon
    `HEADLINE_HORIZON`, and `beats_proxy` whether it also does better than the proxy. What is undefined is NaN with a
    reason. Of long runs only `every` so many-th point is used, and horizons count those. Raises
    ValueError where `horizons` lacks the headline one.
    """
    horizons = tuple(horizons)
    if HEADLINE_HORIZON not in horizons:
        raise ValueError(f"horizons must contain the headline horizon {HEADLINE_HORIZON}, got {horizons}")
    every = _every([len(record["series"]["step"]) for record in records])
    runs = [_run(record, answers or {}, every) for record in records]
    variants = dict.fromkeys(run.variant for run in runs)
    by_variant = {v: _table([run for run in runs if run.variant == v], horizons, drop) for v in variants}
    return {
        "drop": drop,
        "horizons": list(horizons),
        "headline_horizon": HEADLINE_HORIZON,
        "false_alarm_rate": FALSE_ALARM_RATE,
        **({"every": every} if every > 1 else {}),
        "comparisons": len(candidates()) * len(horizons),
        "by_variant": by_variant,
        "pooled": next(iter(by_variant.values())) if len(variants) == 1 else _table(runs, horizons, drop),
    }


def _every(sizes: Sequence[int]) -> int:
    """Of runs with so many points, that every so many-th is used: at most about `MOST_POINTS` together, but at least
    `KEPT_POINTS` of the longest."""
    return max(1, min(-(-sum(sizes) // MOST_POINTS), max(sizes, default=0) // KEPT_POINTS))


def _run(record: Mapping[str, Any], answers: Answers, every: int = 1) -> Run:
    series = record.get("series", {})
    steps = np.asarray(series["step"], dtype=np.float64)[::every]

    def column(name: str) -> Array:
        values = series.get(name)
        return np.full(steps.size, nan) if values is None else np.asarray(values[::every], dtype=np.float64)

    signals = {signal.name: column(signal.name) for signal in all_signals()}
    signals |= {"constant": np.zeros(steps.size), **_derived(record, steps, column, answers)}
    again = record.get("again") or {}
    onset = record.get("onset_step")
    return Run(
        variant=record["variant"],
        seed=record["seed"],
        steps=steps,
        true=column("true_strict"),
        gap=column("gap_standardised"),
        signals=signals,
        onset=None if onset is None else min(int(np.searchsorted(steps, onset)), steps.size - 1),
        repeats={s: abs(again[s] - signals[s][0]) for s in signals if again.get(s) is not None},
    )


def _derived(record: Mapping[str, Any], steps: Array, column: Any, answers: Answers) -> dict[str, Array]:
    """The signals that follow from what is logged."""
    if not steps.size:
        return {m.name: np.zeros(0) for m in REGISTRY.signals if m.derived}
    proxy, spread, n = column("proxy"), column("proxy_std"), record.get("n")
    # Half of the smallest rise worth noticing, as is usual for a CUSUM: here the standard error of a rise.
    allowance = 0.5 * sqrt(2 / n) if n is not None and n > 0 else 0.0
    grid = answers.get((record["variant"], record.get("beta"), record["seed"]))
    ceiling = np.full(steps.size, nan)
    if grid is not None and np.isin(steps, grid.steps).all():
        shares = share_above_start(grid.proxy.reshape(len(grid.steps), -1))
        ceiling = shares[np.searchsorted(grid.steps, steps)]
    return {
        "ceiling_share": ceiling,
        "advantage_drift": advantage_drift(steps, proxy, spread),
        "proxy_per_entropy": proxy_per_entropy(proxy, float(spread[0]), column("response_entropy")),
        "proxy_cusum": upper_cusum(proxy, float(spread[0]), allowance),
        "kl_acceleration": acceleration(steps, column("kl")),
    }


def _missing(signal: Signal, runs: Sequence[Run]) -> str | None:
    """Why no run has the signal. (A derived one is 0 at the start, whatever is logged.)"""
    if any(np.isfinite(run.signals[signal.name][0 if signal.change else 1 :]).any() for run in runs):
        return None
    measure = next((m for m in REGISTRY.signals if m.name == signal.name and m.derived), None)
    return f"these runs have no {signal.name}" + (f"; it needs {measure.needs}" if measure else "")


def _points(runs: Sequence[Run], horizons: Sequence[int], drop: float) -> Points:
    def joined(of: Sequence[Array]) -> Array:
        return np.concatenate([np.zeros(0), *of])

    def read(signal: Signal, run: Run) -> Array:
        series = run.signals[signal.name]
        return signal.direction * (change_from_start(series) if signal.change else series)

    place = {variant: i for i, variant in enumerate(dict.fromkeys(run.variant for run in runs))}
    keys = [joined([np.full(run.steps.size, place[run.variant]) for run in runs]), joined([run.steps for run in runs])]
    _, stratum = np.unique(np.stack(keys), axis=1, return_inverse=True)
    return Points(
        seed=np.concatenate([np.full(run.steps.size, run.seed) for run in runs]),
        stratum=stratum.ravel(),
        score={signal.name: joined([read(signal, run) for run in runs]) for signal in all_signals()},
        events={h: joined([drops_ahead(run.true, h, drop) for run in runs]) for h in horizons},
    )


class Contest:
    """Areas of signals and their opponents. Each signal is sorted once; areas at the same points are kept."""

    def __init__(self, points: Points):
        self.points = points
        self.known = {name: np.isfinite(score) for name, score in points.score.items()}
        self._ranked: dict[str, Ranked] = {}
        self._areas: dict[tuple[str, int, bytes], LeftOut] = {}

    def area(self, name: str, horizon: int, known: NDArray[np.bool_]) -> LeftOut:
        """Of a signal where `known` [N] and the event is."""
        key = name, horizon, known.tobytes()
        if key not in self._areas:
            if name not in self._ranked:
                kept = {other: order for other, order in self._ranked.items() if other in OPPONENTS}
                order = ranked(self.points.score[name], self.points.seed, self.points.stratum)
                self._ranked = {**kept, name: order}
            self._areas[key] = roc_area(self._ranked[name], np.where(known, self.points.events[horizon], nan))
        return self._areas[key]

    def beyond(self, name: str) -> Ranked:
        """What is left of a signal among points of a step once current accuracy is taken out."""
        points = self.points
        left = beyond(points.score[name], points.score["true_strict"], points.stratum)
        return ranked(left, points.seed, points.stratum)


def _table(runs: Sequence[Run], horizons: Sequence[int], drop: float) -> dict[str, Any]:
    """All signals over one set of runs."""
    points = _points(runs, horizons, drop)
    contest, signals = Contest(points), {}
    for signal in all_signals():
        reason = _missing(signal, runs)
        alone = contest.beyond(signal.name)
        roc = {h: _roc(signal, contest, alone, h, reason or _no_area(points.events[h], h, drop)) for h in horizons}
        headline = roc[HEADLINE_HORIZON]
        # A proxy that warns in the other direction is beaten by a constant: that is no merit of the constant.
        warned = headline["verdict"] in (WARNS, ADDS)
        beats = headline["minus_proxy"]["verdict"] if warned else headline["verdict"]
        signals[signal.name] = {
            "direction": signal.direction,
            "source": signal.source,
            "baseline": signal in BASELINES,
            "later_gap": [{"lag": h, **_later_gap(signal.name, runs, h, reason)} for h in horizons],
            "lead": _lead(signal.name, runs, reason),
            "roc": [{"horizon": h, **entry} for h, entry in roc.items()],
            "verdict": headline["verdict"],
            "beats_proxy": beats,
        }
    return {"n_runs": len(runs), "n_seeds": len({run.seed for run in runs}), "signals": signals}


def _later_gap(name: str, runs: Sequence[Run], lag: int, missing: str | None) -> dict[str, Any]:
    """Mean over the runs in which it is defined of the rank correlation with the gap `lag` points later."""
    each = np.full(len(runs), nan)
    by_length: dict[int, list[int]] = {}
    for i, run in enumerate(runs):
        by_length.setdefault(run.steps.size, []).append(i)
    for places in by_length.values():
        signal, gap = (
            np.stack(rows) for rows in zip(*((runs[i].signals[name], runs[i].gap) for i in places), strict=True)
        )
        each[places] = later_correlations(signal, gap, lag)
    defined = np.isfinite(each)
    values, home = each[defined], np.array([run.seed for run in runs])[defined]
    n_seeds = np.unique(home).size
    reason = missing or (None if values.size else "constant, or fewer than three pairs of points, in every run")
    interval = reason or jackknife_interval(block_mean(values, home), (-1, 1))
    return {
        "value": UNDEFINED if reason else float(values.mean()),
        "interval": _record(interval),
        "n_runs": values.size,
        "n_seeds": n_seeds,
        "reason": reason,
    }


def _lead(name: str, runs: Sequence[Run], missing: str | None) -> dict[str, Any]:
    """How long before the onset the signal leaves the band of quiet runs, negative where it is later: the median over
    seeds of the median over a seed's runs with onset. A run without an alarm counts as later than any."""
    quiet = [run for run in runs if run.onset is None and np.isfinite(run.gap).any()]
    band = quiet_band(
        [largest_excursion(run.signals[name]) for run in quiet],
        [run.repeats[name] for run in runs if name in run.repeats],
    )
    leads: dict[Any, list[tuple[float, float]]] = {}  # by seed, in points and in steps
    rising: list[bool] = []
    never = 0
    for run in runs:
        series = run.signals[name]
        if run.onset is None or np.isnan(series[0]):
            continue
        of_seed = leads.setdefault(run.seed, [])
        alarm = first_alarm(series, band.width)
        if alarm is None:
            never += 1
            of_seed.append((NEVER, NEVER))
            continue
        of_seed.append((run.onset - alarm, run.steps[run.onset] - run.steps[alarm]))
        if alarm < run.onset:
            rising.append(bool(series[alarm] > series[0]))
    by_seed = np.array([np.median(of_seed, axis=0) for of_seed in leads.values()]).reshape(-1, 2)
    reason = missing or (band.reason if leads else "no run has an onset")
    interval = reason or median_interval(by_seed[:, 0])
    median = np.full(2, UNDEFINED) if reason else np.median(by_seed, axis=0)
    if median[0] == NEVER:
        reason, median = "no alarm in at least half of the seeds with an onset", np.full(2, UNDEFINED)
    return {
        "median_points": float(median[0]),
        "median_steps": float(median[1]),
        "interval_points": _record(interval),
        "n_onset": sum(map(len, leads.values())),
        "n_seeds": len(leads),
        "n_warned": len(rising),
        "n_warned_rising": sum(rising),
        "n_never": never,
        "band": _band_record(band),
        "reason": reason,
    }


def _roc(signal: Signal, contest: Contest, alone: Ranked, horizon: int, missing: str | None) -> dict[str, Any]:
    """Area under ROC of the signal among points of the same step, in the direction that is to warn; `area_all_steps`,
    the same over all points at once; its differences from each opponent at the same points; and what is left of it
    `alone`, without what accuracy explains."""
    points, known = contest.points, contest.known[signal.name]
    event = np.where(known, points.events[horizon], nan)
    positive, negative = (int((event == kind).sum()) for kind in (1, 0))
    found = contest.area(signal.name, horizon, known)
    reason = missing or (None if positive and negative else f"no {signal.name} at one kind of points")
    reason = reason or ("no step has points of both kinds to compare" if isnan(found.value) else None)
    interval = reason or jackknife_interval(found, (0, 1))
    minus = {}
    for name, called in OPPONENTS.items():
        both = known & contest.known[name]
        difference = contest.area(signal.name, horizon, both) - contest.area(name, horizon, both)
        why = reason or (f"no {name} at one kind of points" if isnan(difference.value) else None)
        bounds = why or jackknife_interval(difference, (-0.5, 0.5) if called == "clock" else (-1, 1))
        minus[called] = {
            "value": UNDEFINED if why else difference.value,
            "interval": _record(bounds),
            "verdict": _words(bounds, WORDS[called]),
            "reason": why,
        }
    left = roc_area(alone, event)
    why = reason or ("no true reward at one kind of points" if isnan(left.value) else None)
    bounds = why or jackknife_interval(left._replace(value=left.value - 0.5, without=left.without - 0.5), (-0.5, 0.5))
    beyond_accuracy = {
        "value": UNDEFINED if why else left.value - 0.5,
        "interval": _record(bounds),
        "verdict": _words(bounds, BEYOND),
        "reason": why,
    }
    return {
        "area": found.value if not reason else UNDEFINED,
        "area_all_steps": UNDEFINED if reason else plain_area(points.score[signal.name], event),
        "interval": _record(interval),
        "n_positive": positive,
        "n_negative": negative,
        "n_seeds": np.unique(points.seed[np.isfinite(event)]).size,
        "reason": reason,
        "verdict": _verdict(signal, minus, beyond_accuracy),
        **{f"minus_{called}": entry for called, entry in minus.items()},
        "beyond_accuracy": beyond_accuracy,
    }


def _verdict(signal: Signal, minus: Mapping[str, Mapping[str, Any]], alone: Mapping[str, Any]) -> str:
    """In words: a signal warns if it does better than the clock and than current accuracy. One that does better than
    the clock alone may still add to accuracy. Accuracy itself has only the clock to beat."""
    clock, accuracy = str(minus["clock"]["verdict"]), str(minus["accuracy"]["verdict"])
    if clock != WORDS["clock"][0]:
        return clock
    if signal.name == "true_strict" or accuracy == WORDS["accuracy"][0]:
        return WARNS
    if accuracy.startswith("undefined"):
        return accuracy
    return ADDS if alone["verdict"] == ADDS else NO_BETTER


def _no_area(event: Array, horizon: int, drop: float) -> str | None:
    """Why events leave no area under ROC to find, whatever the signal."""
    within = f"by {drop:g} within {horizon} point{'s' * (horizon > 1)}"
    if np.isnan(event).all():
        return f"no point has a true reward and {horizon} more after it"
    if not (event == 1).any():
        return f"the true reward never falls {within}"
    return None if (event == 0).any() else f"the true reward falls {within} of every point"


def _record(interval: Interval | str) -> dict[str, Any]:
    """An interval, or the reason for none, as `results.json` holds it."""
    return (Interval(UNDEFINED, UNDEFINED, interval) if isinstance(interval, str) else interval)._asdict()


def _band_record(band: Band) -> dict[str, Any]:
    """A band as `results.json` holds it."""
    if band.reason is None and band.n_quiet == 0:
        return {**band._asdict(), "missing": {"expected_false_alarm_rate": "every run has an onset"}}
    return band._asdict()


def _words(interval: Interval | str, words: tuple[str, str, str]) -> str:
    """Words for a difference whose interval is above, around or below 0."""
    if isinstance(interval, str) or np.isnan(interval.low):
        return f"undefined: {interval if isinstance(interval, str) else interval.reason}"
    return words[0] if interval.low > 0 else words[2] if interval.high < 0 else words[1]
