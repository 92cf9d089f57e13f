"""Differences paired within seeds: between variants or runs at the same β, and between β of the same variant.

All conditions of a seed share prompts, data order and sampling noise, so a difference within a seed is free of what the
seed brings to both sides, and its interval over seeds is narrower than that of either mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from betastar.analysis.quantities import Record, described, table
from betastar.record.entries import REGISTRY
from betastar.record.schema import BETWEEN_VARIANTS


def paired_differences(records: Sequence[Record], *, root_seed: int = 0) -> list[dict[str, Any]]:
    """For every pair of variants, `variant` minus `minus` at the same β and seed, in the order of the records.

    `by_beta`: one row per β that both have: mean difference over seeds, standard error, interval, n and reason, for
    each quantity of BETWEEN_VARIANTS. `over_beta`: the same for each seed's mean over those β, for seeds that have all
    of them in both variants.
    """
    of = {name: [r for r in records if r["variant"] == name] for name in dict.fromkeys(r["variant"] for r in records)}
    return [
        {"variant": later, "minus": earlier, **between(of[later], of[earlier], root_seed=root_seed)}
        for earlier, later in combinations(of, 2)
    ]


def minus_smallest_beta(records: Sequence[Record], *, root_seed: int = 0) -> dict[str, Any]:
    """Of one variant: every quantity at each β minus the same at the smallest β, within seeds that have both."""
    betas, seeds = sorted({r["beta"] for r in records}), sorted({r["seed"] for r in records})
    rows: list[dict[str, Any]] = [{"beta": beta} for beta in betas[1:]]
    for name in (m.name for m in REGISTRY.summaries):
        values, present = table(records, name, seeds, betas)
        for i, row in enumerate(rows, start=1):
            both = present[:, 0] & present[:, i]
            difference = values[both, i] - values[both, 0]
            row[name] = described(difference, name, difference=True, root_seed=root_seed)
    reason = None if rows else "there is one β"
    return {"smallest_beta": betas[0] if rows else None, "by_beta": rows, "reason": reason}


def between(ours: Sequence[Record], theirs: Sequence[Record], *, root_seed: int = 0) -> dict[str, Any]:
    """`ours` minus `theirs`, the records of a variant each, within the seeds and at the β that both have: `by_beta` and
    `over_beta` as in `paired_differences`."""
    sides = ours, theirs
    betas, seeds = (sorted(set.intersection(*({r[k] for r in side} for side in sides))) for k in ("beta", "seed"))
    rows: list[dict[str, Any]] = [{"beta": beta} for beta in betas]
    over: dict[str, Any] = {}
    for name in BETWEEN_VARIANTS:
        (ours_at, ours_there), (theirs_at, theirs_there) = (table(side, name, seeds, betas) for side in sides)
        difference, there = ours_at - theirs_at, ours_there & theirs_there
        for i, row in enumerate(rows):
            row[name] = described(difference[there[:, i], i], name, difference=True, root_seed=root_seed)
        everywhere = difference[there.all(axis=1)].mean(axis=1) if betas else difference.ravel()
        over[name] = described(everywhere, name, difference=True, root_seed=root_seed)
    return {"by_beta": rows, "over_beta": over}
