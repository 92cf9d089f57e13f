"""From a figure's panels to files for a paper and to specifications for the page. One definition of a chart serves
both; width, theme and legend differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt

from betastar.disk import write_atomically
from betastar.report.figures.panels import Figure
from betastar.report.palette import print_theme
from betastar.report.responses import visible

WIDTH = 300  # of a panel on paper, in CSS pixels
COLUMNS = 4  # panels side by side on paper, at most
PNG_SCALE = 2
LONGEST_NAME = 80  # characters of a run's name below a title
FORMATS = ("svg", "pdf", "png")
FIT = {"type": "fit-x", "contains": "padding"}
SHOWN = {"name": "shown", "value": None}  # every β is shown until the page's legend says otherwise


class Drawn(NamedTuple):
    """A figure with the Vega-Lite specification of every panel, as it is before width and theme are known."""

    figure: Figure
    specs: list[list[dict[str, Any]]]


def drawn(figure: Figure) -> Drawn:
    """The specifications of a figure's panels."""
    specs = []
    for row in figure.rows:
        made = [panel.chart.to_dict(validate=False) for panel in row]
        specs.append([{k: v for k, v in spec.items() if k not in ("$schema", "config")} for spec in made])
    return Drawn(figure, specs)


def page_panels(figure: Drawn) -> list[list[dict[str, Any]]]:
    """Title and specification of every panel for the page: as wide as its place there, with its title beside it."""
    return [
        [
            {"title": panel.title, "spec": {**spec, "width": "container", "autosize": FIT, "params": [SHOWN]}}
            for panel, spec in zip(panels, specs, strict=True)
        ]
        for panels, specs in zip(figure.figure.rows, figure.specs, strict=True)
    ]


def paper_spec(figure: Drawn, subtitle: str) -> dict[str, Any]:
    """The Vega-Lite specification of the whole figure, as it is printed."""
    datasets: dict[str, Any] = {}
    rows = []
    for panels, specs in zip(figure.figure.rows, figure.specs, strict=True):
        row = []
        for panel, spec in zip(panels, specs, strict=True):
            datasets |= spec.get("datasets", {})
            rest = {k: v for k, v in spec.items() if k != "datasets"}
            row.append({**rest, "width": WIDTH, **({"title": visible(panel.title)} if panel.title else {})})
        rows += [{"hconcat": row[i : i + COLUMNS]} for i in range(0, len(row), COLUMNS)]
    return {
        "$schema": alt.SCHEMA_URL,
        "title": {"text": figure.figure.title, "subtitle": subtitle, "anchor": "start", "fontSize": 14, "offset": 12},
        "vconcat": rows,
        "datasets": datasets,
        "params": [SHOWN],
    }


def subtitle_of(results: Mapping[str, Any]) -> str:
    """What stands below the title of a record's figure: of which run, and how many seeds."""
    seeds = len({r["seed"] for r in results["conditions"]})
    name = visible(str(results.get("name", "unnamed")))
    return f"run {name[:LONGEST_NAME]}, {seeds} seed{'s' * (seeds != 1)}"


def write_figures(figures: Sequence[Drawn], results: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw every figure of a record that has panels as SVG, PDF and PNG into a folder; returns the names of files."""
    return print_figures(figures, subtitle_of(results), len({r["beta"] for r in results["conditions"]}), folder)


def print_figures(figures: Sequence[Drawn], subtitle: str, n_beta: int, folder: Path, prefix: str = "") -> list[str]:
    """Draw figures that have panels, in the colours of so many β, into files whose names begin with `prefix`."""
    import vl_convert

    theme = print_theme(n_beta)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for figure in figures:
        if not figure.specs:
            continue
        svg = vl_convert.vegalite_to_svg(json.dumps(paper_spec(figure, subtitle)), config=theme)
        files = {
            "svg": svg.encode(),
            "pdf": vl_convert.svg_to_pdf(svg),
            "png": vl_convert.svg_to_png(svg, scale=PNG_SCALE),
        }
        for suffix in FORMATS:
            name = f"{prefix}{figure.figure.key}.{suffix}"
            write_atomically(folder / name, files[suffix])
            written.append(name)
    return written
