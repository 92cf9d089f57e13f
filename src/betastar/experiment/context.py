"""What every stage is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar, final

from betastar.experiment.runtime import AdaptedModel, Runtime
from betastar.experiment.store import Artefact, Store
from betastar.experiment.work import Work
from betastar.progress import Reporter
from betastar.settings.config import Config, Resolved

C_co = TypeVar("C_co", bound=Config, covariant=True)


@final
@dataclass(frozen=True)
class Context(Generic[C_co]):
    """The settings, where results are kept, who is told of progress, and what computes.

    What needs numbers in place of `auto` asks for a `Context[Resolved]`, which the first stages cannot give.
    """

    config: C_co
    store: Store
    reporter: Reporter
    runtime: Runtime
    declared: list[Work[Any]] | None = None
    """None: what is missing is made at once. A list: nothing is made, and stages add to it what they would make."""

    def policy(self: Context[Resolved], base: Artefact) -> AdaptedModel:
        """The base model of an artefact with a bank of policy adapters on it."""
        return self.runtime.adapted(base, self.config.policy_adapter)

    def reward_model(self: Context[Resolved], base: Artefact) -> AdaptedModel:
        """The same for reward models."""
        return self.runtime.adapted(base, self.config.reward_model_adapter)
