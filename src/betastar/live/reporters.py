"""Progress of a run for a person at a terminal or in a notebook, or for a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib import import_module
from typing import Any

from betastar.printing import console, say, visible
from betastar.progress import Reporter, WorkerState, pace


class Speed:
    """Units a second since the first that were reported: a resumed stage starts in the middle, and what comes after
    the training counts in other units."""

    def __init__(self) -> None:
        self.unit, self.since, self.first, self.before = "", 0.0, 0, 0

    def at(self, done: int, unit: str) -> float:
        """The speed now that so many are done; 0 where it is not known yet."""
        now = time.time()
        if unit != self.unit or done < self.before:
            self.unit, self.since, self.first = unit, now, done
        self.before = done
        return (done - self.first) / max(now - self.since, 1e-9)


class TerminalReporter(Reporter):
    """A live bar for the present stage, on a terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.console = console(stderr=True)
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
        self.of_workers: dict[str, Any] = {}

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def stage(self, name: str, place: int, of: int) -> None:
        self._drop_empty()
        self.task = self.bar.add_task(name, total=None, place=f"{place}/{of}", unit="", rate="", note="", visible=False)
        self.speed = Speed()

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self.bar.start()
        rate = pace(self.speed.at(done, unit), unit)
        self.bar.update(self.task, completed=done, total=total, unit=unit, rate=rate, note=note, visible=True)

    def workers(self, states: Sequence[WorkerState]) -> None:
        """A bar for each worker that is busy, below that of the run."""
        for name in self.of_workers.keys() - {state.name for state in states}:
            self.bar.remove_task(self.of_workers.pop(name))
        for state in states:
            if state.name not in self.of_workers:
                self.of_workers[state.name] = self.bar.add_task("", total=None, place="  ", unit="", rate="", note="")
            self.bar.update(
                self.of_workers[state.name],
                completed=state.done,
                total=state.total or None,
                description=visible(f"{state.name}: {state.stage}"),
                unit=state.unit,
                note=state.note,
            )

    def close(self) -> None:
        self.workers([])
        self._drop_empty()
        self.bar.stop()

    def _drop_empty(self) -> None:
        """A stage that was reused never moved: it leaves no bar."""
        if self.task is not None and not all(task.visible for task in self.bar.tasks if task.id == self.task):
            self.bar.remove_task(self.task)
        self.task = None


class LogReporter(Reporter):
    """Plain lines for a log: at most one every few seconds."""

    EVERY_SECONDS = 10
    WORKERS_EVERY_SECONDS = 60

    def __init__(self) -> None:
        self.last_workers = 0.0
        self.name, self.place, self.begun, self.last, self.speed = "", "", time.time(), 0.0, Speed()

    def say(self, text: str) -> None:
        say(text, error=True)

    def stage(self, name: str, place: int, of: int) -> None:
        self.name, self.place, self.begun, self.last = name, f"[{place}/{of}]", time.time(), 0.0
        self.speed = Speed()

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        now = time.time()
        rate = self.speed.at(done, unit)
        if done == total or now - self.last >= self.EVERY_SECONDS:
            self.last = now
            left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
            took = f", {now - self.begun:.0f} s" if done == total else ""
            shown = f", {words}" if (words := pace(rate, unit)) else ""
            self.say(f"{self.place} {self.name}: {done}/{total} {unit}{shown}{left}{took}{'; ' + note if note else ''}")

    def workers(self, states: Sequence[WorkerState]) -> None:
        """A line for all of them, at most one a minute."""
        now = time.time()
        if states and now - self.last_workers >= self.WORKERS_EVERY_SECONDS:
            self.last_workers = now
            parts = [f"{s.name}: {s.stage}{f' {s.done}/{s.total} {s.unit}' if s.total else ''}" for s in states]
            self.say("; ".join(parts))

    def close(self) -> None:
        pass


class NotebookReporter(Reporter):
    """A bar for every stage in a notebook's output, drawn anew in place; it needs nothing but IPython."""

    EVERY_SECONDS = 0.5

    def __init__(self, display: Callable[..., Any]) -> None:
        self.lines: list[str] = []
        self.bar, self.name, self.place, self.last, self.speed = "", "", "", 0.0, Speed()
        self.handle = display(self, display_id=True)

    def say(self, text: str) -> None:
        self.lines.append(escape(visible(text)))
        self._draw()

    def stage(self, name: str, place: int, of: int) -> None:
        self.bar, self.name, self.place, self.speed = "", name, f"{place}/{of}", Speed()

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        parts = (f"{done}/{total} {unit}", pace(self.speed.at(done, unit), unit), note)
        words = f"{self.place} {self.name}: {', '.join(filter(None, parts))}"
        self.bar = f'<progress value="{done}" max="{total}" style="width:16em"></progress> {escape(words)}'
        if done == total:
            self.lines.append(self.bar)
            self.bar = ""
        if done == total or time.time() - self.last >= self.EVERY_SECONDS:
            self._draw()

    def close(self) -> None:
        self.bar = ""
        self._draw()

    def _repr_html_(self) -> str:
        return "<br>".join([*self.lines, *([self.bar] if self.bar else [])])

    def _draw(self) -> None:
        self.last = time.time()
        if self.handle is not None:
            self.handle.update(self)


@contextmanager
def shown(progress: bool | Reporter) -> Iterator[Reporter]:
    """What shows progress while the block lasts: nothing, a reporter that was given, or what suits the place, a
    notebook, a terminal or a log."""
    if isinstance(progress, Reporter):
        yield progress
        return
    made = reporter() if progress else None
    try:
        yield made or Reporter()
    finally:
        if made is not None:
            made.close()


def reporter() -> TerminalReporter | LogReporter | NotebookReporter:
    """What suits the place."""
    if display := _notebook():
        return NotebookReporter(display)
    return TerminalReporter() if sys.stderr.isatty() else LogReporter()


def _notebook() -> Callable[..., Any] | None:
    """IPython's `display` in a notebook, else None."""
    ipython = sys.modules.get("IPython")
    shell = getattr(ipython, "get_ipython", lambda: None)()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return import_module("IPython.display").display
