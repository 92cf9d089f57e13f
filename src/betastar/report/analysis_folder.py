"""The folder that an analysis of logs leaves: the record, the evaluation points, the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from betastar.disk import plain_disk_errors, write_atomically
from betastar.errors import BetastarError
from betastar.record.files import METRICS, RESULTS, is_analysis, read_results, to_json, to_json_lines
from betastar.report.report_folder import write_report

if TYPE_CHECKING:
    from betastar.analysis.analyze import Analysis


def write_analysis(analysis: Analysis, folder: Path) -> dict[str, Any]:
    """Write `results.json`, `metrics.jsonl`, `report.html` and `figures/`, and return the record as a reader of the
    file has it.

    Raises BetastarError where the folder holds a run's own results, which would be lost.
    """
    target = folder / RESULTS
    if target.is_file() and not is_analysis(folder):
        raise BetastarError(f"{folder} holds the results of a run; name another folder with --out.")
    text = to_json(analysis.results)
    with plain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    points = analysis.frame.astype(object).where(analysis.frame.notna(), None).to_dict(orient="records")
    write_atomically(folder / METRICS, to_json_lines(points).encode())
    write_atomically(target, text.encode())
    write_report(folder)
    return dict(read_results(folder))
