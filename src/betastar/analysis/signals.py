"""Do the warning signs warn? Each candidate signal against the later gap, the onset and later falls of the true reward.

What each number means and how it was chosen: docs/warning_signs.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from betastar.maths.signals import (
    FALSE_ALARM_RATE,
    Band,
    block_mean,
    change_from_start,
    contests,
    drops_ahead,
    first_alarm,
    jackknife_interval,
    largest_excursion,
    later_correlation,
    median_interval,
    quiet_band,
    roc_area,
)
from betastar.maths.statistics import Interval
from betastar.record.entries import REGISTRY

HEADLINE_HORIZON = 2
"""The verdict on a signal is read at this horizon, fixed in advance so that nobody picks the best of five."""

UNDEFINED = float("nan")
NEVER = float("-inf")
AGAINST_CHANCE = ("better than chance", "no better than chance", "warns in the other direction")
AGAINST_PROXY = ("better than the proxy", "no better than the proxy", "worse than the proxy")


class Signal(NamedTuple):
    """A column of the evaluation points; `direction` +1 where a rise is to warn, −1 where a fall is."""

    name: str
    direction: int
    source: str


BASELINES = (
    Signal("constant", +1, "baseline: carries no information, so its area is 0.5"),
    Signal("step", +1, "baseline: the step number; anything that drifts with time does as well"),
    Signal("proxy", +1, "baseline: the reward being maximised"),
)

Array = NDArray[np.float64]


def candidates() -> list[Signal]:
    """The measures of a point that the registry names as warning signs."""
    return [Signal(m.name, m.warns, m.warns_because) for m in REGISTRY.signals if m.warns is not None]


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


def warning_signs(
    records: Sequence[Mapping[str, Any]], horizons: Iterable[int] = range(1, 6), drop: float = 0.05
) -> dict[str, Any]:
    """How well each signal warns, by variant and with all runs pooled; `records` as `condition_records` gives them.

    Of every signal: `later_gap`, Spearman's ρ within runs with the standardised gap h points later; `lead`, how long
    before the onset it leaves the band of quiet runs; `roc`, whether its change since t=0 tells the points after which
    the strict true reward falls by at least `drop` within h points from the others; `verdict` and `beats_proxy` in
    words, at horizon `HEADLINE_HORIZON`. Intervals keep all runs of a seed together. What is undefined is NaN with a
    reason. Raises ValueError where `horizons` lacks the headline one.
    """
    horizons = tuple(horizons)
    if HEADLINE_HORIZON not in horizons:
        raise ValueError(f"horizons must contain the headline horizon {HEADLINE_HORIZON}, got {horizons}")
    runs = [_run(record) for record in records]
    variants = dict.fromkeys(run.variant for run in runs)
    return {
        "drop": drop,
        "horizons": list(horizons),
        "headline_horizon": HEADLINE_HORIZON,
        "false_alarm_rate": FALSE_ALARM_RATE,
        "comparisons": len(candidates()) * len(horizons),
        "by_variant": {v: _table([run for run in runs if run.variant == v], horizons, drop) for v in variants},
        "pooled": _table(runs, horizons, drop),
    }


def _run(record: Mapping[str, Any]) -> Run:
    series = record.get("series", {})
    steps = np.asarray(series["step"], dtype=np.float64)

    def column(name: str) -> Array:
        values = series.get(name)
        return np.full(steps.size, np.nan) if values is None else np.asarray(values, dtype=np.float64)

    signals = {signal.name: column(signal.name) for signal in all_signals()} | {"constant": np.zeros(steps.size)}
    again = record.get("again") or {}
    onset = record.get("onset_step")
    return Run(
        variant=record["variant"],
        seed=record["seed"],
        steps=steps,
        true=column("true_strict"),
        gap=column("gap_standardised"),
        signals=signals,
        onset=None if onset is None else int(np.flatnonzero(steps == onset)[0]),
        repeats={s: abs(again[s] - signals[s][0]) for s in signals if again.get(s) is not None},
    )


def _table(runs: Sequence[Run], horizons: Sequence[int], drop: float) -> dict[str, Any]:
    """All signals over one set of runs."""
    events = {horizon: np.concatenate([drops_ahead(run.true, horizon, drop) for run in runs]) for horizon in horizons}
    signals = {}
    for signal in all_signals():
        missing = all(np.isnan(run.signals[signal.name]).all() for run in runs)
        reason = f"these runs have no {signal.name}" if missing else None
        roc = {h: _roc(signal, runs, event, reason or _no_area(event, h, drop)) for h, event in events.items()}
        headline = roc[HEADLINE_HORIZON]
        # A proxy that warns in the other direction is beaten by a constant: that is no merit of the constant.
        warns = headline["verdict"] == AGAINST_CHANCE[0]
        signals[signal.name] = {
            "direction": signal.direction,
            "source": signal.source,
            "baseline": signal in BASELINES,
            "later_gap": [{"lag": h, **_later_gap(signal.name, runs, h, reason)} for h in horizons],
            "lead": _lead(signal.name, runs, reason),
            "roc": [{"horizon": h, **entry} for h, entry in roc.items()],
            "verdict": headline["verdict"],
            "beats_proxy": headline["minus_proxy"]["verdict"] if warns else headline["verdict"],
        }
    return {"n_runs": len(runs), "n_seeds": len({run.seed for run in runs}), "signals": signals}


def _later_gap(name: str, runs: Sequence[Run], lag: int, missing: str | None) -> dict[str, Any]:
    """Mean over the runs in which it is defined of the rank correlation with the gap `lag` points later."""
    each = np.array([later_correlation(run.signals[name], run.gap, lag) for run in runs])
    defined = np.isfinite(each)
    values, home = each[defined], np.array([run.seed for run in runs])[defined]
    n_seeds = np.unique(home).size
    reason = missing or (None if values.size else "constant, or fewer than three pairs of points, in every run")
    interval = reason or jackknife_interval(lambda counts: block_mean(values, home, counts), n_seeds, (-1, 1))
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


def _roc(signal: Signal, runs: Sequence[Run], event: Array, missing: str | None) -> dict[str, Any]:
    """Area under ROC of the signal's change since t=0, in the direction that is to warn, for `event` at all points of
    all runs; and what it has over the area of the proxy's change at the same points."""
    score = signal.direction * np.concatenate([change_from_start(run.signals[signal.name]) for run in runs])
    proxy = np.concatenate([change_from_start(run.signals["proxy"]) for run in runs])
    home = np.concatenate([np.full(run.steps.size, run.seed) for run in runs])

    used = np.isfinite(event) & np.isfinite(score)
    found, n_seeds = contests(score[used], event[used], home[used]), np.unique(home[used]).size
    n_positive, n_negative = int((event[used] == 1).sum()), int((event[used] == 0).sum())
    reason = missing or (None if n_positive and n_negative else f"no {signal.name} at one kind of points")
    interval = reason or jackknife_interval(lambda counts: roc_area(found, counts), n_seeds, (0, 1))

    both = used & np.isfinite(proxy)
    ours, theirs = (contests(s[both], event[both], home[both]) for s in (score, proxy))

    def difference(counts: Array) -> Array:
        return roc_area(ours, counts) - roc_area(theirs, counts)

    n_both = ours.pairs.shape[0]
    minus_proxy = float(difference(np.ones((1, n_both)))[0])
    unpaired = reason or ("no proxy at one kind of points" if np.isnan(minus_proxy) else None)
    paired = unpaired or jackknife_interval(difference, n_both, (-1, 1))
    return {
        "area": float(roc_area(found, np.ones((1, n_seeds)))[0]),
        "interval": _record(interval),
        "n_positive": n_positive,
        "n_negative": n_negative,
        "n_seeds": n_seeds,
        "reason": reason,
        "verdict": _verdict(interval, 0.5, AGAINST_CHANCE),
        "minus_proxy": {
            "value": minus_proxy,
            "interval": _record(paired),
            "verdict": _verdict(paired, 0.0, AGAINST_PROXY),
            "reason": unpaired,
        },
    }


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


def _verdict(interval: Interval | str, chance: float, words: tuple[str, str, str]) -> str:
    """Words for an interval above, around or below what chance gives."""
    if isinstance(interval, str) or np.isnan(interval.low):
        return f"undefined: {interval if isinstance(interval, str) else interval.reason}"
    return words[0] if interval.low > chance else words[2] if interval.high < chance else words[1]
