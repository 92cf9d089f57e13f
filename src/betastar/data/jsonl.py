"""JSON Lines, one object per line, plain or gzipped: every fault names the file, the line and the remedy."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from betastar.data.rows import BadRow, Row
from betastar.errors import BetastarError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_jsonl(path: Path | str) -> Iterator[tuple[int, Row]]:
    """Yield (line number from 1, object) for every line of `path` that is not blank; `.gz` is unpacked.

    Nothing is opened before the first item is asked for. Raises BetastarError for a file that is missing, a folder,
    unreadable, without any object or not UTF-8, and for a line that is not a JSON object.
    """
    for number, row in jsonl_rows(path):
        if isinstance(row, BadRow):
            raise BetastarError(f"{path}, line {number}: {row}.")
        yield number, row


def jsonl_rows(path: Path | str) -> Iterator[tuple[int, Row | BadRow]]:
    """As `read_jsonl`, but a line that is no JSON object is yielded as a BadRow."""
    path = Path(path)
    found = False
    for number, line in _numbered_lines(path):
        if line.strip():
            found = True
            try:
                yield number, parse_object(line)
            except BadRow as fault:
                yield number, fault
    if not found:
        raise BetastarError(f"{path} is empty; it must hold one JSON object on each line.")


def parse_object(line: bytes) -> Row:
    """The object in a line of JSON. Raises BadRow."""
    try:
        row = json.loads(line.decode("utf-8"))
        if _SURROGATE_ESCAPE.search(line):  # half an escaped pair is legal JSON, but no text: it cannot be encoded
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8 text (byte {error.start + 1} of the line); save the file as UTF-8") from None
    except UnicodeEncodeError:
        raise BadRow("half of a \\uD800 escape pair stands alone; mend or remove the line") from None
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise BadRow(f"not valid JSON ({reason}); put one complete JSON object on each line") from None
    return as_object(row, "put one object such as {...} on each line")


def as_object(value: Any, remedy: str) -> Row:
    """A JSON value that must be an object. Raises BadRow."""
    if not isinstance(value, dict):
        kind = {list: "an array", str: "a string", type(None): "null", bool: "true or false"}
        raise BadRow(f"{kind.get(type(value), 'a number')} where a JSON object is due; {remedy}")
    return value


def _numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
    except FileNotFoundError:
        raise BetastarError(f"{path} does not exist; check the path, relative ones start at {Path.cwd()}.") from None
    except IsADirectoryError:
        raise BetastarError(f"{path} is a folder; name the JSON Lines file inside it.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        where = f"{path}, after line {number}"
        raise BetastarError(f"{where}: broken gzip data ({error}); compress or download the file again.") from None
    except OSError as error:
        reason = error.strerror or error
        raise BetastarError(
            f"{path} cannot be read ({reason}); check the path, its permissions and the disk."
        ) from None
