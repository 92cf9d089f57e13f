"""Progress of a run for a person at a terminal, or for a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

from betastar.progress import Reporter


class TerminalReporter(Reporter):
    """A live bar for the present stage, on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.console = Console(stderr=True, highlight=False)
        self.bar = Progress(
            TextColumn("{task.fields[place]} [bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}  {task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        self.task: Any = None

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def stage(self, name: str, place: int, of: int) -> None:
        self._drop_empty()
        self.task = self.bar.add_task(name, total=None, place=f"{place}/{of}", unit="", rate="", note="", visible=False)
        self.started = time.time()

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self.bar.start()
        rate = f"{done / max(time.time() - self.started, 1e-9):.1f}/s"
        self.bar.update(self.task, completed=done, total=total, unit=unit, rate=rate, note=note, visible=True)

    def close(self) -> None:
        self._drop_empty()
        self.bar.stop()

    def _drop_empty(self) -> None:
        """A stage that was reused never moved: it leaves no bar."""
        if self.task is not None and self.bar.tasks and not self.bar.tasks[-1].visible:
            self.bar.remove_task(self.task)
        self.task = None


class LogReporter(Reporter):
    """Plain lines for a log: at most one every few seconds."""

    EVERY_SECONDS = 10

    def __init__(self) -> None:
        self.name, self.place, self.begun, self.last = "", "", time.time(), 0.0

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def stage(self, name: str, place: int, of: int) -> None:
        self.name, self.place, self.begun, self.last, self.first = name, f"[{place}/{of}]", time.time(), 0.0, None

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        now = time.time()
        if self.first is None:
            self.first = (now, done)  # a resumed stage starts in the middle
        if done == total or now - self.last >= self.EVERY_SECONDS:
            self.last = now
            rate = (done - self.first[1]) / max(now - self.first[0], 1e-9)
            left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
            took = f", {now - self.begun:.0f} s" if done == total else ""
            shown = f", {rate:.1f} {unit}/s" if rate > 0 else ""
            self.say(f"{self.place} {self.name}: {done}/{total} {unit}{shown}{left}{took}{'; ' + note if note else ''}")

    def close(self) -> None:
        pass


def reporter() -> TerminalReporter | LogReporter:
    return TerminalReporter() if sys.stderr.isatty() else LogReporter()
