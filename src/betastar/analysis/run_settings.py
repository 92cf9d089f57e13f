"""Settings of several runs beside each other: which differ."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

ABSENT, UNSET = "not recorded", "not set"
# The order in which a reader asks: what was trained, on what, with which seeds and β, and how.
FIRST = ("base", "reward_base", "task", "preferences", "root_seed", "seeds", "grid", "variants", "online", "evaluation")
LAST = ("compute", "tracking")
LABELS = ("name",)  # says nothing of what was done
RECORDED = ("root_seed", "prompt_split", "grid", "variants", "evaluation", "preferences")  # by results.json


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested mappings with its dotted name; a list is a leaf."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from flat(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


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
