"""`betastar compare`: several runs on one page, with differences from the first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN…",
            help="Run directories or folders of `betastar analyze`, the first being what the others are compared with; "
            "NAME=RUN gives one a name.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE.html", help="The page; FILE.json and figures/FILE-* go beside it.")
    ] = Path("comparison.html"),
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Compare runs: settings, both rewards, damage by β, differences paired within seeds where those match."""
    from betastar import api

    made = api.compare(*runs, out=out)
    made.show()
    print(f"Look at {made.page}; numbers in {made.numbers}, figures in {made.figures}/{made.page.stem}-*")
    if show:
        import webbrowser

        webbrowser.open(made.page.resolve().as_uri())
