"""`betastar run`: the experiment."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from betastar.cli.options import Details, Overrides
from betastar.cli.reporters import reporter as new_reporter
from betastar.cli.showing import show


def run(
    source: Annotated[str, typer.Argument(metavar="[PRESET | FILE.yaml]", help="What to run.")] = "micro",
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; without it runs/NAME.")] = None,
    details: Details = False,
) -> None:
    """Run the experiment, or finish an interrupted run of it: finished work is reused."""
    from betastar.config import load_config

    config = load_config(source, overrides or [])
    folder = out or Path("runs") / config.name
    started = time.time()
    again = shlex.join(["betastar", "run", *sys.argv[2:]])
    reporter = new_reporter()
    reporter.say(f"betastar {config.name} → {folder}")
    try:
        from betastar import pipeline

        results = pipeline.run(config, folder, reporter, again)
    except KeyboardInterrupt:
        reporter.close()
        print(f"\nStopped. Finished work is kept; continue with: {again}", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        reporter.close()
    show(results, folder, time.time() - started, details)
