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
    """One offline condition: a `method`, its strength (β, or what the objective calls it), and the seed. `named` says
    whether the run has other methods than DPO, from which its name must tell it apart."""

    beta: float
    seed: int
    method: str = "dpo"
    named: bool = False

    def __str__(self) -> str:
        place = f"beta-{self.beta:g}-seed-{self.seed}"
        return f"{self.method}-{place}" if self.named else place


@dataclass(frozen=True)
class OnlineCondition:
    """One online condition: a variant of the online phase from one checkpoint."""

    variant: str
    checkpoint: Condition

    def __str__(self) -> str:
        return f"{self.variant}-{self.checkpoint}"


class Parts(dict[K, Path], Generic[K]):
    """Folders by condition; `keys_of` maps each condition to its content key."""

    def __init__(self, folders: Mapping[K, Path], keys_of: Mapping[K, str]):
        super().__init__(folders)
        self.keys_of = dict(keys_of)


class Ensemble(NamedTuple):
    """Who an ensemble of reward models is for: the conditions of a `seed`, or, without one, all of the run."""

    seed: int | None

    def __str__(self) -> str:
        return "run" if self.seed is None else f"seed-{self.seed}"

    def members(self, count: int, judge: bool) -> list[str]:
        """Names of its reward models; last the judge, where there is one."""
        names = [f"member-{k}" for k in range(count)] + ["judge"] * judge
        return names if self.seed is None else [f"{self}-{name}" for name in names]


class Inputs(NamedTuple):
    """Artefacts from which checkpoints are evaluated and adapted; `ensembles` by seed."""

    base: Artefact
    reward_base: Artefact
    preferences: Artefact
    ensembles: Parts[int]
    problems: Artefact

    def keys(self, seed: int) -> list[str]:
        """The content keys on which a condition of this seed depends."""
        artefacts = (self.base, self.reward_base, self.preferences, self.problems)
        return [*(artefact.key for artefact in artefacts), self.ensembles.keys_of[seed]]
