"""Files that survive a crash: written in one step, flushed, digested; disk errors said in one sentence; and JSON."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from betastar.errors import BetastarError, InternalError, argument


def content_key(*parts: Any) -> str:
    """A 16-digit hash of JSON-able values: equal content, equal key, on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def opened(path: Path) -> BufferedReader:
    """A regular file, open for reading. Raises ValueError for a folder, pipe or device: a pipe would wait for ever, and
    some devices never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path.name} is not a regular file")
    return os.fdopen(descriptor, "rb")


def is_damage(error: Exception) -> bool:
    """Whether an error in reading a stored file means that it is not what was written (gone, or something else in its
    place). Any other one (no permission, a failing disk, too many open files) may be gone the next time."""
    gone = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
    return isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno in gone)


def file_digest(path: Path, first: int | None = None) -> str:
    """SHA-256 of a file's bytes, or of the `first` ones of them. Raises as `opened` does."""
    with opened(path) as file:
        if first is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while first > 0 and (part := file.read(min(first, 1 << 20))):
            digest.update(part)
            first -= len(part)
        return digest.hexdigest()


@contextmanager
def plain_disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk, a refused write or a too-large file into one sentence."""
    try:
        yield
    except BetastarError:
        raise
    except Exception as error:
        # safetensors raises a class of its own, with the system's error number in the text.
        foreign = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else int(foreign[1]) if foreign else None
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InternalError(
                f"{folder}: no space left on the disk; free some or give another folder with {argument('out')}, then "
                "run the same again: finished work is kept."
            ) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            named, reason = getattr(error, "filename", None) or folder, os.strerror(number).lower()
            raise BetastarError(
                f"{named}: cannot be used ({reason}); change its permissions or give another folder with "
                f"{argument('out')}."
            ) from error
        if number in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            named = getattr(error, "filename2", None) or getattr(error, "filename", None) or folder
            what = "is a folder; give a file" if number == errno.EISDIR else "not a folder; give another folder"
            raise BetastarError(f"{named}: {what} with {argument('out')}.") from error
        if number in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.ELOOP):
            named, reason = getattr(error, "filename", None) or folder, os.strerror(number).lower()
            if number in (errno.ENAMETOOLONG, errno.ELOOP):
                raise BetastarError(
                    f"{named}: cannot be used ({reason}); give another path with {argument('out')}."
                ) from error
            raise InternalError(
                f"{named}: cannot be used ({reason}); check the disk, then run the same again: finished work is kept."
            ) from error
        raise


def make_folder(folder: Path) -> None:
    """Make a folder with those above it, unless it is there, so that a crash of the machine does not undo it: a folder
    is kept by the one above it. Raises BetastarError where none can be made."""
    with plain_disk_errors(folder):
        try:
            new = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
            folder.mkdir(parents=True, exist_ok=True)
            for path in new:
                with suppress(PermissionError):  # of a folder above that may be entered but not read
                    flush(path.parent)
        except FileNotFoundError as error:  # a file system that makes no folders, such as /proc; a link to nowhere
            raise BetastarError(
                f"{folder}: no folder can be made there; give another one with {argument('out')}."
            ) from error


LOCK = "lock"


def lock(folder: Path, busy: str) -> IO[bytes]:
    """Hold the folder's lock until the file that is returned is closed or the process ends, however it ends. Raises
    BetastarError where another has it, with `busy` and a remedy."""
    with plain_disk_errors(folder):
        held = _opened_lock(folder / LOCK)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        held.close()
        reason = busy if isinstance(error, BlockingIOError) else f"cannot be locked ({error.strerror})"
        raise BetastarError(f"{folder}: {reason} or give another folder with {argument('out')}.") from None
    return held


def _opened_lock(path: Path) -> IO[bytes]:
    """The lock, open. Raises BetastarError where it is a link, which may lead out of the folder, or no file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
    else:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return os.fdopen(descriptor, "r+b", buffering=0)
        os.close(descriptor)
    raise BetastarError(f"{path}: not a regular file; remove it, or give another folder with {argument('out')}.")


def flush(path: Path) -> None:
    """Ask the operating system to put a file or folder on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
            flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def leftover_of(path: Path) -> str | None:
    """The name of the file that a killed `write_atomically` was writing here; None if this is no such leftover, or if
    the process that writes it still runs."""
    match = re.fullmatch(r"\.(.+)\.(\d+)\.tmp", path.name)
    if match is None or path.is_symlink() or not path.is_file():
        return None
    writer = int(match[2])
    if writer != os.getpid():  # number of a dead process that this one has been given
        try:
            os.kill(writer, 0)
        except (OSError, OverflowError):
            pass
        else:
            return None
    return match[1]


def sealed(record: Mapping[str, Any]) -> bytes:
    """JSON that holds a digest of itself, so that a changed character is noticed."""
    as_read = json.loads(json.dumps(dict(record)))  # keys become text
    return json.dumps({**as_read, "seal": content_key(as_read)}, indent=1).encode() + b"\n"


def unseal(data: bytes) -> dict[str, Any]:
    """The record in sealed bytes. Raises ValueError where they are not what was written."""
    try:
        record = json.loads(data)
        if record.pop("seal") == content_key(record):
            return record
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ValueError("the record has changed")


def unsealed(path: Path) -> dict[str, Any]:
    """The record of a sealed file. Raises ValueError where it is not what was written."""
    with opened(path) as file:
        data = file.read()
    try:
        return unseal(data)
    except ValueError:
        raise ValueError(f"{path.name} has changed") from None


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=True) + "\n")


def read_jsonl_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
