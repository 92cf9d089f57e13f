"""Stage: the page and the figures, from what the run directory holds by now."""

from __future__ import annotations

from pathlib import Path

from betastar.disk import unsealed
from betastar.errors import BetastarError, DrawingError
from betastar.experiment.context import Context
from betastar.experiment.making import made
from betastar.experiment.store import Artefact, Store, copy_out
from betastar.report.folders import FIGURES, REPORT
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
    except Exception as error:
        if isinstance(error, BetastarError) and not isinstance(error, DrawingError):
            raise
        first = str(error).strip().split("\n")[0].rstrip(".")
        kind = "" if isinstance(error, DrawingError) else f"{type(error).__name__}{': ' if first else ''}"
        ctx.reporter.say(
            f"The report could not be drawn ({kind}{first}); results.json is complete, and "
            f"`betastar report {ctx.store.folder}` tries again."
        )
        # Of earlier results: they would be taken for a report of these.
        (ctx.store.folder / REPORT).unlink(missing_ok=True)
        _remove(ctx.store, set())
        return
    copy_out(drawn, ctx.store.folder)
    _remove(ctx.store, {str(path.relative_to(drawn.folder)) for path in drawn.folder.rglob("*")})  # only earlier ones


def _remove(store: Store, keep: set[str]) -> None:
    """Delete the page and the figures that an earlier report of this run put into its folder, but for these; what a
    person put there stays."""
    for manifest in (store.folder / "store" / STAGE).glob("*/manifest.json"):
        try:
            names = set(unsealed(manifest)["files"]) - keep
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged: what it listed is not known
        for name in names:
            path = store.folder / name
            if path.parent in (store.folder, store.folder / FIGURES) and path.is_file() and not path.is_symlink():
                path.unlink()
