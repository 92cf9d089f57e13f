"""One record per online condition, from its evaluation points (SPEC section 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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

FORMS = ("standardised", "paper")
REWARDS = ("proxy", "true_strict", "true_lenient")
LEVELS = ("disagreement", "disagreement_centred", "response_entropy", "ood_distance", "diversity", "response_tokens")
SERIES = (*REWARDS, "proxy_std", *LEVELS, "policy_entropy", "kl", "at_limit", "unparsable")
KEYS = ["variant", "beta", "seed"]


class Records(NamedTuple):
    """`conditions`: one dictionary per condition; `threshold`: τ of each form of the gap."""

    conditions: list[dict[str, Any]]
    threshold: dict[str, float]


def condition_records(points: pd.DataFrame, extras: Mapping[tuple[float, int], Mapping[str, Any]]) -> Records:
    """Records of all conditions of `points`: one row per (variant, beta, seed, step) with the columns of
    `metrics.jsonl`, t=0 included. `extras[beta, seed]` holds what is known of a checkpoint besides: alignment quality
    and the repeated evaluation at t=0."""
    place = {variant: i for i, variant in enumerate(points["variant"].unique())}
    groups: list[tuple[Any, Any]] = [(key, group.sort_values("step")) for key, group in points.groupby(KEYS)]
    groups.sort(key=lambda pair: (place[pair[0][0]], *pair[0][1:]))
    gaps = [_gaps(group) for _, group in groups]
    threshold = {form: hacking_threshold([g[form] for g in gaps]) for form in FORMS}
    return Records(
        [
            _record(key, group, gap, threshold, extras.get((key[1], key[2]), {}))
            for (key, group), gap in zip(groups, gaps, strict=True)
        ],
        threshold,
    )


def _gaps(points: pd.DataFrame) -> dict[str, np.ndarray]:
    start = points.iloc[0]
    proxy, true = points["proxy"].to_numpy(), points["true_strict"].to_numpy()
    return {
        "standardised": standardised_gap(
            proxy, true, start["proxy_std"], int(start["correct_strict"]), int(start["n"])
        ).gap,
        "paper": paper_gap(proxy, true),
    }


def _record(
    key: Sequence[Any],
    points: Any,
    gap: Mapping[str, np.ndarray],
    threshold: Mapping[str, float],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    steps, start, end = points["step"].to_numpy(), points.iloc[0], points.iloc[-1]
    onset = {form: onset_step(steps, gap[form], threshold[form]) for form in FORMS}
    n = int(start["n"])
    proxy_error = start["proxy_std"] / math.sqrt(n)
    true_error = math.sqrt(start["true_strict"] * (1 - start["true_strict"]) / n)
    near_zero = {
        "proxy": start_is_near_zero(start["proxy"], proxy_error),
        "true_strict": start_is_near_zero(start["true_strict"], true_error),
    }
    return {
        "variant": key[0],
        "beta": float(key[1]),
        "seed": int(key[2]),
        "n": n,
        **{f"augc_{form}": area_under_positive_gap(steps, gap[form]) for form in FORMS},
        "onset_step": onset["standardised"],
        "onset_step_paper": onset["paper"],
        **{f"share_gap_positive_{form}": share_positive(gap[form]) for form in FORMS},
        **{name: _extremes(points[name]) for name in REWARDS},
        "proxy_standardised_rise": float((points["proxy"].max() - start["proxy"]) / start["proxy_std"]),
        **{name: {**_extremes(points[name]), "mean": float(points[name].mean())} for name in LEVELS if name in points},
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
        "start_near_zero": near_zero,
        "series": {
            "step": [int(step) for step in steps],
            **{f"gap_{form}": [float(value) for value in gap[form]] for form in FORMS},
            **{name: [float(v) for v in points[name]] for name in SERIES if name in points},
        },
    }


def _extremes(series: Any) -> dict[str, float]:
    values = {"start": series.iloc[0], "lowest": series.min(), "highest": series.max(), "end": series.iloc[-1]}
    return {name: float(value) for name, value in values.items()}
