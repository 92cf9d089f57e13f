"""The figures of a report, one function each: from the record of `results.json` to panels that are drawn on paper and
in the page alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from betastar.report.figures import across_beta, instruments, trajectories
from betastar.report.figures.panels import Figure

IN_ORDER = (
    trajectories.rewards,  # the first one is the key figure
    trajectories.gap,
    across_beta.augc,
    trajectories.path,
    across_beta.variants,
    across_beta.mechanism,
    across_beta.entropy,
    trajectories.signals,
    instruments.warning_signs,
    instruments.ensemble,
)


def all_figures(results: Mapping[str, Any]) -> list[Figure]:
    """Every figure in the order of the page; what the record cannot give says why."""
    return [figure(results) for figure in IN_ORDER]
