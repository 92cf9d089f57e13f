"""The file of a monitored run: one JSON object on a line for each evaluation, on the disk before training goes on."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from betastar.disk import flush, write_atomically
from betastar.errors import BetastarError

Row = dict[str, Any]

logger = logging.getLogger(__name__)


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Write one row at the end of the file and have it on the disk before returning. NaN and infinity become null.

    Raises BetastarError, as `begin` does, where the disk is full or may not be written.
    """
    with _plain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(line(row))
            file.flush()
            os.fsync(file.fileno())
        flush(path.parent)


def begin(path: Path) -> None:
    """Make room for a run that starts anew: a file of an earlier run is set aside as `NAME.1`, `NAME.2`, …"""
    if not path.exists():
        return
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    with _plain_errors(path):
        path.rename(aside)
    logger.warning("%s belongs to an earlier run and was renamed to %s.", path, aside.name)


def resume(path: Path, step: int) -> list[Row]:
    """The rows up to and including `step`, at which training resumes. Later ones, and a line that a kill left
    unfinished, are removed from the file, and a warning says so. Empty where there is no file.

    Raises BetastarError for another line that is no row.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        logger.warning("%s: line %d was left unfinished by a kill and is removed.", path, len(lines))
        del lines[-1]
    kept: list[Row] = []
    dropped: list[int] = []
    for number, text in enumerate(lines, start=1):
        try:
            row = json.loads(text)
            if row["step"] <= step:
                kept.append(row)
            else:
                dropped.append(row["step"])
        except (ValueError, TypeError, KeyError):
            raise BetastarError(
                f"{path}, line {number}: not written by a GoodhartMonitor; rename the file, or give another path."
            ) from None
    if dropped:
        steps = f"step {dropped[0]}" if len(dropped) == 1 else f"steps {dropped[0]} to {dropped[-1]}"
        count = f"{len(dropped)} evaluation{'s' * (len(dropped) > 1)}"
        logger.warning("%s: %s (%s) will be measured again; the old lines are removed.", path, count, steps)
    data = b"".join(line(row) for row in kept)
    if data != path.read_bytes():
        write_atomically(path, data)
    return kept


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BetastarError(
            f"{path}: cannot be written ({reason}); fix that, or give the monitor another path."
        ) from error


def line(row: Mapping[str, Any]) -> bytes:
    """A row as it is written."""
    return json.dumps(plain(row), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def plain(value: Any) -> Any:
    """Undefined numbers as null, which every JSON reader accepts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
