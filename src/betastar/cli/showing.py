"""Results as text at the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def show(results: dict[str, Any], folder: Path, seconds: float) -> None:
    """The end of a run: a table per variant, what follows from it, warnings, and where the files are."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from betastar.report.words import DAMAGE_COLUMNS, MECHANISM_COLUMNS, conclusions, damage_rows, mechanism_rows

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
    for variant, summary in results["summary"].items():
        penalty = results.get("variants", {}).get(variant, {}).get("kl")  # a run trained elsewhere has none
        kl = ""
        if penalty:
            kl = f"κ = {penalty['kappa']:g} for every β; " if penalty["coupling"] == "fixed" else "κ ∝ β (Eq. 10); "
        title = f"variant {variant}: {kl}mean ± standard error over seeds (n = {len(summary['seeds'])})"
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
