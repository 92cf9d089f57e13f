"""What a report is made from: the files of a run directory or of an analysis, as far as they are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from betastar.errors import BetastarError

Json = dict[str, Any]
NEEDED = ("threshold", "differences", "warning_signs", "chain", "warnings")  # beside conditions and summary


class Run(NamedTuple):
    """`results`: the record. `samples`: kept responses, none for an analysis. `config`: the settings, empty for an
    analysis. `manifests`: of the store's artefacts, the newest last."""

    results: Json
    samples: list[Json]
    config: Json
    manifests: list[Json]


def read_run(folder: Path) -> Run:
    """Read a run directory, or the folder that an analysis left.

    Raises BetastarError where there is no record, or one that cannot be read.
    """
    path = folder / "results.json"
    if not path.is_file():
        there = "has no results.json" if folder.is_dir() else "is not a folder"
        raise BetastarError(
            f"{folder} {there}; name the folder of a finished `betastar run`, or the one that `betastar analyze` wrote."
        )
    try:
        results = json.loads(path.read_bytes())
        if not isinstance(results, Mapping) or not results.get("conditions") or "summary" not in results:
            raise ValueError("no conditions in it")
        if absent := [name for name in NEEDED if name not in results]:
            raise BetastarError(
                f"{folder}: results.json is of another version of betastar (no {', '.join(absent)}); `betastar analyze "
                f"{folder}` makes a record of this version from it."
            )
        return Run(dict(results), _samples(folder), _config(folder), _manifests(folder))
    except (ValueError, yaml.YAMLError) as error:
        raise BetastarError(f"{folder}: results are damaged ({error}); repeat the run or the analysis.") from None


def _samples(folder: Path) -> list[Json]:
    """The kept responses. Bytes that are no UTF-8 become replacement characters; a line that is no JSON is an error."""
    path = folder / "samples.jsonl"
    if not path.is_file():
        return []
    lines = path.read_bytes().decode("utf-8", "replace").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def _config(folder: Path) -> Json:
    path = folder / "config.yaml"
    return (yaml.safe_load(path.read_bytes()) or {}) if path.is_file() else {}


def _manifests(folder: Path) -> list[Json]:
    """Manifests of the store by time; those that cannot be read are left out, the run itself names them."""
    found = []
    for path in (folder / "store").glob("*/*/manifest.json"):
        try:
            found.append(json.loads(path.read_bytes()))
        except ValueError:
            continue
    return sorted((m for m in found if isinstance(m, dict) and "stage" in m), key=lambda m: str(m.get("finished")))
