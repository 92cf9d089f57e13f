"""The report of a run directory or of an analysis: `report.html` and `figures/`."""

from __future__ import annotations

from pathlib import Path

from betastar.disk import plain_disk_errors, write_atomically
from betastar.record.files import read_run

REPORT, FIGURES, SUFFIXES = "report.html", "figures", (".svg", ".pdf", ".png")


def write_report(source: Path, target: Path | None = None) -> Path:
    """Write the report of the folder `source` to the file `target`, by default `report.html` in it, and its figures to
    `figures/` beside; returns the file.

    Raises BetastarError where there is no record to report, or where nothing can be written.
    """
    run = read_run(source)
    # Slow to import.
    from altair.utils.schemapi import debug_mode

    from betastar.report.drawing import drawn, write_figures
    from betastar.report.figures import all_figures
    from betastar.report.page import page

    file = target or source / REPORT
    with debug_mode(False):  # charts are checked against the schema in the tests; here it would take seconds
        figures = [drawn(figure) for figure in all_figures(run.results)]
    with plain_disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_figures(figures, run.results, file.parent / FIGURES)
        write_atomically(file, page([(run, figures)]).encode("utf-8", "replace"))
    return file
