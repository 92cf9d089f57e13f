"""TensorBoard's event files."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from betastar.analysis.logs.log import Log
from betastar.analysis.logs.text import read_bytes, shown_path

PATTERN = "*tfevents*"
FLOAT, DOUBLE = 1, 2  # of DataType
Kind = TypeVar("Kind", int, bytes)


def read_events(paths: list[Path], name: str, most: int | None = None) -> Log:
    """The scalars of one run, whose event files (several after a resume) stand in `paths`, in the order written.
    Raises BetastarError for one of more than `most` bytes."""
    rows: list[dict[str, Any]] = []
    notes = []
    for path in sorted(paths):  # their names begin with the time of writing
        data = read_bytes(path, most)
        at_step: dict[int, dict[str, Any]] = {}
        try:
            for step, tag, value in (scalar for record in _records(data) for scalar in _scalars(record)):
                row = at_step.get(step)
                if row is None or tag in row:  # a new step, or the same one logged again
                    row = at_step[step] = {"step": step}
                    rows.append(row)
                row[tag] = value
        except (IndexError, KeyError, TypeError, ValueError, struct.error):
            notes.append(f"{shown_path(Path(path.name))} is truncated or damaged; the part before that is used")
    return Log(name, pd.DataFrame(rows), "TensorBoard events", note="; ".join(notes) or None)


def _records(data: bytes) -> Iterator[bytes]:
    """The data of the records. Raises ValueError where one is cut short or its length is damaged; the data's own CRC,
    which costs a pass over every byte in Python, is not checked."""
    place = 0
    while place < len(data):
        length, check = struct.unpack_from("<QI", data, place)
        start, end = place + 12, place + 12 + length
        if end + 4 > len(data) or check != masked_crc(data[place : place + 8]):
            raise ValueError("no complete record")
        yield data[start:end]
        place = end + 4


def _scalars(event: bytes) -> Iterator[tuple[int, str, float]]:
    """(step, tag, value) of every scalar of an event. Raises ValueError where a field is not of its type."""
    fields = list(_fields(event))
    step = next((_of(int, value) for number, value in fields if number == 2), 0)
    for summary in (_of(bytes, value) for number, value in fields if number == 5):
        for value in (_of(bytes, part) for number, part in _fields(summary) if number == 1):
            parts = dict(_fields(value))
            scalar = (
                struct.unpack("<f", _of(bytes, parts[2]))[0] if 2 in parts else _tensor(_of(bytes, parts.get(8, b"")))
            )
            if scalar is not None:
                yield step, _of(bytes, parts[1]).decode(), scalar


def _tensor(tensor: bytes) -> float | None:
    """The value of a tensor that holds one float or double."""
    parts: dict[int, Any] = dict(_fields(tensor))
    field, size, code = {FLOAT: (5, 4, "<f"), DOUBLE: (6, 8, "<d")}.get(_of(int, parts.get(1, 0)), (0, 0, ""))
    packed = _of(bytes, parts.get(4, b"")) or _of(bytes, parts.get(field, b""))
    return struct.unpack(code, packed)[0] if size and len(packed) == size else None


def _of(kind: type[Kind], value: Any) -> Kind:
    """The value of a field, which must be of this kind."""
    if not isinstance(value, kind):
        raise ValueError("a field's wire type does not fit it")
    return value


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message's fields: an integer where it is a varint, else its bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _varint(message, place)
            yield number, value - (1 << 64) if value >> 63 else value
            continue
        if wire == 2:
            size, place = _varint(message, place)
        else:
            size = {1: 8, 5: 4}[wire]
        if place + size > len(message):
            raise ValueError("a field is cut short")
        yield number, message[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A base-128 number of at most ten digits (64 bits), low ones first, and the place behind it."""
    value = 0
    for i in range(10):
        byte = data[place + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value & (1 << 64) - 1, place + i + 1
    raise ValueError("no number has more than ten digits")


def masked_crc(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and shifted as TFRecord does."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
