"""Which unit a free worker gets next: the bookkeeping of an engine, without the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, final

from betastar.errors import BetastarError, InternalError
from betastar.experiment.work import OPENING, REFERENCE, Unit, Work, needs_of, planned_units

CHAIN = (OPENING.stage, REFERENCE.stage, "rewards", "offline", "probe", "online")
"""Stages on the longest way through the run, which go before those that nothing waits for."""
HOUR = 3600.0
ALONE = 60.0  # seconds without a worker, after which the driver says so


@final
class Schedule:
    """Units of a run that are waiting, being made, and done. Each stage is cut into `shares`, as far as banks allow;
    `lost_workers`: how many lost workers a unit survives."""

    def __init__(self, shares: int, lost_workers: int = 3):
        self.shares, self.lost_workers = shares, lost_workers
        self.finished: set[str] = set()
        self.waiting: list[Unit] = []
        self.busy: list[Unit] = []
        self._needs: dict[str, list[str]] = {}
        self._known: set[str] = set()
        self._parts: dict[str, int] = {}  # by stage
        self._lost: dict[Unit, int] = {}
        self._seconds: dict[str, float] = {}  # by stage, of one part

    def add(self, *units: Unit) -> None:
        """Units that need nothing."""
        self.waiting += units

    def plan(
        self, works: Iterable[Work[Any]], finished: Collection[str], steps: Mapping[str, int] | None = None
    ) -> None:
        """All that `works` declare and nobody has planned yet, but for what is finished; `steps`: how far unfinished
        parts are, by key."""
        new = [work for work in works if not set(work.keys.values()) <= self._known]
        self.finished |= set(finished)
        self._needs |= needs_of(new)
        self._known |= {key for work in new for key in work.keys.values()}
        for work in new:
            self._parts[work.stage] = self._parts.get(work.stage, 0) + len(work.keys)
        self.waiting += planned_units(new, self.shares, self.finished, steps)

    def next(self) -> Unit | None:
        """A unit whose needs are finished, counted as busy from now on; None if there is none at the moment."""
        ready = [unit for unit in self.waiting if self._is_ready(unit)]
        if not ready:
            return None
        unit = min(ready, key=lambda unit: CHAIN.index(unit.stage) if unit.stage in CHAIN else len(CHAIN))
        # Work that can be lost with a worker, and that others wait for, should not be much longer than an hour.
        while len(unit.keys) > 1 and self._seconds.get(unit.stage, 0) * len(unit.keys) > 1.5 * HOUR:
            unit = self._halved(unit)
        self.waiting.remove(unit)
        self.busy.append(unit)
        return unit

    def done(self, unit: Unit, seconds: float) -> None:
        """A unit has been made, in so many seconds."""
        self.busy.remove(unit)
        self.finished |= {unit.stage} if not unit.keys else set(unit.keys)
        if unit.keys:
            self._seconds[unit.stage] = seconds / len(unit.keys)

    def lost(self, unit: Unit) -> None:
        """The worker of a unit is gone: it waits again, in front. Raises InternalError if too many have gone."""
        self._lost[unit] = self._lost.get(unit, 0) + 1
        if self._lost[unit] > self.lost_workers:
            raise InternalError(
                f"{self._lost[unit]} workers were lost while making it",
                where=str(unit),
                remedy="look for the reason in Ray's logs, then run the same again: finished work is kept",
            )
        self.put_back(unit)

    def put_back(self, unit: Unit) -> None:
        """A unit was not made, through no fault of its own."""
        self.busy.remove(unit)
        self.waiting.insert(0, unit)

    def too_large(self, unit: Unit, error: BetastarError) -> None:
        """A unit does not fit the memory: its halves wait. Raises the error for a single part."""
        if len(unit.keys) < 2:
            raise error
        self.put_back(unit)
        self._halved(unit)

    def _halved(self, unit: Unit) -> Unit:
        """Replace a waiting unit by its two halves; returns the first."""
        place, middle = self.waiting.index(unit), (len(unit.keys) + 1) // 2
        halves = [Unit(unit.stage, unit.keys[:middle]), Unit(unit.stage, unit.keys[middle:])]
        self.waiting[place : place + 1] = halves
        return halves[0]

    def needs(self, key: str) -> list[str]:
        """Keys of the parts that a part is built from."""
        return self._needs[key]

    def _is_ready(self, unit: Unit) -> bool:
        return all(need in self.finished for key in unit.keys for need in self.needs(key))

    def counts(self) -> dict[str, tuple[int, int]]:
        """By stage that has parts: how many of them are made, and how many there are."""
        left = dict.fromkeys(self._parts, 0)
        for unit in [*self.waiting, *self.busy]:
            if unit.keys:
                left[unit.stage] += len(unit.keys)
        return {stage: (count - left[stage], count) for stage, count in self._parts.items()}


@final
class Patience:
    """How long a driver waits with no worker alive: it says so once, after `ALONE` seconds, and gives up after `limit`
    seconds. `resources()` says in words what the cluster has free."""

    def __init__(
        self,
        limit: float,
        say: Callable[[str], None],
        resources: Callable[[], str],
        now: Callable[[], float] = time.monotonic,
    ):
        self.limit, self._say, self._resources, self._now = limit, say, resources, now
        self._since: float | None = None
        self._told = False

    def look(self, alive: bool) -> None:
        """Whether any worker is alive now. Raises BetastarError when none has been for too long."""
        if alive:
            if self._told:
                self._say("a worker is back; the run continues.")
            self._since, self._told = None, False
            return
        now = self._now()
        if self._since is None:
            self._since = now
        if now - self._since >= self.limit:
            raise BetastarError(
                f"no worker has been alive for {self.limit:g} s; the cluster has {self._resources()}",
                where="compute.engine",
                remedy="add nodes to the Ray cluster, or raise compute.engine.worker_wait, then run the same again: "
                "finished work is kept",
            )
        if not self._told and now - self._since >= ALONE:
            self._told = True
            self._say(
                f"no worker has been alive for {ALONE:g} s; the cluster has {self._resources()}. Waiting for one, up "
                f"to {self.limit:g} s (compute.engine.worker_wait)."
            )
