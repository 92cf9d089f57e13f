"""The charts of a run. One definition each, drawn offline to PNG; data come from `results.json` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

PNG_SCALE = 2
# Viridis without its pale end: ordered, readable in print and without colour vision.
COLOURS = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#8fd744")
WIDTH, HEIGHT = 300, 170
FORM_TITLES = {
    "standardised": "Standardised gap (sd)",
    "paper": "Gap, Def. 3.1",
}


def write_charts(results: Mapping[str, Any], folder: Path) -> None:
    """`rewards.png`, `gap.png` and `augc.png` into a folder."""
    charts = {"rewards": rewards_chart(results), "gap": gap_chart(results), "augc": augc_chart(results)}
    for name, chart in charts.items():
        chart.save(str(folder / f"{name}.png"), format="png", scale_factor=PNG_SCALE)


def rewards_chart(results: Mapping[str, Any]) -> alt.VConcatChart:
    """Proxy and true reward by online step, mean over seeds with a band of one standard error."""
    points = series_frame(results)
    ours = "rewards" in results
    share = points["true_strict"].between(0, 1).all()
    true = "True reward (exact answers)" if ours else "True reward"
    rows = [
        _lines(points, "proxy", "Proxy reward (ensemble mean)" if ours else "Proxy reward", results),
        _lines(points, "true_strict", true, results, domain=(0, 1) if share else None),
    ]
    return _finish(
        alt.vconcat(*rows), "Proxy and true reward during online adaptation: mean over seeds ± standard error", results
    )


def gap_chart(results: Mapping[str, Any]) -> alt.VConcatChart:
    """Both forms of the Goodhart gap by step, with the hacking threshold τ."""
    points = series_frame(results)
    rows = [
        _lines(points, f"gap_{form}", title, results, rule=results["threshold"][form], symlog=form == "paper")
        for form, title in FORM_TITLES.items()
        if _known(points, f"gap_{form}")
    ]
    return _finish(
        alt.vconcat(*rows), "Goodhart gap: mean over seeds ± standard error; dashed: hacking threshold τ", results
    )


def augc_chart(results: Mapping[str, Any]) -> alt.VConcatChart:
    """AUGC by β for both forms: every seed, the mean, and the fitted law where one was found."""
    points = pd.DataFrame(
        [
            {
                "variant": r["variant"],
                "beta": r["beta"],
                "seed": str(r["seed"]),
                **{f: r[f"augc_{f}"] for f in FORM_TITLES},
            }
            for r in results["conditions"]
        ]
    )
    rows = []
    for form in FORM_TITLES:
        if not _known(points, form):
            continue
        columns = []
        for variant in results["summary"]:
            mine = points[points["variant"] == variant]
            x = alt.X("beta:Q", title="β (log scale)", scale=alt.Scale(type="log", nice=False, padding=12))
            if not _known(mine, "beta"):
                x = alt.X("beta:O", title="β", axis=alt.Axis(labelExpr="'unknown'", labelAngle=0))
            y = alt.Y(f"{form}:Q", title=f"AUGC, {form} (gap × steps)")
            colour = _beta_colour(results)
            dots = alt.Chart(mine).mark_point(filled=True, size=45, opacity=0.75).encode(
                x, y, colour, tooltip=["beta", "seed", alt.Tooltip(form, format=".3g")]
            )  # fmt: skip
            mean = alt.Chart(mine).mark_tick(thickness=2, width=26, color="black").encode(x, y=f"mean({form}):Q")
            layers = [dots, mean]
            law = _law(results["summary"][variant][form]["law"], results["summary"][variant]["betas"])
            if law is not None:
                layers.append(alt.Chart(law).mark_line(color="#555", strokeDash=[4, 3]).encode(x, y=alt.Y("augc:Q")))
            columns.append(alt.layer(*layers).properties(title=f"variant {variant}", width=WIDTH, height=HEIGHT))
        rows.append(alt.hconcat(*columns).resolve_scale(y="shared"))
    title = "AUGC by β: seeds (dots), mean (tick), fitted a·βᵇ + c (dashed)"
    return _finish(alt.vconcat(*rows), title, results)


def series_frame(results: Mapping[str, Any]) -> pd.DataFrame:
    """All evaluation points, one row each."""
    frames = []
    for record in results["conditions"]:
        frame = pd.DataFrame(record["series"], dtype=float)
        frames.append(frame.assign(variant=record["variant"], beta=record["beta"], seed=record["seed"]))
    return pd.concat(frames, ignore_index=True).astype({"beta": float})


def _known(points: Any, name: str) -> bool:
    """Whether a column has any number."""
    return bool(points[name].notna().any())


def _lines(
    points: pd.DataFrame,
    name: str,
    title: str,
    results: Mapping[str, Any],
    domain: tuple[float, float] | None = None,
    rule: float | None = None,
    symlog: bool = False,
) -> alt.HConcatChart:
    grouped = _over_seeds(points, name)
    scale = alt.Scale(type="symlog", constant=1) if symlog else alt.Scale(domain=domain or alt.Undefined, zero=False)
    columns = []
    for variant in results["summary"]:
        mine = grouped[grouped["variant"] == variant]
        x = alt.X("step:Q", title="Online step")
        colour = _beta_colour(results)
        band = (
            alt.Chart(mine)
            .mark_area(opacity=0.2)
            .encode(x, alt.Y("low:Q", title=title, scale=scale), alt.Y2("high"), colour)
        )
        tooltip = ["beta", "step", alt.Tooltip("mean", format=".3f")]
        y = alt.Y("mean:Q", title=title, scale=scale)
        line = alt.Chart(mine).mark_line(strokeWidth=2).encode(x, y, colour, tooltip=tooltip)
        layers = [band, line]
        if rule is not None:
            dashes = alt.Chart(pd.DataFrame({"tau": [rule]})).mark_rule(strokeDash=[6, 4], color="#555")
            layers.append(dashes.encode(alt.Y("tau:Q", title=title, scale=scale)))
        columns.append(alt.layer(*layers).properties(title=f"variant {variant}", width=WIDTH, height=HEIGHT))
    return alt.hconcat(*columns).resolve_scale(y="shared")


def _over_seeds(points: pd.DataFrame, name: str) -> pd.DataFrame:
    """`mean` over seeds with `low` and `high`, one standard error below and above, by variant, β and step. A seed that
    was not evaluated at a step which others have counts there by the straight line between its neighbours."""
    frames = []
    groups: Any = points.groupby(["variant", "beta"], dropna=False)
    for (variant, beta), group in groups:
        seeds = group.pivot(index="step", columns="seed", values=name).interpolate(method="index", limit_area="inside")
        mean, error = seeds.mean(axis=1), seeds.sem(axis=1).fillna(0.0)
        frame = pd.DataFrame({"mean": mean, "low": mean - error, "high": mean + error}).reset_index()
        frames.append(frame.assign(variant=variant, beta=beta))
    return pd.concat(frames, ignore_index=True)


def _beta_colour(results: Mapping[str, Any]) -> alt.Color:
    """The same colour for the same β everywhere, dark to light with β."""
    betas = sorted({r["beta"] for r in results["conditions"]}, key=lambda beta: (beta is None, beta))
    places = np.linspace(0, len(COLOURS) - 1, len(betas)).round().astype(int) if len(betas) > 1 else [2]
    colours = [COLOURS[i] for i in places]
    legend = alt.Legend(labelExpr="datum.value === null ? 'unknown' : format(datum.value, '.3g')")
    return alt.Color("beta:O", title="β", scale=alt.Scale(domain=betas, range=colours), legend=legend)


def _law(fit: Mapping[str, Any], betas: Sequence[float]) -> pd.DataFrame | None:
    if fit["a"] is None or fit["beats_constant"] is False:
        return None
    x = np.geomspace(min(betas), max(betas), 60)
    return pd.DataFrame({"beta": x, "augc": fit["a"] * x ** fit["b"] + fit["c"]})


def _finish(chart: alt.VConcatChart, title: str, results: Mapping[str, Any]) -> alt.VConcatChart:
    seeds = len({r["seed"] for r in results["conditions"]})
    count = f"{seeds} seeds" if seeds > 1 else "1 seed"
    heading = alt.TitleParams(title, subtitle=f"run {results['name']}, {count}", anchor="start", fontSize=15)
    return chart.properties(title=heading).configure(font="Helvetica, Arial, sans-serif").configure_view(stroke="#ccc")
