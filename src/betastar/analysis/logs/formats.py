"""Readers of logs: Trainer states, TensorBoard events, tables, console output, run directories of betastar."""

from __future__ import annotations

import gzip
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from betastar.analysis.logs.log import Log, flat
from betastar.errors import BetastarError
from betastar.record.answers import read_answers
from betastar.record.files import ANSWERS, METRICS, read_results, read_settings

NUMBER = r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf)"
# NumPy 2 prints its numbers as np.float64(0.3), and verl's pprint and OpenRLHF's f-string pass that on.
VALUE = rf"(?:np\.\w+\()?({NUMBER})\)?"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
VERL = re.compile(r"(?:^|\s)step:(\d+) - (.*)")
VERL_FIELD = re.compile(rf"(\S+):{VALUE}")
DICTIONARY = re.compile(r"\{.*\}")
ITEM = re.compile(rf"""['"]([^'"]+)['"]\s*:\s*['"]?{VALUE}['"]?\s*(?=[,}}])""")
STEP = re.compile(r"global[_ ]step[:= ]*(\d+)", re.IGNORECASE)


def read_console(path: Path, name: str) -> Log:
    """The metrics in a trainer's output; lines without any are passed over. Raises BetastarError if there are none."""
    lines = COLOUR.sub("", path.read_text(encoding="utf-8", errors="replace")).splitlines()
    verl = [_verl_row(match) for line in lines if (match := VERL.search(line))]
    if verl:  # verl prints its first validation as a dictionary as well
        return Log(name, pd.DataFrame(verl), "verl console log")
    rows = [row for line in lines if (row := _dictionary_row(line))]
    if not rows:
        raise BetastarError(f"{path}: no line is a verl step or a dictionary of metrics; give the trainer's output.")
    return Log(name, pd.DataFrame(rows), "console log of dictionaries (OpenRLHF, TRL)")


def _verl_row(match: re.Match[str]) -> dict[str, float]:
    fields = (VERL_FIELD.fullmatch(part.strip()) for part in match[2].split(" - "))
    return {"step": int(match[1]), **{field[1]: float(field[2]) for field in fields if field}}


def _dictionary_row(line: str) -> dict[str, float]:
    """Metrics of a line; the step is in the words around the dictionary, in it, or nowhere."""
    found = DICTIONARY.search(line)
    row = {key: float(value) for key, value in ITEM.findall(found[0])} if found else {}
    if row and found and (step := STEP.search(line.replace(found[0], ""))):
        row = {"step": int(step[1]), **row}
    return row


WANDB_KIND = "Weights & Biases export"
WANDB = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?P<range>__MIN|__MAX)?")


def read_csv(path: Path, name: str) -> list[Log]:
    """The run of a CSV or TSV file, or the runs of a Weights & Biases export."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        # The separator is the likely character that the header has most of.
        table = pd.read_csv(path, sep=max(",;\t", key=header.count), encoding="utf-8-sig")
    except (ValueError, UnicodeDecodeError) as error:
        raise BetastarError(f"{path}: not a readable CSV file ({str(error).strip()}); export it again.") from None
    return _wandb_runs(table) or [Log(name, table, "CSV table")]


def read_json_lines(path: Path, name: str) -> Log:
    """The run of a JSON Lines file (`.gz` is unpacked). A last line that a killed run left unfinished is passed over.
    Raises BetastarError for another line that is not JSON object."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            lines = [(number, line) for number, line in enumerate(file, start=1) if line.strip()]
    except (OSError, EOFError) as error:
        raise BetastarError(f"{path}: cannot be read ({error}); copy the file again.") from None
    rows: list[dict[str, Any]] = []
    note = None
    for place, (number, line) in enumerate(lines):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            rows.append(flat(record))
        elif place == len(lines) - 1 and rows and not line.endswith(b"\n"):
            note = f"line {number} is incomplete and skipped"
        else:
            raise BetastarError(f"{path}, line {number}: not a JSON object; put one on each line.")
    return Log(name, pd.DataFrame(rows), "JSON Lines", note=note)


def read_parquet(path: Path, name: str) -> Log:
    """The run of a Parquet file."""
    try:
        return Log(name, pd.read_parquet(path), "Parquet table")
    except (OSError, ValueError) as error:
        raise BetastarError(f"{path}: not a readable Parquet file ({error}); export it again.") from None


def _wandb_runs(table: pd.DataFrame) -> list[Log]:
    """One log per run of a Weights & Biases export: columns "Step", "RUN - METRIC", "RUN - METRIC__MIN", …

    Its name is the run's alone: an export holds one chart, so the metrics of a run come from several files."""
    matches = {column: match for column in table if (match := WANDB.fullmatch(str(column)))}
    plain = [column for column in table if column not in matches]
    if not matches or len(plain) != 1:
        return []
    columns: dict[str, dict[str, str]] = {}
    for column, match in matches.items():
        if not match["range"] and match["metric"] != "_step":
            columns.setdefault(match["run"], {})[column] = match["metric"]
    return [
        Log(run, pd.DataFrame(table, columns=[plain[0], *of_run]).rename(columns=of_run), WANDB_KIND)
        for run, of_run in columns.items()
    ]


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


NAME = "trainer_state.json"


def trainer_state_of(folder: Path) -> Path | None:
    """The state with the longest history in an output folder: its own, or that of its latest checkpoint."""
    checkpoints = [(int(match[1]), path) for path in folder.glob(f"checkpoint-*/{NAME}") if (match := _number(path))]
    latest = [max(checkpoints)[1]] if checkpoints else []
    states = [path for path in (folder / NAME, *latest) if path.is_file()]
    return max(states, key=_global_step, default=None)


def read_trainer_state(path: Path, name: str) -> Log:
    """The log of one state file. Raises BetastarError where it is none."""
    history = _load(path).get("log_history")
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise BetastarError(f"{path}: no trainer state (log_history is missing); give the folder of a Trainer's run.")
    return Log(name, pd.DataFrame(history), "Transformers/TRL trainer state")


def _number(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"checkpoint-(\d+)", path.parent.name)


def _global_step(path: Path) -> int:
    try:
        return _load(path).get("global_step", 0)
    except BetastarError:  # one that a full disk left unfinished: any other is better
        return -1


def _load(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_bytes())
    except ValueError as error:
        raise BetastarError(f"{path}: not valid JSON ({error}); copy the file again.") from None
    return state if isinstance(state, dict) else {}


def read_run_directory(folder: Path, name: str) -> Log:
    """All conditions of a run as one log. Its record is `results.json`, with the settings as `config`. Raises
    BetastarError where a file is damaged or of another version."""
    record = {**read_results(folder), "config": read_settings(folder)}
    answers = read_answers(folder / ANSWERS) if (folder / ANSWERS).is_file() else None
    log = read_json_lines(folder / METRICS, name)
    return log._replace(kind="betastar run", record=record, answers=answers)
