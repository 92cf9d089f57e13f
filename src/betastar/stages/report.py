"""Stage: the page and the figures, from what the run directory holds by now."""

from __future__ import annotations

from pathlib import Path

from betastar.report.report_folder import FIGURES, REPORT, SUFFIXES
from betastar.store import Artefact
from betastar.workbench.context import Context, copy_out

VERSION = 1
STAGE = "report"


def run(ctx: Context, results: Artefact) -> None:
    """Write `report.html` and `figures/` into the run directory."""

    def build(out: Path, key: str) -> None:
        # Slow to import, and not needed when nothing has changed.
        from betastar.report.report_folder import write_report

        write_report(ctx.store.folder, out / REPORT)

    made = ctx.made(STAGE, [VERSION], [results.key], build)
    copy_out(made, ctx.store.folder)
    for path in (ctx.store.folder / FIGURES).iterdir():
        if path.suffix in SUFFIXES and not (made.folder / FIGURES / path.name).exists():
            path.unlink()  # of earlier results, which had it
