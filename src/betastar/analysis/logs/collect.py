"""From paths to logs: which files are runs, and which reader reads each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from betastar.analysis.logs.console import read_console
from betastar.analysis.logs.events import PATTERN, read_events
from betastar.analysis.logs.log import Log
from betastar.analysis.logs.remarks import first_few
from betastar.analysis.logs.states import NAME, read_run_directory, read_trainer_state, trainer_state_of
from betastar.analysis.logs.tables import WANDB_KIND, read_csv, read_json, read_parquet
from betastar.analysis.logs.text import PACKED, bare_suffix, shown_path
from betastar.errors import BetastarError
from betastar.record.files import METRICS, holds_results, is_analysis
from betastar.record.monitored import is_monitored

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
CONSOLES = (".log", ".txt", ".out")


class Collected(NamedTuple):
    """`logs`: what was read. `files`: every file behind them. `notes`: what was passed over, in sentences."""

    logs: list[Log]
    files: list[str]
    notes: list[str]


def collect(paths: Sequence[Path], most: int | None = None) -> Collected:
    """The logs at `paths`: files, or folders that are searched. `most`: the bytes that a file may hold, unpacked; by
    default 2 GB. Raises BetastarError for a path that is missing or unreadable, and where nothing is found; an
    unreadable file inside a folder is passed over and noted."""
    logs: list[Log] = []
    files: list[str] = []
    notes: list[str] = []
    seen: set[str] = set()
    for path in paths:
        if not os.path.exists(path):
            there = "is a link that leads nowhere" if os.path.islink(path) else "does not exist"
            raise BetastarError(
                f"{shown_path(path)} {there}; check the path (relative paths start at {shown_path(Path.cwd())})."
            )
        found = list(_sources(path)) if path.is_dir() else [path]
        if not found:
            raise BetastarError(
                f"{shown_path(path)}: no training log found; give a file or folder in a supported format: betastar "
                f"run, {NAME}, TensorBoard events, .json, {', '.join((*TABLES, *CONSOLES))}, packed or not "
                f"({', '.join(PACKED)})."
            )
        for source in found:
            if (place := os.path.realpath(source)) in seen:
                notes.append(f"skipped {shown_path(source)}: it was given twice, and counts once")
                continue
            seen.add(place)
            try:
                read, behind = _read(source, most)
            except BetastarError as error:
                if not path.is_dir():
                    raise
                notes.append(f"skipped {error}")
                continue
            empty = [log for log in read if log.rows.empty]
            notes += [f"skipped {log.name}: it has no rows" for log in empty]
            logs += [log for log in read if not log.rows.empty]
            files += [shown_path(file) for file in behind]
    if not logs:
        raise BetastarError(f"nothing could be read: {'; '.join(first_few(notes))}")
    return Collected(_merged(logs), files, first_few(notes))


def _sources(folder: Path, top: bool = True) -> Iterator[Path]:
    """Runs in a folder, by path: a run's own folder, or a file that may be a table or a console log.

    A trainer's output folder counts once, as its state, which holds what its checkpoints and event files repeat.
    """
    if is_monitored(folder):  # what else lies there follows from its rows
        yield folder / METRICS
        return
    if holds_results(folder):
        if top or not is_analysis(folder):  # an earlier analysis in a searched folder would count its runs again
            yield folder
        return
    if trainer_state_of(folder):
        yield folder
        return
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if any(path.match(PATTERN) and path.is_file() for path in inside):
        yield folder
    for path in inside:
        if path.is_dir():
            if not path.is_symlink():
                yield from _sources(path, top=False)
        elif bare_suffix(path.name) in (*TABLES, *CONSOLES) or _is_array(path):
            yield path


def read_file(path: Path) -> list[Log]:
    """The logs of one file. Raises BetastarError where it cannot be read."""
    return _read(path, None)[0]


def _is_array(path: Path) -> bool:
    """Whether a JSON file begins as a list of rows; others in a folder are settings."""
    if bare_suffix(path.name) != ".json" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(200).lstrip().startswith(b"[")
    except OSError:
        return False


def _read(source: Path, most: int | None) -> tuple[list[Log], list[Path]]:
    """The logs of a file or of one run's folder, and the files they are from."""
    name = shown_path(source)
    if source.is_dir():
        if holds_results(source):
            return [read_run_directory(source, name)], [source]
        if state := trainer_state_of(source):
            return [read_trainer_state(state, name, most)], [state]
        events = sorted(path for path in source.glob(PATTERN) if path.is_file())
        return [read_events(events, name, most)], events
    suffix = bare_suffix(source.name)
    if suffix in (".csv", ".tsv"):
        return read_csv(source, name, most), [source]
    if suffix in (".jsonl", ".ndjson"):
        return read_json(source, name, most), [source]
    if suffix == ".parquet":
        return read_parquet(source, name, most), [source]
    if suffix == ".json":
        return ([read_trainer_state(source, name, most)] if source.name == NAME else read_json(source, name, most)), [
            source
        ]
    if source.match(PATTERN):
        return [read_events([source], name, most)], [source]
    return [read_console(source, name, most)], [source]


def _merged(logs: Sequence[Log]) -> list[Log]:
    """Logs in order, those of one Weights & Biases run put together: an export holds one chart."""
    result: dict[tuple[str, str], Log] = {}
    for place, log in enumerate(logs):
        key = (log.kind, log.name if log.kind == WANDB_KIND else str(place))
        if key in result:
            rows = pd.concat([result[key].rows, log.rows], ignore_index=True)
            result[key] = result[key]._replace(rows=rows)
        else:
            result[key] = log
    return list(result.values())
