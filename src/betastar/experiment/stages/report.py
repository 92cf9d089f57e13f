"""Stage: the page and the figures, from what the run directory holds by now."""

from __future__ import annotations

from pathlib import Path

from betastar.errors import BetastarError
from betastar.experiment.context import Context
from betastar.experiment.making import made
from betastar.experiment.store import Artefact, copy_out
from betastar.report.folders import FIGURES, REPORT, SUFFIXES
from betastar.settings.config import Config

VERSION = 1
STAGE = "report"


def run(ctx: Context[Config], results: Artefact) -> None:
    """Write `report.html` and `figures/` into the run directory. A fault in drawing is told and ends nothing: the
    results are complete by now, and the next run tries again."""

    def build(out: Path, key: str) -> None:
        # Slow to import, and not needed when nothing has changed.
        from betastar.report.folders import write_report

        write_report(ctx.store.folder, out / REPORT)

    try:
        drawn = made(ctx, STAGE, [VERSION], [results.key], build)
    except BetastarError:
        raise
    except Exception as error:
        first = str(error).strip().split("\n")[0]
        ctx.reporter.say(
            f"The report could not be drawn ({type(error).__name__}{f': {first}' if first else ''}); results.json is "
            f"complete, and `betastar report {ctx.store.folder}` tries again."
        )
        _remove(ctx.store.folder, set())  # of earlier results: it would be taken for a report of these
        return
    copy_out(drawn, ctx.store.folder)
    _remove(ctx.store.folder, {path.name for path in drawn.folder.rglob("*")})  # what only earlier results had


def _remove(folder: Path, keep: set[str]) -> None:
    """Delete the page and the figures of a run directory but for these names."""
    for path in [folder / REPORT, *(folder / FIGURES).glob("*")]:
        if path.suffix in (*SUFFIXES, Path(REPORT).suffix) and path.name not in keep:
            path.unlink(missing_ok=True)
