"""Experiment trackers: TensorBoard, Weights & Biases, MLflow and trackio, and what they are sent."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from betastar.disk import content_key
from betastar.errors import BetastarError
from betastar.live.reading import Row, Tail, named, record, rows_by_name, standardised_gaps, start_point
from betastar.progress import Reporter
from betastar.settings.config import Config

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
            f"tracking.to: {' and '.join(missing)} cannot be imported; pip install {' '.join(missing)}, or remove it "
            "from tracking.to."
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


FILE = "tracking.json"
FOLDER = "tracking"
SECONDS_BETWEEN_LOOKS = 2.0
NO_METRIC = {"step", "n", "condition"}

Opener = Callable[[str, Place], Sink]


class Tracking(Reporter):
    """Sends the rows of a run's logs to trackers. One that fails is named once and left alone until the next run."""

    def __init__(self, config: Config, run: Path, say: Callable[[str], None], open_one: Opener = open_sink):
        self.run, self.tell, self.cpu = run, say, config.compute.device == "cpu"
        settings = config.model_dump(mode="json", exclude={"compute", "tracking"})
        self.memory = _Memory(run / FILE, content_key(settings), config.name)
        self.folders: dict[str, dict[str, Path]] = {}
        self.tail, self.starts, self.looked = Tail(), {}, 0.0
        self.sinks: dict[str, Sink] = {}
        for name in config.tracking.to:
            place = Place(
                self.memory.name, config.tracking.project, run / FOLDER, self.memory.known.get(name), settings
            )
            with self._forgiven(name):
                self._prepare()
                self.sinks[name] = open_one(name, place)
                self.memory.known[name] = self.sinks[name].known or self.memory.name

    def stage(self, name: str, place: int, of: int) -> None:
        self.look()

    def places(self, stage: str, folders: Mapping[str, Path], missing: Collection[str]) -> None:
        self.folders.setdefault(stage, {}).update(folders)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        if time.monotonic() - self.looked >= SECONDS_BETWEEN_LOOKS:
            self.look()

    def look(self) -> None:
        """Send what is new."""
        rows = self._new()
        for name, sink in list(self.sinks.items()):
            with self._forgiven(name):
                self._prepare()
                self._send(name, sink, [row for row in rows if row.step > self.memory.last(name, row.stream)])
        self.looked = time.monotonic()

    def close(self) -> None:
        """Send the rest."""
        self.look()
        for name, sink in list(self.sinks.items()):
            with self._forgiven(name):
                self._prepare()
                sink.close()

    def _send(self, name: str, sink: Sink, rows: Sequence[Logged]) -> None:
        """Rows of a section and step together; what a failing tracker has not got is remembered as missing. After an
        interruption nobody knows how far it came, and the rows stay marked."""
        if not rows:
            return
        before = self.memory.sent.setdefault(name, {}).copy()
        self.memory.mark(name, rows)
        done: list[Logged] = []
        try:
            for _, some in groupby(sorted(rows, key=_section_and_step), _section_and_step):
                together = list(some)
                sink.send(together)
                done += together
        except Exception:
            self.memory.sent[name] = before
            self.memory.mark(name, done)
            raise

    def _new(self) -> list[Logged]:
        rows = []
        for stage in ("rewards", "offline", "online"):
            for name, new in self._read(stage, "training").items():
                condition = name if stage == "rewards" else named(name).path
                rows += [Logged(stage, condition, row["step"], _values(row)) for row in new]
        for name, new in self._read("online", "metrics").items():
            rows += self._points(name, new)
        return rows

    def _read(self, stage: str, log: str) -> dict[str, list[Row]]:
        found = rows_by_name(self.run, stage, self.folders.get(stage, {}), log, self.tail)
        return {name: [row for row in new if isinstance(row.get("step"), int)] for name, new in found.items()}

    def _points(self, name: str, new: list[Row]) -> list[Logged]:
        """Evaluation points of an online condition, the first time with t=0 before them."""
        points = list(new)
        if name not in self.starts and (start := start_point(self.folders.get("probe", {}), name)):
            self.starts[name] = start
            points = [start, *points]
        gaps = standardised_gaps(self.starts.get(name), points)
        return [
            Logged("evaluation", named(name).path, row["step"], {**_values(row), "gap_standardised": gap})
            for row, gap in zip(points, gaps, strict=True)
        ]

    def _prepare(self) -> None:
        """accelerate's logger, which its trackers speak to, wants its state to exist; TRL's trainers end it."""
        from accelerate import PartialState

        PartialState(cpu=self.cpu)

    @contextlib.contextmanager
    def _forgiven(self, name: str) -> Iterator[None]:
        """What a tracker raises ends it and not the run."""
        try:
            yield
        except Exception as error:
            self.sinks.pop(name, None)
            reason = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")
            self.tell(
                f"tracking: {name} failed ({reason}); the run continues without it; run the same command again to send "
                "what is missing."
            )


class _Memory:
    """`tracking.json`: by the settings of a run, its name, what trackers call it, and the last step each has got of
    each stream."""

    def __init__(self, path: Path, key: str, name: str):
        self.path, self.key = path, key
        self.everything = record(path)
        mine = self.everything.get(key) or {}
        self.name: str = mine.get("name") or f"{name}-{uuid.uuid4().hex[:8]}"
        self.known: dict[str, str] = mine.get("known") or {}
        self.sent: dict[str, dict[str, int]] = mine.get("sent") or {}

    def last(self, tracker: str, stream: str) -> int:
        return self.sent.get(tracker, {}).get(stream, -1)

    def mark(self, tracker: str, rows: Sequence[Logged]) -> None:
        """Remember that these rows are sent."""
        sent = self.sent.setdefault(tracker, {})
        for row in rows:
            sent[row.stream] = max(row.step, sent.get(row.stream, -1))
        self.everything[self.key] = {"name": self.name, "known": self.known, "sent": self.sent}
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        # Where the disk is full the run itself ends, or the next write succeeds.
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(self.everything, indent=1))
            temporary.replace(self.path)


def _section_and_step(row: Logged) -> tuple[str, int]:
    return row.section, row.step


def _values(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row; those of a list under the name with their place."""
    values: dict[str, float] = {}
    for name, value in row.items():
        if name in NO_METRIC:
            continue
        if isinstance(value, list):
            values |= {f"{name}_{i}": v for i, v in enumerate(value) if isinstance(v, int | float)}
        elif isinstance(value, int | float):
            values[name] = value
    return values
