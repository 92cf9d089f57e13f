"""Why a field of a condition is null: the record's `missing`, field → reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Refinements that other people's logs have under a plainer name or not at all. Their absence is nothing to warn of, so
# that their reason is not the bare "not logged" on which the warning about a log's gaps rests.
REFINEMENTS = {
    "true_lenient": "not logged, for it takes a second, lenient grading",
    "disagreement_centred": "not logged, for it takes the scores of every member on validation pairs",
}


def not_logged(points: Any, names: Sequence[str]) -> dict[str, str]:
    """The columns `names` of evaluation points that are absent, wholly or at some points."""
    total, missing = len(points), {}
    for name in names:
        absent = int(points[name].isna().sum())
        if absent == total:
            missing[name] = REFINEMENTS.get(name, "not logged")
        elif absent:
            missing[name] = f"not logged at {absent} of {total} points"
    return missing


def underived(
    record: Mapping[str, Any],
    series: Mapping[str, Sequence[float]],
    gap_reasons: Mapping[str, str | None],
    threshold: Mapping[str, float],
) -> dict[str, str]:
    """The fields that follow from the evaluation points `series` and are undefined in `record`. `gap_reasons`: why the
    gap of a form is undefined somewhere, None where it is not; `threshold`: τ of each form."""
    missing: dict[str, str] = {}
    for form, undefined in gap_reasons.items():
        gap = series[f"gap_{form}"]
        if undefined:
            missing[f"gap_{form}"] = undefined
        if math.isnan(record[f"augc_{form}"]):
            missing[f"augc_{form}"] = undefined or "there is an area from two evaluation points on"
        if math.isnan(record[f"share_gap_positive_{form}"]):
            missing[f"share_gap_positive_{form}"] = undefined or "the gap is undefined"
        if math.isnan(record[f"uq_gap_correlation_{form}"]):
            missing[f"uq_gap_correlation_{form}"] = undefined or _no_correlation(series["disagreement"], gap)
        onset = "onset_step" if form == "standardised" else f"onset_step_{form}"
        if record[onset] is None:
            missing[onset] = _no_onset(gap, threshold[form])
    if math.isnan(record["proxy_standardised_rise"]):
        missing["proxy_standardised_rise"] = "the proxy rewards at the start have no known, positive standard deviation"
    if None in record["start_near_zero"].values():
        missing["start_near_zero"] = "unknown without n and the standard deviation of the rewards at the start"
    return missing


def _no_correlation(disagreement: Sequence[float], gap: Sequence[float]) -> str:
    """Why Pearson's r between û and a gap that is defined everywhere is not."""
    if any(math.isnan(value) for value in disagreement):
        return "û is not logged at every point"
    if len(gap) < 3:
        return f"a correlation needs three evaluation points, here {len(gap)}"
    return "û or the gap is the same at every point"


def _no_onset(gap: Sequence[float], threshold: float) -> str:
    if all(math.isnan(value) for value in gap):
        return "the gap is undefined"
    if math.isnan(threshold):
        return "no gap is positive in any condition, so there is no τ to pass"
    return "none: the gap is over τ at no evaluation point"
