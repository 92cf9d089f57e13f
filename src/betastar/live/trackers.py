"""Experiment trackers, opened and fed through accelerate's: TensorBoard, Weights & Biases, MLflow, trackio.

TensorBoard gets a folder for each condition, so that it draws them into one chart. The others get one run, whose
metrics are named after what is measured and then the condition.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from betastar.errors import BetastarError

PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}
MOST_AT_ONCE = 500  # MLflow takes at most 1 000 metrics in one call


class Logged(NamedTuple):
    """Values of one `section` (evaluation, online, offline, rewards) and condition at one step."""

    section: str
    condition: str
    step: int
    values: dict[str, float]

    @property
    def stream(self) -> str:
        return f"{self.section}/{self.condition}"


class Place(NamedTuple):
    """The tracked run: its `name`, in `project`; the `folder` for what a tracker writes on this machine; what MLflow
    calls it, if it has been there before (`known`); and its settings."""

    name: str
    project: str
    folder: Path
    known: str | None
    settings: Mapping[str, Any]


def check_installed(names: Sequence[str]) -> None:
    """Raises BetastarError where the package of a tracker is missing."""
    missing = [name for name in names if not any(map(importlib.util.find_spec, PACKAGES[name]))]
    if missing:
        raise BetastarError(
            f"tracking.to: {' and '.join(missing)} cannot be imported; install with: pip install {' '.join(missing)}, "
            "or leave it out of tracking.to."
        )


class Sink(ABC):
    """An open tracker."""

    known: str | None = None
    """What the tracker itself calls the run."""

    @abstractmethod
    def send(self, rows: Sequence[Logged]) -> None:
        """Log rows of one section and step."""

    @abstractmethod
    def close(self) -> None:
        """Everything has been sent."""


def open_sink(name: str, place: Place) -> Sink:
    """The tracker of that name, ready for the run. Raises whatever the tracker raises."""
    place.folder.mkdir(parents=True, exist_ok=True)
    return TensorBoard(place) if name == "tensorboard" else OneRun(name, place)


class TensorBoard(Sink):
    def __init__(self, place: Place):
        self.folder, self.trackers = place.folder / "tensorboard" / place.name, {}

    def send(self, rows: Sequence[Logged]) -> None:
        from accelerate.tracking import TensorBoardTracker

        for row in rows:
            run = row.condition if row.section in ("evaluation", "online") else row.stream
            if run not in self.trackers:
                self.trackers[run] = TensorBoardTracker(run, self.folder)
                self.trackers[run].start()
            self.trackers[run].log({f"{row.section}/{name}": value for name, value in row.values.items()}, row.step)

    def close(self) -> None:
        for tracker in self.trackers.values():
            tracker.finish()


class OneRun(Sink):
    def __init__(self, name: str, place: Place):
        self.name = name
        self.tracker = _tracker(name, place)
        self.tracker.start()
        if name == "mlflow":
            self.known = self.tracker.tracker.info.run_id
        if name == "wandb":
            # A step of W&B never goes back, and ours begin again at every stage: each section has an axis of its own.
            for section in ("evaluation", "online", "offline", "rewards"):
                self.tracker.tracker.define_metric(f"{section}/step")
                self.tracker.tracker.define_metric(f"{section}/*", step_metric=f"{section}/step")
        if place.known is None:
            self.tracker.store_init_configuration({key: str(value) for key, value in _flat(place.settings)})

    def send(self, rows: Sequence[Logged]) -> None:
        section, step = rows[0].section, rows[0].step
        values = [(metric_name(row, name), value) for row in rows for name, value in row.values.items()]
        for first in range(0, len(values), MOST_AT_ONCE):
            some = dict(values[first : first + MOST_AT_ONCE])
            if self.name == "wandb":
                self.tracker.log({f"{section}/step": step, **some})
            else:
                self.tracker.log(some, step)

    def close(self) -> None:
        self.tracker.finish()


def metric_name(row: Logged, metric: str) -> str:
    """For example evaluation/true_strict/paper/beta-1/seed-0; MLflow refuses the plus of 1e+06."""
    return f"{row.section}/{metric}/{row.condition}".replace("+", "")


def _tracker(name: str, place: Place) -> Any:
    from accelerate.tracking import MLflowTracker, TrackioTracker, WandBTracker

    if name == "wandb":
        return WandBTracker(place.project, name=place.name, id=place.name, resume="allow", dir=str(place.folder))
    if name == "trackio":
        return TrackioTracker(place.project, name=place.name, resume="allow")
    return MLflowTracker(place.project, run_id=place.known, run_name=place.name)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in settings.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return flat
