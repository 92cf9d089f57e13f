"""Tables: CSV and its kin, Parquet, JSON of every shape, and what trackers export."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from betastar.analysis.logs.cells import with_points
from betastar.analysis.logs.log import WRAPPERS, Log, flat
from betastar.analysis.logs.text import (
    MOST_BYTES,
    Content,
    bare_suffix,
    check_size,
    read_content,
    shown_path,
    too_large,
)
from betastar.errors import BetastarError
from betastar.record.monitored import FIRST, answers_in

WANDB_KIND = "Weights & Biases export"
WANDB = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?P<range>__MIN|__MAX)?")
SEPARATORS = ",;\t|"
LARGE, BLOCK = 4_000_000, 1 << 24  # bytes of JSON Lines from which Arrow reads them, and in blocks of how many
BATCH = 50_000  # rows that are held as dictionaries at once
LONG = {"key": ("key", "metric", "name", "tag"), "value": ("value", "metric_value"), "step": ("step",)}


def read_csv(path: Path, name: str, most: int | None = None) -> list[Log]:
    """The run of a CSV or TSV file of at most `most` bytes, or the runs of a tracker's export. Raises BetastarError
    where it cannot be read, or a column is named twice."""
    content = read_content(path, most)
    header = _header(content)
    # The separator is the likely character that the header has most of.
    separator = max(SEPARATORS, key=header.count)
    try:
        table = pd.read_csv(
            io.BytesIO(content.data),
            sep=separator,
            skipinitialspace=True,
            encoding=content.encoding,
            encoding_errors="replace",
        )
        names = [column.strip() for column in next(csv.reader([header], delimiter=separator), [])]
    except (ValueError, csv.Error) as error:
        raise BetastarError(
            f"{shown_path(path)}: not a readable CSV file ({str(error).strip()}); export it again."
        ) from None
    check_names(names, shown_path(path))
    table.columns = [str(column).strip() for column in table.columns]
    if separator != ",":
        table = pd.DataFrame({column: with_points(table[column]) for column in table})
    return logs_of(table, name, "CSV table")


def _header(content: Content) -> str:
    """The first line with something on it."""
    lines = (line for line in content.data[: 1 << 20].decode(content.encoding, "replace").splitlines() if line.strip())
    return next(lines, "")


def check_names(names: Sequence[str], where: str) -> None:
    """Raises BetastarError where two columns have the same name: which one counts would be chance."""
    if twice := sorted({n for n in names if n and names.count(n) > 1}):
        raise BetastarError(f"{where}: the column {twice[0]!r} appears twice; rename or remove one.")


def read_parquet(path: Path, name: str, most: int | None = None) -> list[Log]:
    """The run of a Parquet file of at most `most` bytes unpacked, or the runs of a tracker's export. Raises
    BetastarError where it cannot be read, or a column is named twice."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_size(path, most)
    try:
        file = pq.ParquetFile(path)
        groups = range(file.metadata.num_row_groups)
        if sum(file.metadata.row_group(i).total_byte_size for i in groups) > (MOST_BYTES if most is None else most):
            raise too_large(path, most)
        check_names(file.schema_arrow.names, shown_path(path))
        table = file.read().to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        first = str(error).split("\n")[0]
        raise BetastarError(
            f"{shown_path(path)}: not a readable Parquet file ({first:.200}); export it again."
        ) from None
    return logs_of(table, name, "Parquet table")


def read_json(path: Path, name: str, most: int | None = None) -> list[Log]:
    """The runs of a JSON or JSON Lines file, whatever its name: one object a line, an array of rows, an object of
    columns, or an object that holds either. Of JSON Lines, a last line that a killed run left unfinished is passed
    over. Raises BetastarError where no table can be read, or it has more than `most` bytes."""
    content = read_content(path, most)
    if len(content.data) >= LARGE and content.encoding == "utf-8" and (rows := _arrow_rows(content.data)) is not None:
        return [Log(name, rows, "JSON Lines")]
    text = content.text
    first = next((line for line in _lines(text) if line.strip()), "")
    try:
        if bare_suffix(path.name) != ".json" and isinstance(_parsed(first), dict):
            return [_json_lines(text, name, shown_path(path))]
        whole = json.loads(text, object_pairs_hook=_once)
    except _Twice as error:
        raise error.where(shown_path(path)) from None
    except BetastarError:
        raise
    except ValueError:
        return [_json_lines(text, name, shown_path(path))]
    except RecursionError:
        raise BetastarError(f"{shown_path(path)}: is nested too deeply; give a file of metrics.") from None
    rows = _rows(whole)
    if rows is None:
        raise BetastarError(
            f"{shown_path(path)}: holds no table of metrics (an array of rows, or an object of columns); give the file "
            "of a trainer or a tracker."
        )
    return logs_of(pd.DataFrame([flat(row) for row in rows]), name, "JSON table")


def _arrow_rows(data: bytes) -> pd.DataFrame | None:
    """Large JSON Lines as a table, ten times as fast as line by line. None where Arrow finds anything unusual, such as
    a column of mixed types, a name that is given twice, or an incomplete line: the careful reader then says what."""
    import pyarrow as pa
    import pyarrow.json as arrow_json

    first = data[: data.find(b"\n")].strip()
    if not first.startswith(b"{") or f'"{FIRST}"'.encode() in first:  # a monitor's rows hold single answers
        return None
    try:
        table = arrow_json.read_json(
            pa.BufferReader(data), read_options=arrow_json.ReadOptions(block_size=min(len(data) + 1, BLOCK))
        )
        table.validate(full=True)
        names, columns = zip(*_flattened(dict(zip(table.column_names, table.columns, strict=True))), strict=True)
        return pa.table(columns, names=names).to_pandas() if len(set(names)) == len(names) else None
    except (pa.ArrowException, ValueError):
        return None


def _flattened(columns: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`flat` for columns of Arrow."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for key, column in columns.items():
        name = f"{prefix}{key}"
        if pa.types.is_struct(column.type):
            inside = {field.name: pc.struct_field(column, [i]) for i, field in enumerate(column.type)}  # type: ignore[attr-defined]
            yield from _flattened(inside, prefix if key in WRAPPERS else f"{name}/")
        else:
            yield name, column


class _Twice(Exception):
    """A name that an object has twice."""

    def where(self, place: str) -> BetastarError:
        return BetastarError(f"{place}: the name {self.args[0]!r:.80} appears twice in a row; rename or remove one.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose names differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return found


def _lines(text: str) -> Iterator[str]:
    """The lines of a text, one at a time."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _parsed(line: str) -> Any:
    """The value on a line of JSON; None where it is none. Raises _Twice for a name that an object has twice."""
    try:
        return json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None


def _rows(value: Any) -> list[Mapping[str, Any]] | None:
    """The rows in a JSON value: of a history or a list wherever it is, or of an object of columns."""
    if isinstance(value, list):
        return value if value and all(isinstance(row, dict) for row in value) else None
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("log_history"), list):
        return _rows(value["log_history"])
    columns = {key: column for key, column in value.items() if isinstance(column, list)}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) == 1 and all(not isinstance(cell, dict | list) for column in columns.values() for cell in column):
        fixed = {key: cell for key, cell in value.items() if not isinstance(cell, list | dict)}
        return [{**fixed, **dict(zip(columns, cells, strict=True))} for cells in zip(*columns.values(), strict=True)]
    found = [rows for part in value.values() if (rows := _rows(part))]
    if len(found) == 1:
        return found[0]
    return _by_step(value)


def _by_step(value: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """Rows of an object {step: {metric: value}}, or {run: {step: {metric: value}}}."""
    if value and all(_is_number(key) and isinstance(row, dict) for key, row in value.items()):
        return [{"step": float(key), **row} for key, row in value.items()]
    if value and all(isinstance(part, dict) for part in value.values()):
        runs = {key: rows for key, part in value.items() if (rows := _by_step(part))}
        if len(runs) == len(value):
            return [{"run": key, **row} for key, rows in runs.items() for row in rows]
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _json_lines(text: str, name: str, where: str) -> Log:
    tables: list[pd.DataFrame] = []
    rows: list[dict[str, Any]] = []
    monitored: list[dict[str, Any]] = []
    unread = None
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        if unread is not None:
            break
        try:
            record = _parsed(line)
        except _Twice as error:
            raise error.where(f"{where}, line {number}") from None
        if not isinstance(record, dict):
            unread = number
            continue
        rows.append(flat(record))
        if monitored or FIRST in record:
            monitored.append(record)
        if len(rows) == BATCH:  # as columns they need a tenth of the memory
            tables, rows = [*tables, pd.DataFrame(rows)], []
    else:
        if unread is None or ((rows or tables) and not text.endswith("\n")):
            tables = [*tables, pd.DataFrame(rows)]
            note = None if unread is None else f"line {unread} is incomplete and skipped"
            table = pd.concat(tables, ignore_index=True) if tables[1:] else tables[0]
            answers = answers_in(monitored) if monitored else None
            return Log(name, table, "JSON Lines", answers=answers, note=note)
    raise BetastarError(f"{where}, line {unread}: not a JSON object; put one on each line.")


def logs_of(table: pd.DataFrame, name: str, kind: str) -> list[Log]:
    """A table as one log, or the runs of an export of Weights & Biases or MLflow as one each."""
    return _wandb_runs(table) or _long_runs(table, name) or [Log(name, table, kind)]


def _wandb_runs(table: pd.DataFrame) -> list[Log]:
    """One log per run of a Weights & Biases export: columns "Step", "RUN - METRIC", "RUN - METRIC__MIN", …

    Its name is the run's alone: an export holds one chart, so the metrics of a run come from several files."""
    matches = {column: match for column in table if (match := WANDB.fullmatch(str(column)))}
    plain = [column for column in table if column not in matches]
    if not matches or len(plain) != 1:
        return []
    columns: dict[str, dict[str, str]] = {}
    for column, match in matches.items():
        if not match["range"] and match["metric"] != "_step":
            columns.setdefault(match["run"], {})[column] = match["metric"]
    return [
        Log(run, pd.DataFrame(table, columns=[plain[0], *of_run]).rename(columns=of_run), WANDB_KIND)
        for run, of_run in columns.items()
    ]


def _long_runs(table: Any, name: str) -> list[Log]:
    """One log per run of a long table, as MLflow's and others' databases hold it: a row per run, metric and step."""
    place = {part: _one_of(table, names) for part, names in LONG.items()}
    key, value, step = (place[part] for part in ("key", "value", "step"))
    if key is None or value is None or step is None or not _is_text(table[key]) or table[key].nunique() < 2:
        return []
    runs = [c for c in ("run_name", "run_id", "run_uuid", "run") if c in table]
    by = runs[:1] or [None]
    groups: list[tuple[str, Any]] = (
        [(name, table)]
        if by == [None]
        else [(f"{name}, run {run}", rows) for run, rows in table.groupby(runs[0], sort=False)]
    )
    logs = []
    for run, rows in groups:
        wide = rows.pivot_table(index=step, columns=key, values=value, aggfunc="last").reset_index()
        logs.append(
            Log(run, wide.rename_axis(columns=None).rename(columns={step: "step"}), "long table of metrics (MLflow)")
        )
    return logs


def _one_of(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    lower = {str(column).lower(): str(column) for column in table}
    return next((lower[name] for name in names if name in lower), None)


def _is_text(column: Any) -> bool:
    return column.dtype.kind not in "biufmM"
