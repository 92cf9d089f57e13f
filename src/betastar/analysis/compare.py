"""Several runs beside each other: what differs in their settings, damage by β of each, and differences from the first.

β are compared where they are equal and nowhere else: percentile grids give each run its own. What changes per tenfold β
is a slope over each run's own β, and so can be compared without a common one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from betastar import __version__
from betastar.analysis.differences import between
from betastar.analysis.pairing import Match, Subject, match, records
from betastar.analysis.quantities import Record, described, range_of, table
from betastar.analysis.run_settings import differing, settings_of
from betastar.maths.intervals import welch_difference
from betastar.maths.statistics import Interval
from betastar.maths.trend import slope_within
from betastar.record.schema import BETWEEN_VARIANTS, FORMS
from betastar.record.shapes.comparison import COMPARISON_VERSION

NOT_EQUAL = "the runs have no β in common"
NO_SLOPE = "a slope per tenfold β needs two β above 0 and a seed that has every β, in both runs"


def compare(subjects: Sequence[Subject]) -> dict[str, Any]:
    """The comparison of runs: `runs`, `settings` that differ, `damage` by variant, run and β, and `differences` of each
    later run from the first at the same variant and β. docs/results.md has every field.

    Raises ValueError for fewer than two subjects, or names that are not unique.
    """
    names = [subject.name for subject in subjects]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"a comparison needs two runs with names of their own, got {names}")
    variants = dict.fromkeys(v for subject in subjects for v in subject.results["summary"])
    partial = [i for i, subject in enumerate(subjects) if not subject.config]
    rows = differing([settings_of(subject.results, subject.config) for subject in subjects], partial)
    return {
        "comparison_version": COMPARISON_VERSION,
        "betastar": __version__,
        "reference": names[0],
        "runs": [_described(subject) for subject in subjects],
        "settings_unknown": [subjects[i].name for i in partial],
        "settings": [{"setting": setting, "values": dict(zip(names, values, strict=True))} for setting, values in rows],
        "damage": [
            _damage(subject, variant)
            for variant in variants
            for subject in subjects
            if variant in subject.results["summary"]
        ],
        "differences": [
            difference(later, subjects[0], variant)
            for variant in variants
            for later in subjects[1:]
            if variant in later.results["summary"] and variant in subjects[0].results["summary"]
        ],
    }


def difference(ours: Subject, theirs: Subject, variant: str) -> dict[str, Any]:
    """`variant` of the run `ours` minus the same of `theirs`: at every β that both have, over those, and of the slopes
    per tenfold β, which each run has over its own β."""
    found = match(ours, theirs, variant)
    sides = records(ours, variant), records(theirs, variant)
    betas = [{r["beta"] for r in side if r["beta"] is not None} for side in sides]
    equal = sorted(betas[0] & betas[1])
    seeds = [sorted({r["seed"] for r in side}) for side in sides]
    root = int(theirs.results.get("root_seed") or 0)
    entry: dict[str, Any] = {
        "run": ours.name,
        "minus": theirs.name,
        "variant": variant,
        **found._asdict(),
        "betas": equal,
        "other_betas": {s.name: sorted(own - set(equal)) for s, own in zip((ours, theirs), betas, strict=True)},
        "seeds": sorted(set(seeds[0]) & set(seeds[1]))
        if found.method == "paired"
        else {s.name: own for s, own in zip((ours, theirs), seeds, strict=True)},
        "by_beta": [],
        "over_beta": None,
        "slope_per_tenfold_beta": None,
    }
    if found.method is None:
        return entry
    return {**entry, **_differences(found, *sides, equal, root)}


def _differences(
    found: Match, ours: Sequence[Record], theirs: Sequence[Record], equal: Sequence[float], root: int
) -> dict[str, Any]:
    if found.method == "paired":
        parts = between(ours, theirs, root_seed=root)
    else:
        parts = _unpaired(ours, theirs, equal)
    slopes = {}
    for form in FORMS:
        mine, other = (_slopes(side, f"augc_{form}") for side in (ours, theirs))
        if found.method == "paired":
            both = sorted(mine.keys() & other.keys())
            values = np.array([mine[seed] - other[seed] for seed in both])
            slope = described(values, difference=True, root_seed=root)
        else:
            slope = welch_difference(list(mine.values()), list(other.values())).record()
        slopes[f"augc_{form}"] = slope if mine and other else _nothing(slope, NO_SLOPE)
    over = parts["over_beta"] if equal else {name: _nothing(e, NOT_EQUAL) for name, e in parts["over_beta"].items()}
    return {"by_beta": parts["by_beta"], "over_beta": over, "slope_per_tenfold_beta": slopes}


def _unpaired(ours: Sequence[Record], theirs: Sequence[Record], betas: Sequence[float]) -> dict[str, Any]:
    """Differences of means over independent seeds."""
    rows: list[dict[str, Any]] = [{"beta": beta} for beta in betas]
    over: dict[str, Any] = {}
    for name in BETWEEN_VARIANTS:
        tables = [table(side, name, sorted({r["seed"] for r in side}), betas) for side in (ours, theirs)]
        low, high = range_of(name)
        bounds = low - high, high - low
        for i, row in enumerate(rows):
            values = [t.values[t.present[:, i], i] for t in tables]
            row[name] = welch_difference(*values, bounds=bounds).record()
        whole = [t.values[t.complete].mean(axis=1) if betas else np.zeros(0) for t in tables]
        over[name] = welch_difference(*whole, bounds=bounds).record()
    return {"by_beta": rows, "over_beta": over}


def _slopes(side: Sequence[Record], name: str) -> dict[int, float]:
    """Seed → slope of AUGC per tenfold β over the run's own β, of the seeds that have all of them."""
    betas, seeds = sorted({r["beta"] for r in side}), sorted({r["seed"] for r in side})
    found = table(side, name, seeds, betas)
    if len(betas) < 2 or betas[0] <= 0:
        return {}
    slopes = slope_within(betas, found.values)
    return {seed: float(slopes[i]) for i, seed in enumerate(seeds) if found.complete[i]}


def _nothing(entry: Mapping[str, Any], reason: str) -> dict[str, Any]:
    undefined = {"mean": np.nan, "standard_error": np.nan, "interval": Interval(np.nan, np.nan, reason)._asdict()}
    return {**entry, **undefined, "reason": reason}


def _described(subject: Subject) -> dict[str, Any]:
    results = subject.results
    conditions = results["conditions"]
    return {
        "name": subject.name,
        "run": results.get("name"),
        "betastar": results.get("betastar"),
        "root_seed": results.get("root_seed"),
        "variants": list(results["summary"]),
        "betas": sorted({r["beta"] for r in conditions if r["beta"] is not None}),
        "seeds": sorted({r["seed"] for r in conditions}),
        "last_step": sorted({r["series"]["step"][-1] for r in conditions}),
        "problems_evaluated": sorted({r["n"] for r in conditions if r.get("n") is not None}),
    }


def _damage(subject: Subject, variant: str) -> dict[str, Any]:
    """AUGC of a variant of a run, as its own record has it."""
    summary = subject.results["summary"][variant]
    names = [f"augc_{form}" for form in FORMS]
    return {
        "run": subject.name,
        "variant": variant,
        "by_beta": [{"beta": row["beta"], **{name: row[name] for name in names}} for row in summary["by_beta"]],
        "slope_per_tenfold_beta": {f"augc_{form}": summary[form]["slope_per_tenfold_beta"] for form in FORMS},
    }
