"""From the bytes of a file to its text: unpacked, decoded, and bounded in size."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from betastar.errors import BetastarError, argument

PACKED = (".gz", ".bz2", ".xz", ".zst")
MOST_BYTES = 2_000_000_000
"""A log is read into memory; one that is larger when unpacked is refused unless a limit is told."""
MOST_RATIO, RATIO_FROM = 250, 64_000_000
"""A file that unpacks to over so many times its size, and to so many bytes, is no log: text packs 5 to 50 times."""
CHUNK = 1 << 24

BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class Content(NamedTuple):
    """The bytes of a text file without its byte order mark, and their encoding."""

    data: bytes
    encoding: str

    @property
    def text(self) -> str:
        """Decoded; bytes that the encoding does not know become replacement characters."""
        return self.data.decode(self.encoding, errors="replace")


def bare_suffix(name: str) -> str:
    """The suffix in lower case, of a packed file that of what is packed: `.jsonl` of `log.jsonl.gz`."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def shown_path(path: Path) -> str:
    """A path as text that can be printed and saved: of a name, bytes that are not UTF-8 become replacement
    characters."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The content of a regular file, unpacked where its name says that it is packed. `most`: the bytes it may hold
    (`MOST_BYTES` by default, and then a packed file may not unpack to over `MOST_RATIO` times its size). Raises
    BetastarError for a file that is damaged, is no regular file, or holds more."""
    check_size(path, most)
    limit, packed = MOST_BYTES if most is None else most, path.suffix.lower() in PACKED
    parts, size = [], 0
    try:
        with _opened(path) as file:
            while part := file.read(CHUNK if packed else limit + 1):
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise too_large(path, most)
                if most is None and packed and size > max(RATIO_FROM, MOST_RATIO * path.stat().st_size):
                    raise BetastarError(
                        f"unpacks to more than {MOST_RATIO} times its size, as no log does",
                        where=shown_path(path),
                        remedy=f"check it, or allow it with {argument('max_gb', 'SIZE')}",
                    )
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise BetastarError(f"cannot be read ({error})", where=shown_path(path), remedy="copy the file again") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def check_size(path: Path, most: int | None = None) -> None:
    """Raises BetastarError unless `path` is a regular file (or a link to one) of at most `most` bytes on disk. A pipe
    or a device is never opened: it may not end."""
    if not path.is_file():
        raise BetastarError("not a regular file", where=shown_path(path), remedy="give a file or a folder of logs")
    if path.stat().st_size > (MOST_BYTES if most is None else most):
        raise too_large(path, most)


def too_large(path: Path, most: int | None = None) -> BetastarError:
    """That a file holds more than may be read."""
    return BetastarError(
        f"holds more than {(MOST_BYTES if most is None else most) / 1e9:g} GB",
        where=shown_path(path),
        remedy=f"give a part of it, or raise the limit with {argument('max_gb', 'SIZE')}",
    )


def read_text(path: Path, most: int | None = None) -> str:
    """The text of a file, as `read_content` finds its encoding."""
    return read_content(path, most).text


def read_content(path: Path, most: int | None = None) -> Content:
    """A file in UTF-8 or UTF-16, with or without a byte order mark; bytes that are neither are Windows-1252, as
    spreadsheets write it. Raises BetastarError as `read_bytes` does."""
    data = read_bytes(path, most)
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return Content(data[len(mark) :], encoding)
    if data.isascii() and b"\0" not in data[:2000]:
        return Content(data, "utf-8")
    few = data[:2000]
    if few.count(0) > len(few) // 4:  # every other byte of Latin text in UTF-16 is zero
        return Content(data, "utf-16-le" if few[1::2].count(0) > few[::2].count(0) else "utf-16-be")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return Content(data, "cp1252")
    return Content(data, "utf-8")


def _opened(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".zst":
        return _zstandard(path)
    opener: Callable[..., Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(suffix, open)
    return opener(path, "rb")


def _zstandard(path: Path) -> io.BufferedReader:
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))  # type: ignore[arg-type]
