"""The command line: the only module that prints, asks or exits."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from betastar.errors import BetastarError, InternalError
from betastar.progress import Reporter

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Does conservative offline preference training make online reward hacking worse? Measure it.",
    epilog="Start with `betastar run`: the embedded micro world, minutes on a laptop.",
)
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, for example online.steps=40."),
]


@app.command()
def run(
    source: Annotated[str, typer.Argument(metavar="[PRESET | FILE.yaml]", help="What to run.")] = "micro",
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; without it runs/NAME.")] = None,
) -> None:
    """Run the experiment, or finish an interrupted run of it: finished work is reused."""
    from betastar.config import load_config

    config = load_config(source, overrides or [])
    folder = out or Path("runs") / config.name
    started = time.time()
    reporter = _reporter()
    reporter.say(f"betastar {config.name} → {folder}")
    try:
        from betastar import pipeline

        results = pipeline.run(config, folder, reporter)
    except KeyboardInterrupt:
        reporter.close()
        again = " ".join(["betastar run", *sys.argv[2:]])
        print(f"\nStopped. Finished work is kept; continue with: {again}", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        reporter.close()
    _show(results, folder, time.time() - started)


@app.command()
def presets() -> None:
    """List the built-in settings."""
    from betastar.config import PRESETS, preset_names

    for name in preset_names():
        first = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").split("\n", 1)[0]
        print(f"{name:14}{first.lstrip('# ')}")


@app.command()
def config(
    source: Annotated[str, typer.Argument(metavar="[PRESET | FILE.yaml]", help="Whose settings to show.")] = "micro",
    overrides: Overrides = None,
) -> None:
    """Show every setting with its value and meaning, as YAML that `betastar run` reads."""
    from betastar.config import load_config
    from betastar.settings_text import described

    print(described(load_config(source, overrides or [])))


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


def _reporter() -> TerminalReporter | LogReporter:
    return TerminalReporter() if sys.stderr.isatty() else LogReporter()


def _show(results: dict[str, Any], folder: Path, seconds: float) -> None:
    """The end of a run: a table per variant, what follows from it, warnings, and where the files are."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from betastar.report.words import DAMAGE_COLUMNS, MECHANISM_COLUMNS, conclusions, damage_rows, mechanism_rows

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
    for variant, summary in results["summary"].items():
        penalty = results["variants"][variant]["kl"]
        kl = f"κ = {penalty['kappa']:g} for every β" if penalty["coupling"] == "fixed" else "κ ∝ β (Eq. 10)"
        title = f"variant {variant}: {kl}; mean ± standard error over seeds (n = {len(summary['seeds'])})"
        for heading, columns, rows in (
            (title, DAMAGE_COLUMNS, damage_rows(summary)),
            (None, MECHANISM_COLUMNS, mechanism_rows(summary)),
        ):
            table = Table(*columns, title=heading, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
            for row in rows:
                table.add_row(*row)
            console.print(table)
        for line in conclusions(summary):
            console.print(f"  {line}", markup=False, soft_wrap=True)
        console.print()
    for text in results["warnings"]:
        console.print(f"Warning: {text}", markup=False, soft_wrap=True)
    console.print(
        f"\nFiles in {folder}: results.json, metrics.jsonl, samples.jsonl, charts/, adapters/",
        markup=False,
        soft_wrap=True,
    )
    console.print(f"Took {seconds:.0f} s.", markup=False)


def main() -> None:
    """Entry point: one sentence per mistake, exit code 2 for the user's and 1 for ours."""
    # Threads of GNU OpenMP, which torch uses on the CPU, spin while they wait. Beside another busy process the default
    # makes small steps some 40 times slower; this limit costs little alone (docs/benchmarks.md). It is
    # read when torch loads, so it must be set before.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except BetastarError as error:
        for line in str(error).split("\n"):
            print(f"betastar: {line}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except MemoryError:
        text = "out of memory; lower compute.tokens_per_forward or compute.rows_per_decode"
        print(f"betastar: {text}", file=sys.stderr)
        raise SystemExit(InternalError.exit_code) from None


if __name__ == "__main__":
    main()
