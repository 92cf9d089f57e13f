"""The actor of a Ray cluster that makes units of a run. It greets the driver before it loads anything large, so that a
worker that cannot serve is known at once."""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import ray

from betastar import __version__
from betastar.errors import BetastarError
from betastar.experiment.place import Place
from betastar.experiment.store import WRITER, BusyError, Store
from betastar.experiment.work import Unit, read_settings
from betastar.progress import Reporter

if TYPE_CHECKING:
    from betastar.experiment.worker import Worker


class _Heard(Reporter):
    """Keeps the last progress and the lines of a worker until the driver asks."""

    def __init__(self) -> None:
        self._lock, self._lines = Lock(), list[str]()
        self._now: dict[str, Any] = {}

    def say(self, text: str) -> None:
        with self._lock:
            self._lines.append(text)

    def stage(self, name: str, place: int, of: int) -> None:
        with self._lock:
            self._now = {"stage": name}

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        with self._lock:
            self._now |= {"done": done, "total": total, "unit": unit, "note": note}

    def taken(self) -> dict[str, Any]:
        """What happened since this was last asked."""
        with self._lock:
            lines, self._lines = self._lines, []
            return {**self._now, "lines": lines}


class RayWorker:
    """An actor. Its answers are small dictionaries; a user's mistake is one of them, so that Ray does not try again
    what cannot succeed."""

    def __init__(self, folder: str, uri: str | None, device: str):
        self._folder, self._uri, self._device, self._heard = Path(folder), uri, device, _Heard()
        self._worker: Worker | None = None

    def hello(self) -> dict[str, Any]:
        """Who this is, and what it sees."""
        from betastar.planning.machine import device_memory

        memory = device_memory(self._device)
        return {
            "betastar": __version__,
            "host": platform.node() or "host",
            "pid": os.getpid(),
            "memory_gb": memory.total,
            "gpu": memory.name if memory.gpu else None,
            "sees": self._uri is not None or (self._folder / "store").is_dir(),
        }

    def do(self, stage: str, keys: Sequence[str]) -> dict[str, Any]:
        """Make a unit."""
        from betastar.models.devices import OutOfMemory

        started = time.monotonic()
        try:
            self._ready().do(Unit(stage, tuple(keys)))
        except BusyError:
            return {"end": "busy"}
        except OutOfMemory as error:
            return {"end": "memory", **_told(error)}
        except BetastarError as error:
            return {"end": "mistake", **_told(error)}
        except Exception as error:
            first = str(error).strip().split("\n")[0]
            return {"end": "fault", "what": f"{type(error).__name__}: {first}", "trace": traceback.format_exc()}
        return {"end": "done", "seconds": time.monotonic() - started}

    @ray.method(concurrency_group="look")
    def look(self) -> dict[str, Any]:
        """Progress and new lines, while something is made."""
        return self._heard.taken()

    def _ready(self) -> Worker:
        if self._worker is None:
            from betastar.experiment.worker import Worker

            place = None if self._uri is None else Place(self._uri, WRITER, self._heard.say)
            config = read_settings(self._folder, place)
            store = Store.of(config.compute, self._folder, self._heard.say, place, shared=True)
            self._worker = Worker(config, store.__enter__(), self._heard)
        return self._worker


def _told(error: BetastarError) -> dict[str, Any]:
    return {"what": error.what, "where": error.where, "remedy": error.remedy, "exit_code": error.exit_code}
