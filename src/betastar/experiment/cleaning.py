"""What in a run directory nothing refers to any more: results of other settings, checkpoints that nothing continues,
damaged artefacts that were set aside, and what killed processes left.

A run that ends writes down what it has used. Only where that is so, and no other settings have been begun since, is it
known that nobody needs the rest; of an unfinished run everything is kept but what is damaged or half written.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from betastar.disk import file_digest, lock, plain_disk_errors, sealed, unsealed, write_atomically
from betastar.errors import BetastarError
from betastar.experiment.store import Store, leftovers
from betastar.experiment.work import SETTINGS
from betastar.progress import STAGES

USED = "used.json"
KEY = re.compile(r"[0-9a-f]{16}")
OTHER, ORPHAN = "results of other settings", "a checkpoint that nothing continues"
DAMAGED, HALF = "damaged, set aside", "half written by a process that died"


class Removable(NamedTuple):
    """A file or folder that nothing needs, its size, and what it is."""

    path: Path
    bytes: int
    what: str


class Cleaning(NamedTuple):
    """What nothing needs in a run directory. `unfinished`: why only part of it could be judged; empty if all was."""

    removable: list[Removable]
    unfinished: str

    @property
    def bytes(self) -> int:
        """Of all of it."""
        return sum(item.bytes for item in self.removable)


def begin(store: Store) -> None:
    """A run begins: from now on it is not known what it needs, until it ends."""
    with plain_disk_errors(store.folder):
        (store.folder / "store" / USED).unlink(missing_ok=True)


def end(store: Store) -> None:
    """A run has ended: write down what it has used."""
    place = store.folder / "store"
    record = {"settings": file_digest(place / SETTINGS), "artefacts": sorted(store.used)}
    write_atomically(place / USED, sealed(record))


def clean(folder: Path, delete: bool = False) -> Cleaning:
    """What nothing needs in a run directory; with `delete` it is removed. Raises BetastarError where there is no run,
    and while one is under way."""
    if not (folder / "store").is_dir():
        raise BetastarError("no run directory", where=str(folder), remedy="name a folder that `betastar run` wrote")
    with closing(lock(folder, "a betastar is writing to this run directory; wait for it")):
        used, unfinished = _used(folder)
        found = [Removable(path, _size(path), what) for path, what in _unneeded(folder, used)]
        if delete:
            with plain_disk_errors(folder):
                for item in found:
                    if item.path.is_dir() and not item.path.is_symlink():
                        shutil.rmtree(item.path)
                    else:
                        item.path.unlink(missing_ok=True)
    return Cleaning(found, unfinished)


def _used(folder: Path) -> tuple[set[str] | None, str]:
    """The artefacts that the run has used, as "stage/key"; None and the reason where that is not known."""
    place = folder / "store"
    try:
        record = unsealed(place / USED)
        if record["settings"] != file_digest(place / SETTINGS):
            return None, "a run with other settings has been begun and has not ended"
        used = set(record["artefacts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, "the run has not ended, or was made by an earlier version"
    if lost := next((name for name in sorted(used) if not (place / name).is_dir()), None):
        return None, f"{lost}, which the run has used, is missing"
    return used, ""


def _unneeded(folder: Path, used: set[str] | None) -> Iterator[tuple[Path, str]]:
    yield from ((path, HALF) for path in leftovers(folder))
    place = folder / "store"
    for stage in STAGES:
        for path in _inside(place / stage):
            if path.name.startswith(".damaged-") and not path.is_symlink():
                yield path, DAMAGED
            elif used is not None and KEY.fullmatch(path.name) and f"{stage}/{path.name}" not in used and _is_own(path):
                yield path, OTHER
    if used is not None:
        own = re.compile(
            rf"({'|'.join(STAGES)})-{KEY.pattern}|\.({'|'.join(STAGES)})-{KEY.pattern}\.(parts\.json|lock)"
        )
        yield from ((path, ORPHAN) for path in _inside(place / "partial") if own.fullmatch(path.name))


def _inside(folder: Path) -> list[Path]:
    """What is in a folder of the store; nothing, where it is a link or not there."""
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _is_own(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; of a link its own."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _, files in os.walk(path) for name in files)
