"""What a search for strengths by their distance has found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from betastar.disk import read_json
from betastar.experiment.conditions import Condition

FILE = "distance.json"


def reached(folders: Mapping[Condition, Path]) -> dict[str, list[dict[str, float]]]:
    """By method, the strengths tried with the KL from the base that each reached, nats, and its standard error."""
    found: dict[str, list[dict[str, float]]] = {}
    for condition, folder in folders.items():
        found.setdefault(condition.method, []).append({"strength": condition.beta, **read_json(folder / FILE)})
    return found
