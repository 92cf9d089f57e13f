"""The evaluation points of a large analysis: a Parquet table beside `results.json`, which then holds no series.

A record in memory has its series in any case: lists, or arrays where they are long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from betastar.disk import write_atomically
from betastar.errors import BetastarError
from betastar.record.entries import REGISTRY

if TYPE_CHECKING:
    import pandas as pd

POINTS = "points.parquet"
MOST_IN_JSON = 20_000
"""Evaluation points of all conditions together, above which their series leave `results.json`."""
PLACE = "condition"
"""Column of the table: the place of the point's condition in the record's list."""
REPEAT = "repeat the run or the analysis"


def outside(record: Mapping[str, Any]) -> bool:
    """Whether a record's series are in a table of their own."""
    return "points" in record


def without_series(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as `results.json` has it: without its series, where they are in a table."""
    if not outside(record):
        return dict(record)
    conditions = [{name: part for name, part in c.items() if name != "series"} for c in record["conditions"]]
    return {**record, "conditions": conditions}


def write_series(path: Path, record: Mapping[str, Any], points: pd.DataFrame) -> None:
    """Write the series of a record as a table, in one atomic step: variant, β, seed, step, every series that has a
    number, and what else the evaluation `points` have. `points`: in any order, β NaN where it is unknown."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    conditions = record["conditions"]
    sizes = [len(c["series"]["step"]) for c in conditions]
    place = np.repeat(np.arange(len(conditions), dtype=np.int32), sizes)
    columns: dict[str, Any] = {PLACE: place}
    for name in ("variant", "beta", "seed"):
        values = pa.array([c[name] for c in conditions], from_pandas=True)
        columns[name] = (values.dictionary_encode() if name == "variant" else values).take(pa.array(place))
    for name in conditions[0]["series"]:
        values = np.concatenate([np.asarray(c["series"][name]) for c in conditions])
        if name == "step" or not np.isnan(values).all():
            columns[name] = values
    frame: Any = points
    rest = [name for name in frame if name not in columns and not frame[name].isna().all()]
    if rest:
        index = {(c["variant"], _key(c["beta"]), c["seed"]): i for i, c in enumerate(conditions)}
        of = frame.groupby(["variant", "beta", "seed"], dropna=False, sort=False).ngroup().to_numpy()
        first = frame.iloc[np.unique(of, return_index=True)[1]]
        keys = zip(first["variant"], first["beta"], first["seed"], strict=True)
        where = np.array([index[str(variant), _key(beta), int(seed)] for variant, beta, seed in keys])
        order = np.lexsort((frame["step"].to_numpy(), where[of]))
        columns |= {str(name): frame[name].to_numpy()[order] for name in rest}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    write_atomically(path, sink.getvalue())


def read_points_table(path: Path) -> pd.DataFrame:
    """The table. Raises BetastarError where it cannot be read or is not one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        first = str(error).split("\n")[0]
        raise BetastarError(f"cannot be read ({first:.200})", where=str(path), remedy=REPEAT) from None
    missing = [name for name in (PLACE, "variant", "beta", "seed", "step") if name not in table]
    if missing:
        raise BetastarError(f"has no column {missing[0]}", where=str(path), remedy=REPEAT)
    return table


def with_series(record: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The record with the series of the table at `path`. Raises BetastarError where the table is missing, damaged or of
    another record."""
    table = read_points_table(path)
    conditions: Sequence[Mapping[str, Any]] = record["conditions"]
    sizes = [c["n_points"] for c in conditions]
    expected = np.repeat(np.arange(len(conditions)), sizes)
    if len(table) != len(expected) or not np.array_equal(table[PLACE].to_numpy(), expected):
        raise BetastarError("does not belong to the record beside it", where=str(path), remedy=REPEAT)
    ends = np.cumsum(sizes)
    known: dict[str, Any] = {"step": table["step"].to_numpy(dtype=np.int64)}
    known |= {m.name: table[m.name].to_numpy(dtype=float) for m in REGISTRY.series if m.name in table}
    names = ["step", *(m.name for m in REGISTRY.series)]
    return {
        **record,
        "conditions": [
            {**c, "series": {n: known[n][end - size : end] if n in known else undefined(size) for n in names}}
            for c, size, end in zip(conditions, sizes, ends, strict=True)
        ],
    }


def undefined(size: int) -> Any:
    """A series [size] of NaN, which takes no memory."""
    return np.broadcast_to(np.nan, size)


def _key(beta: float | None) -> float | None:
    return None if beta is None or beta != beta else float(beta)
