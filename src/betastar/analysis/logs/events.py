"""TensorBoard's event files."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from betastar.analysis.logs.log import Log

PATTERN = "*tfevents*"
FLOAT, DOUBLE = 1, 2  # of DataType


def read_events(paths: list[Path], name: str) -> Log:
    """The scalars of one run, whose event files (several after a resume) stand in `paths`, in the order written."""
    rows: list[dict[str, Any]] = []
    notes = []
    for path in sorted(paths):  # their names begin with the time of writing
        data = path.read_bytes()
        at_step: dict[int, dict[str, Any]] = {}
        try:
            for step, tag, value in (scalar for record in _records(data) for scalar in _scalars(record)):
                row = at_step.get(step)
                if row is None or tag in row:  # a new step, or the same one logged again
                    row = at_step[step] = {"step": step}
                    rows.append(row)
                row[tag] = value
        except (IndexError, KeyError, ValueError, struct.error):
            notes.append(f"{path.name} is truncated or damaged; the part before that is used")
    return Log(name, pd.DataFrame(rows), "TensorBoard events", note="; ".join(notes) or None)


def _records(data: bytes) -> Iterator[bytes]:
    """The data of the records. Raises ValueError where one is cut short or its length is damaged; the data's own CRC,
    which costs a pass over every byte in Python, is not checked."""
    place = 0
    while place < len(data):
        length, check = struct.unpack_from("<QI", data, place)
        start, end = place + 12, place + 12 + length
        if end + 4 > len(data) or check != _masked_crc(data[place : place + 8]):
            raise ValueError("no complete record")
        yield data[start:end]
        place = end + 4


def _scalars(event: bytes) -> Iterator[tuple[int, str, float]]:
    """(step, tag, value) of every scalar of an event."""
    fields = list(_fields(event))
    step = next((value for number, value in fields if number == 2), 0)
    for summary in (value for number, value in fields if number == 5):
        for value in (part for number, part in _fields(summary) if number == 1):
            parts = dict(_fields(value))
            scalar = struct.unpack("<f", parts[2])[0] if 2 in parts else _tensor(parts.get(8, b""))
            if scalar is not None:
                yield step, parts[1].decode(), scalar


def _tensor(tensor: bytes) -> float | None:
    """The value of a tensor that holds one float or double."""
    parts: dict[int, Any] = dict(_fields(tensor))
    field, size, code = {FLOAT: (5, 4, "<f"), DOUBLE: (6, 8, "<d")}.get(parts.get(1, 0), (0, 0, ""))
    packed = parts.get(4) or parts.get(field, b"")
    return struct.unpack(code, packed)[0] if size and len(packed) == size else None


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
        yield number, message[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A base-128 number, low digits first, and the place behind it."""
    value, shift = 0, 0
    while True:
        byte = data[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place


def _masked_crc(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and shifted as TFRecord does."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
