"""What is wrong with a configuration: pydantic's findings as one line each, with the key and a remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from betastar.sections.merging import TAGS


class Fault(NamedTuple):
    """One fault: the dotted path of the key, and what is wrong with it."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class Faults(ValueError):
    """Several faults found by one check."""

    def __init__(self, faults: Sequence[Fault]):
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


def faults_found(error: ValidationError, root: type[BaseModel], prefix: str = "") -> list[Fault]:
    """The faults that pydantic found, each in one line."""
    faults: list[Fault] = []
    for fault in error.errors():
        cause = fault.get("ctx", {}).get("error")
        faults += cause.faults if isinstance(cause, Faults) else [_fault(fault, root, prefix)]
    return [Fault(*(part.replace("\n", "\\n") for part in fault)) for fault in dict.fromkeys(faults)]


def _fault(fault: Any, root: type[BaseModel], prefix: str) -> Fault:
    loc = [part for part in fault["loc"] if part != "[key]"]
    whole = isinstance(fault.get("input"), dict)  # the fault of a whole section
    if len(loc) > 1 + (not whole) and loc[1] in TAGS:  # pydantic's location also names the chosen kind, which is no key
        del loc[1]
    path = ".".join(map(str, loc))
    where, kind, context = prefix + path, fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return Fault(where, f"unknown key; {_hint(path, sorted(set(key_paths(root))), prefix)}")
    if kind == "missing":
        return Fault(where, "missing; give it a value (`betastar config` says what it is)")
    if kind == "union_tag_not_found":
        where = f"{where}.{context['discriminator'][1:-1]}"
        return Fault(where, "missing; give it a value (`betastar config` says what it is)")
    given = fault.get("input")
    message = fault["msg"].removeprefix("Value error, ")
    if kind == "union_tag_invalid":
        where, given = f"{where}.{context['discriminator'][1:-1]}", context["tag"]
        message = f"should be one of {context['expected_tags']}"
    elif kind in ("dict_type", "model_type", "model_attributes_type"):
        message = "should hold settings, as in `name: {key: value}`"
    elif kind == "too_short":
        message = f"should hold at least {context['min_length']}"
    elif kind == "tuple_type":
        message = "should be a list, as in [a, b]"
    elif kind == "string_pattern_mismatch":
        message = "should consist of letters, digits, dots, hyphens and underscores, and begin with a letter or digit"
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) or given is None else ""
    return Fault(where, f"{message[0].lower() + message[1:]}{shown}")


def _hint(path: str, known: Sequence[str], prefix: str) -> str:
    """What an unknown key may have been meant as: a key of the same section rather than one elsewhere."""
    if path in known:
        return "it belongs to another kind or source"
    section, _, key = path.rpartition(".")
    siblings = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == section]
    if near := difflib.get_close_matches(key, siblings, 1):
        return f"did you mean {near[0]}?"
    if near := difflib.get_close_matches(key, {other.rpartition(".")[2] for other in known}, 1):
        full = next(other for other in known if other.rpartition(".")[2] == near[0])
        return f"did you mean {prefix}{full}?"
    return "`betastar config` lists all keys"


def key_paths(annotation: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of all keys of a model, of every kind and source."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield f"{path}{name}"
            yield from key_paths(field.annotation, f"{path}{name}.")
    else:
        for part in getattr(annotation, "__args__", ()):
            yield from key_paths(part, path)
