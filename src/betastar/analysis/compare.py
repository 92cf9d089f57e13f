"""Several runs beside one another: which settings differ, and differences from the first run, paired within seeds where
those match.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from betastar import __version__
from betastar.analysis.summary import Record, between, described, objectives_of, range_of, slope_record, table
from betastar.maths.intervals import welch_difference
from betastar.maths.statistics import Interval
from betastar.maths.trend import slope_within
from betastar.record.files import flat
from betastar.record.schema import BETWEEN_VARIANTS
from betastar.record.shapes.comparison import COMPARISON_VERSION

ABSENT, UNSET = "not recorded", "not set"
# The order in which a reader asks: what was trained, on what, with which seeds and β, and how.
FIRST = ("base", "reward_base", "task", "preferences", "root_seed", "seeds", "grid", "variants", "online", "evaluation")
LAST = ("compute", "tracking")
LABELS = ("name",)  # says nothing of what was done
RECORDED = ("root_seed", "prompt_split", "grid", "variants", "evaluation", "preferences")  # by results.json


def settings_of(results: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run by dotted name: those of its configuration, or where there is none, of its record."""
    source = config or {name: results[name] for name in RECORDED if name in results}
    return {name: value for name, value in flat(source) if name.partition(".")[0] not in ("", *LABELS)}


def differing(settings: Sequence[Mapping[str, Any]], partial: Collection[int] = ()) -> list[tuple[str, list[Any]]]:
    """Every setting that is not the same in all of `settings`, with its values in their order. What is missing counts
    as not set; but in those whose places are `partial`, which hold a part of their settings, it counts as nothing."""
    names = dict.fromkeys(name for some in settings for name in some)
    found = []
    for name in names:
        values = [some.get(name, ABSENT if i in partial else UNSET) for i, some in enumerate(settings)]
        told = [value for i, value in enumerate(values) if i not in partial or name in settings[i]]
        if any(value != told[0] for value in told[1:]):
            found.append((name, values))
    return sorted(found, key=lambda row: _place(row[0]))


def _place(name: str) -> int:
    section = name.partition(".")[0]
    if section in LAST:
        return len(FIRST) + 1 + LAST.index(section)
    return FIRST.index(section) if section in FIRST else len(FIRST)


Method = Literal["paired", "unpaired"]
FEWEST_UNPAIRED = 2


class Subject(NamedTuple):
    """A run that is compared: the name it goes by, its record, and its settings, empty where none were kept."""

    name: str
    results: Mapping[str, Any]
    config: Mapping[str, Any]


class Match(NamedTuple):
    """How the same variant of two runs is compared. `method`: None where no comparison would be honest. `reason`: why
    they are not paired, or not compared; None where they are paired. `cautions`: what else a reader must know."""

    method: Method | None
    reason: str | None
    cautions: list[str]


def match(ours: Subject, theirs: Subject, variant: str) -> Match:
    """How `variant` of both runs is compared.

    Paired needs the same root seed, seeds in common and the same evaluated problems, for then a seed has the same
    problems and the same sampling noise in both runs. Unpaired takes seeds as independent samples. Either needs the
    same measurement: areas and lowest values depend on the points and on how many problems stand behind each.
    """
    sides = [records(subject, variant) for subject in (ours, theirs)]
    if None in (r["beta"] for side in sides for r in side):
        return Match(None, "β is unknown in one of them", [])
    objectives = [objectives_of(subject.results).get(variant, "dpo") for subject in (ours, theirs)]
    if objectives[0] != objectives[1]:
        return Match(
            None, f"their objectives differ ({' and '.join(objectives)}): no strength of one is that of the other", []
        )
    if why := _other_measurement(ours, theirs, *sides):
        return Match(None, why, [])
    cautions = _cautions(ours, theirs)
    if (why := _not_paired(ours, theirs, *sides)) is None:
        return Match("paired", None, cautions)
    few = [s.name for s, side in zip((ours, theirs), sides, strict=True) if len(_seeds(side)) < FEWEST_UNPAIRED]
    if few:
        return Match(None, f"{why}, and {' and '.join(few)} has only one seed, so its spread is unknown", cautions)
    return Match("unpaired", why, cautions)


def records(subject: Subject, variant: str) -> list[Record]:
    """The conditions of a variant."""
    return [r for r in subject.results["conditions"] if r["variant"] == variant]


def _seeds(side: Sequence[Record]) -> set[int]:
    return {r["seed"] for r in side}


def _other_measurement(a: Subject, b: Subject, ours: Sequence[Record], theirs: Sequence[Record]) -> str | None:
    ends = [{r["series"]["step"][-1] for r in side} for side in (ours, theirs)]
    if ends[0] != ends[1] or len(ends[0]) > 1:
        return (
            f"they end at different steps ({_listed(*ends)}), and AUGC is an area that grows with the length of a run"
        )
    points = [{tuple(map(int, r["series"]["step"])) for r in side} for side in (ours, theirs)]
    if points[0] != points[1]:
        counts = [{len(p) for p in some} for some in points]
        return (
            f"they are evaluated at different steps ({_listed(*counts)} points), which changes areas and lowest values"
        )
    sizes = [{r.get("n") for r in side} for side in (ours, theirs)]
    if None in sizes[0] | sizes[1]:
        return "the number of problems per evaluation is not recorded"
    if sizes[0] != sizes[1] or len(sizes[0]) > 1:
        return f"they evaluate different numbers of problems ({_listed(*sizes)}), and noise adds to an area"
    hot = [(s.results.get("evaluation") or s.config.get("evaluation") or {}).get("temperature") for s in (a, b)]
    if hot[0] != hot[1]:
        return f"they are evaluated at different temperatures ({hot[0]} and {hot[1]})"
    return None


def _not_paired(a: Subject, b: Subject, ours: Sequence[Record], theirs: Sequence[Record]) -> str | None:
    roots = [s.results.get("root_seed") for s in (a, b)]
    if None in roots:
        return "the root seed of one of them is not recorded, so it is unknown whether equal seeds share anything"
    if roots[0] != roots[1]:
        return f"their root seeds differ ({roots[0]} and {roots[1]}), so equal seeds share nothing"
    if not _seeds(ours) & _seeds(theirs):
        return "they have no seed in common"
    tasks = [s.config.get("task") for s in (a, b)]
    if None in tasks:
        return "the task of one of them is not recorded, so it is unknown whether they evaluate the same problems"
    counts = [{"test": (s.results.get("problems") or {}).get("test")} for s in (a, b)]
    both = [{**dict(flat(task, "task")), **count} for task, count in zip(tasks, counts, strict=True)]
    if found := differing(both):
        name, values = found[0]
        return f"they evaluate different problems ({name}: {values[0]} and {values[1]})"
    return None


def _cautions(a: Subject, b: Subject) -> list[str]:
    ensembles = [s.results.get("rewards") for s in (a, b)]
    if None in ensembles:
        return [
            "It is not recorded whether both have the same reward ensemble; no interval here covers a different one."
        ]
    if ensembles[0] != ensembles[1]:
        if all(found is not None and "seeds" in found for found in ensembles):
            return ["They have different reward ensembles, one for each seed; intervals over seeds cover that chance."]
        return [
            "They have different reward ensembles, so chance differences between the ensembles are part of the "
            "result, and no interval here covers them."
        ]
    return []


def _listed(first: set[Any], second: set[Any]) -> str:
    return " and ".join("/".join(str(v) for v in sorted(some)) for some in (first, second))


NOT_EQUAL = "the runs have no β in common"
UNKNOWN = "β is unknown"
OUTCOMES = ("true_end", "regret", "augc_standardised", "augc_paper")
"""What is followed over the β of a run, the truth first."""
NO_SLOPE = "a slope per tenfold β needs two values of β above 0 and a seed that has every β, in both runs"


def compare(subjects: Sequence[Subject]) -> dict[str, Any]:
    """The comparison of runs: `runs`, `settings` that differ, `outcomes` by variant, run and β, and `differences` of
    each later run from the first at the same variant and β. docs/results.md has every field.

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
        "outcomes": [
            _outcomes(subject, variant)
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
    for name in OUTCOMES:
        mine, other = (_slopes(side, name) for side in (ours, theirs))
        if found.method == "paired":
            both = sorted(mine.keys() & other.keys())
            values = np.array([mine[seed] - other[seed] for seed in both])
            slope = described(values, difference=True, root_seed=root)
        else:
            slope = welch_difference(list(mine.values()), list(other.values())).record()
        slopes[name] = slope if mine and other else _nothing(slope, NO_SLOPE)
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
    """Seed → slope of a measure per tenfold β over the run's own β, of the seeds that have all of them."""
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
        "last_step": sorted({int(r["series"]["step"][-1]) for r in conditions}),
        "problems_evaluated": sorted({r["n"] for r in conditions if r.get("n") is not None}),
        "truth_unit": "pp" if all(d["truth_unit"] == "pp" for d in results["decision"].values()) else "score",
    }


def _outcomes(subject: Subject, variant: str) -> dict[str, Any]:
    """What became of a variant of a run over its own β: means as its record has them, and slopes."""
    mine, summary = records(subject, variant), subject.results["summary"][variant]
    root = int(subject.results.get("root_seed") or 0)

    def slope(name: str) -> dict[str, Any]:
        betas, seeds = sorted({r["beta"] for r in mine}), sorted({r["seed"] for r in mine})
        found = table(mine, name, seeds, betas)
        return slope_record(slope_within(betas, found.values[found.complete]), betas, root)

    unknown = any(r["beta"] is None for r in mine)
    return {
        "run": subject.name,
        "variant": variant,
        "by_beta": [{"beta": row["beta"], **{name: row[name] for name in OUTCOMES}} for row in summary["by_beta"]],
        "slope_per_tenfold_beta": {
            name: _nothing(summary["by_beta"][0][name], UNKNOWN) if unknown else slope(name) for name in OUTCOMES
        },
    }
