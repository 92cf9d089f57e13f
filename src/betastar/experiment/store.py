"""The run directory: finished artefacts keyed by content hash, checkpoints of unfinished ones, one writer at a time.

An artefact is a folder `store/<stage>/<key>/` with a `manifest.json` that holds the size and SHA-256 of every file. It
is written to a temporary folder, flushed to disk and renamed into place, so it is either whole or absent; it is
verified when read, and a damaged one is set aside and rebuilt. A checkpoint lives in `store/partial/` until its
artefact is done.

A stage that trains many conditions together writes them as *parts* of one artefact, each with its own key, so that a
later run with one more condition finds the others.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import Any

from betastar import __version__
from betastar.disk import (
    LOCK,
    content_key,
    file_digest,
    flush,
    is_damage,
    leftover_of,
    lock,
    make_folder,
    plain_disk_errors,
    sealed,
    unsealed,
    write_atomically,
)
from betastar.errors import BetastarError, InternalError, argument
from betastar.experiment.place import MANIFEST, Place
from betastar.progress import MEASURING
from betastar.record.files import PUBLISHED
from betastar.settings.sections import Compute

__all__ = ["Artefact", "Checkpoint", "Store", "content_key", "copy_out", "file_digest", "write_atomically"]

FORMAT = 1
CHECKPOINT = "checkpoint.json"
CHECKPOINT_SECONDS = 30.0
UPLOAD_SECONDS = 300.0
WRITER = f"{platform.node() or 'host'}-{os.getpid()}"
"""Who writes a temporary folder: a host and a process of it."""


class BusyError(BetastarError):
    """Somebody else is making the same artefact at this moment."""


@dataclass(frozen=True)
class Artefact:
    """A finished, verified folder of the store. `parts` maps a part's key to its subfolder."""

    stage: str
    key: str
    folder: Path
    parts: Mapping[str, str]


def _is_written_to(temporary: Path) -> bool:
    """Whether a temporary folder's writer may be alive: a process of this machine that exists, or one of another
    machine, which cannot be asked, that wrote within the last day."""
    _, _, writer = temporary.name.removeprefix(".").removesuffix(".tmp").partition(".")
    host, _, pid = writer.rpartition("-")
    if not pid.isdigit():
        return False
    if host == (platform.node() or "host"):
        return int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()
    with suppress(OSError):
        return time.time() - temporary.stat().st_mtime < 86400
    return False


def leftovers(folder: Path) -> Iterator[Path]:
    """What killed processes were writing in a run directory that this process has locked."""
    store = folder / "store"
    for path in store.glob("*/.*.tmp"):
        if path.is_dir() and not path.is_symlink() and not _is_written_to(path):
            yield path
    if (folder / ".status.json.tmp").is_file():
        yield folder / ".status.json.tmp"
    for pattern in (".*.tmp", "partial/.*.tmp"):  # the settings; lists of parts
        yield from (path for path in store.glob(pattern) if leftover_of(path) is not None)
    yield from (path for path in folder.glob(".*.tmp") if leftover_of(path) in PUBLISHED)
    for path in (folder / "figures").glob(".*.tmp"):
        if str(leftover_of(path)).endswith((".svg", ".pdf", ".png")):
            yield path


def copy_out(made: Artefact, folder: Path) -> None:
    """Copy an artefact's files to where a person looks for them."""
    for path in sorted(made.folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            target = folder / path.relative_to(made.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, path.read_bytes())


class Store:
    """The artefacts of one run directory. Use as a context manager: it holds the directory's lock, or, if `shared`, is
    one of many workers that write beside the process with the lock, if there is one. With a `place`, which other
    machines share, the directory is a copy of what was needed here: artefacts are looked for there too, and uploaded;
    so are checkpoints, every `upload_seconds`.
    """

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], None] = lambda text: None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        shared: bool = False,
        place: Place | None = None,
        upload_seconds: float = UPLOAD_SECONDS,
    ):
        self.folder, self.say, self.checkpoint_seconds, self.shared = folder, say, checkpoint_seconds, shared
        self.remote, self.upload_seconds, self._lease = place, upload_seconds, ExitStack()
        self._seen: dict[str, dict[str, Mapping[str, str]]] = {}  # by stage and key: parts of artefacts elsewhere
        self._verified: dict[Path, Artefact] = {}
        self._checkpoints: dict[Path, Checkpoint] = {}
        self.used: set[str] = set()
        """Artefacts that were taken or made so far, as "stage/key"."""
        self.measured = 0.0
        """Seconds spent within `measuring` so far."""

    @classmethod
    def of(
        cls, compute: Compute, folder: Path, say: Callable[[str], None], place: Place | None, shared: bool = False
    ) -> Store:
        """The store of a run with these settings."""
        return cls(folder, say, compute.checkpoint_seconds, shared, place, compute.engine.upload_seconds)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """The time that the block takes is spent on measuring, not on training; manifests say how much it was."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.measured += time.monotonic() - started

    def __enter__(self) -> Store:
        make_folder(self.folder / "store")
        if self.shared:
            return self
        self._lock = lock(self.folder, "another betastar is writing to this run directory; wait for it")
        if self.remote is not None:
            try:
                self._lease.enter_context(self.remote.driven())
            except BaseException:
                self._lock.close()
                raise
        for path in leftovers(self.folder):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):  # what cannot be removed does no harm
                    path.unlink(missing_ok=True)
        return self

    def check_place(self) -> None:
        """Raises BetastarError where the folder was moved or its lock removed since it was locked: what is written now
        would go astray, or beside another process."""
        if self.shared:
            return
        try:
            mine, there = os.fstat(self._lock.fileno()), os.stat(self.folder / LOCK)
            if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                return
        except FileNotFoundError:
            pass
        raise BetastarError(
            f"{self.folder}: was moved, or its file {LOCK} removed, while betastar was writing to it; finished work is "
            f"kept: run the same again with {argument('out')} naming where it is now."
        )

    def __exit__(self, *exc: object) -> None:
        try:
            for checkpoint in self._checkpoints.values():
                checkpoint.wait()
        finally:
            if not self.shared:
                self._lease.close()
                self._lock.close()

    def use(self, folder: Path) -> None:
        """Note that an artefact is needed."""
        self.used.add(f"{folder.parent.name}/{folder.name}")

    def place(self, stage: str, key: str) -> Path:
        """Where the artefact is or will be."""
        return self.folder / "store" / stage / key

    def find(self, stage: str, key: str) -> Artefact | None:
        """The artefact, if it is there and undamaged."""
        return self._read(self.place(stage, key))

    def find_parts(self, stage: str) -> dict[str, Path]:
        """Folders of all parts, by part key, over the undamaged artefacts of a stage."""
        found: dict[str, Path] = {}
        for folder in self._folders(stage):
            artefact = self._read(folder)
            if artefact:
                found |= {key: folder / name for key, name in artefact.parts.items() if key not in found}
        return found

    def finished(self, stage: str) -> set[str]:
        """Keys of all parts of a stage, by the manifests alone: their files are verified when a part is read."""
        return {key for _, parts in self._manifests(stage) for key in parts}

    def part(self, stage: str, key: str) -> Path:
        """The folder of one part, verified. Raises BetastarError if no undamaged artefact of the stage has it."""
        for folder, parts in self._manifests(stage):
            if key in parts and self._read(folder):
                return folder / parts[key]
        raise BetastarError(
            f"{key} has not been made", where=stage, remedy="`betastar work RUN` lists what is ready to be made"
        )

    def _folders(self, stage: str) -> list[Path]:
        """Where the artefacts of a stage are, or will be once they are downloaded."""
        place = self.folder / "store" / stage
        try:
            here = {name for name in os.listdir(place) if name[0] in "0123456789abcdef"}
        except (FileNotFoundError, NotADirectoryError):
            here = set()
        except OSError as error:
            raise _unreadable(place, error) from error
        there = set() if self.remote is None else set(self.remote.keys(stage))
        return [self.place(stage, key) for key in sorted(here | there)]

    def _manifests(self, stage: str) -> Iterator[tuple[Path, Mapping[str, str]]]:
        """Folder and parts of every artefact of a stage whose manifest is whole."""
        seen = self._seen.setdefault(stage, {})
        for folder in self._folders(stage):
            if folder.is_dir():
                with suppress(OSError, ValueError):
                    yield folder, unsealed(folder / MANIFEST)["parts"]
            elif self.remote is not None:
                if folder.name not in seen and (manifest := self.remote.manifest(f"store/{stage}/{folder.name}")):
                    seen[folder.name] = manifest["parts"]
                if folder.name in seen:
                    yield folder, seen[folder.name]

    @contextmanager
    def write(self, stage: str, key: str, parts: Mapping[str, str] | None = None) -> Iterator[Path]:
        """Yield a temporary folder; when the block ends without an exception it becomes the artefact `stage/key`.

        Of workers that share the directory one at a time may make an artefact: the others get BusyError. If a whole
        one is there when the block ends, it stays and this one is dropped.
        """
        final = self.place(stage, key)
        temporary = final.with_name(f".{key}.{WRITER}.tmp")
        started, measured = time.time(), self.measured
        self.check_place()
        with plain_disk_errors(self.folder), self._alone(stage, key):
            shutil.rmtree(temporary, ignore_errors=True)
            make_folder(final.parent)
            temporary.mkdir()
            try:
                with self.measuring() if stage in MEASURING else nullcontext():
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
                    "measuring_seconds": round(self.measured - measured, 3),
                }
                (temporary / MANIFEST).write_bytes(sealed(manifest))
                for path in [*temporary.rglob("*"), temporary]:
                    flush(path)
                self._verified.pop(final, None)
                self.check_place()
                if not (self.shared and self._read(final)):
                    shutil.rmtree(final, ignore_errors=True)  # a crash in here leaves a damaged one, noticed when read
                    os.replace(temporary, final)
                    flush(final.parent)
            except FileNotFoundError:
                self.check_place()
                raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            if self.remote is not None:
                self._upload(final)
        self.checkpoint(stage, key).discard()

    def upload_all(self) -> None:
        """Share whatever is here and not there: of a run that began without a place."""
        assert self.remote is not None
        for manifest in sorted((self.folder / "store").glob("[a-z]*/[0-9a-f]*/" + MANIFEST)):
            if self._read(manifest.parent):
                self._upload(manifest.parent)

    def _upload(self, folder: Path) -> None:
        """Share an artefact. If a twin was faster, that is the one that everybody has, so this machine takes it too."""
        assert self.remote is not None
        path = f"store/{folder.parent.name}/{folder.name}"
        if not self.remote.push(path, folder, unsealed(folder / MANIFEST)):
            self._verified.pop(folder, None)
            shutil.rmtree(folder)
            if not self.remote.pull(path, folder):
                raise InternalError("it was removed while it was read", where=f"{self.remote.uri}/{path}")

    @contextmanager
    def _alone(self, stage: str, key: str) -> Iterator[None]:
        """Keeps other workers from this artefact and its checkpoint; the process with the directory's lock needs no
        other."""
        if not self.shared:
            yield
            return
        path = self.folder / "store" / "partial" / f".{stage}-{key}.lock"
        make_folder(path.parent)
        with path.open("a") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    "another worker is making these parts", where=f"{stage} {key}", remedy="wait for it to end"
                ) from None
            yield
            path.unlink(missing_ok=True)

    def checkpoint(self, stage: str, key: str) -> Checkpoint:
        """The checkpoint of an artefact that is still being made."""
        folder = self.folder / "store" / "partial" / f"{stage}-{key}"
        if folder not in self._checkpoints:
            self._checkpoints[folder] = Checkpoint(folder, self.say, self.checkpoint_seconds, self.check_place)
        return self._checkpoints[folder]

    def _read(self, folder: Path) -> Artefact | None:
        """The artefact in a folder; None if it is absent, or damaged and set aside. Raises BetastarError where nobody
        can tell, as without permission or on a failing disk: hours of work are not given up for that."""
        if folder in self._verified:
            return self._verified[folder]
        if (
            self.remote is not None
            and not os.path.lexists(folder)
            and not self.remote.pull(f"store/{folder.parent.name}/{folder.name}", folder)
        ):
            return None
        try:
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                raise ValueError("not a folder")
            artefact = _verified(folder)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.filename == str(folder) and error.errno == errno.ENOENT:
                return None
            if not is_damage(error):
                raise _unreadable(folder, error) from error
            self.say(f"{folder}: damaged ({_reason(error)}); set aside and rebuilt.")
            damaged = folder.with_name(f".damaged-{folder.name}-{time.time_ns()}")
            with plain_disk_errors(self.folder):
                os.replace(folder, damaged)
            return None if self.remote is None else self._read(folder)
        self._verified[folder] = artefact
        # A crash just after an artefact is done leaves its checkpoint behind.
        shutil.rmtree(self.folder / "store" / "partial" / f"{artefact.stage}-{artefact.key}", ignore_errors=True)
        return artefact


def _verified(folder: Path) -> Artefact:
    """The artefact in a folder. Raises ValueError or OSError where it is not what was written."""
    manifest = unsealed(folder / MANIFEST)
    if (manifest.get("format"), manifest.get("stage"), manifest.get("key")) != (
        FORMAT,
        folder.parent.name,
        folder.name,
    ):
        raise ValueError(f"{MANIFEST} belongs to another artefact or format")
    files, parts = manifest.get("files"), manifest.get("parts")
    if not (isinstance(files, dict) and isinstance(parts, dict) and all(map(_is_inside, (*files, *parts.values())))):
        raise ValueError(f"{MANIFEST} lists no files")
    for name, expected in files.items():
        path = folder / name
        size, digest = (expected.get("bytes"), expected.get("sha256")) if isinstance(expected, dict) else (None, None)
        if path.stat().st_size != size or file_digest(path) != digest:
            raise ValueError(f"{name} has changed")
    return Artefact(folder.parent.name, folder.name, folder, parts)


def _is_inside(name: Any) -> bool:
    """Whether this is a path in a folder, not out of it."""
    return isinstance(name, str) and not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


def _unreadable(folder: Path, error: Exception) -> BetastarError:
    return BetastarError(
        f"cannot be read ({_reason(error)}), and nothing was changed",
        where=str(folder),
        remedy="make it readable, then run the same again",
    )


class Checkpoint:
    """Progress of an unfinished artefact: a step number, tensors, and append-only JSON Lines logs.

    A save makes everything appended so far part of the checkpoint; after a crash, `load` cuts the logs back to what the
    last save covered, so rerun steps are not logged twice.

    Saves come by time, and a thread writes them: training waits only while the tensors are copied. A kill loses the
    work of at most `seconds`, or of `SHARE` times what the last copy took where that is longer (so that copying costs
    no more than a twentieth), and of the write under way. `seconds` of 0: after every step, whatever it costs.
    """

    SHARE = 20

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], None] = lambda text: None,
        seconds: float = CHECKPOINT_SECONDS,
        check_place: Callable[[], None] = lambda: None,
    ):
        self.folder, self.say, self.seconds, self.check_place = folder, say, seconds, check_place
        self.saved: Callable[[int], None] = lambda step: None
        """Called, in the thread that writes, after every save."""
        self._due = time.monotonic() + seconds
        self._writer: Thread | None = None
        self._failure: BaseException | None = None

    def append(self, log: str, rows: list[dict[str, Any]]) -> None:
        """Add rows to the log of that name."""
        self.check_place()
        make_folder(self.folder)
        with plain_disk_errors(self.folder), (self.folder / f"{log}.jsonl").open("ab") as file:
            file.write(b"".join(json.dumps(row, allow_nan=True).encode() + b"\n" for row in rows))

    def save_if_due(self, step: int, tensors: Callable[[], Mapping[str, Any]]) -> None:
        """Record that `step` steps are done, with what `tensors()` gives to go on from, if it is time for a save.
        Raises what the write before has failed with."""
        if time.monotonic() >= self._due:
            started = time.monotonic()
            self.start_save(step, tensors())
            took = time.monotonic() - started
            self._due = time.monotonic() + (max(self.seconds, self.SHARE * took) if self.seconds else 0.0)

    def save(self, step: int, tensors: Mapping[str, Any]) -> None:
        """Record that `step` steps are done, now, and wait until it is on the disk."""
        self.start_save(step, tensors)
        self.wait()

    def start_save(self, step: int, tensors: Mapping[str, Any]) -> None:
        """Copy the tensors and note how long the logs are; a thread writes that."""
        self.wait()
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        logs = {log: log.stat().st_size for log in sorted(self.folder.glob("*.jsonl"))}

        def write() -> None:
            try:
                self._write(step, copies, logs)
            except BaseException as error:  # handed to whoever waits for this write
                self._failure = error

        self._writer = Thread(target=write, name=f"checkpoint {self.folder.name}")
        self._writer.start()

    def wait(self) -> None:
        """Until the write under way is on the disk. Raises what it failed with."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write(self, step: int, tensors: Mapping[str, Any], logs: Mapping[Path, int]) -> None:
        """Write a save. The logs may have grown since: only their first bytes, as many as there were, belong to it."""
        from safetensors.torch import save_file

        self.check_place()
        make_folder(self.folder)
        with plain_disk_errors(self.folder):
            for log in logs:
                flush(log)
            state = self.folder / f"state-{step}.safetensors"
            temporary = state.with_suffix(".tmp")
            try:
                save_file(dict(tensors), temporary)
                flush(temporary)
                os.replace(temporary, state)
                flush(self.folder)  # before a record names it
            finally:
                temporary.unlink(missing_ok=True)
            record = {
                "step": step,
                "state": state.name,
                "sha256": file_digest(state),
                "logs": {log.name: {"bytes": size, "sha256": file_digest(log, size)} for log, size in logs.items()},
            }
        write_atomically(self.folder / CHECKPOINT, sealed(record))
        for old in self.folder.glob("state-*"):
            if old != state:
                old.unlink()
        self.saved(step)

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """Steps done and tensors of the last save; None (and an empty checkpoint) where there is none or it is
        damaged."""
        from safetensors.torch import load_file

        self.wait()
        try:
            try:
                os.lstat(self.folder / CHECKPOINT)
            except (FileNotFoundError, NotADirectoryError):
                self.discard()
                return None
            record = unsealed(self.folder / CHECKPOINT)
            for log in self.folder.glob("*.jsonl"):
                os.truncate(log, min(log.stat().st_size, record["logs"].get(log.name, {"bytes": 0})["bytes"]))
            digests = {record["state"]: record["sha256"]} | {n: log["sha256"] for n, log in record["logs"].items()}
            for name, digest in digests.items():
                if file_digest(self.folder / name) != digest:
                    raise ValueError(f"{name} has changed")
            return record["step"], load_file(self.folder / record["state"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # a record of another shape
            if isinstance(error, OSError) and not is_damage(error):
                raise _unreadable(self.folder, error) from error
            self.say(f"{self.folder}: damaged checkpoint ({_reason(error)}); restarting this stage.")
            self.discard()
            return None

    def log(self, log: str) -> list[dict[str, Any]]:
        """All rows of a log."""
        path = self.folder / f"{log}.jsonl"
        return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def discard(self) -> None:
        """Remove it: the artefact is done, or has to be begun again."""
        if self._writer is not None:
            self._writer.join()
        self._writer = self._failure = None  # what cannot be written now is not needed any more
        shutil.rmtree(self.folder, ignore_errors=True)


def _reason(error: Exception) -> str:
    """What is wrong with a stored file, in a few words."""
    if isinstance(error, OSError) and error.filename:
        return f"{Path(error.filename).name}: {error.strerror}"
    return str(error)
