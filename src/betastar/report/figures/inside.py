"""Figures of what goes on inside: the offline phase, displacement, plasticity; and whether the proxy still ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from betastar.record.entries import REGISTRY
from betastar.report.figures.distance import OFFLINE, offline_frame
from betastar.report.figures.panels import (
    HEIGHT,
    Axis,
    Figure,
    Panel,
    beta_axis,
    beta_colour,
    data,
    line_rows,
    lines,
    missing,
    paired,
    reach_of,
    seen,
    variant_title,
)
from betastar.report.figures.trajectories import band
from betastar.report.points import extent, known, labels, mean_values, over_seeds, picked, series_frame

OFFLINE_STEP = "DPO step"
NETWORK = ("effective_rank", "dormant_share", "fresh_gain")


def inside(results: Mapping[str, Any]) -> Figure:
    """The offline phase as a curve, likelihood displacement, and plasticity before and after the online phase."""
    title = "Inside the network"
    rows = [*_offline(results), *_plasticity(results)]
    if not rows:
        return missing("inside", title, "Neither the offline phase nor the network was measured.")
    caption = (
        "Offline: the policy during DPO on the evaluation problems, and the mean log-ratio of chosen (solid) and "
        "rejected (dashed) responses to the base. If both fall, DPO takes likelihood from the chosen responses as well "
        "(displacement). Plasticity: circles before the online phase, diamonds after it with 95 % interval over seeds. "
        "A falling rank or a rising share of dormant units means that the network has become harder to train."
    )
    if _no_dormant(results):
        caption += " No unit is dormant, before or after."
    fresh = ((results.get("inside") or {}).get("probe") or {}).get("fresh")
    if fresh:
        caption += (
            f" Fresh gain: how far the loss of a copy of the policy falls in {fresh['n_steps']} steps on a new task. "
            "A smaller gain after the online phase than before it points to lost plasticity."
        )
    return Figure("inside", title, caption, rows)


def _no_dormant(results: Mapping[str, Any]) -> bool:
    ends = [row["value"] for v in results["summary"] for row in mean_values(results, v, "dormant_share_end")]
    return bool(ends) and all(value == 0 for value in ends)


def _offline(results: Mapping[str, Any]) -> list[list[Panel]]:
    of_beta = labels(results)
    names, methods, row = list(of_beta.values()), list(results.get("methods") or [OFFLINE]), []
    curve = offline_frame(results, "curve")
    if known(curve, "true_strict"):
        points = over_seeds(curve, ["true_strict"], of_beta)
        axis = Axis("true reward", extent([r[f"true_strict_{end}"] for r in points for end in ("low", "high")]))
        for method in methods:
            chart = lines(picked(points, variant=method), "true_strict", axis, names, x_title=OFFLINE_STEP)
            row.append(Panel(chart, "offline phase" if method == OFFLINE else f"offline phase, {method}"))
    log = offline_frame(results, "log")
    if known(log, "chosen_log_ratio"):
        moved, title = over_seeds(log, list(RATIOS), of_beta), "log-ratios of training pairs"
        for method in methods:
            chart = _displacement(picked(moved, variant=method), names)
            row.append(Panel(chart, title if method == OFFLINE else f"{title}, {method}"))
    return [row[i : i + 2] for i in range(0, len(row), 2)]


RATIOS = {"chosen_log_ratio": "chosen", "rejected_log_ratio": "rejected"}


def _displacement(points: Any, names: list[str]) -> Any:
    rows = [
        {"step": row["step"], "beta": row["beta"], "of": words, "value": row[name]}
        for row in points
        for name, words in RATIOS.items()
    ]
    axis = Axis("log-ratio to the base, nats", extent([row["value"] for row in rows], [0.0]))
    x = alt.X("step:Q", title=OFFLINE_STEP, axis=alt.Axis(tickCount=6), scale=alt.Scale(nice=False, zero=False))
    dash = alt.StrokeDash("of:N", scale=alt.Scale(domain=list(RATIOS.values()), range=[[1, 0], [4, 3]]), legend=None)
    zero = alt.Chart(data([{"at": 0.0}])).mark_rule(style="ink", strokeWidth=0.7).encode(axis.y("at"))
    tips = [
        alt.Tooltip("beta:N", title="β"),
        alt.Tooltip("of:N", title="responses"),
        alt.Tooltip("step:Q", title="step"),
        alt.Tooltip("value:Q", title="log-ratio", format=".3~g"),
    ]
    line = alt.Chart(data(rows)).mark_line(strokeWidth=1.8)
    drawn = line.encode(x, axis.y("value"), beta_colour(names), dash, opacity=seen(1), tooltip=tips)
    return alt.layer(zero, drawn).properties(height=HEIGHT)


def _plasticity(results: Mapping[str, Any]) -> list[list[Panel]]:
    variants, rows = list(results["summary"]), []
    for name in NETWORK:
        means = {v: {end: mean_values(results, v, f"{name}_{end}") for end in ("start", "end")} for v in variants}
        every = [row for of in means.values() for part in of.values() for row in part]
        if not any(row["value"] for row in every):  # unknown, or none at all
            continue
        words = REGISTRY.summary(f"{name}_end").axis or name
        axis = Axis(words.replace(", end", ""), reach_of([], every))
        rows.append([Panel(_before_and_after(results, means[v], axis), variant_title(v, variants)) for v in variants])
    return paired(rows)


def _before_and_after(results: Mapping[str, Any], means: Mapping[str, Any], axis: Axis) -> Any:
    names = list(labels(results).values())
    x = beta_axis([row["x"] for row in means["end"]])
    tips = [
        alt.Tooltip("beta:N", title="β"),
        alt.Tooltip("value:Q", title=axis.title, format=".4~g"),
        alt.Tooltip("low:Q", title="95 % from", format=".4~g"),
        alt.Tooltip("high:Q", title="95 % to", format=".4~g"),
    ]
    before, after = (alt.Chart(data(means[end])) for end in ("start", "end"))
    interval = after.mark_rule(style="ink", strokeWidth=1.2, xOffset=5)
    marks = after.mark_point(shape="diamond", filled=True, size=60, xOffset=5)
    circles = before.mark_point(shape="circle", filled=False, strokeWidth=1.8, size=60, xOffset=-5)
    return alt.layer(
        interval.encode(x, axis.y("low"), alt.Y2("high"), opacity=seen(1), tooltip=tips),
        circles.encode(x, axis.y("value"), beta_colour(names), opacity=seen(1), tooltip=tips),
        marks.encode(x, axis.y("value"), beta_colour(names), opacity=seen(1), tooltip=tips),
    ).properties(height=HEIGHT)


def ranking(results: Mapping[str, Any]) -> Figure:
    """Whether the proxy still knows right from wrong on what the policy now says, by online step."""
    title, points, of_beta = "Does the proxy still rank right above wrong?", series_frame(results), labels(results)
    if not known(points, "ranking"):
        return missing(
            "ranking", title, "A ranking within problems needs two answers to a problem (evaluation.answers)."
        )
    rows = over_seeds(points, ["ranking"], of_beta)
    variants, names = list(results["summary"]), list(of_beta.values())
    reach = extent([row[f"ranking_{end}"] for row in rows for end in ("low", "high")], [0.5])
    panels = line_rows(rows, "ranking", REGISTRY.get("point", "ranking").axis, names, variants, domain=reach)
    chance = alt.Chart(data([{"at": 0.5}])).mark_rule(style="ink", strokeDash=[6, 4])
    axis = Axis(REGISTRY.get("point", "ranking").axis, reach)
    panels = [panel._replace(chart=alt.layer(chance.encode(axis.y("at")), panel.chart)) for panel in panels]
    caption = (
        "The chance that the proxy scores a right answer above a wrong one to the same problem. Dashed: chance; below "
        f"it, the proxy prefers wrong answers. {band(results)}"
    )
    return Figure("ranking", title, caption, [panels])
