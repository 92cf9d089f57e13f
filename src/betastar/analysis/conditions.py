"""One record per online condition, from its evaluation points."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from betastar.analysis import outcomes as outcomes  # registers what computes its measures
from betastar.analysis.trajectory import (
    COMPUTED,
    NO_TRUTH,
    Estimate,
    Floor,
    Scale,
    Trajectory,
    Undefined,
    Value,
    computes,
)
from betastar.maths.goodhart import (
    hacking_threshold,
    onset_step,
    paper_gap,
    paper_gap_undefined,
    share_positive,
    start_is_near_zero,
)
from betastar.maths.outcomes import is_the_truth
from betastar.maths.statistics import pearson
from betastar.record.answers import Grid
from betastar.record.entries import INSIDE, REGISTRY
from betastar.record.measures import Measure, Part
from betastar.record.schema import FORMS, SCALES
from betastar.record.series import MOST_IN_JSON, undefined

__all__ = ["COMPUTED", "Records", "Trajectory", "Undefined", "computes", "condition_records", "not_logged"]

OF_THE_START = ("n", "correct_strict", "proxy_std", "true_std")
KEYS = ["variant", "beta", "seed"]
PROXY_IS_TRUTH = "the proxy is the true reward"


class Records(NamedTuple):
    """`conditions`: one dictionary per condition; `threshold`: τ of each form of the gap; `n_positive`: how many
    positive gaps of each form it is the percentile of."""

    conditions: list[dict[str, Any]]
    threshold: dict[str, float]
    n_positive: dict[str, int]


class Gaps(NamedTuple):
    """The forms of the gap [T], why one is undefined somewhere, if it is, and what each divides by."""

    by_form: dict[str, np.ndarray]
    reasons: dict[str, str | None]
    scales: dict[str, Scale]


class _Condition(NamedTuple):
    """A condition before its record: its place, points, what is known besides, answers, whether the proxy is the
    truth, and why nothing of it counts, if its training diverged."""

    key: tuple[Any, ...]
    points: Any
    extra: Mapping[str, Any]
    grid: Grid | None
    is_the_truth: bool
    diverged: str | None


def condition_records(
    points: pd.DataFrame,
    extras: Mapping[tuple[Any, ...], Mapping[str, Any]],
    answers: Mapping[tuple[Any, ...], Grid] | None = None,
) -> Records:
    """Records of all conditions of `points`: one row per (variant, beta, seed, step) with the columns of
    `metrics.jsonl`, the start included; all but proxy and true_strict may be absent or NaN. A column `true_std` says
    that true rewards are scores with this standard deviation, not shares of right answers. `extras[beta, seed]`, or
    `extras[variant, beta, seed]` where checkpoints differ, holds what is known of a checkpoint besides: alignment
    quality and the repeated evaluation at t=0. `answers[variant, beta, seed]`: single answers, as
    `betastar.record.answers.grids` gives them; a condition without them is judged by its means."""
    score = "true_std" in points or not points["true_strict"].between(0, 1).all()
    numbers = [m.name for m in REGISTRY.logged if m.kind != "numbers" and m.name not in ("proxy", "true_strict")]
    optional = {name: points[name].astype(float) for name in numbers if name in points}
    points = points.assign(score=score, **{**dict.fromkeys(OF_THE_START, math.nan), **optional})
    place = {variant: i for i, variant in enumerate(points["variant"].unique())}
    groups: list[tuple[Any, Any]] = [(key, group.sort_values("step")) for key, group in points.groupby(KEYS)]
    groups.sort(key=lambda pair: (place[pair[0][0]], *pair[0][1:]))
    conditions = [_condition(key, group, extras, answers or {}) for key, group in groups]
    pooled = _pooled_starts(conditions)
    gaps = [_gaps(condition, pooled) for condition in conditions]
    repeats = _repeats(conditions, gaps)
    threshold = {form: hacking_threshold([gap.by_form[form] for gap in gaps]) for form in FORMS}
    return Records(
        [
            _record(condition, gap, threshold, repeats[condition.key[0]], len(points) > MOST_IN_JSON)
            for condition, gap in zip(conditions, gaps, strict=True)
        ],
        threshold,
        {form: sum(int((gap.by_form[form] > 0).sum()) for gap in gaps) for form in FORMS},
    )


def _condition(
    key: Any,
    points: Any,
    extras: Mapping[tuple[Any, ...], Mapping[str, Any]],
    answers: Mapping[tuple[Any, ...], Grid],
) -> _Condition:
    variant, beta, seed = str(key[0]), float(key[1]), int(key[2])
    extra = extras.get(tuple(key), extras.get((key[1], key[2]), {}))
    grid = _at(answers.get((variant, beta, seed)), points["step"].to_numpy())
    if grid is None:
        same = is_the_truth(points["proxy"], points["true_strict"])
    else:
        same = is_the_truth(grid.proxy[[0, -1]], grid.strict[[0, -1]])
    diverged = extra.get("diverged") or _without_proxy(points)
    return _Condition((variant, beta, seed), points, extra, grid, same, diverged)


def _without_proxy(points: Any) -> str | None:
    """That the proxy is no number at some point, which is how a diverged policy looks; None if it always is."""
    lost = points["step"][~np.isfinite(points["proxy"].to_numpy(dtype=float))]
    return f"diverged: the proxy reward is not a finite number at step {lost.iloc[0]}" if len(lost) else None


def _at(grid: Grid | None, steps: np.ndarray) -> Grid | None:
    """The answers at these steps; None where some step has none."""
    if grid is None or not np.isin(steps, grid.steps).all():
        return None
    at = np.searchsorted(grid.steps, steps)
    return grid._replace(steps=grid.steps[at], proxy=grid.proxy[at], strict=grid.strict[at], lenient=grid.lenient[at])


def _gaps(condition: _Condition, pooled: Mapping[tuple[Any, ...], Scale]) -> Gaps:
    """All forms of the gap. Where proxy and truth are one, neither can run ahead of the other."""
    points = condition.points
    proxy, true = points["proxy"].to_numpy(dtype=float), points["true_strict"].to_numpy(dtype=float)
    scales = {
        "standardised": _own_scale(points.iloc[0]),
        "paper": Scale(abs(proxy[0]), abs(true[0]), "the means at the start", paper_gap_undefined(proxy[0], true[0])),
        "common": _common_scale(condition, pooled),
    }
    undefined = "a mean reward is undefined at some evaluation point"
    absent = NO_TRUTH if np.isnan(true).all() else None
    by_form, reasons = {}, {}
    for form, scale in scales.items():
        if reason := condition.diverged or absent or (PROXY_IS_TRUTH if condition.is_the_truth else scale.reason):
            by_form[form], reasons[form] = np.full(len(points), math.nan), reason
            continue
        rises = (proxy - proxy[0]) / scale.proxy, (true - true[0]) / scale.truth
        by_form[form] = paper_gap(proxy, true) if form == "paper" else rises[0] - rises[1]
        reasons[form] = undefined if np.isnan(by_form[form]).any() else None
    return Gaps(by_form, reasons, scales)


def _own_scale(start: Any) -> Scale:
    """Standard deviations of the responses at the start.

    √(q(1−q)) of a share with q = (right + 1)/(n + 2), or its limit for large n where n is unknown. A true reward that
    is no share of right answers has a standard deviation only if one is given.
    """
    proxy, q, share = float(start["proxy_std"]), float(start["true_strict"]), not start["score"]
    if math.isnan(proxy):
        return Scale(math.nan, math.nan, None, "the standard deviation of the proxy rewards at the start is not given")
    if not 0 < proxy < math.inf:
        reason = "the proxy rewards at the start have no finite, positive standard deviation"
        return Scale(math.nan, math.nan, None, reason)
    truth = _spread(q, start["n"], start["correct_strict"]) if share else float(start["true_std"])
    if not truth > 0:
        unknown = (
            f"the true reward at the start is {q:g}, and its standard deviation needs the number of responses"
            if share
            else "the true reward is not a share of right answers, and its standard deviation at the start is not given"
        )
        return Scale(math.nan, math.nan, None, unknown)
    return Scale(proxy, truth, "the checkpoint's own responses")


def _spread(share: float, n: float, right: float = math.nan) -> float:
    """Standard deviation of grades with this share of right ones, `right` of `n`."""
    if math.isnan(n):
        return math.sqrt(share * (1 - share)) if 0 <= share <= 1 else math.nan
    right = round(share * n) if math.isnan(right) else right
    q = (right + 1) / (n + 2)
    return math.sqrt(q * (1 - q))


BASE, STARTS = "the base policy's responses", "the starts of this seed, pooled over β"
NO_COMMON = "a scale in common needs the rewards of the base policy, or starts at several values of β"


def _common_scale(condition: _Condition, pooled: Mapping[tuple[Any, ...], Scale]) -> Scale:
    """One pair of standard deviations for all β of a seed: of the base policy on the same problems; where that is
    unknown, of the checkpoints of the seed."""
    base, start = condition.extra.get("base") or {}, condition.points.iloc[0]
    proxy, true = base.get("proxy_std"), base.get("true_strict")
    if proxy and true is not None and proxy > 0 and not start["score"]:
        n, right = base.get("n", start["n"]), base.get("correct_strict", math.nan)
        truth = _spread(float(true), float(n), float(right))
        if truth > 0:
            return Scale(float(proxy), truth, BASE)
    variant, _, seed = condition.key
    return pooled.get((variant, seed), Scale(math.nan, math.nan, None, NO_COMMON))


def _pooled_starts(conditions: Sequence[_Condition]) -> dict[tuple[Any, ...], Scale]:
    """By (variant, seed) with several β: root mean square of the standard deviations at their starts."""
    found: dict[tuple[Any, ...], list[Scale]] = {}
    for condition in conditions:
        variant, _, seed = condition.key
        if condition.diverged:
            continue
        found.setdefault((variant, seed), []).append(_own_scale(condition.points.iloc[0]))
    result = {}
    for key, scales in found.items():
        if len(scales) < 2:
            continue
        if reasons := [scale.reason for scale in scales if scale.reason]:
            result[key] = Scale(math.nan, math.nan, None, reasons[0])
        else:
            proxy, truth = (
                _root_mean_square(column) for column in ([s.proxy for s in scales], [s.truth for s in scales])
            )
            result[key] = Scale(proxy, truth, STARTS)
    return result


def _root_mean_square(values: Sequence[float]) -> float:
    """√ of the mean square."""
    return math.sqrt(float(np.mean(np.square(values))))


def _repeats(conditions: Sequence[_Condition], gaps: Sequence[Gaps]) -> dict[str, dict[str, float]]:
    """By variant, the root mean square of what changed between two evaluations of the same checkpoint: of each form of
    the gap, and of the truth. Only of forms that are known."""
    found: dict[str, dict[str, list[float]]] = {}
    for condition, gap in zip(conditions, gaps, strict=True):
        mine = found.setdefault(condition.key[0], {})
        if condition.diverged:
            continue
        again, start = condition.extra.get("again"), condition.points.iloc[0]
        if not isinstance(again, Mapping) or again.get("proxy") is None or again.get("true_strict") is None:
            continue
        proxy, truth = float(again["proxy"]) - start["proxy"], float(again["true_strict"]) - start["true_strict"]
        mine.setdefault("truth", []).append(truth)
        for form, scale in gap.scales.items():
            if scale.reason is None:
                mine.setdefault(form, []).append(proxy / scale.proxy - truth / scale.truth)
    return {
        variant: {form: _root_mean_square(values) for form, values in parts.items()} for variant, parts in found.items()
    }


PARTS: Mapping[Part, Callable[[pd.Series], float]] = {
    "start": lambda values: values.iloc[0],
    "checkpoint": lambda values: values.iloc[0],
    "lowest": lambda values: values.min(),
    "highest": lambda values: values.max(),
    "end": lambda values: values.iloc[-1],
    "mean": lambda values: values.mean(),
    "collapse": lambda values: values.iloc[0] - values.iloc[-1],
}


def _record(
    condition: _Condition,
    gaps: Gaps,
    threshold: Mapping[str, float],
    repeats: Mapping[str, float],
    large: bool,
) -> dict[str, Any]:
    """`large`: its series stay arrays."""
    points: Any
    key, points, extra, grid, same, diverged = condition
    # What was not logged is added for one condition at a time: of a large log, all together would fill the memory.
    absent = [m.name for m in REGISTRY.logged if m.kind != "numbers" and m.name not in points]
    points = pd.DataFrame(
        {**{name: points[name].array for name in points}, **{n: undefined(len(points)) for n in absent}}
    )
    start = points.iloc[0]
    run = Trajectory(points, gaps.by_form, gaps.reasons, threshold, extra, gaps.scales, repeats, grid, same)
    found = {m.name: Undefined(diverged) if diverged else COMPUTED[m.name](run) for m in REGISTRY.at("condition")}
    estimates = {name: value for name, value in found.items() if isinstance(value, Estimate)}
    series = {
        "step": points["step"].to_numpy(dtype=np.int64),
        **{f"gap_{form}": np.asarray(gaps.by_form[form], dtype=float) for form in SCALES},
        **{m.name: run.column(m.name) for m in REGISTRY.series if not m.derived},
    }
    near_zero = _near_zero(start)
    missing = {
        **not_logged(points, diverged),
        **{f"gap_{form}": why for form, why in gaps.reasons.items() if why},
        **{name: value.reason for name, value in found.items() if isinstance(value, Undefined)},
    }
    if None in near_zero.values():
        missing["start_near_zero"] = "unknown without n and the standard deviation of the rewards at the start"
    return {
        "variant": key[0],
        "beta": key[1],
        "seed": key[2],
        "n": math.nan if math.isnan(start["n"]) else int(start["n"]),
        "n_points": len(points),
        **{m.name: _written(found[m.name], m) for m in REGISTRY.at("condition")},
        **{m.name: {part: float(PARTS[part](points[m.name])) for part in m.kept} for m in REGISTRY.kept},
        **extra,
        **({"diverged": diverged} if diverged else {}),
        "start_near_zero": near_zero,
        "proxy_is_truth": same,
        "common_scale": gaps.scales["common"]._asdict(),
        "intervals": {name: e.interval._asdict() for name, e in estimates.items() if e.interval is not None},
        "noise_floor": {name: _floor(e.floor) for name, e in estimates.items() if e.floor is not None},
        **({"missing": missing} if missing else {}),
        "series": {n: _compact(v) for n, v in series.items()} if large else {n: v.tolist() for n, v in series.items()},
    }


def _compact(values: np.ndarray) -> np.ndarray:
    return undefined(values.size) if values.dtype.kind == "f" and np.isnan(values).all() else values


def _written(value: Value, measure: Measure) -> Any:
    """A value as the record holds it."""
    if isinstance(value, Undefined):
        return math.nan if measure.kind == "number" else None
    return value.value if isinstance(value, Estimate) else value


def _floor(floor: Floor) -> dict[str, Any]:
    """A noise floor as the record holds it."""
    return floor._asdict()


@computes("onset_step", "onset_step_paper")
def _onset(run: Trajectory, name: str) -> Value:
    form = "paper" if name.endswith("paper") else "standardised"
    gap, threshold = run.gap[form], run.threshold[form]
    step = onset_step(run.steps, gap, threshold)
    if step is not None:
        return step
    if np.isnan(gap).all():
        return Undefined("the gap is undefined")
    if math.isnan(threshold):
        return Undefined("no condition has a positive gap, so there is no threshold τ")
    return Undefined("none: the gap never exceeds τ at an evaluation point")


@computes("share_gap_positive_standardised", "share_gap_positive_paper")
def _share_positive(run: Trajectory, name: str) -> Value:
    form = name.removeprefix("share_gap_positive_")
    share = share_positive(run.gap[form])
    return share if not math.isnan(share) else Undefined(run.undefined[form] or "the gap is undefined")


@computes("proxy_standardised_rise")
def _rise(run: Trajectory) -> Value:
    proxy, spread = run.column("proxy"), run.column("proxy_std")[0]
    if not spread > 0 or np.isnan(proxy[0]):
        return Undefined("the proxy rewards at the start have no known, positive standard deviation")
    return float((np.nanmax(proxy) - proxy[0]) / spread)


@computes("uq_gap_correlation_standardised", "uq_gap_correlation_paper")
def _uq_gap_correlation(run: Trajectory, name: str) -> Value:
    """Pearson's r between û and the gap, and why it is undefined where it is."""
    form = name.removeprefix("uq_gap_correlation_")
    disagreement, gap = run.column("disagreement"), run.gap[form]
    r = pearson(disagreement, gap)
    if not math.isnan(r):
        return r
    if reason := run.undefined[form]:
        return Undefined(reason)
    if np.isnan(disagreement).any():
        return Undefined("û is not logged at every point")
    if len(gap) < 3:
        return Undefined(f"a correlation needs three evaluation points, there are {len(gap)}")
    return Undefined("û or the gap is constant")


@computes("log_ratio_noise")
def _log_ratio_noise(run: Trajectory) -> Value:
    noise = run.extra.get("log_ratio_noise")  # None in an analysis that is read again
    return Undefined("not logged; only betastar's own runs measure it") if noise is None else noise


@computes(*INSIDE)
def _of_the_inside(run: Trajectory, name: str) -> Value:
    value = run.extra.get(name)
    if value is not None:
        return value
    if name.startswith("fresh"):
        return Undefined("not measured; only betastar's own runs with evaluation.fresh_steps learn a fresh task")
    return Undefined("not measured; only betastar's own runs look inside, unless that is switched off")


def not_logged(points: Any, diverged: str | None = None) -> dict[str, str]:
    """The measures of evaluation points that are absent, wholly or at some points, with the reason, which may be that
    the run `diverged`."""
    total, missing = len(points), {}
    for measure in (REGISTRY.get("point", "n"), *(m for m in REGISTRY.series if not m.derived)):
        absent = int(points[measure.name].isna().sum())
        if absent == total:
            missing[measure.name] = measure.unlogged
        elif absent:
            missing[measure.name] = diverged or f"not logged at {absent} of {total} points"
    return missing


def _near_zero(start: Any) -> dict[str, bool | None]:
    """Whether each reward at the start is too near zero to be divided by; None where its error is unknown."""
    root = math.sqrt(start["n"])
    true = start["true_strict"]
    spread = {
        "proxy": start["proxy_std"],
        "true_strict": start["true_std"] if start["score"] else math.sqrt(true * (1 - true)),
    }
    known = {reward: start[reward] == 0 or not math.isnan(spread[reward] / root) for reward in spread}
    return {
        reward: start_is_near_zero(start[reward], spread[reward] / root) if known[reward] else None for reward in spread
    }
