"""Tables: CSV and its kin, Parquet, JSON of every shape, and what trackers export."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from betastar.analysis.logs.cells import with_points
from betastar.analysis.logs.log import Log, flat
from betastar.analysis.logs.text import bare_suffix, read_text
from betastar.errors import BetastarError
from betastar.record.monitored import FIRST, answers_in

WANDB_KIND = "Weights & Biases export"
WANDB = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?P<range>__MIN|__MAX)?")
SEPARATORS = ",;\t|"
LONG = {"key": ("key", "metric", "name", "tag"), "value": ("value", "metric_value"), "step": ("step",)}


def read_csv(path: Path, name: str) -> list[Log]:
    """The run of a CSV or TSV file, or the runs of a tracker's export."""
    text = read_text(path)
    header = next((line for line in text.splitlines() if line.strip()), "")
    # The separator is the likely character that the header has most of.
    separator = max(SEPARATORS, key=header.count)
    try:
        table = pd.read_csv(io.StringIO(text), sep=separator, skipinitialspace=True)
    except ValueError as error:
        raise BetastarError(f"{path}: not a readable CSV file ({str(error).strip()}); export it again.") from None
    names = [column.strip() for column in next(csv.reader([header], delimiter=separator))]
    if twice := sorted({n for n in names if n and names.count(n) > 1}):
        raise BetastarError(f"{path}: the column {twice[0]!r} appears twice; rename or remove one.")
    table.columns = [str(column).strip() for column in table.columns]
    if separator != ",":
        table = pd.DataFrame({name: with_points(table[name]) for name in table})
    return logs_of(table, name, "CSV table")


def read_parquet(path: Path, name: str) -> list[Log]:
    """The run of a Parquet file, or the runs of a tracker's export."""
    try:
        return logs_of(pd.read_parquet(path), name, "Parquet table")
    except (OSError, ValueError) as error:
        raise BetastarError(f"{path}: not a readable Parquet file ({error}); export it again.") from None


def read_json(path: Path, name: str) -> list[Log]:
    """The runs of a JSON or JSON Lines file, whatever its name: one object a line, an array of rows, an object of
    columns, or an object that holds either. Of JSON Lines, a last line that a killed run left unfinished is passed
    over. Raises BetastarError where no table can be read."""
    text = read_text(path)
    first = next((line for line in text.split("\n") if line.strip()), "")
    if bare_suffix(path.name) != ".json" and isinstance(_parsed(first), dict):
        return [_json_lines(text, path, name)]
    try:
        whole = json.loads(text)
    except ValueError:
        return [_json_lines(text, path, name)]
    except RecursionError:
        raise BetastarError(f"{path}: is nested too deeply; give a file of metrics.") from None
    rows = _rows(whole)
    if rows is None:
        raise BetastarError(
            f"{path}: holds no table of metrics (an array of rows, or an object of columns); give the file of a "
            "trainer or a tracker."
        )
    return logs_of(pd.DataFrame([flat(row) for row in rows]), name, "JSON table")


def _parsed(line: str) -> Any:
    """The value on a line of JSON; None where it is none."""
    try:
        return json.loads(line)
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


def _json_lines(text: str, path: Path, name: str) -> Log:
    rows: list[dict[str, Any]] = []
    monitored: list[dict[str, Any]] = []
    note = None
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    for place, (number, line) in enumerate(lines):
        record = _parsed(line)
        if isinstance(record, dict):
            rows.append(flat(record))
            if monitored or FIRST in record:
                monitored.append(record)
        elif place == len(lines) - 1 and rows and not text.endswith("\n"):
            note = f"line {number} is incomplete and skipped"
        else:
            raise BetastarError(f"{path}, line {number}: not a JSON object; put one on each line.")
    answers = answers_in(monitored) if monitored else None
    return Log(name, pd.DataFrame(rows), "JSON Lines", answers=answers, note=note)


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
