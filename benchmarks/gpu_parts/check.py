"""What a part is given, and where its measurements go: JSON lines, each on the disk before the part goes on."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEASUREMENTS = "measurements.jsonl"
STATE = "state"  # the record with which the runner says how a part ended


@dataclass(frozen=True)
class Check:
    """One part's surroundings. `device` is cuda or cpu; `tiny` asks for sizes that mean nothing; `ends` is when the
    part will be killed (`time.time()`); `work` is an empty folder of its own; `gguf` are the parts of a model file."""

    part: str
    out: Path
    work: Path
    device: str
    tiny: bool
    ends: float
    gguf: tuple[Path, ...] = ()

    def record(
        self,
        name: str,
        value: float | int | str | None,
        unit: str = "",
        *,
        case: str = "",
        compared: str = "",
        limit: str = "",
        ok: bool | None = None,
    ) -> None:
        """One row of the table: what was measured, in which case, against what, and what it must not pass. `value` is
        None where it cannot be measured; `ok` says whether the limit is kept, where there is one."""
        row = {"part": self.part, "name": name, "case": case, "value": value, "unit": unit}
        append(self.out, row | {"compared": compared, "limit": limit, "ok": ok})

    def lacks(self, package: str, what: str) -> bool:
        """Whether a package is missing; if so, a row says what was not measured for want of it."""
        if importlib.util.find_spec(package) is not None:
            return False
        self.record("not measured", f"{package} is not installed", case=what)
        return True

    def left(self) -> float:
        """Seconds until the part is killed."""
        return self.ends - time.time()

    def room_for(self, seconds: float, case: str) -> bool:
        """Whether that much time is left; if not, a row says what was left out."""
        if self.tiny or self.left() >= seconds:
            return True
        self.record("not measured", "no time left", case=case)
        return False

    def recorded(self, name: str) -> float | None:
        """The last value that any part recorded under this name."""
        values = [row["value"] for row in records(self.out) if row.get("name") == name]
        return values[-1] if values else None


def append(out: Path, row: dict[str, Any]) -> None:
    """Add a record and wait for the disk, so that a machine taken away loses nothing."""
    line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
    handle = os.open(out / MEASUREMENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line)
        os.fsync(handle)
    finally:
        os.close(handle)


def records(out: Path) -> Iterator[dict[str, Any]]:
    """All records; a line that a kill cut short is left out."""
    path = out / MEASUREMENTS
    for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def table(rows: Sequence[dict[str, Any]], titles: dict[str, str], heading: str) -> str:
    """The records as Markdown: a section for each part, its state, and a table of its measurements."""
    limits = [row for row in rows if row["name"] != STATE and row["ok"] is not None]
    broken = [f"- {row['part']}: {row['name']}; {row['case']}" for row in limits if not row["ok"]]
    lines = [
        f"# {heading}",
        "",
        f"{len(limits) - len(broken)} of {len(limits)} limits kept{'; not kept:' if broken else '.'}",
    ]
    lines += ["", *broken, ""] if broken else [""]
    for part, title in titles.items():
        mine = [row for row in rows if row.get("part") == part]
        states = [row["value"] for row in mine if row["name"] == STATE]
        lines += [f"## {part}: {title}", "", f"State: {states[-1] if states else 'not begun'}.", ""]
        measured = [row for row in mine if row["name"] != STATE]
        if measured:
            lines += [
                "| measured | case | value | compared with | limit | kept |",
                "| --- | --- | --- | --- | --- | --- |",
            ]
            lines += [_line(row) for row in measured] + [""]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    kept = {True: "yes", False: "**NO**", None: ""}[row["ok"]]
    cells = [
        row["name"],
        row["case"],
        f"{number(row['value'])} {row['unit']}".strip(),
        row["compared"],
        row["limit"],
        kept,
    ]
    return "| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def number(value: float | int | str | None) -> str:
    """A value as a person reads it: three significant digits; `–` where there is none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
    return str(value)
