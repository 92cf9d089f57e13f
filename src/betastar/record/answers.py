"""Every answer to a held-out problem as one row without its text: `answers.parquet` of a run.

Most outcomes of a condition need single answers: tests paired by problem, an unbiased best step, the ranking of right
and wrong answers to one problem. Means cannot give them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from betastar.disk import write_atomically
from betastar.errors import BetastarError
from betastar.record.frames import Column

if TYPE_CHECKING:
    import pandas as pd

CONDITION = ("variant", "beta", "seed")


COLUMNS = (
    Column("variant", "category", "", "variant of the online phase"),
    Column("beta", "float64", "", "β of the offline phase; NaN if unknown"),
    Column("seed", "int64", "", "seed of the condition"),
    Column("step", "int64", "steps", "online steps taken; 0 is the checkpoint"),
    Column("replicate", "int8", "", "1: the second evaluation of the checkpoint, with fresh noise; else 0"),
    Column("problem", "string", "", "number of the problem"),
    Column("answer", "int16", "", "place among the answers to this problem, from 0"),
    Column("proxy", "float32", "", "proxy reward: the ensemble's mean score"),
    Column("disagreement", "float32", "", "û: standard deviation of the members' scores; NaN if unknown"),
    Column("strict", "float32", "", "true reward: 1 where the stated answer is exactly right, else 0; or a score"),
    Column("lenient", "float32", "", "the same for the lenient grader; NaN if there is none"),
    Column("parsable", "float32", "", "1 where an answer is stated at all; NaN if unknown"),
    Column("tokens", "float32", "tokens", "length of the answer; NaN if unknown"),
    Column("at_limit", "float32", "", "1 where the answer was cut at the length limit; NaN if unknown"),
    Column("log_ratio", "float32", "nats", "log π_θ − log π of the checkpoint; NaN if unknown"),
    Column("log_ratio_base", "float32", "nats", "log π_θ − log π of the base; NaN if unknown"),
)
MUST = ("variant", "beta", "seed", "step", "problem", "proxy", "strict")


class Grid(NamedTuple):
    """The answers of one condition as arrays `[T, P, A]` by step, problem and answer; NaN where there is none. `steps
    [T]`; `problems [P]`; `again [P, A]` of both rewards: the checkpoint's second evaluation, None if it has none."""

    steps: NDArray[np.int64]
    problems: list[str]
    proxy: NDArray[np.float64]
    strict: NDArray[np.float64]
    lenient: NDArray[np.float64]
    again: tuple[NDArray[np.float64], NDArray[np.float64]] | None


def answer_rows(parts: Sequence[Mapping[str, Any]], *, beta: float, seed: int, variant: str = "") -> pd.DataFrame:
    """A table of one condition from parts that hold columns as lists, and numbers that are the same in all their
    rows."""
    import pandas as pd

    # Column by column: a data frame for each part would take most of the time of a run with thousands of evaluations.
    sizes = [_size(part) for part in parts]
    names = dict.fromkeys(name for part in parts for name in part)
    columns = {name: _joined([part.get(name) for part in parts], sizes) for name in names}
    return complete(pd.DataFrame(columns).assign(variant=variant, beta=beta, seed=seed))


def _size(part: Mapping[str, Any]) -> int:
    """How many rows a part has. Raises ValueError where its columns differ in length."""
    (size,) = {len(values) for values in part.values() if not _is_one(values)}
    return size


def _is_one(values: Any) -> bool:
    return isinstance(values, str) or not hasattr(values, "__len__")


def _joined(values: Sequence[Any], sizes: Sequence[int]) -> Any:
    """One column of all parts, each a list or what is the same in all its rows (None: unknown)."""
    if all(map(_is_one, values)):
        return np.repeat(np.array([np.nan if value is None else value for value in values]), sizes)
    first = values[0]
    if all(value is first for value in values):  # the problems, which are texts: read once
        return np.tile(np.array(first), len(values))
    whole = [
        np.full(size, np.nan if v is None else v) if _is_one(v) else v for v, size in zip(values, sizes, strict=True)
    ]
    if isinstance(next(v for v in whole if len(v))[0], str):
        return [text for part in whole for text in part]
    return np.concatenate([np.asarray(part, dtype=float) for part in whole])


def write_answers(path: Path, table: pd.DataFrame) -> None:
    """Write a table with some of `COLUMNS` (those of `MUST` at least) as Parquet, in one atomic step; what it lacks is
    NaN, 0 for `replicate` and `answer`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = complete(table)
    data = pa.Table.from_pandas(whole, preserve_index=False)
    sink = pa.BufferOutputStream()
    pq.write_table(data, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())


def read_answers(path: Path) -> pd.DataFrame:
    """The table with all `COLUMNS`. Raises BetastarError where the file cannot be read or lacks a column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path).to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        first = str(error).split("\n")[0]
        raise BetastarError(
            f"not a readable Parquet file ({first:.200})", where=str(path), remedy="give the answers.parquet of a run"
        ) from None
    missing = [name for name in MUST if name not in table]
    if missing:
        raise BetastarError(
            f"lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}",
            where=str(path),
            remedy="give the answers.parquet of a run",
        )
    return complete(table)


def no_answers() -> pd.DataFrame:
    """A table without rows."""
    import pandas as pd

    return complete(pd.DataFrame({name: [] for name in MUST}))


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The table with all columns, in order and with their types."""
    import pandas as pd

    data = {}
    for column in COLUMNS:
        integer = column.name in ("replicate", "answer")
        values = table[column.name] if column.name in table else pd.Series([0 if integer else np.nan] * len(table))
        values = values.fillna(0) if integer else values
        data[column.name] = values.reset_index(drop=True).astype(column.dtype)
    return pd.DataFrame(data)


def grids(table: pd.DataFrame) -> dict[tuple[str, float, int], Grid]:
    """The table of a run by condition (variant, β, seed)."""
    groups: Any = table.groupby(list(CONDITION), sort=False, observed=True, dropna=False)
    return {(str(variant), float(beta), int(seed)): _grid(rows) for (variant, beta, seed), rows in groups}


def _grid(rows: Any) -> Grid:
    first = rows[rows["replicate"] == 0]
    steps = np.unique(first["step"].to_numpy())
    problems = sorted(first["problem"].unique())
    most = int(first["answer"].max()) + 1
    place = {problem: i for i, problem in enumerate(problems)}

    def spread(rows: Any, name: str, at: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        values = np.full((len(at), len(problems), most), np.nan)
        where = (
            np.searchsorted(at, rows["step"].to_numpy()),
            rows["problem"].map(place).to_numpy(dtype=int),
            rows["answer"].to_numpy(dtype=int),
        )
        values[where] = rows[name].to_numpy(dtype=float)
        return values

    second = rows[(rows["replicate"] == 1) & rows["problem"].isin(place) & (rows["answer"] < most)]
    again = None
    if len(second):
        start = np.array([second["step"].min()])
        second = second[second["step"] == start[0]]
        again = spread(second, "proxy", start)[0], spread(second, "strict", start)[0]
    return Grid(
        steps,
        problems,
        spread(first, "proxy", steps),
        spread(first, "strict", steps),
        spread(first, "lenient", steps),
        again,
    )
