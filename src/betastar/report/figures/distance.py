"""Figures over √KL: the truth against how far the policy has moved, beside what best-of-n gives without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from betastar.report.figures.panels import (
    HEIGHT,
    Axis,
    Figure,
    Panel,
    beta_colour,
    data,
    missing,
    seen,
    variant_title,
)
from betastar.report.points import Row, extent, known, labels, number, of_seeds, over_seeds, picked, series_frame
from betastar.report.words.numbers import method_of

OFFLINE = "offline"  # what the only method of a run is called
ORIGINS = {"kl": "√KL from the checkpoint, √nats", "kl_base": "√KL from the base, √nats"}


def distance(results: Mapping[str, Any]) -> Figure:
    """True reward against √KL from the checkpoint, with best-of-n on the same axis, and from the base."""
    title, points, of_beta = "True reward by distance", series_frame(results), labels(results)
    there = [name for name in ORIGINS if known(points, name)]
    if not there:
        return missing("distance", title, "KL from the checkpoint or the base was not logged.")
    variants, names = list(results["summary"]), list(of_beta.values())
    roots = {f"d_{name}": np.sqrt(points[name].clip(lower=0)) for name in there}
    frame = points.assign(**roots)
    best = {v: _best_of_n(results, of_beta, method_of(results, v)) for v in variants}
    rows = []
    for name in there:
        both = [f"d_{name}", "true_strict"]
        known_rows: Any = frame[frame[both].notna().all(axis=1)]
        means, seeds = over_seeds(known_rows, both, of_beta), of_seeds(known_rows, both, of_beta)
        beside = best if name == "kl" else {v: [] for v in variants}
        x = extent([r[both[0]] for r in [*means, *seeds]] + [r["d"] for found in beside.values() for r in found])
        y = extent(
            [r["true_strict"] for r in [*means, *seeds]] + [r["truth"] for found in beside.values() for r in found]
        )
        rows.append(
            [
                Panel(
                    _curves(
                        picked(means, variant=v),
                        picked(seeds, variant=v),
                        both[0],
                        beside[v],
                        names,
                        ORIGINS[name],
                        x,
                        y,
                    ),
                    variant_title(v, variants),
                )
                for v in variants
            ]
        )
    caption = (
        "Thick: mean over seeds, a dot per evaluation; thin: each seed. √KL measures how far a policy has moved, "
        "whatever its learning rate, so two runs can be compared at the same distance."
    )
    if any(best.values()):
        caption += (
            " Dashed, with squares: the best of n answers of the checkpoint by the proxy, at √(log n − (n−1)/n). It "
            "costs no training. If only training falls, suspect the optimiser; if both fall, the reward model."
        )
    if len(there) < len(ORIGINS):
        caption += f" Not logged: {', '.join(words for name, words in ORIGINS.items() if name not in there)}."
    return Figure("distance", title, caption, rows)


def _best_of_n(results: Mapping[str, Any], of_beta: Mapping[float | None, str], method: str | None) -> list[Row]:
    found = (results.get("best_of_n") or {}).get("by_beta", [])
    return [
        {
            "beta": of_beta[row["beta"]],
            "d": number(point["kl"] ** 0.5),
            "truth": number(point["truth"]["mean"]),
            "best_of": point["best_of"],
        }
        for row in found
        if row["beta"] in of_beta and row.get("method") == method
        for point in row["curve"]
        if point["kl"] is not None and point["truth"]["mean"] is not None
    ]


def _curves(
    means: Sequence[Row],
    seeds: Sequence[Row],
    field: str,
    best: Sequence[Row],
    names: Sequence[str],
    title: str,
    x_domain: Any,
    y_domain: Any,
) -> Any:
    axis = Axis("true reward", y_domain)
    scale = alt.Scale(domain=list(x_domain or (0, 1)), nice=False)
    x = alt.X(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6))
    y, colour, order = axis.y("true_strict"), beta_colour(names), alt.Order("step:Q")
    tips = [
        alt.Tooltip("beta:N", title="β"),
        alt.Tooltip("step:Q", title="step"),
        alt.Tooltip(f"{field}:Q", title="√KL", format=".3~g"),
        alt.Tooltip("true_strict:Q", title="true", format=".3~g"),
    ]
    slim = [{k: row[k] for k in ("beta", "step", field, "true_strict")} for row in means]
    base = alt.Chart(data(slim))
    layers = [
        alt.Chart(data(seeds))
        .mark_line(strokeWidth=0.8)
        .encode(x, y, colour, order=order, detail="seed:N", opacity=seen(0.3)),
        base.mark_line(strokeWidth=2.2).encode(x, y, colour, order=order, opacity=seen(1)),
        base.mark_point(filled=True, size=20).encode(x, y, colour, opacity=seen(1), tooltip=tips),
    ]
    if best:
        marks = alt.Chart(data(best))
        place = alt.X("d:Q", title=title, scale=scale)
        tips = [
            alt.Tooltip("beta:N", title="β"),
            alt.Tooltip("best_of:Q", title="best of"),
            alt.Tooltip("truth:Q", title="true", format=".3~g"),
        ]
        dashes = marks.mark_line(strokeDash=[5, 3], strokeWidth=1.4)
        layers.append(dashes.encode(place, axis.y("truth"), colour, opacity=seen(1)))
        squares = marks.mark_point(shape="square", filled=True, size=24)
        layers.append(squares.encode(place, axis.y("truth"), colour, opacity=seen(1), tooltip=tips))
    return alt.layer(*layers).properties(height=HEIGHT + 40)


def offline_frame(results: Mapping[str, Any], part: str) -> pd.DataFrame:
    """The offline phase of every checkpoint as points of a variant called after its method: `curve`, its evaluations,
    or `log`, its training log; empty where it was not kept. Of a value of β without evaluation points, which a log that
    was cut off may have lost, nothing is shown."""
    frames, shown = [], labels(results)
    for checkpoint in (results.get("inside") or {}).get("checkpoints", []):
        if checkpoint["beta"] in shown and (found := checkpoint.get(part)):
            frame = pd.DataFrame(found, dtype=float)
            frames.append(
                frame.assign(
                    variant=checkpoint.get("method", OFFLINE), beta=checkpoint["beta"], seed=checkpoint["seed"]
                )
            )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
