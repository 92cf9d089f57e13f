"""From a figure's panels to files for a paper and to specifications for the page. One definition of a chart serves
both; width, theme and legend differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import altair as alt

from betastar.disk import write_atomically
from betastar.errors import BetastarError, DrawingError
from betastar.printing import visible
from betastar.report.drawings import FORMATS, Drawing, digest_of, read_drawings, write_drawings
from betastar.report.figures.panels import Figure
from betastar.report.palette import paper_theme, print_theme
from betastar.report.renderer import Renderer, RendererDied, Renderers

WIDTH = 300  # of a panel on paper, in CSS pixels
COLUMNS = 4  # panels side by side on paper, at most
PNG_SCALE = 2
LONGEST_NAME = 80  # characters of a run's name below a title
FIT = {"type": "fit-x", "contains": "padding"}
Paper = Literal["one column", "two columns"]
PAPER: dict[Paper, tuple[float, int, int]] = {"one column": (3.25, 1, 100), "two columns": (6.75, 2, 120)}
"""Width in inches, panels side by side, height of a panel in points."""
POINTS_PER_INCH = 72
FINER = {"size": 0.4, "strokeWidth": 0.55, "xOffset": 0.5}
"""Of marks for a paper, against those of the page."""
LEGEND_ENTRY = 32  # points that a β takes in the legend, about
PAPER_DPI = 300  # of a PNG
SHOWN = {"name": "shown", "value": None}  # every β is shown until the page's legend says otherwise


_renderers: ContextVar[Renderers | None] = ContextVar("renderers", default=None)


@contextmanager
def renderers() -> Iterator[Renderers]:
    """What draws, for as long as the outermost of such blocks lasts. Raises DrawingError where one dies."""
    if (outer := _renderers.get()) is not None:
        yield outer
        return
    made = Renderers()
    token = _renderers.set(made)
    try:
        yield made
    except RendererDied as error:
        raise DrawingError(
            f"the renderer died ({error}), as it does if memory runs out or is limited",
            where="figures",
            remedy="raise the limit (`ulimit -v unlimited`) or free some memory, then draw again",
        ) from error
    finally:
        _renderers.reset(token)
        made.close()


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


def sized_spec(figure: Drawn, paper: Paper, n_beta: int) -> dict[str, Any]:
    """The Vega-Lite specification of a figure for a column of a paper, with its theme, one unit to the point: exactly
    as wide as the column, without a title, which is the caption's."""
    inches, side_by_side, height = PAPER[paper]
    panels = [
        (panel, spec)
        for row in zip(figure.figure.rows, figure.specs, strict=True)
        for panel, spec in zip(*row, strict=True)
    ]
    datasets: dict[str, Any] = {}
    flat = []
    for panel, spec in panels:
        datasets |= spec.get("datasets", {})
        rest = {k: v for k, v in _shrunk(spec, height).items() if k != "datasets"}
        flat.append({**rest, **({"title": visible(panel.title)} if panel.title else {})})
    columns = min(side_by_side, len(flat))
    whole = inches * POINTS_PER_INCH
    lines = -(-(n_beta * LEGEND_ENTRY + 10) // int(whole / columns - 40))

    def made(width: float) -> dict[str, Any]:
        rows = [[{**panel, "width": width} for panel in flat[i : i + columns]] for i in range(0, len(flat), columns)]
        return {
            "$schema": alt.SCHEMA_URL,
            "padding": 1,
            "vconcat": [{"hconcat": row} for row in rows],
            "datasets": datasets,
            "params": [SHOWN],
            "config": paper_theme(n_beta, columns=-(-n_beta // lines)),
        }

    width = whole / columns - 40
    with renderers() as draw:
        for _ in range(3):  # axes take what they take: what is left over goes to the panels
            left_over = whole - draw.ask(Renderer.width, made(width)).result()
            width += left_over / columns
            if abs(left_over) < 0.5:
                break
    return made(width)


def _shrunk(spec: dict[str, Any], height: int) -> dict[str, Any]:
    """A panel at the height of a paper, its marks in proportion; where the height counts rows, a row keeps half."""
    own = float(spec.get("height", height))
    layers = [_fine(layer, height / own) for layer in spec["layer"]] if "layer" in spec else []
    counted = any(
        isinstance(y := part.get("encoding", {}).get("y"), dict) and y.get("type") == "nominal" for part in _parts(spec)
    )
    whole = {**spec, "layer": layers} if layers else _fine(spec, height / own)
    return {**whole, "height": own / 2 if counted else height}


def _parts(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A specification and all layers within it."""
    return [spec, *(part for layer in spec.get("layer", []) for part in _parts(layer))]


def _fine(layer: dict[str, Any], share: float) -> dict[str, Any]:
    """A layer with smaller marks, and with places given in pixels moved to the same share of the height."""
    if "layer" in layer:
        return {**layer, "layer": [_fine(part, share) for part in layer["layer"]]}
    mark = layer.get("mark", {})
    if isinstance(mark, dict):
        mark = {k: v * FINER[k] if k in FINER else v for k, v in mark.items()}
    encoding = {
        channel: {**found, "value": found["value"] * share}
        if channel == "y" and isinstance(found, dict) and isinstance(found.get("value"), int | float)
        else found
        for channel, found in layer.get("encoding", {}).items()
    }
    return {**layer, "mark": mark, "encoding": encoding}


def check_paper(paper: str) -> Paper:
    """Raises BetastarError for a width that no paper has."""
    for known in get_args(Paper):
        if paper == known:
            return known
    raise BetastarError(
        f"{paper!r} is not a width of a figure", where="paper", remedy='choose "one column" or "two columns"'
    )


def paper_files(spec: Mapping[str, Any]) -> dict[str, bytes]:
    """A sized specification as SVG and PDF, vectors at their true size, and as PNG of 300 dpi; by suffix."""
    with renderers() as draw:
        files = draw.ask(Renderer.files, spec, scale=PAPER_DPI / POINTS_PER_INCH, ppi=POINTS_PER_INCH).result()
    svg = files["svg"].decode()
    return {
        **files,
        "svg": re.sub(r'(<svg[^>]*? width="[\d.]+)(" height="[\d.]+)"', r'\1pt\2pt"', svg, count=1).encode(),
    }


def subtitle_of(results: Mapping[str, Any]) -> str:
    """What stands below the title of a record's figure: of which run, and how many seeds."""
    seeds = len({r["seed"] for r in results["conditions"]})
    name = visible(str(results.get("name", "unnamed")))
    return f"run {name[:LONGEST_NAME]}, {seeds} seed{'s' * (seeds != 1)}"


def write_figures(
    figures: Sequence[Drawn], results: Mapping[str, Any], folder: Path, paper: Paper | None = None
) -> list[str]:
    """Draw every figure of a record that has panels as SVG, PDF and PNG into a folder, for a column of a `paper` or for
    a slide; returns the names of files."""
    n_beta = len({r["beta"] for r in results["conditions"]})
    if paper is None:
        return print_figures(figures, subtitle_of(results), n_beta, folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with renderers():
        for figure in (figure for figure in figures if figure.specs):
            for suffix, content in paper_files(sized_spec(figure, paper, n_beta)).items():
                written.append(f"{figure.figure.key}.{suffix}")
                write_atomically(folder / written[-1], content)
    return written


def print_figures(figures: Sequence[Drawn], subtitle: str, n_beta: int, folder: Path, prefix: str = "") -> list[str]:
    """Draw figures that have panels, in the colours of so many β, into files whose names begin with `prefix`. Those
    that are there already are not drawn again."""
    theme = print_theme(n_beta)
    folder.mkdir(parents=True, exist_ok=True)
    there = read_drawings(folder)
    written, now = [], dict(there)
    with renderers() as draw:
        begun: list[tuple[str, Drawing, Future[dict[str, bytes]] | None]] = []
        for figure in (figure for figure in figures if figure.specs):
            name, spec = f"{prefix}{figure.figure.key}", paper_spec(figure, subtitle)
            drawing = Drawing(digest_of(spec, theme, PNG_SCALE), {})
            kept = there.get(name)
            if kept is not None and kept.of == drawing.of and kept.is_in(folder, name):
                begun.append((name, kept, None))
            else:
                begun.append((name, drawing, draw.ask(Renderer.files, spec, theme, PNG_SCALE)))
        for name, drawing, asked in begun:
            for suffix, content in ({} if asked is None else asked.result()).items():
                write_atomically(folder / f"{name}.{suffix}", content)
                drawing.files[suffix] = sha256(content).hexdigest()
            now[name] = drawing
            written += [f"{name}.{suffix}" for suffix in FORMATS]
    if now != there:
        write_drawings(folder, now)
    return written
