"""Our own run directories: `metrics.jsonl` beside `results.json`."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from betastar.errors import BetastarError
from betastar.logs.log import Log
from betastar.logs.tables import read_json_lines

METRICS, RESULTS, CONFIG = "metrics.jsonl", "results.json", "config.yaml"


def is_run_directory(folder: Path) -> bool:
    """Whether a folder holds the results of a betastar run or analysis."""
    return (folder / METRICS).is_file() and (folder / RESULTS).is_file()


def is_analysis(folder: Path) -> bool:
    """Whether a folder with results is what an analysis of other logs left, not a run."""
    try:
        return "source" in json.loads((folder / RESULTS).read_bytes())
    except ValueError:  # damaged: the reader says so
        return False


def read_run_directory(folder: Path, name: str) -> Log:
    """All conditions of a run as one log. Its record is `results.json`, with the settings as `config`."""
    try:
        record = json.loads((folder / RESULTS).read_bytes())
        config = yaml.safe_load((folder / CONFIG).read_bytes()) if (folder / CONFIG).is_file() else {}
    except (ValueError, yaml.YAMLError) as error:
        raise BetastarError(
            f"{folder}: results or settings are damaged ({error}); repeat the run, which rebuilds them."
        ) from None
    record = {**record, "config": config}
    return read_json_lines(folder / METRICS, name)._replace(kind="betastar run", record=record)
