"""Figures by online step: both rewards, both forms of the gap, the signals, and the path through both rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from betastar.record.entries import REGISTRY
from betastar.report.figures.panels import (
    HEIGHT,
    Axis,
    Figure,
    Panel,
    beta_colour,
    data,
    line_rows,
    lines,
    missing,
    paired,
    seen,
    variant_title,
)
from betastar.report.points import Row, extent, known, labels, of_seeds, over_seeds, picked, series_frame

FORMS = {form: REGISTRY.get("point", f"gap_{form}").axis for form in ("standardised", "paper")}
# Shown first, in this order; other warning signs of the registry follow, but for those that repeat one of these.
FIRST = ("disagreement", "response_entropy", "kl", "response_tokens", "diversity", "ood_distance")
REPEATED = ("disagreement_centred", "at_limit")
FOOT = 8  # height in pixels of a line of onset marks


def band(results: Mapping[str, Any]) -> str:
    """What lines and bands are."""
    seeds = len({r["seed"] for r in results["conditions"]})
    if seeds == 1:
        return "Lines: the only seed, so there is no band of uncertainty."
    return f"Lines: mean over {seeds} seeds; bands: ± one standard error."


def rewards(results: Mapping[str, Any]) -> Figure:
    """The key figure: true and proxy reward by step, for each β."""
    points, of_beta = series_frame(results), labels(results)
    rows = over_seeds(points, ["proxy", "true_strict"], of_beta)
    variants, names = list(results["summary"]), list(of_beta.values())
    ours = "rewards" in results
    share = points["true_strict"].between(0, 1).all()
    true = "true reward (share exact)" if ours else "true reward"
    panels = [
        line_rows(rows, "true_strict", true, names, variants, domain=_of_share(rows) if share else None),
        line_rows(rows, "proxy", "proxy reward", names, variants),
    ]
    caption = f"The true reward is only observed; the proxy is what adaptation optimises. {band(results)}"
    return Figure("rewards", "True reward and proxy during online adaptation", caption, panels)


def _of_share(rows: Sequence[Row]) -> tuple[float, float]:
    """The vertical extent of a share: what was seen, at least 0.2 of it, within 0 and 1."""
    low, high = extent([row[f"true_strict_{end}"] for row in rows for end in ("low", "high")]) or (0.0, 1.0)
    spare = max(0.0, 0.2 - (high - low)) / 2
    return max(0.0, low - spare), min(1.0, high + spare)


def gap(results: Mapping[str, Any]) -> Figure:
    """Figure 3 of the paper: the Goodhart gap by step, τ, and where each run first passes it."""
    points, of_beta = series_frame(results), labels(results)
    variants, names = list(results["summary"]), list(of_beta.values())
    title = "Goodhart gap by online step (the paper's Figure 3)"
    forms = [form for form in FORMS if known(points, f"gap_{form}")]
    if not forms:
        return missing("gap", title, "Neither form of the gap is defined for these runs.")
    rows = over_seeds(points, [f"gap_{form}" for form in forms], of_beta)
    panels = []
    for form in forms:
        name, tau = f"gap_{form}", results["threshold"][form]
        domain = extent([row[f"{name}_{end}"] for row in rows for end in ("low", "high")], [0.0, tau])
        onsets = {v: _onsets(results, v, form, of_beta) for v in variants}
        foot = (FOOT * len(names) + 6) / HEIGHT if any(onsets.values()) else 0.0
        axis = Axis(FORMS[form], domain, symlog=form == "paper").with_foot(min(foot, 0.5))
        row = []
        for variant in variants:
            extra = [_zero(axis), *_threshold(axis, tau), *onsets[variant]]
            chart = lines(picked(rows, variant=variant), name, axis, names, extra)
            row.append(Panel(chart, ", ".join(t for t in (variant_title(variant, variants), f"{form} form") if t)))
        panels.append(row)
    caption = (
        f"{band(results)} Dashed: hacking threshold τ, the 75th percentile of all positive gaps of these runs. "
        "Triangles at the bottom: the first step at which a run's gap exceeds τ, in the colour of its line."
    )
    if "paper" in forms:
        caption += (
            " The paper's form divides by the reward at t = 0, which may be near zero; its scale is logarithmic on "
            "both sides of zero (linear from −1 to 1)."
        )
    return Figure("gap", title, caption, panels)


def signals(results: Mapping[str, Any]) -> Figure:
    """What a monitor without the truth would see, by step."""
    points, of_beta = series_frame(results), labels(results)
    variants, names = list(results["summary"]), list(of_beta.values())
    title = "Signals that need no ground truth"
    axes = {name: REGISTRY.get("point", name).axis for name in _signals()}
    there = [name for name in axes if known(points, name)]
    if not there:
        return missing("signals", title, f"None of {', '.join(axes.values())} was logged.")
    rows = over_seeds(points, there, of_beta)
    panels = paired([line_rows(rows, name, axes[name], names, variants) for name in there])
    absent = [axis for name, axis in axes.items() if name not in there]
    caption = band(results) + (f" Not logged: {', '.join(absent)}." if absent else "")
    return Figure("signals", title, caption, panels)


def _signals() -> list[str]:
    shown = [m for m in REGISTRY.signals if m in REGISTRY.series]
    return [*FIRST, *(m.name for m in shown if m.name not in (*FIRST, *REPEATED))]


def path(results: Mapping[str, Any]) -> Figure:
    """Proxy against true reward as a path through time: hacking is a path to the right and down."""
    points, of_beta = series_frame(results), labels(results)
    variants, names = list(results["summary"]), list(of_beta.values())
    both = ["proxy", "true_strict"]
    means, seeds = over_seeds(points, both, of_beta), of_seeds(points, both, of_beta)
    x_domain, y_domain = (extent([row[name] for row in seeds]) for name in both)
    title = "Proxy against true reward over time"
    if x_domain is None or y_domain is None:
        return Figure("path", title, "No evaluation point has both rewards as finite numbers.", [])
    axis = Axis("true reward", y_domain)
    row = [
        Panel(
            _path(picked(means, variant=v), picked(seeds, variant=v), names, x_domain, axis), variant_title(v, variants)
        )
        for v in variants
    ]
    caption = (
        "Each line runs from the circle (t = 0) to the triangle (last step), one dot per evaluation; thick: mean over "
        "seeds, thin: each seed. Up and right is honest improvement; right and down is hacking."
    )
    return Figure("path", title, caption, [row])


def _path(means: Sequence[Row], seeds: Sequence[Row], names: Sequence[str], x_domain: Any, axis: Axis) -> Any:
    x_scale = alt.Scale(domain=list(x_domain), nice=False)
    x = alt.X("proxy:Q", title="proxy reward", scale=x_scale, axis=alt.Axis(tickCount=6))
    y, colour, order = axis.y("true_strict"), beta_colour(names), alt.Order("step:Q")
    tips = [
        alt.Tooltip("beta:N", title="β"),
        alt.Tooltip("step:Q", title="step"),
        alt.Tooltip("proxy:Q", title="proxy", format=".3~g"),
        alt.Tooltip("true_strict:Q", title="true", format=".3~g"),
    ]
    slim = [{k: row[k] for k in ("beta", "step", "proxy", "true_strict")} for row in means]
    last = {row["beta"]: row["step"] for row in slim}
    ends = [row for row in slim if row["step"] == last[row["beta"]]]
    first = {row["beta"]: row["step"] for row in reversed(slim)}
    starts = [row for row in slim if row["step"] == first[row["beta"]]]
    thin = (
        alt.Chart(data(seeds))
        .mark_line(strokeWidth=0.8)
        .encode(x, y, colour, order=order, detail="seed:N", opacity=seen(0.35))
    )
    base = alt.Chart(data(slim))
    thick = base.mark_line(strokeWidth=2.2).encode(x, y, colour, order=order, opacity=seen(1))
    dots = base.mark_point(filled=True, size=18).encode(x, y, colour, opacity=seen(1), tooltip=tips)
    start = alt.Chart(data(starts)).mark_point(shape="circle", size=90, strokeWidth=2, filled=False)
    end = alt.Chart(data(ends)).mark_point(shape="triangle-up", size=110, filled=True)
    marks = [mark.encode(x, y, colour, opacity=seen(1), tooltip=tips) for mark in (start, end)]
    return alt.layer(thin, thick, dots, *marks).properties(height=HEIGHT + 60)


def _zero(axis: Axis) -> Any:
    return alt.Chart(data([{"at": 0.0}])).mark_rule(style="ink", strokeWidth=0.7).encode(axis.y("at"))


def _threshold(axis: Axis, tau: float | None) -> list[Any]:
    if tau is None:
        return []
    base = alt.Chart(data([{"at": tau, "text": f"τ = {tau:.3g}"}]))
    words = base.mark_text(style="note", align="left", baseline="bottom", dx=3, dy=-2)
    return [
        base.mark_rule(style="ink", strokeDash=[6, 4]).encode(axis.y("at")),
        words.encode(axis.y("at"), alt.Text("text:N"), x=alt.value(0)),
    ]


def _onsets(results: Mapping[str, Any], variant: str, form: str, of_beta: Mapping[float | None, str]) -> list[Any]:
    """Triangles at the foot of the panel, a line of them per β, so that equal onsets do not hide each other."""
    field = "onset_step" if form == "standardised" else "onset_step_paper"
    names, layers = list(of_beta.values()), []
    for place, (beta, name) in enumerate(of_beta.items()):
        steps: dict[int, list[str]] = {}
        for record in results["conditions"]:
            if record["variant"] == variant and record["beta"] == beta and record.get(field) is not None:
                steps.setdefault(record[field], []).append(str(record["seed"]))
        rows = [{"step": step, "beta": name, "seeds": ", ".join(seeds)} for step, seeds in sorted(steps.items())]
        if rows:
            marks = alt.Chart(data(rows)).mark_point(shape="triangle-up", filled=True, size=55)
            tips = [
                alt.Tooltip("beta:N", title="β"),
                alt.Tooltip("step:Q", title="onset at step"),
                alt.Tooltip("seeds:N", title="of seed"),
            ]
            layers.append(
                marks.encode(
                    alt.X("step:Q"),
                    beta_colour(names),
                    y=alt.value(HEIGHT - 6 - FOOT * place),
                    opacity=seen(1),
                    tooltip=tips,
                )
            )
    return layers
