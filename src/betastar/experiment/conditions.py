"""What a run is made of: its conditions, a folder for each of them, and the artefacts that they start from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from betastar.experiment.store import Artefact

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Condition:
    """One offline condition."""

    beta: float
    seed: int

    def __str__(self) -> str:
        return f"beta-{self.beta:g}-seed-{self.seed}"


@dataclass(frozen=True)
class OnlineCondition:
    """One online condition: a variant of the online phase from one checkpoint."""

    variant: str
    checkpoint: Condition

    def __str__(self) -> str:
        return f"{self.variant}-{self.checkpoint}"


class Inputs(NamedTuple):
    """Artefacts from which checkpoints are evaluated and adapted."""

    base: Artefact
    reward_base: Artefact
    preferences: Artefact
    ensemble: Artefact
    problems: Artefact


class Parts(dict[K, Path], Generic[K]):
    """Folders by condition; `keys_of` maps each condition to its content key."""

    def __init__(self, folders: Mapping[K, Path], keys_of: Mapping[K, str]):
        super().__init__(folders)
        self.keys_of = dict(keys_of)
