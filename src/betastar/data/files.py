"""Local files as numbered rows: JSON, CSV and Parquet; JSON Lines are read by `betastar.data.jsonl`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from betastar.data.jsonl import as_object, jsonl_rows, parse_object
from betastar.data.rows import BadRow, Row
from betastar.errors import BetastarError

RowReader = Callable[[Path], Iterator[tuple[int, Row | BadRow]]]


def json_rows(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    """The objects of a JSON list, numbered from 1. A file that begins with `{` is read as JSON Lines.

    Raises BetastarError where it is neither.
    """
    text = path.read_bytes()
    if text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        yield from ((number, row) for number, (_, row) in enumerate(jsonl_rows(path), start=1))
        return
    try:
        rows = json.loads(text)
        if not isinstance(rows, list):
            raise ValueError("it holds one value")
    except (ValueError, RecursionError) as error:
        raise BetastarError(f"{path}: not a list of JSON objects ({error}); give [{{...}}, {{...}}].") from None
    for number, row in enumerate(rows, start=1):
        try:
            # Written and parsed again, a row meets the same checks as a line of JSON Lines.
            yield number, parse_object(json.dumps(as_object(row, "put objects such as {...} into the list")).encode())
        except BadRow as fault:
            yield number, fault


def csv_rows(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    """Rows of a comma-separated file with a heading, as text, numbered by the line on which they end.

    Raises BetastarError for a file that is not UTF-8, without a heading, or whose quotes do not close.
    """
    csv.field_size_limit(sys.maxsize)  # the module's own limit, 131 072 characters, is shorter than some responses
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            heading = next(reader, [])
            if not any(heading) or len(set(heading)) < len(heading):
                raise BetastarError(f"{path}: the first line must name the columns, each once; correct the file.")
            for fields in reader:
                line = reader.line_num
                if len(fields) == len(heading):
                    yield line, dict(zip(heading, fields, strict=True))
                elif fields:
                    yield line, BadRow(f"{len(fields)} fields under {len(heading)} columns; quote fields with commas")
    except UnicodeDecodeError as error:
        raise BetastarError(f"{path}, after line {line}: not UTF-8 text ({error.reason}); save it as UTF-8.") from None
    except csv.Error as error:
        raise BetastarError(f"{path}, after line {line}: not valid CSV ({error}); correct the quotes.") from None


def parquet_rows(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    """Rows of a Parquet file, numbered from 1. Raises BetastarError where it is damaged or none."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0]
        raise BetastarError(f"{path}, after row {number}: no readable Parquet ({reason}); write it again.") from None


READERS: Mapping[str, tuple[str, RowReader]] = {
    ".jsonl": ("line", jsonl_rows),
    ".jsonl.gz": ("line", jsonl_rows),
    ".json": ("row", json_rows),
    ".csv": ("line", csv_rows),
    ".parquet": ("row", parquet_rows),
}
"""By the end of a file's name: what is numbered in it, and what reads it."""
