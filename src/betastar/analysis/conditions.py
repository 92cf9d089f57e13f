"""One record per online condition, from its evaluation points."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from betastar.maths.goodhart import (
    area_under_positive_gap,
    hacking_threshold,
    onset_step,
    paper_gap,
    share_positive,
    standardised_gap,
    start_is_near_zero,
)
from betastar.maths.statistics import pearson
from betastar.record.entries import INSIDE, REGISTRY
from betastar.record.measures import Measure, Part
from betastar.record.schema import FORMS

KEYS = ["variant", "beta", "seed"]


class Undefined(NamedTuple):
    """What a measure gives in place of a number, and why."""

    reason: str


class Trajectory(NamedTuple):
    """A condition as its measures see it: `points` [T rows] in the order of steps, with a column for every measure of a
    point, NaN where it was not logged; both forms of the `gap` [T], `undefined`, why either is undefined somewhere, and
    the `threshold` τ of each; and what is known of the checkpoint besides."""

    points: pd.DataFrame
    gap: Mapping[str, np.ndarray]
    undefined: Mapping[str, str | None]
    threshold: Mapping[str, float]
    extra: Mapping[str, Any]

    @property
    def steps(self) -> np.ndarray:
        """[T]"""
        return self.points["step"].to_numpy()

    def column(self, name: str) -> np.ndarray:
        """A measure of a point [T]."""
        return self.points[name].to_numpy(dtype=float)


Value = float | int | bool | str | None | Undefined
COMPUTED: dict[str, Callable[[Trajectory], Value]] = {}
"""By name, what computes each measure of a condition."""


def computes(*names: str) -> Callable[[Any], Any]:
    """Marks the function that computes the measures of a condition with these names; of several, it is given the name
    as its second argument."""

    def register(function: Callable[..., Value]) -> Callable[..., Value]:
        for name in names:
            COMPUTED[name] = function if len(names) == 1 else partial(function, name=name)
        return function

    return register


class Records(NamedTuple):
    """`conditions`: one dictionary per condition; `threshold`: τ of each form of the gap; `n_positive`: how many
    positive gaps of each form it is the percentile of."""

    conditions: list[dict[str, Any]]
    threshold: dict[str, float]
    n_positive: dict[str, int]


class Gaps(NamedTuple):
    """Both forms of the gap [T], and why either is undefined somewhere, if it is."""

    by_form: dict[str, np.ndarray]
    reasons: dict[str, str | None]


def condition_records(points: pd.DataFrame, extras: Mapping[tuple[Any, ...], Mapping[str, Any]]) -> Records:
    """Records of all conditions of `points`: one row per (variant, beta, seed, step) with the columns of
    `metrics.jsonl`, the start included; all but proxy and true_strict may be absent or NaN. A column `true_std` says
    that true rewards are scores with this standard deviation, not shares of right answers. `extras[beta, seed]`, or
    `extras[variant, beta, seed]` where checkpoints differ, holds what is known of a checkpoint besides: alignment
    quality and the repeated evaluation at t=0."""
    score = "true_std" in points or not points["true_strict"].between(0, 1).all()
    numbers = [m.name for m in REGISTRY.logged if m.kind != "numbers" and m.name not in ("proxy", "true_strict")]
    optional = {name: points[name].astype(float) if name in points else math.nan for name in numbers}
    points = points.assign(score=score, **optional)
    place = {variant: i for i, variant in enumerate(points["variant"].unique())}
    groups: list[tuple[Any, Any]] = [(key, group.sort_values("step")) for key, group in points.groupby(KEYS)]
    groups.sort(key=lambda pair: (place[pair[0][0]], *pair[0][1:]))
    gaps = [_gaps(group) for _, group in groups]
    threshold = {form: hacking_threshold([gap.by_form[form] for gap in gaps]) for form in FORMS}
    return Records(
        [
            _record(key, group, gap, threshold, extras.get(tuple(key), extras.get((key[1], key[2]), {})))
            for (key, group), gap in zip(groups, gaps, strict=True)
        ],
        threshold,
        {form: sum(int((gap.by_form[form] > 0).sum()) for gap in gaps) for form in FORMS},
    )


def _gaps(points: pd.DataFrame) -> Gaps:
    proxy, true = points["proxy"].to_numpy(), points["true_strict"].to_numpy()
    standardised, reason = _standardised(points)
    paper = paper_gap(proxy, true)
    undefined = "a mean reward is undefined at some evaluation point" if np.isnan(paper).any() else None
    return Gaps({"standardised": standardised, "paper": paper}, {"standardised": reason, "paper": undefined})


def _standardised(points: pd.DataFrame) -> tuple[np.ndarray, str | None]:
    """The standardised gap [T], or NaN and the reason.

    Without the number n of responses behind a true reward, s_true is its limit for large n, √(q(1−q)) with q the true
    reward at the start. A true reward that is no share of right answers has a standard deviation only if one is given.
    """
    start, proxy, true = points.iloc[0], points["proxy"].to_numpy(), points["true_strict"].to_numpy()
    share = not start["score"]
    if math.isnan(start["proxy_std"]):
        return np.full(len(points), math.nan), "the standard deviation of the proxy rewards at the start is not given"
    if share and not math.isnan(start["n"]):
        n = int(start["n"])
        counted = start["correct_strict"]
        correct = round(start["true_strict"] * n) if math.isnan(counted) else int(counted)
        gap = standardised_gap(proxy, true, start["proxy_std"], correct, n)
        return gap.gap, gap.reason
    q = start["true_strict"]
    s_true = math.sqrt(q * (1 - q)) if share else start["true_std"]
    if not s_true > 0:
        unknown = (
            f"the true reward at the start is {q:g}, and its standard deviation needs the number of responses"
            if share
            else "the true reward is not a share of right answers, and its standard deviation at the start is not given"
        )
        return np.full(len(points), math.nan), unknown
    only_proxy = standardised_gap(proxy, true, start["proxy_std"], 0, 1)
    return only_proxy.z_proxy - (true - true[0]) / s_true, only_proxy.reason


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
    key: Sequence[Any], points: Any, gaps: Gaps, threshold: Mapping[str, float], extra: Mapping[str, Any]
) -> dict[str, Any]:
    start = points.iloc[0]
    run = Trajectory(points, gaps.by_form, gaps.reasons, threshold, extra)
    found = {m.name: COMPUTED[m.name](run) for m in REGISTRY.at("condition")}
    series: dict[str, list[Any]] = {
        "step": [int(step) for step in points["step"]],
        **{f"gap_{form}": [float(value) for value in gaps.by_form[form]] for form in FORMS},
        **{m.name: [float(v) for v in points[m.name]] for m in REGISTRY.series if not m.derived},
    }
    near_zero = _near_zero(start)
    missing = {
        **not_logged(points),
        **{f"gap_{form}": why for form, why in gaps.reasons.items() if why},
        **{name: value.reason for name, value in found.items() if isinstance(value, Undefined)},
    }
    if None in near_zero.values():
        missing["start_near_zero"] = "unknown without n and the standard deviation of the rewards at the start"
    return {
        "variant": key[0],
        "beta": float(key[1]),
        "seed": int(key[2]),
        "n": math.nan if math.isnan(start["n"]) else int(start["n"]),
        "n_points": len(points),
        **{m.name: _written(found[m.name], m) for m in REGISTRY.at("condition")},
        **{m.name: {part: float(PARTS[part](points[m.name])) for part in m.kept} for m in REGISTRY.kept},
        **extra,
        "start_near_zero": near_zero,
        **({"missing": missing} if missing else {}),
        "series": series,
    }


def _written(value: Value, measure: Measure) -> Any:
    """A value as the record holds it."""
    if isinstance(value, Undefined):
        return math.nan if measure.kind == "number" else None
    return value


@computes("augc_standardised", "augc_paper")
def _augc(run: Trajectory, name: str) -> Value:
    form = name.removeprefix("augc_")
    area = area_under_positive_gap(run.steps, run.gap[form])
    return (
        area
        if not math.isnan(area)
        else Undefined(run.undefined[form] or "an area needs at least two evaluation points")
    )


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
    return (
        Undefined("not measured; only betastar's own runs look inside, unless that is switched off")
        if value is None
        else value
    )


def not_logged(points: Any) -> dict[str, str]:
    """The measures of evaluation points that are absent, wholly or at some points, with the reason."""
    total, missing = len(points), {}
    for measure in (REGISTRY.get("point", "n"), *(m for m in REGISTRY.series if not m.derived)):
        absent = int(points[measure.name].isna().sum())
        if absent == total:
            missing[measure.name] = measure.unlogged
        elif absent:
            missing[measure.name] = f"not logged at {absent} of {total} points"
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
