"""`betastar run`: the experiment."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from betastar.cli.options import Details, Overrides


def run(
    source: Annotated[str, typer.Argument(metavar="[PRESET | FILE.yaml]", help="What to run.")] = "micro",
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; without it runs/NAME.")] = None,
    details: Details = False,
) -> None:
    """Run the experiment, or finish an interrupted run of it: finished work is reused."""
    from betastar import api

    started = time.time()
    again = shlex.join(["betastar", "run", *sys.argv[2:]])
    try:
        results = api.run(source, out=out, overrides=overrides or [], command=again)
    except KeyboardInterrupt:
        print(f"\nStopped. Finished work is kept; continue with: {again}", file=sys.stderr)
        raise SystemExit(130) from None
    results.show(details, time.time() - started)
