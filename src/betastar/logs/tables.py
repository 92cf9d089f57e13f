"""Tables: CSV and TSV (also as Weights & Biases exports them), JSON Lines, Parquet."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from betastar.errors import BetastarError
from betastar.logs.log import Log, flat

WANDB_KIND = "Weights & Biases export"
WANDB = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?P<range>__MIN|__MAX)?")


def read_csv(path: Path, name: str) -> list[Log]:
    """The run of a CSV or TSV file, or the runs of a Weights & Biases export."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        # The separator is the likely character that the header has most of.
        table = pd.read_csv(path, sep=max(",;\t", key=header.count), encoding="utf-8-sig")
    except (ValueError, UnicodeDecodeError) as error:
        raise BetastarError(f"{path}: not a readable CSV file ({str(error).strip()}); export it again.") from None
    return _wandb_runs(table) or [Log(name, table, "CSV table")]


def read_json_lines(path: Path, name: str) -> Log:
    """The run of a JSON Lines file (`.gz` is unpacked). A last line that a killed run left unfinished is passed over.
    Raises BetastarError for another line that is no JSON object."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            lines = [(number, line) for number, line in enumerate(file, start=1) if line.strip()]
    except (OSError, EOFError) as error:
        raise BetastarError(f"{path}: cannot be read ({error}); copy the file again.") from None
    rows: list[dict[str, Any]] = []
    note = None
    for place, (number, line) in enumerate(lines):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            rows.append(flat(record))
        elif place == len(lines) - 1 and rows and not line.endswith(b"\n"):
            note = f"line {number} is unfinished and left out"
        else:
            raise BetastarError(f"{path}, line {number}: not a JSON object; put one on each line.")
    return Log(name, pd.DataFrame(rows), "JSON Lines", note=note)


def read_parquet(path: Path, name: str) -> Log:
    """The run of a Parquet file."""
    try:
        return Log(name, pd.read_parquet(path), "Parquet table")
    except (OSError, ValueError) as error:
        raise BetastarError(f"{path}: not a readable Parquet file ({error}); export it again.") from None


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
