"""How much of a gap is the instrument's: a checkpoint evaluated twice, nothing changed but the sampling noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan, sqrt
from typing import Any

import numpy as np

from betastar.analysis.quantities import Record, value_at
from betastar.maths.goodhart import paper_gap, standardised_gap
from betastar.maths.intervals import root_mean_square_interval

PARTS = ("gap", "z_proxy", "z_true", "gap_paper")


def instrument_noise(records: Sequence[Record]) -> dict[str, Any]:
    """The gap of the second evaluation at t=0 (`again`) against the first, of one variant's records (A/A comparison).

    `conditions`: both forms of that gap, and the two standardised parts, per β and seed. For each of them
    `standard_deviation`: root mean square over conditions (the mean is 0 by construction), with n, an interval that
    counts the noise the β of a seed share, and for the standardised form what theory expects (`_expected`). A gap at
    t > 0 carries this much noise where the policy has moved, and less where it has not, since evaluations share their
    sampling noise over time. `augc`: the AUGC that such noise alone would give on average at the run's own evaluation
    points, were it fresh at each; E max(N(0, s²), 0) = s/√(2π). Null with a reason where nothing was evaluated twice.
    """
    rows = [_row(record) for record in records]
    seeds = sorted({row["seed"] for row in rows})
    pooled = {}
    for part in PARTS:
        by_seed = [np.array([r[part] for r in rows if r["seed"] == s and not np.isnan(r[part])]) for s in seeds]
        values = np.concatenate([np.zeros(0), *by_seed])
        expected = np.array([r["expected"][part] for r in rows if part in r["expected"] and not np.isnan(r[part])])
        reason = None if values.size else "no condition has two evaluations at t=0 of known size and spread"
        pooled[part] = {
            "standard_deviation": sqrt(float(np.mean(values**2))) if values.size else nan,
            "interval": root_mean_square_interval(by_seed)._asdict(),
            "expected": sqrt(float(np.mean(expected**2))) if expected.size else nan,
            "n": int(values.size),
            "n_seeds": sum(v.size > 0 for v in by_seed),
            "reason": reason or (None if expected.size else "no theory for a ratio to the start"),
        }
    noise = pooled["gap"]
    area = float(np.mean([_weight(record) for record in records])) / sqrt(2 * np.pi) if records else nan
    bounds = {side: noise["interval"][side] * area for side in ("low", "high")}
    return {
        **pooled,
        "augc": {
            "value": noise["standard_deviation"] * area,
            "interval": {**noise["interval"], **bounds},
            "n": noise["n"],
            "reason": noise["reason"],
        },
        "conditions": rows,
    }


def _row(record: Record) -> dict[str, Any]:
    again = record.get("again")
    row: dict[str, Any] = {"beta": record["beta"], "seed": record["seed"], "n": record.get("n", nan)}
    row |= {**dict.fromkeys(PARTS, nan), "expected": {}}
    if not isinstance(again, Mapping) or again.get("proxy") is None or again.get("true_strict") is None:
        return {**row, "reason": "the checkpoint was not evaluated twice"}
    if np.isnan(record["n"]):
        return {**row, "reason": "the number of responses is not known"}
    n, deviation = int(record["n"]), float((record["series"].get("proxy_std") or [nan])[0])
    proxy = [value_at(record, ("proxy", "start")), float(again["proxy"])]
    true = [value_at(record, ("true_strict", "start")), float(again["true_strict"])]
    correct = round(true[0] * n)
    gap = standardised_gap(proxy, true, deviation, correct, n)
    row |= {"gap": float(gap.gap[1]), "z_proxy": float(gap.z_proxy[1]), "z_true": float(gap.z_true[1])}
    row |= {"gap_paper": float(paper_gap(proxy, true)[1] - paper_gap(proxy, true)[0])}
    return {**row, "expected": _expected(n, correct, true), "reason": gap.reason}


def _expected(n: int, correct: int, true: Sequence[float]) -> dict[str, float]:
    """Standard deviations of two evaluations' difference, were the n responses independent draws.

    Normal theory for the proxy: s²/n twice, in units of s. Binomial for the true reward: p(1−p)/n twice, p from both
    evaluations, in units of √(q(1−q)), q as in the gap. The gap's is that of uncorrelated rewards. Problems are the
    same in both evaluations and their differences in difficulty cancel, so measured values lie below these; a positive
    correlation of the two rewards within a response lowers the gap's further.
    """
    q, p = (correct + 1) / (n + 2), float(np.mean(true))
    z_proxy, z_true = sqrt(2 / n), sqrt(2 * p * (1 - p) / n / (q * (1 - q)))
    return {"gap": sqrt(z_proxy**2 + z_true**2), "z_proxy": z_proxy, "z_true": z_true}


def _weight(record: Record) -> float:
    """Steps that the trapezoid gives to the points after the start."""
    steps = np.asarray(record["series"]["step"], dtype=np.float64)
    return float(np.trapezoid(np.arange(steps.size) > 0, steps)) if steps.size > 1 else 0.0
