"""Files that survive a crash: written in one step, flushed, digested; disk errors said in one sentence; and JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from betastar.errors import BetastarError, InternalError, argument


def content_key(*parts: Any) -> str:
    """A 16-digit hash of JSON-able values: equal content, equal key, on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path, first: int | None = None) -> str:
    """SHA-256 of a file's bytes, or of the `first` ones of them."""
    with path.open("rb") as file:
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
        raise


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
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ValueError("the record has changed")


def unsealed(path: Path) -> dict[str, Any]:
    """The record of a sealed file. Raises ValueError where it is not what was written."""
    data = path.read_bytes()
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
