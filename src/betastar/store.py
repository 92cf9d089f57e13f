"""The run directory: finished artefacts keyed by content hash, checkpoints of unfinished ones, one writer at a time.

An artefact is a folder `store/<stage>/<key>/` with a `manifest.json` that holds the size and SHA-256 of every file. It is
written to a temporary folder, flushed to disk and renamed into place, so it is either whole or absent; it is verified
when read, and a damaged one is set aside and rebuilt. A checkpoint lives in `store/partial/` until its artefact is done.

A stage that trains many conditions together writes them as *parts* of one artefact, each with its own key, so that a
later run with one more condition finds the others.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from betastar import __version__
from betastar.errors import BetastarError, InternalError

FORMAT = 1
MANIFEST = "manifest.json"


def content_key(*parts: Any) -> str:
    """A 16-digit hash of JSON-able values: equal content, equal key, on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def plain_disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk, a refused write or a too-large file into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InternalError(
                f"{folder}: no space left on the disk; free some or give another folder with --out, then run the same "
                "command again: finished work is kept."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BetastarError(f"{error.filename or folder}: not writable; give another folder with --out.") from error
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step: a reader or a crash sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with plain_disk_errors(path.parent):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Artefact:
    """A finished, verified folder of the store. `parts` maps a part's key to its subfolder."""

    stage: str
    key: str
    folder: Path
    parts: Mapping[str, str]


class Store:
    """The artefacts of one run directory. Use as a context manager: it holds the directory's lock."""

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda text: None):
        self.folder, self.say = folder, say
        self._verified: dict[Path, Artefact] = {}

    def __enter__(self) -> Store:
        with plain_disk_errors(self.folder):
            (self.folder / "store").mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("a")
        try:
            # The kernel drops the lock when the process ends, however it ends.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise BetastarError(
                f"{self.folder}: another betastar is writing to this run directory; wait for it or give another folder "
                "with --out."
            ) from None
        for leftover in (self.folder / "store").glob("*/.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self._lock.close()

    def find(self, stage: str, key: str) -> Artefact | None:
        """The artefact, if it is there and undamaged."""
        return self._read(self.folder / "store" / stage / key)

    def find_parts(self, stage: str) -> dict[str, Path]:
        """Folders of all parts, by part key, over the undamaged artefacts of a stage."""
        found: dict[str, Path] = {}
        for folder in sorted((self.folder / "store" / stage).glob("[0-9a-f]*")):
            artefact = self._read(folder)
            if artefact:
                found |= {key: folder / name for key, name in artefact.parts.items() if key not in found}
        return found

    @contextmanager
    def write(self, stage: str, key: str, parts: Mapping[str, str] | None = None) -> Iterator[Path]:
        """Yield a temporary folder; when the block ends without an exception it becomes the artefact `stage/key`."""
        final = self.folder / "store" / stage / key
        temporary = final.with_name(f".{key}.tmp")
        started = time.time()
        with plain_disk_errors(self.folder):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            try:
                yield temporary
                files = sorted(path for path in temporary.rglob("*") if path.is_file())
                manifest = {
                    "format": FORMAT,
                    "stage": stage,
                    "key": key,
                    "parts": dict(parts or {}),
                    "files": {
                        str(path.relative_to(temporary)): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
                        for path in files
                    },
                    "betastar": __version__,
                    "python": platform.python_version(),
                    "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
                    "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "write_seconds": round(time.time() - started, 3),
                }
                (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
                for path in [*files, temporary / MANIFEST]:
                    _flush(path)
                _flush(temporary)
                shutil.rmtree(final, ignore_errors=True)
                os.replace(temporary, final)
                _flush(final.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        self.checkpoint(stage, key).discard()

    def checkpoint(self, stage: str, key: str) -> Checkpoint:
        """The checkpoint of an artefact that is still being made."""
        return Checkpoint(self.folder / "store" / "partial" / f"{stage}-{key}", self.say)

    def _read(self, folder: Path) -> Artefact | None:
        if folder in self._verified:
            return self._verified[folder]
        if not folder.is_dir():
            return None
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            for name, expected in manifest["files"].items():
                path = folder / name
                if path.stat().st_size != expected["bytes"] or file_digest(path) != expected["sha256"]:
                    raise ValueError(f"{name} has changed")
            artefact = Artefact(manifest["stage"], manifest["key"], folder, manifest["parts"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.say(f"{folder}: damaged ({error}); set aside and made again.")
            damaged = folder.with_name(f".damaged-{folder.name}-{time.time_ns()}")
            with plain_disk_errors(self.folder):
                os.replace(folder, damaged)
            return None
        self._verified[folder] = artefact
        return artefact


class Checkpoint:
    """Progress of an unfinished artefact: a step number, tensors, and append-only JSON Lines logs.

    `save` makes everything appended so far part of the checkpoint; after a crash, `load` cuts the logs back to what the
    last save covered, so rerun steps are not logged twice.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda text: None):
        self.folder, self.say = folder, say

    def append(self, log: str, rows: list[dict[str, Any]]) -> None:
        """Add rows to the log of that name."""
        with plain_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / f"{log}.jsonl").open("ab") as file:
                file.write(b"".join(json.dumps(row, allow_nan=True).encode() + b"\n" for row in rows))

    def save(self, step: int, tensors: Mapping[str, Any], notes: Mapping[str, Any] | None = None) -> None:
        """Record that `step` steps are done, with the tensors and notes needed to go on."""
        from safetensors.torch import save_file

        with plain_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            logs = sorted(self.folder.glob("*.jsonl"))
            for log in logs:
                _flush(log)
            state = self.folder / f"state-{step}.safetensors"
            temporary = state.with_suffix(".tmp")
            try:
                save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
            except Exception as error:  # safetensors reports a full disk with an exception class of its own
                temporary.unlink(missing_ok=True)
                if "No space left" in str(error):
                    raise OSError(errno.ENOSPC, "No space left on device", str(temporary)) from error
                raise
            _flush(temporary)
            os.replace(temporary, state)
            record = {
                "step": step,
                "state": state.name,
                "sha256": file_digest(state),
                "logs": {log.name: log.stat().st_size for log in logs},
                "notes": dict(notes or {}),
            }
        write_atomically(self.folder / "checkpoint.json", json.dumps(record).encode())
        for old in self.folder.glob("state-*"):
            if old != state:
                old.unlink()

    def load(self) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """Steps done, tensors and notes of the last save; None (and an empty checkpoint) where there is none or it is
        damaged."""
        from safetensors.torch import load_file

        try:
            record = json.loads((self.folder / "checkpoint.json").read_text())
            state = self.folder / record["state"]
            if file_digest(state) != record["sha256"]:
                raise ValueError(f"{state.name} has changed")
            sizes = {log.name: log.stat().st_size for log in self.folder.glob("*.jsonl")}
            if any(sizes.get(name, -1) < size for name, size in record["logs"].items()):
                raise ValueError("a log is shorter than recorded")
            tensors = load_file(state)
        except FileNotFoundError:
            self.discard()
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.say(f"{self.folder}: damaged checkpoint ({error}); this stage starts again.")
            self.discard()
            return None
        for name in sizes:
            with (self.folder / name).open("rb+") as file:
                file.truncate(record["logs"].get(name, 0))
        return record["step"], tensors, record["notes"]

    def log(self, log: str) -> list[dict[str, Any]]:
        """All rows of a log."""
        path = self.folder / f"{log}.jsonl"
        return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _flush(path: Path) -> None:
    """Ask the operating system to put a file or folder on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
