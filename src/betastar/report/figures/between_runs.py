"""Figures of a comparison: both rewards of every run on shared axes, end truth and damage by β of all runs, and the
differences from the first run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from betastar.analysis.compare import Subject, records
from betastar.analysis.summary import value_at
from betastar.record.entries import REGISTRY
from betastar.report.figures.panels import (
    HEIGHT,
    Axis,
    Figure,
    Panel,
    beta_axis,
    beta_colour,
    by_beta,
    data,
    lines,
    missing,
    reach_of,
    seen,
)
from betastar.report.points import (
    Row,
    extent,
    labels,
    mean_row,
    mean_values,
    number,
    over_seeds,
    picked,
    series_frame,
)

SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
SYMBOLS = ("●", "■", "▲", "◆", "▼", "✚")
APART = 9  # pixels between the marks of runs at the same β
MOST_PANELS = 4  # beside each other
DIFFERENCES = {
    "true_end": ("true reward difference", "true reward at the end"),
    "regret": ("regret difference", "regret"),
    "augc_standardised": ("AUGC difference", "AUGC, standardised form"),
}
"""Title of the axis and name of every quantity, the truth first."""


def comparison_figures(subjects: Sequence[Subject], comparison: Mapping[str, Any]) -> list[Figure]:
    """The figures of a comparison, the key figure first. Records must know of each other (`points.beside`)."""
    return [rewards(subjects), truth(subjects), damage(subjects), differences(subjects, comparison)]


def rewards(subjects: Sequence[Subject]) -> Figure:
    """The key figure: proxy and true reward by step for each run, on shared axes."""
    names = list(labels(subjects[0].results).values())
    frames = {s.name: _standardised(s.results) for s in subjects}
    in_sd = all(frame["risen"].notna().all() for frame in frames.values())
    proxy = "risen" if in_sd else "proxy"
    shares = all(frame["true_strict"].between(0, 1).all() for frame in frames.values())
    quantities = {
        proxy: Axis("proxy reward, sd above t = 0" if in_sd else "proxy reward"),
        "true_strict": Axis("true reward (share exact)" if shares else "true reward"),
    }
    rows = {s.name: over_seeds(frames[s.name], list(quantities), labels(s.results)) for s in subjects}
    for name, axis in quantities.items():
        ends = [row[f"{name}_{end}"] for some in rows.values() for row in some for end in ("low", "high")]
        quantities[name] = axis._replace(domain=(0.0, 1.0) if name != proxy and shares else extent(ends))
    there = [[(v, s) for s in subjects if v in s.results["summary"]] for v in _variants(subjects)]
    if sum(map(len, there)) <= MOST_PANELS:
        there = [[place for some in there for place in some]]
    panels = [
        [Panel(lines(picked(rows[s.name], variant=v), name, axis, names), f"{s.name}, variant {v}") for v, s in some]
        for some in there
        for name, axis in quantities.items()
    ]
    scale = (
        "The proxy is its change since t = 0 in standard deviations of each checkpoint's own responses, since reward "
        "models have different scales. "
        if in_sd
        else "Proxy rewards may come from different reward models, each with its own zero and scale. "
    )
    caption = (
        f"{scale}Lines: mean over seeds; bands: ± one standard error. Axes are shared, and a β has the same colour in "
        "every run."
    )
    return Figure("rewards", "Proxy and true reward of each run", caption, panels)


def truth(subjects: Sequence[Subject]) -> Figure:
    """True reward at the end by β, all runs in one panel for each variant."""
    title = "True reward at the end by β, run by run"
    return _means(subjects, "truth", title, "true_end", "", "The true reward at the end is undefined in every run.")


def damage(subjects: Sequence[Subject]) -> Figure:
    """AUGC by β, all runs in one panel for each variant."""
    title, what = "Damage by β, run by run", "AUGC, standardised form. "
    return _means(subjects, "damage", title, "augc_standardised", what, "AUGC is undefined in every run.")


def _means(subjects: Sequence[Subject], key: str, title: str, name: str, what: str, undefined: str) -> Figure:
    """A measure of a summary by β, all runs in one panel for each variant. `what`: said of it in the caption."""
    rows: dict[str, list[Row]] = {variant: [] for variant in _variants(subjects)}
    for place, subject in enumerate(subjects):
        for variant in subject.results["summary"]:
            found = mean_values(subject.results, variant, name)
            rows[variant] += [{**row, "run": subject.name, "place": place} for row in found]
    every = [row for some in rows.values() for row in some]
    if not any(row["value"] is not None for row in every):
        return missing(key, title, undefined)
    axis = Axis(REGISTRY.summary(name).axis, extent([row[end] for row in every for end in ("value", "low", "high")]))
    names = list(labels(subjects[0].results).values())
    order = [subject.name for subject in subjects]
    row = [Panel(_by_run(some, axis, names, order), f"variant {variant}") for variant, some in rows.items()]
    caption = f"{marks(order)}. {what}Means over seeds with 95 % intervals; lines connect the points of a run."
    return Figure(key, title, caption, [row])


def marks(names: Sequence[str]) -> str:
    """Which symbol is which run."""
    return ", ".join(f"{SYMBOLS[i % len(SYMBOLS)]} {name}" for i, name in enumerate(names))


def differences(subjects: Sequence[Subject], comparison: Mapping[str, Any]) -> Figure:
    """Each later run minus the first, at the β that both have."""
    title, reference = "Differences from the first run at equal β", comparison["reference"]
    of_beta = labels(subjects[0].results)
    by_name = {subject.name: subject for subject in subjects}
    rows = []
    for name, (axis_title, words) in DIFFERENCES.items():
        drawn = []
        for entry in comparison["differences"]:
            means = [mean_row(row["beta"], of_beta, _counted(row[name])) for row in entry["by_beta"]]
            if any(mean["value"] is not None for mean in means):
                seeds = _seeds(by_name[entry["run"]], by_name[reference], entry, name, of_beta)
                drawn.append((entry, seeds, means))
        if drawn:
            reaches = [reach_of(seeds, means, [0.0]) for _, seeds, means in drawn]
            axis = Axis(axis_title, extent([end for reach in reaches if reach for end in reach]))
            names = list(of_beta.values())
            rows.append([_difference(entry, (seeds, means), axis, names, words) for entry, seeds, means in drawn])
    if not rows:
        return missing("differences", title, "No two runs can be compared at an equal β; the section Numbers says why.")
    caption = (
        f"Each run minus {reference}. Diamonds: mean difference with 95 % interval. Dots, if runs are paired: seeds. "
        "Axes are shared."
    )
    return Figure("differences", title, caption, rows)


def _difference(
    entry: Mapping[str, Any], rows: tuple[list[Row], list[Row]], axis: Axis, names: Sequence[str], words: str
) -> Panel:
    seeds, means = rows
    zero = alt.Chart(data([{"at": 0.0}])).mark_rule(style="ink", strokeWidth=0.7).encode(axis.y("at"))
    chart = by_beta(seeds, means, axis, names, beta_axis([mean["x"] for mean in means]), [zero])
    return Panel(
        chart, f"{entry['run']} minus {entry['minus']}, variant {entry['variant']}, {entry['method']}: {words}"
    )


def _by_run(rows: Sequence[Row], axis: Axis, names: Sequence[str], order: Sequence[str]) -> Any:
    x = beta_axis([row["x"] for row in rows])
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(order))]
    tips = [
        alt.Tooltip("run:N"),
        alt.Tooltip("beta:N", title="β"),
        alt.Tooltip("value:Q", title="mean", format=".4~g"),
        alt.Tooltip("low:Q", title="95 % from", format=".4~g"),
        alt.Tooltip("high:Q", title="95 % to", format=".4~g"),
        alt.Tooltip("n:Q", title="seeds"),
    ]
    layers = []
    for place, name in enumerate(order):
        mine = [row for row in rows if row["run"] == name]
        if not mine:
            continue
        base, apart = alt.Chart(data(mine)), APART * (place - (len(order) - 1) / 2)
        dash = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2]][place % 4]
        join = base.mark_line(style="note", strokeWidth=1, strokeDash=dash, opacity=0.6, xOffset=apart)
        bar = base.mark_rule(style="ink", strokeWidth=1.5, xOffset=apart)
        dot = base.mark_point(filled=True, size=75, xOffset=apart)
        shape = alt.Shape("run:N", title="run", scale=alt.Scale(domain=list(order), range=shapes))
        layers += [
            join.encode(x, axis.y("value")),
            bar.encode(x, axis.y("low"), alt.Y2("high"), opacity=seen(1), tooltip=tips),
            dot.encode(x, axis.y("value"), beta_colour(names), shape, opacity=seen(1), tooltip=tips),
        ]
    return alt.layer(*layers).properties(height=HEIGHT + 40)


def _seeds(
    ours: Subject, theirs: Subject, entry: Mapping[str, Any], name: str, of_beta: Mapping[float | None, str]
) -> list[Row]:
    """A row for each seed and equal β of paired runs."""
    if entry["method"] != "paired":
        return []
    sides = [
        {
            (r["beta"], r["seed"]): value_at(r, REGISTRY.summary(name).value_path)
            for r in records(subject, entry["variant"])
        }
        for subject in (ours, theirs)
    ]
    return [
        {"x": beta, "beta": of_beta[beta], "seed": str(seed), "value": number(value - sides[1][beta, seed])}
        for (beta, seed), value in sides[0].items()
        if (beta, seed) in sides[1]
    ]


def _counted(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """A difference whose n is that of both sides."""
    return {**entry, "n": f"{entry['n']} and {entry['n_minus']}"} if "n_minus" in entry else entry


def _variants(subjects: Sequence[Subject]) -> list[str]:
    return list(dict.fromkeys(v for subject in subjects for v in subject.results["summary"]))


def _standardised(results: Mapping[str, Any]) -> pd.DataFrame:
    """All evaluation points; `risen`: the proxy above t = 0 in standard deviations of the responses there, NaN where
    that is unknown."""
    frame = series_frame(results)
    if "proxy_std" not in frame:
        frame = frame.assign(proxy_std=float("nan"))
    start: Any = frame.groupby(["variant", "beta", "seed"], dropna=False, sort=False)[["proxy", "proxy_std"]]
    first = start.transform("first")
    return frame.assign(risen=(frame["proxy"] - first["proxy"]) / first["proxy_std"].where(first["proxy_std"] > 0))
