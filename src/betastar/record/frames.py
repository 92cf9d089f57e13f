"""A record as data frames. Their columns, with dtype, unit and meaning, come from the registry of measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, nan
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from betastar.record.entries import REGISTRY
from betastar.record.measures import Kind, Measure

if TYPE_CHECKING:
    import pandas as pd

Frame = Literal["points", "conditions", "summary", "responses"]
DTYPES: Mapping[Kind, str] = {
    "number": "float64",
    "count": "Int64",
    "step": "Int64",
    "flag": "boolean",
    "text": "object",
    "numbers": "object",
}


class Column(NamedTuple):
    """A column of a frame. `Int64` and `boolean` are pandas' kinds that can be missing."""

    name: str
    dtype: str
    unit: str
    meaning: str


CONDITION = (
    Column("variant", "object", "", "variant of the online phase"),
    Column("beta", "float64", "", "β of the offline phase; NaN if unknown"),
    Column("seed", "int64", "", "seed of the condition"),
)
STEP = Column("step", "int64", "steps", "online steps taken; 0 is the checkpoint")
MEAN = (
    Column("variant", "object", "", "variant of the online phase"),
    Column("beta", "float64", "", "β of the offline phase; NaN if unknown"),
    Column("measure", "object", "", "name of a measure of a summary"),
    Column("mean", "float64", "", "mean over seeds, in the measure's unit"),
    Column("standard_error", "float64", "", "of the mean; NaN with one seed"),
    Column("low", "float64", "", "lower end of the interval"),
    Column("high", "float64", "", "upper end of the interval"),
    Column("level", "float64", "", "of the interval, 0.95"),
    Column("method", "object", "", "of the interval"),
    Column("n", "int64", "", "seeds"),
    Column("reason", "object", "", "why a number is NaN; None if none is"),
)


def columns(frame: Frame) -> list[Column]:
    """The columns of a frame, in order."""
    if frame == "points":
        return [*CONDITION, STEP, *map(_column, REGISTRY.series)]
    if frame == "responses":
        return [*CONDITION, STEP, *map(_column, REGISTRY.at("response"))]
    if frame == "summary":
        return list(MEAN)
    counts = (
        Column("n", "Int64", "", "number of responses behind each mean, over all problems"),
        Column("n_points", "int64", "", "evaluation points, including the start"),
    )
    parts = [Column(name, "float64", m.unit, f"{m.meaning}: {path[-1]}") for name, path, m in _parts()]
    return [*CONDITION, *counts, *map(_column, REGISTRY.at("condition")), *parts]


def points_frame(record: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each evaluation point of each condition."""
    conditions = record["conditions"]
    sizes = [len(condition["series"]["step"]) for condition in conditions]
    data: dict[str, Any] = {}
    for column in columns("points"):
        if column.name in ("variant", "beta", "seed"):
            values = [condition[column.name] for condition in conditions]
            data[column.name] = [value for value, size in zip(values, sizes, strict=True) for _ in range(size)]
        elif any(hasattr(condition["series"][column.name], "dtype") for condition in conditions):
            import numpy as np

            data[column.name] = np.concatenate([condition["series"][column.name] for condition in conditions])
        else:
            data[column.name] = [value for condition in conditions for value in condition["series"][column.name]]
    return _frame(data, "points")


def conditions_frame(record: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each condition."""
    parts = {name: path for name, path, _ in _parts()}
    rows = [
        {c.name: _at(condition, parts.get(c.name, (c.name,))) for c in columns("conditions")}
        for condition in record["conditions"]
    ]
    return _frame({c.name: [row[c.name] for row in rows] for c in columns("conditions")}, "conditions")


def summary_frame(record: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each variant, β and measure: the mean over seeds with its interval."""
    rows = [
        {"variant": variant, "beta": row["beta"], "measure": m.name, **_mean(row[m.name])}
        for variant, summary in record["summary"].items()
        for row in summary["by_beta"]
        for m in REGISTRY.summaries
    ]
    return _frame({c.name: [row[c.name] for row in rows] for c in MEAN}, "summary")


def responses_frame(samples: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row for each kept response."""
    return _frame({c.name: [row.get(c.name) for row in samples] for c in columns("responses")}, "responses")


def _column(measure: Measure) -> Column:
    return Column(measure.name, DTYPES[measure.kind], measure.unit, measure.meaning)


def _parts() -> list[tuple[str, tuple[str, ...], Measure]]:
    """Columns of a condition that are parts of an object: column, path, measure. A measure of the same name goes
    first."""
    measures = {m.name for m in REGISTRY.at("condition")}
    own = measures | {m.name for m in REGISTRY.kept}
    found = [(f"{m.name}_{part}", (m.name, part), m) for m in REGISTRY.kept for part in m.kept]
    found = [part for part in found if part[0] not in measures]
    return found + [(m.name, m.path, m) for m in REGISTRY.at("summary") if m.path[0] not in own]


def _at(value: Any, path: Sequence[str]) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _mean(entry: Mapping[str, Any]) -> dict[str, Any]:
    interval = entry["interval"]
    ends = {name: interval[name] for name in ("low", "high", "level", "method")}
    return {**{name: entry[name] for name in ("mean", "standard_error", "n")}, **ends, "reason": _why(entry)}


def _why(entry: Mapping[str, Any]) -> str | None:
    return entry["reason"] or entry["interval"]["reason"]


def _frame(data: Mapping[str, Sequence[Any]], frame: Frame) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({c.name: _series(data[c.name], c.dtype) for c in columns(frame)})


def _series(values: Sequence[Any], dtype: str) -> Any:
    import pandas as pd

    if hasattr(values, "dtype"):
        return pd.Series(values, dtype=dtype)
    if dtype == "float64":
        ends = {"inf": inf, "-inf": -inf, None: nan}
        return pd.Series([ends[v] if v is None or isinstance(v, str) else float(v) for v in values], dtype="float64")
    if dtype in ("Int64", "boolean"):
        return pd.Series([None if v is None or v != v else v for v in values], dtype=dtype)
    return pd.Series(list(values), dtype=dtype)
