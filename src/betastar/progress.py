"""What a running experiment says about itself. The library is silent; the command line gives a voice."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

STAGES = (
    "base",
    "task",
    "preferences",
    "contexts",
    "reference",
    "rewards",
    "offline",
    "probe",
    "best_of_n",
    "offline_curve",
    "online",
    "plasticity",
    "results",
    "report",
)


def pace(rate: float, unit: str) -> str:
    """So many units a second, in words: "12 steps/s"; of a slow one, how long each takes: "4.2 s/step". Without a name
    for the unit "12/s" and "4.2 s each". Empty where nothing moves."""
    if not rate > 0:
        return ""
    if rate >= 1:
        return (f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}") + (f" {unit}/s" if unit else "/s")
    each = {"policies": "policy"}.get(unit, unit.removesuffix("s"))
    return (f"{1 / rate:.0f} s" if rate <= 0.1 else f"{1 / rate:.1f} s") + (f"/{each}" if unit else " each")


# Of these all time counts as measuring; of online, that of its evaluation points.
MEASURING = frozenset({"probe", "best_of_n", "offline_curve", "plasticity"})


class WorkerState(NamedTuple):
    """A worker at its `stage`: `done` of `total` units; `note` holds the last values."""

    name: str
    stage: str
    done: int
    total: int
    unit: str
    note: str


class Reporter:
    """Receives progress; this one ignores it. The command line's reporters inherit from it."""

    def say(self, text: str) -> None:
        """One line worth reading."""

    def stage(self, name: str, place: int, of: int) -> None:
        """A stage begins: the `place`-th `of` the whole."""

    def places(self, stage: str, folders: Mapping[str, Path], missing: Collection[str]) -> None:
        """Where the results of a stage are or will be, by the name of the condition, member or artefact; those that
        share a parent are made together, in this order. `missing` names those still to be made."""

    def workers(self, states: Sequence[WorkerState]) -> None:
        """What each busy worker does at the moment, where there are several."""

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """`done` of `total` units of the present stage are finished; `note` holds the last values."""


class Several(Reporter):
    """Tells each of several reporters."""

    def __init__(self, reporters: Sequence[Reporter]):
        self.reporters = reporters

    def say(self, text: str) -> None:
        for reporter in self.reporters:
            reporter.say(text)

    def stage(self, name: str, place: int, of: int) -> None:
        for reporter in self.reporters:
            reporter.stage(name, place, of)

    def places(self, stage: str, folders: Mapping[str, Path], missing: Collection[str]) -> None:
        for reporter in self.reporters:
            reporter.places(stage, folders, missing)

    def workers(self, states: Sequence[WorkerState]) -> None:
        for reporter in self.reporters:
            reporter.workers(states)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        for reporter in self.reporters:
            reporter.progress(done, total, unit, note)
