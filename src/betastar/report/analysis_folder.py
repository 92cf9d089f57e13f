"""The folder that an analysis of logs leaves: the record, the evaluation points, the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from betastar.disk import plain_disk_errors, write_atomically
from betastar.errors import BetastarError
from betastar.logs.run_directory import is_analysis

if TYPE_CHECKING:
    from betastar.analysis.analyze import Analysis


def write_analysis(analysis: Analysis, folder: Path) -> dict[str, Any]:
    """Write `results.json`, `metrics.jsonl`, `report.html` and `figures/`, and return the record as a reader of the
    file has it.

    Raises BetastarError where the folder holds a run's own results, which would be lost.
    """
    from betastar.analysis.results import to_json
    from betastar.report.report_folder import write_report

    target = folder / "results.json"
    if target.is_file() and not is_analysis(folder):
        raise BetastarError(f"{folder} holds the results of a run; name another folder with --out.")
    text = to_json(analysis.results)
    results = json.loads(text)
    with plain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    points = analysis.frame.astype(object).where(analysis.frame.notna(), None).to_dict(orient="records")
    lines = [json.dumps(point, ensure_ascii=False) + "\n" for point in points]
    write_atomically(folder / "metrics.jsonl", "".join(lines).encode())
    write_atomically(target, text.encode())
    write_report(folder)
    return results
