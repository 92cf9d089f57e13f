"""What is written where: the report of a run, of an analysis, of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from betastar.disk import make_folder, plain_disk_errors, write_atomically
from betastar.errors import BetastarError, argument
from betastar.printing import visible
from betastar.record.files import METRICS, RESULTS, read_results, read_run, to_json, to_json_lines
from betastar.record.monitored import is_monitored
from betastar.record.outputs import check_analysis_folder, check_file, check_kind
from betastar.record.series import POINTS, outside, write_series

if TYPE_CHECKING:
    from betastar.analysis.analyze import Analysis


REPORT, FIGURES = "report.html", "figures"


def write_report(source: Path, target: Path | None = None, paper: str | None = None) -> Path:
    """Write the report of the folder `source` to the file `target`, by default `report.html` in it, and its figures to
    `figures/` beside; returns the file. `paper`: "one column" or "two columns", the width of the figures in `figures/`.

    Raises BetastarError where there is no record to report, where nothing can be written, or for another `paper`.
    """
    if is_monitored(source) and not (source / RESULTS).exists():
        raise BetastarError(
            f"{source} holds a monitored run that was never closed, so there is no record yet; `betastar analyze "
            f"{source}` makes one of its rows."
        )
    run = read_run(source)
    # Slow to import.
    from altair.utils.schemapi import debug_mode

    from betastar.report.drawing import check_paper, drawn, renderers, write_figures
    from betastar.report.figures import all_figures
    from betastar.report.page import begin, page

    size = None if paper is None else check_paper(paper)
    file = target or source / REPORT
    check_kind(file.parent / FIGURES, is_folder=True)
    with renderers(), plain_disk_errors(file.parent):
        begin()
        with debug_mode(False):  # charts are checked against the schema in the tests; here it would take seconds
            figures = [drawn(figure) for figure in all_figures(run.results)]
        make_folder(file.parent)
        write_figures(figures, run.results, file.parent / FIGURES, size)
        write_atomically(file, page([(run, figures)]).encode("utf-8", "replace"))
    return file


def write_analysis(analysis: Analysis, folder: Path) -> dict[str, Any]:
    """Write `results.json`, `metrics.jsonl` (of a large analysis `points.parquet`), `report.html` and `figures/`, and
    return the record as a reader of the file has it.

    Raises BetastarError where the folder holds a run's own results or somebody's logs, which would be lost.
    """
    if is_monitored(folder):
        raise BetastarError(f"{folder} holds the results of a run; name another folder with {argument('out')}.")
    check_analysis_folder(folder)
    text = to_json(analysis.results)
    make_folder(folder)
    large = outside(analysis.results)
    # The record first: from then on the folder is an analysis, which the next one may write over.
    write_atomically(folder / RESULTS, text.encode())
    if large:
        write_series(folder / POINTS, analysis.results, analysis.frame)
    else:
        points = analysis.frame.astype(object).where(analysis.frame.notna(), None).to_dict(orient="records")
        write_atomically(folder / METRICS, to_json_lines(points).encode())
    (folder / (METRICS if large else POINTS)).unlink(missing_ok=True)  # of an analysis that was here before
    write_report(folder)
    return dict(read_results(folder))


PAGE = Path("comparison.html")


class Written(NamedTuple):
    """The record of a comparison and the files that hold it."""

    comparison: Mapping[str, Any]
    page: Path
    numbers: Path
    figures: Path


def write_comparison(places: Sequence[str], page: Path = PAGE) -> Written:
    """Compare runs, each a folder or NAME=FOLDER, the first being what the others are compared with. Writes the file
    `page`, a JSON file of the same name beside it, and figures whose names begin with it.

    Raises BetastarError where a folder has no record of this version, is named twice, or nothing can be written.
    """
    numbers = page.with_suffix(".json")
    if page.suffix != ".html" or page.is_dir():
        raise BetastarError(f"{argument('out', str(page))}: name a file that ends in .html.")
    check_file(page, "out")
    check_file(numbers, "out", replaces="comparison")
    check_kind(page.parent / FIGURES, is_folder=True)
    runs = {name: read_run(folder) for name, folder in named(places).items()}
    # Slow to import.
    from altair.utils.schemapi import debug_mode

    from betastar.analysis.compare import Subject, compare
    from betastar.report.drawing import drawn, print_figures, renderers
    from betastar.report.figures import all_figures
    from betastar.report.figures.between_runs import comparison_figures
    from betastar.report.page import Beside, begin
    from betastar.report.page import page as html
    from betastar.report.points import beside, labels

    records = beside([run.results for run in runs.values()])
    runs = {name: run._replace(results=results) for (name, run), results in zip(runs.items(), records, strict=True)}
    subjects = [Subject(name, run.results, run.config) for name, run in runs.items()]
    text = to_json(compare(subjects))
    comparison = json.loads(text)
    betas = list(labels(records[0]).values())
    make_folder(page.parent)
    with renderers(), plain_disk_errors(page.parent):
        begin()
        with debug_mode(False):  # charts are checked against the schema in the tests; here it would take seconds
            figures = [drawn(figure) for figure in comparison_figures(subjects, comparison)]
            own = [(run, [drawn(figure) for figure in all_figures(run.results)]) for run in runs.values()]
        print_figures(figures, ", ".join(runs)[:200], len(betas), page.parent / FIGURES, f"{page.stem}-")
        write_atomically(numbers, text.encode())
        text = html(own, Beside(list(runs), comparison, figures, betas))
        write_atomically(page, text.encode("utf-8", "replace"))
    return Written(comparison, page, numbers, page.parent / FIGURES)


def named(places: Sequence[str]) -> dict[str, Path]:
    """Name → folder. Without a name of its own a run is called like its folder, with as many folders above as tell it
    from the others."""
    found = [_split(place) for place in places]
    if len(found) < 2:
        raise BetastarError("a comparison needs two runs: name another folder, or look at one with `betastar report`.")
    folders = [folder.resolve() for _, folder in found]
    if twice := next((f for i, (_, f) in enumerate(found) if folders[i] in folders[:i]), None):
        raise BetastarError(f"{twice} is named twice; a run minus itself is 0.")
    given = [name for name, _ in found]
    names = [name or _last(folder, 1) for name, folder in zip(given, folders, strict=True)]
    for depth in range(2, max(len(folder.parts) for folder in folders) + 1):
        clash = {name for name in names if names.count(name) > 1}
        names = [
            _last(folder, depth) if not own and name in clash else name
            for own, name, folder in zip(given, names, folders, strict=True)
        ]
    if clash := next((name for name in names if names.count(name) > 1), None):
        raise BetastarError(f"two runs are called {clash}; give each a name of its own, as in NAME={places[0]}.")
    return dict(zip(map(visible, names), (folder for _, folder in found), strict=True))


def _split(place: str) -> tuple[str, Path]:
    """A name, empty where none is given, and a folder; a folder that exists may have "=" in its path."""
    name, equals, folder = place.partition("=")
    if not equals or Path(place).exists():
        return "", Path(place)
    if not name.strip() or not folder:
        raise BetastarError(f"{place}: write NAME=FOLDER, or the folder alone.")
    return name.strip(), Path(folder)


def _last(folder: Path, depth: int) -> str:
    return "/".join(folder.parts[-depth:])
