"""A worker: makes units of a run's work, one after the other, and keeps what it has loaded. Whoever calls it, a shell,
a SLURM array or a Ray actor, decides which units and in what order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, final

from betastar.errors import BetastarError
from betastar.experiment import algorithm, partial
from betastar.experiment.context import Context
from betastar.experiment.making import NotMadeError, make
from betastar.experiment.runtime import Runtime
from betastar.experiment.stages import rewards
from betastar.experiment.store import Store
from betastar.experiment.work import OPENING, REFERENCE, Unit, Work, needs_of, planned_units, work_of
from betastar.progress import STAGES, Reporter, Several
from betastar.settings.config import Config


def _quiet(stage: str) -> None:
    """Nobody is told of stages that are only declared."""


@final
class Worker:
    """Makes units of the run in `store`. Many may share a store."""

    def __init__(self, config: Config, store: Store, reporter: Reporter):
        self.store, self.reporter = store, reporter
        self._heard = Several([])  # by nobody while stages only declare, by the reporter while something is made
        self._given = Context(config, store, self._heard, Runtime(config, reporter), [])
        self._start: algorithm.Opening | None = None
        self._declared: list[Work[Any]] | None = None

    def do(self, unit: Unit) -> None:
        """Make a unit; what is finished of it is not made again. Raises BetastarError for a user's mistake, or if this
        machine does not see the files that the run began with, and BusyError if another worker is at the same parts."""
        if unit == OPENING:
            with self._making():
                algorithm.opening(replace(self._given, declared=None), self._told)
            return
        try:
            self._make(unit)
        except NotMadeError as error:
            raise BetastarError(
                f"{error} is not in the store as this machine would make it",
                where=str(unit),
                remedy="make the opening first, and give every machine the same model and data files (a shared folder, "
                "or a model of the hub with its revision)",
            ) from None

    def _make(self, unit: Unit) -> None:
        if unit == REFERENCE:
            start = self._opened()
            with self._making():
                algorithm.reference_grid(start._replace(ctx=replace(start.ctx, declared=None)), self._told)
            return
        work, conditions = work_of(self.works(), unit)
        finished = self.store.finished(unit.stage)
        missing = [condition for condition in conditions if work.keys[condition] not in finished]
        if missing:
            with self._making():
                self._told(unit.stage)
                make(self._opened().ctx, work, [missing], {})

    @contextmanager
    def _making(self) -> Iterator[None]:
        self._heard.reporters = [self.reporter]
        try:
            yield
        finally:
            self._heard.reporters = []

    def works(self) -> list[Work[Any]]:
        """Everything that the sweep has to make, as far as it is known by now. Raises NotMadeError before the opening
        is made; before the reference is, only the reward models are known."""
        if self._declared is not None:
            return self._declared
        start = self._opened()
        declared: list[Work[Any]] = []
        start = start._replace(ctx=replace(start.ctx, declared=declared))
        try:
            algorithm.sweep(start, algorithm.reference_grid(start, _quiet), _quiet)
        except NotMadeError:
            rewards.run(start.ctx, start.reward_base, start.pairs)
            return declared
        self._declared = declared
        return declared

    @property
    def knows_all(self) -> bool:
        """Whether `works` has told everything: the reference is made, and the grid known."""
        return self._declared is not None

    def ready(self, workers: int) -> list[Unit]:
        """What is missing and can be made now, shared among so many workers."""
        try:
            works = self.works()
        except NotMadeError:
            return [OPENING]
        finished, needs = self.finished(), needs_of(works)
        first = [] if self.knows_all else [REFERENCE]
        units = planned_units(works, workers, finished, self.steps())
        return first + [unit for unit in units if all(n in finished for key in unit.keys for n in needs[key])]

    def share(self, stage: str, place: int, of: int) -> list[Unit]:
        """The units of a stage that fall to one of `of` workers, by its `place` from 0, whatever is finished by now:
        the workers need not talk to each other."""
        try:
            works = self.works()
        except NotMadeError as error:
            raise BetastarError(f"{error} has not been made", where=stage, remedy="make the opening first") from None
        known = [work for work in works if work.stage == stage]
        if not known and not (self.knows_all and stage in STAGES):  # else it is switched off
            work_of(works, Unit(stage))
        return planned_units(known, of)[place::of]

    def finished(self) -> set[str]:
        """Keys of all parts that are made."""
        return set().union(*(self.store.finished(stage) for stage in {work.stage for work in self.works()}))

    def steps(self) -> dict[str, int]:
        """How far unfinished parts are, by key."""
        stages = {work.stage for work in self.works()}
        return {key: step for stage in stages for key, step in partial.steps_done(self.store, stage).items()}

    def _opened(self) -> algorithm.Opening:
        if self._start is None:
            self._start = algorithm.opening(self._given, _quiet)
        return self._start

    def _told(self, stage: str) -> None:
        self.reporter.stage(stage, STAGES.index(stage) + 1, len(STAGES))
