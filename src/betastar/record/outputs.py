"""What a command may write over: never a record, a run's own files, or files that a person put where a run wants its
own."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from pathlib import Path

from pydantic_core import from_json

from betastar.disk import opened, plain_disk_errors
from betastar.errors import BetastarError, argument
from betastar.record.files import METRICS, PUBLISHED, RESULTS, SAMPLES
from betastar.record.series import POINTS

FOLDERS = ("store", "figures", "adapters")
"""What a run keeps in folders of its directory."""
KEPT = (*(name for name in PUBLISHED if name != "report.html"), "lock")
"""Files of a run that no other command writes."""
RECORD = re.compile(rb'\s*\{\s*"(schema|comparison)_version"')
"""How `results.json` and `comparison.json` begin, whatever they are called."""


def check_file(path: Path, option: str, replaces: str | None = None) -> Path:
    """The path, if a command may write a file there. `option` names the argument that gave it. `replaces`: the kind of
    record, "comparison", which may be there already. Raises BetastarError for a folder, a device, a run's own file, and
    for a record by any name."""
    given = argument(option, str(path))
    if not path.name or "\0" in str(path):
        raise BetastarError(f"{given}: not the name of a file; give one.")
    real = Path(os.path.realpath(path))
    with plain_disk_errors(path.parent):
        inside = next((p for p in real.parents if p.name in ("store", "adapters") and _is_run(p.parent)), None)
        mode = _mode(path)
    if path.name in KEPT or real.name in KEPT:
        raise BetastarError(f"{given}: would overwrite what a run keeps in {path.name}; choose another file.")
    if inside is not None:
        raise BetastarError(f"{given}: inside {inside}, which belongs to a run; choose another file.")
    if mode is None:
        return path
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise BetastarError(f"{given}: is {kind}; give a file.")
    with plain_disk_errors(path.parent), opened(path) as file:
        record = RECORD.match(file.read(4096))
    if record and (record[1] != b"comparison" or replaces != "comparison"):
        kind = "a comparison" if record[1] == b"comparison" else "a run or an analysis"
        raise BetastarError(f"{given}: would overwrite the record of {kind}; choose another file.")
    return path


def check_run_folder(folder: Path) -> None:
    """Raises BetastarError where a run must not write in a folder: something of a person, or of an analysis, has a name
    that the run needs for its own."""
    with plain_disk_errors(folder):
        for name in (*PUBLISHED, *FOLDERS):
            check_kind(folder / name, name in FOLDERS)
        if _mode(folder / "store") is not None or _kind(folder) == "run":  # a run that was begun here
            return
        if _kind(folder) == "analysis":
            raise BetastarError(f"{folder} holds an analysis; name another folder with {argument('out')}.")
        _refuse_foreign(folder, (*PUBLISHED, *FOLDERS))


def check_analysis_folder(folder: Path) -> None:
    """Raises BetastarError where an analysis must not write in a folder: it holds a run, or files of those names that
    no analysis wrote, such as the logs themselves."""
    with plain_disk_errors(folder):
        for name in (RESULTS, METRICS, POINTS, "report.html"):
            check_kind(folder / name, False)
        check_kind(folder / "figures", True)
        if _kind(folder) == "run" or _is_run(folder):
            raise BetastarError(f"{folder} holds the results of a run; name another folder with {argument('out')}.")
        if _kind(folder) != "analysis":
            _refuse_foreign(folder, (RESULTS, METRICS, POINTS, SAMPLES, "report.html"))


def _refuse_foreign(folder: Path, names: Collection[str]) -> None:
    if there := next((name for name in names if _mode(folder / name) is not None), None):
        raise BetastarError(
            f"{folder / there} was there before and would be overwritten; name another folder with {argument('out')}."
        )


def check_kind(path: Path, is_folder: bool) -> None:
    """Raises BetastarError where a name has something of another kind than it needs."""
    mode = _mode(path)
    if mode is None and not path.is_symlink():
        return
    if mode is None or not (stat.S_ISDIR(mode) if is_folder else stat.S_ISREG(mode)):
        what = "a folder" if is_folder else "a regular file"
        raise BetastarError(f"{path}: not {what}; remove it, or name another folder with {argument('out')}.")


def _kind(folder: Path) -> str | None:
    """Whether the record in a folder is of a "run" or an "analysis"; None without one that can be read."""
    try:
        with opened(folder / RESULTS) as file:
            found = from_json(file.read())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or "schema_version" not in found:
        return None
    return "analysis" if "source" in found else "run"


def _is_run(folder: Path) -> bool:
    """Whether a run was begun in a folder."""
    return _mode(folder / "store") is not None and any(
        _mode(folder / name) is not None for name in ("lock", "status.json", RESULTS)
    )


def _mode(path: Path) -> int | None:
    """What is at a path, links followed; None if there is nothing."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
