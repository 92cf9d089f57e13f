"""One record per online condition, from its evaluation points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from betastar.analysis.missing import not_logged, underived
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

FORMS = ("standardised", "paper")
REWARDS = ("proxy", "true_strict", "true_lenient")
LEVELS = ("disagreement", "disagreement_centred", "response_entropy", "ood_distance", "diversity", "response_tokens")
SERIES = (*REWARDS, "proxy_std", *LEVELS, "policy_entropy", "kl", "at_limit", "unparsable")
KEYS = ["variant", "beta", "seed"]
# Known of our runs, not of every log.
OPTIONAL = (*SERIES[2:], "n", "correct_strict", "true_std")


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
    optional = {name: points[name].astype(float) if name in points else math.nan for name in OPTIONAL}
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
            f"the true reward at the start is {q:g}, whose standard deviation needs the number of responses behind it"
            if share
            else "the true reward is no share of right answers, and its standard deviation at the start is not given"
        )
        return np.full(len(points), math.nan), unknown
    only_proxy = standardised_gap(proxy, true, start["proxy_std"], 0, 1)
    return only_proxy.z_proxy - (true - true[0]) / s_true, only_proxy.reason


def _record(
    key: Sequence[Any],
    points: Any,
    gaps: Gaps,
    threshold: Mapping[str, float],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    steps, start, end, gap = points["step"].to_numpy(), points.iloc[0], points.iloc[-1], gaps.by_form
    onset = {form: onset_step(steps, gap[form], threshold[form]) for form in FORMS}
    record: dict[str, Any] = {
        "variant": key[0],
        "beta": float(key[1]),
        "seed": int(key[2]),
        "n": math.nan if math.isnan(start["n"]) else int(start["n"]),
        "n_points": len(points),
        **{f"augc_{form}": area_under_positive_gap(steps, gap[form]) for form in FORMS},
        "onset_step": onset["standardised"],
        "onset_step_paper": onset["paper"],
        **{f"share_gap_positive_{form}": share_positive(gap[form]) for form in FORMS},
        **{name: _extremes(points[name]) for name in REWARDS},
        "proxy_standardised_rise": float(
            (points["proxy"].max() - start["proxy"]) / (start["proxy_std"] if start["proxy_std"] > 0 else math.nan)
        ),
        **{name: {**_extremes(points[name]), "mean": float(points[name].mean())} for name in LEVELS},
        "policy_entropy": {
            "checkpoint": float(start["policy_entropy"]),
            "end": float(end["policy_entropy"]),
            "collapse": float(start["policy_entropy"] - end["policy_entropy"]),
        },
        "kl": {"end": float(end["kl"]), "highest": float(points["kl"].max())},
        "at_limit": {"start": float(start["at_limit"]), "end": float(end["at_limit"])},
        "unparsable": {"start": float(start["unparsable"]), "end": float(end["unparsable"])},
        **{f"uq_gap_correlation_{form}": pearson(points["disagreement"].to_numpy(), gap[form]) for form in FORMS},
        **extra,
        "start_near_zero": _near_zero(start),
    }
    series: dict[str, list[Any]] = {
        "step": [int(step) for step in steps],
        **{f"gap_{form}": [float(value) for value in gap[form]] for form in FORMS},
        **{name: [float(v) for v in points[name]] for name in SERIES},
    }
    missing = not_logged(points, ("n", *SERIES)) | underived(record, series, gaps.reasons, threshold)
    return {**record, **({"missing": missing} if missing else {}), "series": series}


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


def _extremes(series: Any) -> dict[str, float]:
    values = {"start": series.iloc[0], "lowest": series.min(), "highest": series.max(), "end": series.iloc[-1]}
    return {name: float(value) for name, value in values.items()}
