"""The frontier of finished runs: proxy and truth against √KL, one dot each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from betastar.report.figures.panels import HEIGHT, Axis, Figure, Panel, data
from betastar.report.points import extent, labels, number


def frontier(results: Mapping[str, Any]) -> Figure:
    """True reward and proxy of every run against its distance, or against the proxy where KL is not known."""
    found, of_beta = results["frontier"], labels(results)
    by = found["ordered_by"]
    title = "√KL from the checkpoint, √nats" if by == "distance" else "proxy reward"
    rows = [
        {
            "run": of_beta[row["beta"]] if row["beta"] is not None else row["variant"],
            "seed": str(row["seed"]),
            **{name: number(row[name]) for name in ("distance", "proxy", "truth")},
        }
        for row in found["rows"]
    ]
    shown = {"truth": "true reward", **({"proxy": "proxy reward"} if by == "distance" else {})}
    panels = []
    for field, words in shown.items():
        values = [row[field] for row in rows]
        if all(value is None for value in values):
            continue
        x = alt.X(f"{by}:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))
        y = Axis(words, extent(values)).y(field)
        tips = [
            alt.Tooltip("run:N", title="run"),
            alt.Tooltip(f"{by}:Q", title=title, format=".3~g"),
            alt.Tooltip(f"{field}:Q", title=words, format=".3~g"),
        ]
        base = alt.Chart(data(rows))
        line = base.mark_line(strokeWidth=1.2, opacity=0.5).encode(x, y, order=alt.Order(f"{by}:Q"))
        dots = base.mark_point(filled=True, size=36).encode(x, y, tooltip=tips)
        panels.append(Panel(alt.layer(line, dots).properties(height=HEIGHT + 40), words))
    caption = (
        "A dot is a finished run. Where the truth falls while the proxy still rises, going farther trades truth for "
        "proxy. One value of each run is known, so there are no intervals."
    )
    return Figure("frontier", "Frontier of finished runs", caption, [panels])
