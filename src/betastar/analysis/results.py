"""Every number of a run in one record, from its evaluation points."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from betastar import __version__
from betastar.analysis.chain import chains
from betastar.analysis.conditions import Records, condition_records
from betastar.analysis.differences import paired_differences
from betastar.analysis.protocol import protocol_record
from betastar.analysis.signals import warning_signs
from betastar.analysis.summary import summarise
from betastar.analysis.warnings import warnings
from betastar.maths.goodhart import HACKING_PERCENTILE
from betastar.record.shapes.results import SCHEMA_VERSION

BETA_UNKNOWN = "no column, name or option says what β this was"


def build_results(
    points: pd.DataFrame | Sequence[Mapping[str, Any]],
    extras: Mapping[tuple[float, int], Mapping[str, Any]],
    context: Mapping[str, Any],
    *,
    root_seed: int = 0,
    trade_off: float | None = None,
    unknown_beta: Collection[str] = (),
) -> dict[str, Any]:
    """The record of a run from its evaluation points; see docs/results.md for every field. `context` is put in as it
    is: name, data coverage, reward accuracy and whatever else the source of the points knows. `unknown_beta`: variants
    whose β in the points is a stand-in, which must not be seen or compared with another."""
    records = condition_records(pd.DataFrame(points), extras)
    variants = list(dict.fromkeys(r["variant"] for r in records.conditions))
    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "betastar": __version__,
        **context,
        "threshold": _threshold(records),
        "conditions": records.conditions,
        "summary": {
            variant: summarise(
                [r for r in records.conditions if r["variant"] == variant], root_seed=root_seed, trade_off=trade_off
            )
            for variant in variants
        },
        "differences": paired_differences(
            [r for r in records.conditions if r["variant"] not in unknown_beta], root_seed=root_seed
        ),
        "warning_signs": warning_signs(records.conditions),
        "chain": chains(records.conditions, root_seed=root_seed),
    }
    found = warnings(results)
    results["conditions"] = [_hidden(r) if r["variant"] in unknown_beta else r for r in results["conditions"]]
    results["summary"] = {v: _hidden(s) if v in unknown_beta else s for v, s in results["summary"].items()}
    return {**results, "protocol": protocol_record(results), "warnings": found}


def _threshold(records: Records) -> dict[str, Any]:
    """τ of each form of the gap, of which percentile of how many positive gaps."""
    undefined = [form for form, value in records.threshold.items() if math.isnan(value)]
    return {
        **records.threshold,
        "percentile": HACKING_PERCENTILE,
        "n_positive": records.n_positive,
        "reason": f"no positive gap: {', '.join(undefined)}" if undefined else None,
    }


def _hidden(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of the record with every β in it, whatever its place, made NaN, and the reason for that."""
    missing = {**part.get("missing", {}), **dict.fromkeys(("beta", "betas"), BETA_UNKNOWN)}
    if "betas" not in part:
        del missing["betas"]
    return {**_without_beta(part), "missing": missing}


def _without_beta(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _without_beta(part, key) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_beta(part, name) for part in value]
    return math.nan if name in ("beta", "betas") else value
