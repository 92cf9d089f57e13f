"""What trainers print: `step:12 - critic/score/mean:0.3 - …` of verl, dictionaries of OpenRLHF and TRL."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from betastar.errors import BetastarError
from betastar.logs.log import Log

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
