"""Metrics in the output of a trainer: verl, dictionaries of TRL and OpenRLHF, NeMo-RL's lists."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pandas as pd

from betastar.analysis.logs.log import Log
from betastar.analysis.logs.text import read_text, shown_path
from betastar.errors import BetastarError

NUMBER = r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf)"
# NumPy 2 prints its numbers as np.float64(0.3), and verl's pprint and OpenRLHF's f-string pass that on.
VALUE = rf"(?:np\.\w+\()?({NUMBER})\)?"
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
VERL = re.compile(r"(?:^|\s)step:(\d+) - (.*)")
VERL_FIELD = re.compile(rf"(\S+):{VALUE}")
ITEM = re.compile(rf"""['"]([^'"]{{1,200}})['"]\s*:\s*['"]?{VALUE}['"]?\s*(?=[,}}])""")
STEP = re.compile(r"global[_ ]step[:= ]*(\d+)", re.IGNORECASE)
BANNER = re.compile(r"^[=\-#\s]*Step\s+(\d+)\s*(?:/\s*\d+)?[=\-#\s:]*$", re.IGNORECASE)
BULLET = re.compile(rf"^\s*[•*\-]\s*([A-Za-z][^:]{{0,80}}):\s*{VALUE}\s*$")
BAR = re.compile(r"\| *(\d+)/(\d+) \[")
LONGEST = 200_000  # characters of a line; a longer one is data, not metrics


def read_console(path: Path, name: str, most: int | None = None) -> Log:
    """The metrics in a trainer's output of at most `most` bytes; lines without any, or longer than `LONGEST`, are
    passed over. Raises BetastarError if there are none."""
    # A progress bar writes over its line, and what the trainer prints follows it there.
    lines = re.split(r"[\r\n]+", COLOUR.sub("", read_text(path, most)))
    lines = [line for line in lines if len(line) <= LONGEST]
    verl = [_verl_row(match) for line in lines if (match := VERL.search(line))]
    if verl:  # verl prints its first validation as a dictionary as well
        return Log(name, pd.DataFrame(verl), "verl console log")
    if rows := _dictionary_rows(lines):
        return Log(name, pd.DataFrame(rows), "console log of dictionaries (OpenRLHF, TRL)")
    rows = _banner_rows(lines)
    if rows:
        return Log(name, pd.DataFrame(rows), "console log of lists (NeMo-RL)")
    raise BetastarError(
        f"{shown_path(path)}: no line is a verl step, a dictionary of metrics or a list of them under its step; give "
        "the trainer's output."
    )


def _verl_row(match: re.Match[str]) -> dict[str, float]:
    fields = (VERL_FIELD.fullmatch(part.strip()) for part in match[2].split(" - "))
    return {"step": int(match[1]), **{field[1]: float(field[2]) for field in fields if field}}


def _dictionary_rows(lines: list[str]) -> list[dict[str, float]]:
    """The rows of dictionaries; without steps of their own they have those of the trainer's progress bar, which is the
    one with most dictionaries behind it. What stands behind none is a setting.

    A bar is drawn again, at the same count, for each dictionary that is written; so the first dictionary belongs to the
    first such count even where output was held back and came in blocks. Without this they have the last count before
    them."""
    rows: list[dict[str, float]] = []
    last: list[tuple[int, int] | None] = []
    bars: list[tuple[int, int]] = []
    for line in lines:
        if row := _dictionary_row(line):
            rows.append(row)
            last.append(bars[-1] if bars else None)
        bars += [(int(done), int(total)) for done, total in BAR.findall(line)]
    behind = [bar for bar in last if bar is not None]
    if not behind or any("step" in row for row in rows) or 2 * len(behind) < len(rows):
        return rows
    total = Counter(of for _, of in behind).most_common(1)[0][0]
    kept = [(row, bar[0]) for row, bar in zip(rows, last, strict=True) if bar is not None and bar[1] == total]
    drawn = [done for done, of in bars if of == total]
    again = list(dict.fromkeys(one for one, two in pairwise(drawn) if one == two and one > 0))
    steps = again[: len(kept)] if len(again) >= len(kept) else [done for _, done in kept]
    return [{"step": float(step), **row} for (row, _), step in zip(kept, steps, strict=True)]


def _dictionary_row(line: str) -> dict[str, float]:
    """Metrics of a line; the step is in the words around the dictionary, in it, or nowhere."""
    first, last = line.find("{"), line.rfind("}")
    if not 0 <= first < last:
        return {}
    inside = line[first : last + 1]
    row = {key: float(value) for key, value in ITEM.findall(inside)}
    if row and (step := STEP.search(line[:first] + line[last + 1 :])):
        row = {"step": int(step[1]), **row}
    return row


def _banner_rows(lines: list[str]) -> list[dict[str, float]]:
    """Of each step that a line announces, the "name: number" of the lines below."""
    rows: list[dict[str, float]] = []
    for line in lines:
        if banner := BANNER.match(line):
            rows.append({"step": float(banner[1])})
        elif rows and (bullet := BULLET.match(line)):
            rows[-1].setdefault(bullet[1].strip(), float(bullet[2]))
    return [row for row in rows if len(row) > 1]
