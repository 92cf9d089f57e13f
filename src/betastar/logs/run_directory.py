"""Our own run directories: `metrics.jsonl` beside `results.json`."""

from __future__ import annotations

from pathlib import Path

from betastar.logs.log import Log
from betastar.logs.tables import read_json_lines
from betastar.record.files import METRICS, read_results, read_settings


def read_run_directory(folder: Path, name: str) -> Log:
    """All conditions of a run as one log. Its record is `results.json`, with the settings as `config`. Raises
    BetastarError where either is damaged or of another version."""
    record = {**read_results(folder), "config": read_settings(folder)}
    return read_json_lines(folder / METRICS, name)._replace(kind="betastar run", record=record)
