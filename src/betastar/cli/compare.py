"""`betastar compare`: several runs on one page, with differences from the first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

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
    from betastar.report.comparison_folder import write_comparison

    written = write_comparison(runs, out)
    _show(written.comparison)
    print(f"Look at {written.page}; numbers in {written.numbers}, figures in {written.figures}/{written.page.stem}-*")
    if show:
        import webbrowser

        webbrowser.open(written.page.resolve().as_uri())


def _show(comparison: Mapping[str, Any]) -> None:
    """What differs, and per variant the damage by β and run, and what follows."""
    from betastar.cli.showing import console, print_lines, print_table
    from betastar.report.comparison import MOST, damage_rows, notes, setting_rows, settings_note, verdicts

    terminal = console()
    columns, rows = setting_rows(comparison)
    if rows:
        print_table(terminal, "Settings that differ", columns, rows[:MOST])
    elif not settings_note(comparison):
        print_lines(terminal, ["No setting differs."])
    more = f"{len(rows) - MOST} more settings differ: see the page." if len(rows) > MOST else ""
    print_lines(terminal, [line for line in (more, settings_note(comparison)) if line])
    for variant in dict.fromkeys(entry["variant"] for entry in comparison["damage"]):
        title = f"variant {variant}: AUGC standardised, mean over seeds [95 % interval]"
        print_table(terminal, title, *damage_rows(comparison, variant))
    for verdict in verdicts(comparison):
        print_lines(terminal, [f"{verdict.heading}: {verdict.sentence}", *(f"  {limit}" for limit in verdict.limits)])
    print_lines(terminal, notes(comparison))
    terminal.print()
