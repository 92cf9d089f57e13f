"""`betastar watch`: a running experiment in the terminal, from its files alone."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Annotated

import typer


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.")],
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Time between looks.")] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="One look; so it is too where the output is no terminal.")
    ] = False,
) -> None:
    """Show a run as it goes: stages, losses, rewards. It reads files only and disturbs nothing; Ctrl-C ends it."""
    from rich.console import Console

    from betastar.api import look, picture

    console = Console(highlight=False)
    if once or not sys.stdout.isatty():
        console.print(picture(look(run), console.width))
        return
    from rich.live import Live

    view = look(run)
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(picture(view, console.width, console.height), refresh=True)
            if view.phase in ("finished", "failed"):
                return
            time.sleep(interval)
            view = look(run)
