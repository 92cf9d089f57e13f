"""From the bytes of a file to its text: unpacked, decoded, and bounded in size."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from betastar.errors import BetastarError

PACKED = (".gz", ".bz2", ".xz", ".zst")
MOST_BYTES = 2_000_000_000
"""A log is read into memory; one that is larger when unpacked is refused."""

BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def bare_suffix(name: str) -> str:
    """The suffix in lower case, of a packed file that of what is packed: `.jsonl` of `log.jsonl.gz`."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file, unpacked where its name says that it is packed. Raises BetastarError for a file
    that is damaged, is no file, or holds more than `most` bytes."""
    if not path.is_file():
        raise BetastarError("not a regular file", where=str(path), remedy="give a file or a folder of logs")
    try:
        with _opened(path) as file:
            data = file.read(most + 1)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise BetastarError(f"cannot be read ({error})", where=str(path), remedy="copy the file again") from None
    if len(data) > most:
        raise BetastarError(
            f"holds more than {most / 1e9:g} GB", where=str(path), remedy="give a part of it, or save it as Parquet"
        )
    return data


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 or UTF-16, with or without a byte order mark; bytes that are neither are read as
    Windows-1252, as spreadsheets write them."""
    data = read_bytes(path)
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    few = data[:2000]
    if few.count(0) > len(few) // 4:  # every other byte of Latin text in UTF-16 is zero
        return data.decode("utf-16-le" if few[1::2].count(0) > few[::2].count(0) else "utf-16-be", errors="replace")
    return data.decode("cp1252", errors="replace")


def _opened(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".zst":
        return _zstandard(path)
    opener: Callable[..., Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(suffix, open)
    return opener(path, "rb")


def _zstandard(path: Path) -> io.BufferedReader:
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))  # type: ignore[arg-type]
