"""Rows of a run's logs, wherever they are at the moment: in a checkpoint while they are made, in the artefact after.

Nothing here fails because a file is not there yet, is gone again, or ends in half a line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
Read = Callable[[Path], list[Row]]


class Named(NamedTuple):
    """What the name of a condition says; the variant is empty for an offline condition."""

    variant: str
    beta: float
    seed: int

    @property
    def path(self) -> str:
        """As folders: paper/beta-1/seed-0."""
        return "/".join([*filter(None, [self.variant]), f"beta-{self.beta:g}", f"seed-{self.seed}"])


def named(condition: str) -> Named:
    """The parts of `paper-beta-1-seed-0`. Raises ValueError where it is no condition's name."""
    match = re.fullmatch(r"(?:(.+)-)?beta-(.+)-seed-(-?\d+)", condition)
    if match is None:
        raise ValueError(f"{condition} names no condition")
    return Named(match[1] or "", float(match[2]), int(match[3]))


def is_condition(name: str) -> bool:
    """Whether a name is one of a condition."""
    try:
        return math.isfinite(named(name).beta)
    except ValueError:
        return False


def checkpoint_of(condition: str, checkpoints: Collection[str]) -> str | None:
    """The offline condition, one of `checkpoints`, from which an online condition starts: its name without the
    variant's."""
    starts = [i + 1 for i, letter in enumerate(condition) if letter == "-"]
    return next((condition[at:] for at in starts if condition[at:] in checkpoints), None)


class Tail:
    """Reads the rows that were added to a file since it was last asked; all where the file was cut."""

    def __init__(self) -> None:
        self._read: dict[Path, int] = {}

    def __call__(self, path: Path) -> list[Row]:
        start = self._read.get(path, 0)
        try:
            with path.open("rb") as file:
                start = start if start <= file.seek(0, 2) else 0
                file.seek(start)
                whole, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            return []
        self._read[path] = start + len(whole) + len(newline)
        return [row for line in whole.split(b"\n") if isinstance(row := _parsed(line), dict)]


def listed(folder: Path, pattern: str) -> list[Path]:
    """Paths in a folder that others write to; empty where it vanishes while it is read."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def changed(path: Path) -> float:
    """When a file or folder last changed, seconds since 1970; 0 where it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def all_rows(path: Path) -> list[Row]:
    """The rows of a file so far."""
    return Tail()(path)


def record(path: Path) -> Row:
    """A JSON file that holds one object; empty where it cannot be read."""
    try:
        found = _parsed(path.read_bytes())
    except OSError:
        found = None
    return found if isinstance(found, dict) else {}


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def is_number(value: Any) -> bool:
    """Whether a value of a row is a number that arithmetic can take; NaN is one."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53)


def is_count(value: Any) -> bool:
    """Whether a value of a row is a step or a seed."""
    return isinstance(value, int) and is_number(value)


def rows_by_name(
    run: Path, stage: str, folders: Mapping[str, Path], log: str, read: Read = all_rows
) -> dict[str, list[Row]]:
    """Rows of `log` of each condition or member of a stage whose results are or will be in `folders`."""
    groups: dict[Path, list[str]] = {}
    for name, folder in folders.items():
        groups.setdefault(folder.parent, []).append(name)
    found: dict[str, list[Row]] = {}
    for artefact, names in groups.items():
        finished = {name: folders[name] / f"{log}.jsonl" for name in names}
        if not artefact.is_dir():
            partial = run / "store" / "partial" / f"{stage}-{artefact.name}"
            unfinished = _unfinished(partial, names, log, read)
            if any(unfinished.values()) or not artefact.is_dir():  # it may have been finished in between
                found |= unfinished
                continue
        found |= {name: read(path) for name, path in finished.items()}
    return found


def _unfinished(partial: Path, names: Sequence[str], log: str, read: Read) -> dict[str, list[Row]]:
    """Rows of a checkpoint: one log for all, whose rows name their condition or hold a list of values in the order of
    `names`, or, where TRL trains one after the other, a log for each."""
    found: dict[str, list[Row]] = {name: [] for name in names}
    for row in read(partial / f"{log}.jsonl"):
        if "condition" in row:
            condition = row.pop("condition")
            if condition in found:
                found[condition].append(row)
        else:
            for i, name in enumerate(names):
                mine = {key: value[i] if isinstance(value, list) else value for key, value in row.items()
                        if not isinstance(value, list) or i < len(value)}  # fmt: skip
                found[name].append(mine)
    for name in names:
        found[name] += read(partial / name / f"{log}.jsonl")
    return found


def start_point(probes: Mapping[str, Path], condition: str) -> Row | None:
    """The evaluation point t=0 of an online condition, which the probe of its checkpoint holds."""
    checkpoint = checkpoint_of(condition, probes)
    return None if checkpoint is None else record(probes[checkpoint] / "point.json").get("start")


def standardised_gaps(start: Row | None, rows: Sequence[Row]) -> list[float]:
    """The standardised Goodhart gap at each row, from the evaluation point t=0; NaN where that is not known."""
    from betastar.maths.goodhart import standardised_gap

    if start is None:
        return [float("nan")] * len(rows)
    try:
        points = [start, *rows]
        gap = standardised_gap(
            [row["proxy"] for row in points],
            [row["true_strict"] for row in points],
            start["proxy_std"],
            start["correct_strict"],
            start["n"],
        ).gap
    except (KeyError, TypeError, ValueError, OverflowError):
        return [float("nan")] * len(rows)
    return gap[1:].tolist()
