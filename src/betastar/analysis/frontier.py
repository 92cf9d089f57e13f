"""Finished runs of which one point each is known: their rewards against the distance √KL, from run to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan, sqrt
from typing import Any

import numpy as np

from betastar.maths.statistics import spearman_exact
from betastar.randomness import numpy_generator

Record = Mapping[str, Any]
FEWEST = 3
NO_KL = "KL is not logged, so runs are ordered by the proxy"


def frontier(records: Sequence[Record], unknown: str, root_seed: int = 0) -> dict[str, Any] | None:
    """The frontier of at least `FEWEST` conditions with one evaluation point each; None for any other record.

    `rows` in the order of √KL (of the proxy, if some KL is not known): proxy, truth and distance of every run. `best`:
    the place of the highest truth in it; `lost`: how much lower the truth is at the far end, in its unit; `beyond`:
    Spearman's ρ of proxy and truth over the runs from the best on. `unknown`: why a β is null. What is not known is
    NaN."""
    if len(records) < FEWEST or any(record["n_points"] > 1 for record in records):
        return None
    rows = [
        {
            **{name: record[name] for name in ("variant", "beta", "seed")},
            "distance": _root(record["kl"]["end"]),
            "proxy": record["proxy"]["end"],
            "truth": record["true_strict"]["end"],
        }
        for record in records
    ]
    by = "distance" if not any(np.isnan(row["distance"]) for row in rows) else "proxy"
    rows.sort(key=lambda row: (row[by], row["truth"]))
    truth = np.array([row["truth"] for row in rows])
    missing = {}
    if by == "proxy":
        missing["distance"] = NO_KL
    if any(np.isnan(row["beta"]) for row in rows):
        missing["beta"] = unknown
    if np.isnan(truth).any():
        reason = "the true reward is not logged in every run"
        found: dict[str, Any] = {"best": None, "lost": nan, "beyond": nan, "reason": reason}
        missing["truth"] = reason
    else:
        best = int(truth.argmax())
        beyond = rows[best:]
        rho = spearman_exact(
            [row["proxy"] for row in beyond],
            [row["truth"] for row in beyond],
            numpy_generator(root_seed, "frontier"),
        )
        found = {
            "best": best,
            "lost": float(truth[best] - truth[-1]),
            "beyond": rho.rho,
            "reason": rho.reason if np.isnan(rho.rho) else None,
        }
    return {"ordered_by": by, "n": len(rows), "rows": rows, **found, **({"missing": missing} if missing else {})}


def _root(kl: float) -> float:
    """√KL; an estimate just below 0 counts as 0."""
    return nan if np.isnan(kl) else sqrt(max(kl, 0.0))
