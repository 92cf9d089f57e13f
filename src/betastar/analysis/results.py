"""`results.json`: every number of a run in one record, and its conversion to strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from betastar import __version__
from betastar.analysis.chain import chains
from betastar.analysis.conditions import condition_records
from betastar.analysis.differences import paired_differences
from betastar.analysis.signals import warning_signs
from betastar.analysis.summary import summarise
from betastar.analysis.warnings import warnings

SCHEMA_VERSION = 2


def build_results(
    points: pd.DataFrame | Sequence[Mapping[str, Any]],
    extras: Mapping[tuple[float, int], Mapping[str, Any]],
    context: Mapping[str, Any],
    *,
    root_seed: int = 0,
    trade_off: float | None = None,
) -> dict[str, Any]:
    """The record of a run from its evaluation points; see docs/results.md for every field. `context` is put in as it
    is: name, data coverage, reward accuracy and whatever else the source of the points knows."""
    records = condition_records(pd.DataFrame(points), extras)
    variants = list(dict.fromkeys(r["variant"] for r in records.conditions))
    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "betastar": __version__,
        **context,
        "threshold": records.threshold,
        "conditions": records.conditions,
        "summary": {
            variant: summarise(
                [r for r in records.conditions if r["variant"] == variant], root_seed=root_seed, trade_off=trade_off
            )
            for variant in variants
        },
        "differences": paired_differences(records.conditions, root_seed=root_seed),
        "warning_signs": warning_signs(records.conditions),
        "chain": chains(records.conditions, root_seed=root_seed),
    }
    results["warnings"] = warnings(results)
    return results


def to_json(results: Mapping[str, Any]) -> str:
    """Strict JSON: what is undefined becomes null (its reason stands beside it), an infinite bound the text "inf"."""
    return json.dumps(_strict(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
