"""JSON Lines, one object per line, plain or gzipped: every fault names the file, the line and the remedy."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from betastar.errors import BetastarError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_jsonl(path: Path | str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) for every line of `path` that is not blank; `.gz` is unpacked.

    Nothing is opened before the first item is asked for. Raises BetastarError for a file that is missing, a folder,
    unreadable, without any object or not UTF-8, and for a line that is not a JSON object.
    """
    path = Path(path)
    found = False
    for number, line in _numbered_lines(path):
        if line.strip():
            found = True
            yield number, _parse(path, number, line)
    if not found:
        raise BetastarError(f"{path} is empty; it must hold one JSON object on each line.")


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


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    where = f"{path}, line {number}"
    try:
        row = json.loads(line.decode("utf-8"))
        if _SURROGATE_ESCAPE.search(line):  # half an escaped pair is legal JSON, but no text: it cannot be encoded
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        message = f"{where}: not UTF-8 text (byte {error.start + 1} of the line); save the file as UTF-8."
        raise BetastarError(message) from None
    except UnicodeEncodeError:
        raise BetastarError(f"{where}: half of a \\uD800 escape pair stands alone; mend or remove the line.") from None
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        message = f"{where}: not valid JSON ({reason}); put one complete JSON object on each line."
        raise BetastarError(message) from None
    if not isinstance(row, dict):
        kind = {list: "an array", str: "a string", type(None): "null", bool: "true or false"}.get(type(row), "a number")
        message = f"{where}: {kind} where a JSON object is due; put one object such as {{...}} on each line."
        raise BetastarError(message)
    return row
