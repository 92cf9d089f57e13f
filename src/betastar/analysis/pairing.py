"""Whether two runs may be compared, and how: seed by seed, as independent samples, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from betastar.analysis.quantities import Record
from betastar.analysis.run_settings import differing, flat

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
    if why := _other_measurement(ours, theirs, *sides):
        return Match(None, why, [])
    cautions = _cautions(ours, theirs)
    if (why := _not_paired(ours, theirs, *sides)) is None:
        return Match("paired", None, cautions)
    few = [s.name for s, side in zip((ours, theirs), sides, strict=True) if len(_seeds(side)) < FEWEST_UNPAIRED]
    if few:
        return Match(None, f"{why}, and {' and '.join(few)} has one seed, so that its spread is unknown", cautions)
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
    points = [{tuple(r["series"]["step"]) for r in side} for side in (ours, theirs)]
    if points[0] != points[1]:
        counts = [{len(p) for p in some} for some in points]
        return f"they are evaluated at different steps ({_listed(*counts)} points), which areas and lowest values see"
    sizes = [{r.get("n") for r in side} for side in (ours, theirs)]
    if None in sizes[0] | sizes[1]:
        return "how many problems stand behind an evaluation is not recorded"
    if sizes[0] != sizes[1] or len(sizes[0]) > 1:
        return f"other numbers of problems are evaluated ({_listed(*sizes)}), and noise adds to an area"
    hot = [(s.results.get("evaluation") or s.config.get("evaluation") or {}).get("temperature") for s in (a, b)]
    if hot[0] != hot[1]:
        return f"they are evaluated at different temperatures ({hot[0]} and {hot[1]})"
    return None


def _not_paired(a: Subject, b: Subject, ours: Sequence[Record], theirs: Sequence[Record]) -> str | None:
    roots = [s.results.get("root_seed") for s in (a, b)]
    if None in roots:
        return "the root seed of one of them is not recorded, so what their seeds share is unknown"
    if roots[0] != roots[1]:
        return f"their root seeds differ ({roots[0]} and {roots[1]}), so equal seeds share nothing"
    if not _seeds(ours) & _seeds(theirs):
        return "they have no seed in common"
    tasks = [s.config.get("task") for s in (a, b)]
    if None in tasks:
        return "the task of one of them is not recorded, so whether they evaluate the same problems is unknown"
    counts = [{"test": (s.results.get("problems") or {}).get("test")} for s in (a, b)]
    both = [{**dict(flat(task, "task")), **count} for task, count in zip(tasks, counts, strict=True)]
    if found := differing(both):
        name, values = found[0]
        return f"they evaluate other problems ({name}: {values[0]} and {values[1]})"
    return None


def _cautions(a: Subject, b: Subject) -> list[str]:
    ensembles = [s.results.get("rewards") for s in (a, b)]
    if None in ensembles:
        return ["Whether both have the same reward ensemble is not recorded; no interval here covers another one."]
    if ensembles[0] != ensembles[1]:
        return [
            "They have different reward ensembles: what is the accident of one is part of the difference, and no "
            "interval here covers that."
        ]
    return []


def _listed(first: set[Any], second: set[Any]) -> str:
    return " and ".join("/".join(str(v) for v in sorted(some)) for some in (first, second))
