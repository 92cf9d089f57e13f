"""The status file of a running experiment, and who writes it."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from betastar.errors import BetastarError
from betastar.progress import STAGES, Reporter, Several, WorkerState
from betastar.settings.config import Config

FILE = "status.json"
SECONDS_BETWEEN_WRITES = 1.0

State = Literal["running", "finished", "stopped", "failed"]


Time = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
"""Seconds since 1970."""


class StageStatus(BaseModel):
    """A stage. Times are seconds since 1970. `done` of `total` units are finished at `last_at`; this process began with
    `first_done` at `first_at`. `folders` relative to the run directory, by condition or member; `missing` were not
    there when the stage began."""

    name: str
    began: Time | None = None
    ended: Time | None = None
    done: int = 0
    total: int = 0
    unit: str = ""
    note: str = ""
    first_done: int = 0
    first_at: Time | None = None
    last_at: Time | None = None
    folders: dict[str, str] = Field(default_factory=dict)
    missing: list[str] = Field(default_factory=list)

    @property
    def reused(self) -> bool:
        """Whether everything was there already."""
        return self.ended is not None and bool(self.folders) and not self.missing


class Status(BaseModel):
    """A run: its `state` and, where it failed, why; the `command` that continues it, given in `directory`; the process
    that makes it; a line on what each of its `workers` does, where it has several."""

    name: str
    state: State = "running"
    message: str = ""
    command: str = ""
    directory: str = ""
    host: str = ""
    pid: int = 0
    process_began: Time | None = None
    began: Time
    updated: Time
    workers: list[str] = Field(default_factory=list)
    stages: list[StageStatus] = Field(default_factory=lambda: [StageStatus(name=name) for name in STAGES])

    def stage(self, name: str) -> StageStatus:
        """The stage of that name; added where it is new."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        self.stages.append(StageStatus(name=name))
        return self.stages[-1]


def read_status(folder: Path) -> Status | None:
    """The status of a run directory; None where there is none that can be read."""
    try:
        return Status.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return None


def process_began(pid: int) -> float | None:
    """When a process of this machine began; None where there is no such process."""
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except (psutil.Error, ValueError):
        return None


def is_alive(status: Status) -> bool | None:
    """Whether the process that makes the run exists; None where it runs on another machine, which cannot be asked."""
    if status.host != platform.node():
        return None
    began = process_began(status.pid)
    # Numbers of ended processes are given to new ones; a clock that is set moves the time by little.
    return began is not None and (status.process_began is None or abs(began - status.process_began) < 60)


class StatusFile(Reporter):
    """Keeps `status.json` of a run directory up to date."""

    def __init__(self, folder: Path, name: str, command: str = ""):
        self.folder, now, pid = folder, time.time(), os.getpid()
        self.status = Status(
            name=name,
            command=command,
            directory=os.getcwd(),
            host=platform.node(),
            pid=pid,
            process_began=process_began(pid),
            began=now,
            updated=now,
        )
        self._present: StageStatus | None = None
        self._write()

    def stage(self, name: str, place: int, of: int) -> None:
        self._end_stage()
        self._present = self.status.stage(name)
        self._present.began = time.time()
        self._write()

    def places(self, stage: str, folders: Mapping[str, Path], missing: Collection[str]) -> None:
        entry = self.status.stage(stage)
        entry.folders |= {name: os.path.relpath(folder, self.folder) for name, folder in folders.items()}
        entry.missing += missing
        self._write()

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        if self._present is None:
            return
        now, stage = time.time(), self._present
        # The first of this process, of the next condition, or of what comes after it in other units.
        if stage.first_at is None or done < stage.done or unit != stage.unit:
            stage.first_at, stage.first_done = now, done
        stage.done, stage.total, stage.unit, stage.note, stage.last_at = done, total, unit, note, now
        if done == total or now - self.status.updated >= SECONDS_BETWEEN_WRITES:
            self._write()

    def workers(self, states: Sequence[WorkerState]) -> None:
        lines = [f"{s.name}: {s.stage} {s.done}/{s.total} {s.unit} {s.note}".rstrip() for s in states]
        if lines != self.status.workers:
            self.status.workers = lines
            if time.time() - self.status.updated >= SECONDS_BETWEEN_WRITES:
                self._write()

    def end(self, state: State, message: str = "") -> None:
        """The run has ended."""
        if state == "finished":
            self._end_stage()
        self.status.state, self.status.message, self.status.workers = state, message, []
        self._write()

    def _end_stage(self) -> None:
        if self._present:
            self._present.ended = time.time()

    def _write(self) -> None:
        self.status.updated = time.time()
        temporary = self.folder / f".{FILE}.tmp"  # one writer per run directory, by its lock
        with contextlib.suppress(OSError):
            temporary.write_bytes(self.status.model_dump_json(indent=1).encode() + b"\n")
            os.replace(temporary, self.folder / FILE)


@contextmanager
def followed(config: Config, folder: Path, reporter: Reporter, command: str = "") -> Iterator[Reporter]:
    """A reporter that also tells the followers of the run in `folder`, which this process has locked; how the block
    ends is how the run ended. `command` continues it. Raises BetastarError where a tracker's package is missing."""
    status = StatusFile(folder, config.name, command)
    followers: list[Reporter] = [reporter, status]
    tracking = None
    try:
        if config.tracking.to:
            from betastar.live.trackers import Tracking, check_installed

            check_installed(config.tracking.to)
            tracking = Tracking(config, folder, reporter.say)
            followers.append(tracking)
        yield Several(followers)
    except Exception as error:
        kind = "" if isinstance(error, BetastarError) else f"{type(error).__name__}: "
        status.end("failed", f"{kind}{error}".split("\n")[0])
        raise
    except BaseException:
        status.end("stopped")
        raise
    else:
        status.end("finished")
    finally:
        if tracking:
            tracking.close()
