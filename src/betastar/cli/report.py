"""`betastar report`: one page to look at, and figures for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run directory, or the folder that `betastar analyze` wrote.")
    ],
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the page goes, figures/ beside it; without it in RUN.")
    ] = None,
) -> None:
    """Write report.html, which needs no network, and figures/ as SVG, PDF and PNG."""
    from betastar import api

    page = api.load(run).report(out)
    print(f"{page}\n{page.parent / 'figures'}/")
    if show:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
