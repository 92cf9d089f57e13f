"""One self-contained HTML page from one or more runs: everything inline, nothing fetched, scripts allowed by hash."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from betastar.printing import visible
from betastar.record.files import Run
from betastar.report import comparison, palette
from betastar.report.card import card, command
from betastar.report.drawing import Drawn, page_panels, renderers
from betastar.report.points import labels
from betastar.report.responses import BUDGET, browser_data, script_json
from betastar.report.words import (
    CHAIN_COLUMNS,
    SIGNAL_COLUMNS,
    TIMING_COLUMNS,
    chain_notes,
    chain_rows,
    conclusions,
    condition_columns,
    condition_rows,
    damage_columns,
    damage_rows,
    difference_sentences,
    distance_conclusions,
    headlines,
    measure_note,
    mechanism_columns,
    mechanism_rows,
    one_beta,
    outcome_columns,
    outcome_rows,
    penalty,
    signal_notes,
    signal_rows,
    signs_sentence,
    timing_rows,
)
from betastar.report.words.headline import problem_counts
from betastar.report.words.numbers import count

TEMPLATES = Path(__file__).parent / "templates"
SIZE = 7_000_000  # characters of charts, scripts and responses together; a page is to stay under 8 MB
SCRIPTS = ("charts.js", "browser.js")
EMBED = "window.vegaEmbed = vegaEmbed;"


class Beside(NamedTuple):
    """Several runs beside each other: their `names` in order, the record of their comparison, its figures, and the
    names of all `betas`."""

    names: Sequence[str]
    comparison: Mapping[str, Any]
    figures: Sequence[Drawn]
    betas: Sequence[str]


def page(runs: Sequence[tuple[Run, Sequence[Drawn]]], beside: Beside | None = None) -> str:
    """The page of a run with its figures; or of several `beside` each other, the comparison first. Of several, the
    records must know of each other (`points.beside`)."""
    parts = [_part(i, run, figures) for i, (run, figures) in enumerate(runs)]
    colours = max(len(labels(run.results)) for run, _ in runs)
    compared = None if beside is None else _compared(beside)
    if beside is not None:
        parts = [{**part, "name": name} for part, name in zip(parts, beside.names, strict=True)]
    style = _style(colours)
    scripts = [_bundle(), *(_source(name) for name in SCRIPTS)]
    figures = [f for part in [*([compared] if compared else []), *parts] for f in part["figures"]]
    panels = {p["id"]: p["spec"] for figure in figures for row in figure["rows"] for p in row}
    budget = min(BUDGET, SIZE - len(script_json(panels)) - sum(map(len, scripts))) // len(runs)
    for part, (run, _) in zip(parts, runs, strict=True):
        part["browser"] = browser_data(run.samples, budget)
    data = {
        "theme": palette.page_theme(colours),
        "panels": panels,
        "browsers": [part["browser"] for part in parts],
    }
    return (
        _environment()
        .get_template("page.html")
        .render(
            policy=_policy(style, scripts),
            style=Markup(style),
            scripts=[Markup(text) for text in scripts],
            data=Markup(script_json(data)),
            runs=parts,
            comparison=compared,
        )
    )


def _part(i: int, run: Run, figures: Sequence[Drawn]) -> dict[str, Any]:
    """What the template needs of one run."""
    results = run.results
    conditions = results["conditions"]
    return {
        "id": f"run{i}",
        "place": i,
        "name": str(results.get("name", "unnamed")),
        "facts": _facts(results),
        "answers": (answers := headlines(results)),
        "penalties": [penalty(results, answer.variant) for answer in answers],
        "one_beta": one_beta(results),
        "measure": measure_note(results),
        "betas": _legend(results),
        "warnings": results.get("warnings", []),
        "figures": [_figure(f"run{i}", figure) for figure in figures],
        "tables": _tables(results),
        "differences": difference_sentences(results),
        "runs": (condition_columns(results), condition_rows(results)),
        "sentences": [signs_sentence(results)],
        "signs": _signs(results),
        "card": card(run),
        "command": command(run),
        "samples": bool(run.samples),
        "n": len(conditions),
    }


def _facts(results: Mapping[str, Any]) -> str:
    conditions = results["conditions"]
    counts = {"run": len(conditions)}
    if not one_beta(results):
        counts |= {"variant": len(results["summary"]), "β": len({r["beta"] for r in conditions})}
    counts |= {"seed": len({r["seed"] for r in conditions})} if len(conditions) > 1 else {}
    words = [count(n, what) for what, n in counts.items()]
    if sizes := problem_counts(results, conditions):
        words.append(f"{' or '.join(str(n) for n in sizes)} problems at each evaluation")
    return ", ".join(words)


def _compared(beside: Beside) -> dict[str, Any]:
    """What the template needs of the comparison."""
    record = beside.comparison
    variants = dict.fromkeys(entry["variant"] for entry in record["outcomes"])
    return {
        "reference": record["reference"],
        "betas": [(name, place) for place, name in enumerate(beside.betas)],
        "verdicts": comparison.verdicts(record),
        "settings": comparison.setting_rows(record),
        "settings_note": comparison.settings_note(record),
        "most": comparison.MOST,
        "figures": [_figure("comparison", figure) for figure in beside.figures],
        "tables": [
            {
                "variant": variant,
                "outcomes": comparison.outcome_rows(record, variant),
                "difference_columns": comparison.DIFFERENCE_COLUMNS,
                "differences": comparison.difference_rows(record, variant),
            }
            for variant in variants
        ],
        "notes": comparison.notes(record),
    }


def _legend(results: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The β of a record by name, and the place of each in the colours of the page."""
    own = {r["beta"] for r in results["conditions"]}
    return [(name, place) for place, (beta, name) in enumerate(labels(results).items()) if beta in own]


def _figure(part: str, figure: Drawn) -> dict[str, Any]:
    key = figure.figure.key
    rows = [
        [{**panel, "id": f"{part}-{key}-{r}-{c}"} for c, panel in enumerate(row)]
        for r, row in enumerate(page_panels(figure))
    ]
    coloured = any("beta" in str(p["spec"].get("layer", "")) for row in rows for p in row)
    return {**figure.figure._asdict(), "rows": rows, "coloured": coloured}


def _tables(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per variant the numbers that the terminal shows too."""
    found = []
    for variant, summary in results["summary"].items():
        mechanism = mechanism_rows(summary)
        found.append(
            {
                "variant": variant,
                "n": len(summary["seeds"]),
                "outcomes": (outcome_columns(results, variant), outcome_rows(results, variant)),
                "damage": (damage_columns(), damage_rows(summary)),
                "mechanism": (mechanism_columns(), mechanism) if mechanism else None,
                "sentences": [*conclusions(summary), *distance_conclusions(results["distance"][variant])],
            }
        )
    return found


def _signs(results: Mapping[str, Any]) -> dict[str, Any]:
    signs = results["warning_signs"]
    horizon = signs["headline_horizon"]
    return {
        "drop": f"{signs['drop']:g}",
        "horizon": horizon,
        "columns": SIGNAL_COLUMNS,
        "rows": signal_rows(signs["pooled"], horizon),
        "timing_columns": TIMING_COLUMNS,
        "timing": timing_rows(signs["pooled"], horizon),
        "notes": signal_notes(signs),
        "chain_columns": CHAIN_COLUMNS,
        "chains": [(variant, chain_rows(links), chain_notes(links)) for variant, links in results["chain"].items()],
    }


def _style(colours: int) -> str:
    """The style sheet with the colours of this page's β, light and dark."""
    light, dark = (
        "".join(f"--beta-{i}:{colour};" for i, colour in enumerate(palette.colours(colours, anchors)))
        for anchors in (palette.LIGHT, palette.DARK)
    )
    swatches = "".join(f".beta-{i}{{background:var(--beta-{i})}}" for i in range(colours))
    return (
        f"{_source('style.css')}\n:root{{{light}}}\n{swatches}\n"
        f"@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"
    )


def _policy(style: str, scripts: Sequence[str]) -> str:
    """The Content-Security-Policy: nothing is fetched, nothing is evaluated, only these scripts and this style run."""
    allowed = " ".join(_hash(text) for text in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def begin() -> None:
    """Have the page's scripts made meanwhile, within a block of `renderers`; they take a second."""
    if _bundle.cache_info().currsize == 0:
        with renderers() as draw:
            draw.bundle(EMBED)


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed, with the interpreter that runs charts without `eval`; no tag can end in it."""
    with renderers() as draw:
        text = draw.bundle(EMBED).result()
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    """Templates that escape every value, and show by name what could not be seen in it."""

    def shown(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
