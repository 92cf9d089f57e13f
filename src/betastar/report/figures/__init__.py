"""The figures of a report, one function each: from the record of `results.json` to panels that are drawn on paper and
in the page alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from betastar.report.figures import across_beta, distance, frontier, inside, instruments, trajectories
from betastar.report.figures.panels import Figure
from betastar.report.words import one_beta

IN_ORDER = (
    trajectories.rewards,  # the first one is the key figure
    across_beta.end_truth,
    across_beta.regret,
    distance.distance,
    trajectories.path,
    inside.ranking,
    trajectories.signals,
    instruments.warning_signs,
    across_beta.variants,
    inside.inside,
    trajectories.gap,
    across_beta.augc,
    across_beta.mechanism,
    across_beta.entropy,
    instruments.ensemble,
)
COMPARE_BETA = (across_beta.end_truth, across_beta.regret, across_beta.augc, across_beta.mechanism, across_beta.entropy)


def all_figures(results: Mapping[str, Any]) -> list[Figure]:
    """Every figure in the order of the page; what the record cannot give says why. With one β, none that compares
    several; with one variant, none that compares variants."""
    if "frontier" in results:
        return [frontier.frontier(results)]
    left_out = [*(COMPARE_BETA if one_beta(results) else ()), *([across_beta.variants] if _alone(results) else [])]
    return [figure(results) for figure in IN_ORDER if figure not in left_out]


def _alone(results: Mapping[str, Any]) -> bool:
    return len(results["summary"]) == 1
