"""What every reader returns: the rows of one run, as they were logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd


class Log(NamedTuple):
    """One run. `name`: its path, and the run's name where a file holds several; β and seed are looked for in it.
    `rows`: one row per logged record, in the order written, columns as logged. `kind`: the format, in words.
    `record`: `results.json`, where the run is ours. `note`: what a person should know of how it was read."""

    name: str
    rows: pd.DataFrame
    kind: str
    record: Mapping[str, Any] | None = None
    note: str | None = None


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one level, names joined by "/"; a wrapper named `data` or `metrics` leaves no trace."""
    result: dict[str, Any] = {}
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            result |= flat(value, prefix if key in ("data", "metrics") else f"{name}/")
        else:
            result[name] = value
    return result
