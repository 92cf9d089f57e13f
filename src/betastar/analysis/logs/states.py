"""The states that Transformers and TRL save with their checkpoints, and run directories of betastar."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from betastar.analysis.logs.log import Log
from betastar.analysis.logs.tables import read_json
from betastar.analysis.logs.text import read_bytes, shown_path
from betastar.errors import BetastarError
from betastar.record.answers import read_answers
from betastar.record.files import ANSWERS, METRICS, read_results, read_settings
from betastar.record.series import PLACE, POINTS, read_points_table

NAME = "trainer_state.json"


def trainer_state_of(folder: Path) -> Path | None:
    """The state with the longest history in an output folder: its own, or that of its latest checkpoint."""
    checkpoints = [(int(match[1]), path) for path in folder.glob(f"checkpoint-*/{NAME}") if (match := _number(path))]
    latest = [max(checkpoints)[1]] if checkpoints else []
    states = [path for path in (folder / NAME, *latest) if path.is_file()]
    return max(states, key=_global_step, default=None)


def read_trainer_state(path: Path, name: str, most: int | None = None) -> Log:
    """The log of one state file of at most `most` bytes. Raises BetastarError where it is none."""
    history = _load(path, most).get("log_history")
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise BetastarError(
            f"{shown_path(path)}: no trainer state (log_history is missing); give the folder of a Trainer's run."
        )
    return Log(name, pd.DataFrame(history), "Transformers/TRL trainer state")


def read_run_directory(folder: Path, name: str) -> Log:
    """All conditions of a run as one log. Its record is `results.json`, with the settings as `config`. Raises
    BetastarError where a file is damaged or of another version."""
    record = {**read_results(folder), "config": read_settings(folder)}
    answers = read_answers(folder / ANSWERS) if (folder / ANSWERS).is_file() else None
    if not (folder / METRICS).is_file():
        rows = read_points_table(folder / POINTS)
        derived = [column for column in rows if column == PLACE or str(column).startswith("gap_")]
        log = Log(name, rows.drop(columns=derived), "")
    else:
        (log,) = read_json(folder / METRICS, name)
    return log._replace(kind="betastar run", record=record, answers=answers)


def _number(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"checkpoint-(\d+)", path.parent.name)


def _global_step(path: Path) -> int:
    try:
        step = _load(path).get("global_step")
        return step if isinstance(step, int) else 0
    except BetastarError:  # one that a full disk left unfinished: any other is better
        return -1


def _load(path: Path, most: int | None = None) -> dict[str, Any]:
    data = read_bytes(path, most)
    try:
        state = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BetastarError(f"{shown_path(path)}: not valid JSON ({error}); copy the file again.") from None
    return state if isinstance(state, dict) else {}
