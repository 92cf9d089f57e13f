"""A whole experiment in a process of its own: without the report and, on demand, killed with SIGKILL at some step."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from transformers import Qwen3ForCausalLM  # noqa: F401

# Imported here and not at their first use, so that a forked process has them.
import betastar.analysis.results  # noqa: F401
from betastar.errors import BetastarError
from betastar.experiment import pipeline
from betastar.experiment.stages import report
from betastar.progress import Reporter
from betastar.settings.config import load_config


class Deadly(Reporter):
    """Says what goes on, and ends the process, as a machine that is taken away does, when a stage has made so many
    steps."""

    def __init__(self, stage: str, step: int):
        self.deadly, self.step, self.present = stage, step, ""

    def stage(self, name: str, place: int, of: int) -> None:
        self.present = name
        print(name, flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        if self.present == self.deadly and done >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def undrawn_run(source: str, folder: Path, settings: Sequence[str], kill_at: tuple[str, int] = ("", 0)) -> None:
    """What `betastar run` does, but for the report: drawing takes seconds, and what it needs may be missing."""
    report.run = lambda ctx, results: None
    pipeline.run(load_config(source, settings), folder, Deadly(*kill_at))


class Run:
    """A run that has begun in a process of its own; what it prints goes to `FOLDER.log`."""

    def __init__(self, source: str, folder: Path, settings: Sequence[str], kill_at: tuple[str, int] = ("", 0)):
        # A fork has all modules loaded already. But a process forked from one that has used a GPU can use it no more,
        # not even to ask about it, so next to a GPU every run begins anew, those on the CPU too.
        context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
        self.folder, self.log = folder, folder.with_name(f"{folder.name}.log")
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=_logged, args=(self.log, source, folder, list(settings), kill_at)
        )
        self.process.start()

    def code(self) -> int | None:
        """Wait for its end; the exit code, negative for a signal."""
        self.process.join()
        return self.process.exitcode

    def finish(self) -> None:
        """Wait for its end. Raises RuntimeError with its last words where it failed."""
        if (code := self.code()) != 0:
            raise RuntimeError(f"the run ended with {code}: {self.words()}")

    def words(self) -> str:
        """The last line that it printed."""
        return (self.log.read_text(errors="replace").strip().splitlines() or ["without a word"])[-1]


def _logged(log: Path, source: str, folder: Path, settings: list[str], kill_at: tuple[str, int]) -> None:
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    try:
        undrawn_run(source, folder, settings, kill_at)
    except BetastarError as error:
        print(f"betastar: {error}", flush=True)
        sys.exit(error.exit_code)
