"""One summary per variant over seeds: means with standard errors, trend in β, the conservatism law, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from betastar.analysis.conditions import FORMS
from betastar.maths.conservatism import beta_star, definition_beta_star
from betastar.maths.statistics import mean_and_standard_error, spearman_exact
from betastar.randomness import numpy_generator

# What the table shows of a condition: a name, and the path to it in the condition's record.
QUANTITIES: Mapping[str, tuple[str, ...]] = {
    "augc_standardised": ("augc_standardised",),
    "augc_paper": ("augc_paper",),
    "proxy_start": ("proxy", "start"),
    "proxy_end": ("proxy", "end"),
    "proxy_standardised_rise": ("proxy_standardised_rise",),
    "true_start": ("true_strict", "start"),
    "true_lowest": ("true_strict", "lowest"),
    "true_end": ("true_strict", "end"),
    "disagreement": ("disagreement", "mean"),
    "disagreement_centred": ("disagreement_centred", "mean"),
    "policy_entropy": ("policy_entropy", "checkpoint"),
    "entropy_collapse": ("policy_entropy", "collapse"),
    "response_entropy_end": ("response_entropy", "end"),
    "ood_distance": ("ood_distance", "mean"),
    "diversity": ("diversity", "mean"),
    "kl_end": ("kl", "end"),
    "uq_gap_correlation": ("uq_gap_correlation_standardised",),
    "pair_accuracy": ("alignment", "pair_accuracy"),
    "win_rate": ("alignment", "win_rate"),
}


def value_at(record: Mapping[str, Any], path: Sequence[str]) -> float:
    """The number at a path of a record; NaN where it is absent."""
    value: Any = record
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return float("nan") if value is None else float(value)


def summarise(
    records: Sequence[Mapping[str, Any]], *, root_seed: int = 0, trade_off: float | None = None
) -> dict[str, Any]:
    """Summary of the records of one variant."""
    betas, seeds = sorted({r["beta"] for r in records}), sorted({r["seed"] for r in records})
    by_place = {(r["seed"], r["beta"]): r for r in records}

    def table(name: str) -> np.ndarray:
        """[S, B] values of a quantity."""
        path = QUANTITIES[name]
        return np.array([[value_at(by_place.get((s, b), {}), path) for b in betas] for s in seeds])

    rows = []
    for i, beta in enumerate(betas):
        row: dict[str, Any] = {"beta": beta}
        for name in QUANTITIES:
            mean = mean_and_standard_error(table(name)[:, i])
            row[name] = {**mean._asdict(), "reason": mean.reason}
        onsets = [by_place[s, beta]["onset_step"] for s in seeds if (s, beta) in by_place]
        row["onset_steps"] = onsets
        rows.append(row)
    summary: dict[str, Any] = {"betas": betas, "seeds": seeds, "by_beta": rows}
    for form in FORMS:
        augc = table(f"augc_{form}")
        stars = {
            reference: _star(betas, augc, reference, numpy_generator(root_seed, "law", form, reference))
            for reference in ("beta_min", "grid")
        }
        summary[form] = {
            "spearman": asdict(spearman_exact(betas, augc.mean(axis=0), numpy_generator(root_seed, "spearman"))),
            "law": stars["beta_min"].pop("fit"),
            "beta_star": stars["beta_min"],
            "beta_star_grid_reference": {k: v for k, v in stars["grid"].items() if k != "fit"},
        }
        if trade_off is not None:
            alignment = table("win_rate").mean(axis=0)
            summary[form]["beta_star_definition"] = {
                "value": definition_beta_star(betas, augc.mean(axis=0), alignment, trade_off),
                "trade_off": trade_off,
                "alignment": "win_rate",
            }
    return summary


def _star(betas: Sequence[float], augc: np.ndarray, reference: Any, rng: np.random.Generator) -> dict[str, Any]:
    star = asdict(beta_star(betas, augc, reference=reference, rng=rng))
    star["interval"] = star["interval"]._asdict() if hasattr(star["interval"], "_asdict") else star["interval"]
    return star
