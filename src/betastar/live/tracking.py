"""Trackers follow a run by its logs: what is there and not yet sent is sent, at most every few seconds.

`tracking.json` in the run directory holds, for each tracker and condition, the last step that was sent. So a resumed
run sends no step twice, and one that turns tracking on late, or whose tracker has failed, sends what is missing: also
of stages that are reused. It is written before rows are sent; a run that is killed between the two lacks them in the
tracker.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from betastar.config import Config
from betastar.disk import content_key
from betastar.live.reading import Row, Tail, named, record, rows_by_name, standardised_gaps, start_point
from betastar.live.trackers import Logged, Place, Sink, open_sink
from betastar.progress import Reporter

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
                f"tracking: {name} failed ({reason}); the run goes on without it, and the same command sends what is "
                "missing when it is given again."
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
