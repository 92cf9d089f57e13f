"""What every `results.json` keeps to: the schema, a reason for each null, an n for each number, pointers that lead
somewhere. Shared by the tests that have a record at hand.

The validator is the one in Rust: that in Python takes a second for a record."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from jsonschema_rs import Draft202012Validator

import betastar
from betastar.record.entries import REGISTRY
from betastar.record.files import to_json
from betastar.record.measures import Measure
from betastar.record.schema import schema

SETTINGS = ("grid", "methods", "variants", "evaluation", "problems", "preferences", "data", "hyperparameters", "source")
# Numbers that say which, and are not measured: of how many they are makes no sense.
IDENTITIES = {"beta", "betas", "smallest_beta", "level", "trade_off", "drop", "false_alarm_rate"}


def analyzed(frame: Any, **told: Any) -> dict[str, Any]:
    """The record of an analysis of a frame, as a reader of its file has it."""
    return dict(betastar.analyze(frame, **told).record)


Place = tuple[str | int, ...]


def validator() -> Draft202012Validator:
    return _validator(tuple(REGISTRY))


@lru_cache(maxsize=2)
def _validator(measures: tuple[Measure, ...]) -> Draft202012Validator:
    """Kept for as long as the registry is the same."""
    return Draft202012Validator(schema())


def check(results: Mapping[str, Any]) -> dict[str, Any]:
    """The record as a reader of its file has it, after every check of this page."""
    record = json.loads(to_json(results))
    assert faults(record) == []
    assert unexplained(record) == []
    assert uncounted(record) == []
    assert list(dangling(record)) == []
    return record


def faults(record: Any) -> list[str]:
    """Where a record departs from the schema."""
    return [
        f"{'/'.join(map(str, error.instance_path))}: {error.message[:200]}" for error in validator().iter_errors(record)
    ]


def walk(value: Any, place: Place = (), around: tuple[Mapping[str, Any], ...] = ()) -> Iterator[tuple[Place, Any, Any]]:
    """Every value that is no object or list: its place, itself, and the objects around it, the innermost last."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from walk(part, (*place, key), (*around, value))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from walk(part, (*place, i), around)
    else:
        yield place, value, around


def unexplained(record: Mapping[str, Any]) -> list[str]:
    """Nulls without a reason.

    The rule: the innermost object around a null that has the field `reason` holds a text there; or an object around it
    has `missing`, and that names a field on the way from it to the null. `reason` and `refusal` themselves may be null:
    then there is nothing to explain.
    """
    found = []
    for place, value, around in walk(record):
        if value is not None or place[-1] in ("reason", "refusal"):
            continue
        reasons = [part["reason"] for part in around if "reason" in part]
        named = {name for part in around for name, text in part.get("missing", {}).items() if text}
        if not (reasons and reasons[-1]) and not named & set(place):
            found.append("/".join(map(str, place)))
    return found


def uncounted(record: Mapping[str, Any]) -> list[str]:
    """Measured or estimated numbers around which no object, the record itself aside, says of how many: `n`, `n_seeds`,
    `n_positive` and the like, `pairs` for the accuracy of reward models. Settings and coverage are not measured."""
    found = []
    for place, value, around in walk(record):
        if not isinstance(value, float) or place[0] in SETTINGS or IDENTITIES & set(place):
            continue
        if not any(re.match(r"n(_|$)|pairs$", key) for part in around[1:] for key in part):
            found.append("/".join(map(str, place)))
    return found


def dangling(record: Mapping[str, Any]) -> Iterator[str]:
    """JSON pointers of the protocol that lead nowhere."""
    for _, value, _ in walk(record["protocol"]):
        if isinstance(value, str) and value.startswith("/"):
            try:
                resolve(record, value)
            except (KeyError, IndexError, ValueError):
                yield value


def resolve(record: Any, pointer: str) -> Any:
    """What a JSON pointer (RFC 6901) leads to."""
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        record = record[int(part)] if isinstance(record, list) else record[part]
    return record
