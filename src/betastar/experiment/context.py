"""What every stage is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from betastar.experiment.runtime import AdaptedModel, Runtime
from betastar.experiment.store import Artefact, Store
from betastar.progress import Reporter
from betastar.settings.config import Config


@final
@dataclass(frozen=True)
class Context:
    """The settings, where results are kept, who is told of progress, and what computes."""

    config: Config
    store: Store
    reporter: Reporter
    runtime: Runtime

    def policy(self, base: Artefact) -> AdaptedModel:
        """The base model of an artefact with a bank of policy adapters on it."""
        return self.runtime.adapted(base, self.config.adapter)

    def reward_model(self, base: Artefact) -> AdaptedModel:
        """The same for reward models, whose adapters may have another shape."""
        return self.runtime.adapted(base, self.config.reward_adapter or self.config.adapter)
