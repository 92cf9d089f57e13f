"""Figures by β: end truth and regret, damage with the fitted law and β★, entropy, the mechanism, variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import altair as alt
import numpy as np

from betastar.maths.constants import INTERPOLATION
from betastar.record.entries import REGISTRY
from betastar.record.schema import FORMS
from betastar.report.figures.panels import (
    HEIGHT,
    Axis,
    Figure,
    Panel,
    beta_axis,
    beta_ends,
    by_beta,
    data,
    missing,
    paired,
    reach_of,
    variant_title,
)
from betastar.report.points import Row, labels, mean_row, mean_values, number, seed_values
from betastar.report.words.numbers import defined

STRIP = 1.14  # half the width of the strip at a chosen β, as a factor
DOTS = "Dots: seeds; diamonds: mean with 95 % interval"
FROM_ZERO = ("entropy_collapse", "regret")
MECHANISM = ("augc_standardised", "policy_entropy_start", "ood_distance_start", "disagreement_mean")


def end_truth(results: Mapping[str, Any]) -> Figure:
    """True reward at the end by β, the β that cannot be distinguished from the best shaded."""
    title, variants = "True reward at the end by β", list(results["summary"])
    row = _quantity_row(results, "true_end", variants, mark=True)
    if not row:
        return missing("end_truth", title, "The true reward at the end is undefined in every run.")
    caption = f"{DOTS} over seeds."
    if any(defined(results["decision"][v]["choose"]["best"]) for v in variants):
        caption += " Shaded: the values of β that cannot be distinguished from the best."
    return Figure("end_truth", title, caption, [row])


def regret(results: Mapping[str, Any]) -> Figure:
    """Regret by β."""
    title, variants = "Regret by β", list(results["summary"])
    row = _quantity_row(results, "regret", variants)
    if not row:
        return missing("regret", title, "Regret is undefined in every run.")
    caption = (
        f"Regret is what stopping at the best step would have kept of the true reward. {DOTS} over seeds. Above zero, "
        "the truth had been higher before the end."
    )
    return Figure("regret", title, caption, [row])


def augc(results: Mapping[str, Any]) -> Figure:
    """Figure 5 of the paper: damage by β with the fitted law; zones where there is a β★."""
    variants, title = list(results["summary"]), "Damage by β with the fitted law (the paper's Figure 5)"
    rows, notes = [], []
    for form in FORMS:
        row = _quantity_row(results, f"augc_{form}", variants, form)
        if row:
            rows.append(row)
            notes += [_law_note(results["summary"][v][form], f"{v}, {form} form") for v in variants]
    if not rows:
        return missing("augc", title, "AUGC is undefined in every run.")
    parts = [results["summary"][v][form] for v in variants for form in FORMS]
    if any(_is_drawn(part["law"]) for part in parts):
        notes.insert(0, "Dashed: the fitted a·β^b + c.")
    else:
        notes.insert(0, "No fitted law is drawn, because none beats a constant.")
    if any(part["beta_star"]["value"] is not None for part in parts):
        notes.insert(
            1, "Vertical line: β★, with its 95 % interval at the bottom; safe to its left, danger to its right."
        )
    caption = f"{DOTS} over seeds. {' '.join(n for n in notes if n)}"
    return Figure("augc", title, caption, rows)


def entropy(results: Mapping[str, Any]) -> Figure:
    """Figure 4 of the paper: entropy of the checkpoints, and its collapse while they adapt."""
    variants, title = list(results["summary"]), "Entropy at the checkpoint and its collapse (the paper's Figure 4)"
    rows = [_quantity_row(results, name, variants) for name in ("policy_entropy_start", "entropy_collapse")]
    if not any(rows):
        return missing("entropy", title, "The policy's entropy on the probe prompts was not logged.")
    caption = (
        f"{DOTS}. Collapse is the checkpoint's entropy minus that at the end of adaptation: above zero, entropy was "
        "lost. Variants share their checkpoints. The paper's Proposition 5.1 says that entropy falls, its own proof "
        "derives ∂H/∂β ≥ 0; either can happen."
    )
    return Figure("entropy", title, caption, paired([row for row in rows if row]))


def mechanism(results: Mapping[str, Any]) -> Figure:
    """Figure 6 of the paper: damage, entropy, distance and disagreement by β."""
    variants, title = list(results["summary"]), "The mechanism (the paper's Figure 6)"
    found = {name: row for name in MECHANISM if (row := _quantity_row(results, name, variants))}
    if len(found) < 2:
        return missing("mechanism", title, "Entropy, OOD distance and û were not logged: only damage by β is known.")
    absent = [REGISTRY.summary(name).axis for name in MECHANISM if name not in found]
    caption = (
        f"{DOTS}. Entropy and OOD distance are those of the checkpoint, as in Algorithm 1; û is the mean over the "
        "online phase." + (f" Not logged: {', '.join(absent)}." if absent else "")
    )
    return Figure("mechanism", title, caption, paired(list(found.values())))


def variants(results: Mapping[str, Any]) -> Figure:
    """Variants side by side: their difference in truth and in damage at each β, paired within seeds."""
    title, of_beta = "Variants side by side", labels(results)
    pairs = [p for p in results["differences"] if p["by_beta"]]
    if not pairs:
        only = len(results["summary"]) < 2
        why = "There is only one variant" if only else "No two variants have a β in common"
        return missing("variants", title, f"{why}, so there is nothing to compare.")
    rows = []
    names = {"true_end": "true reward difference", "augc_standardised": "AUGC difference"}
    for pair in pairs:
        row = []
        for name, axis_title in names.items():
            means = [mean_row(r["beta"], of_beta, r[name]) for r in pair["by_beta"]]
            seeds = _paired_seeds(results, pair, REGISTRY.summary(name).value_path)
            if any(m["value"] is not None for m in means):
                axis = Axis(axis_title, reach_of(seeds, means, [0.0]))
                x = beta_axis([m["x"] for m in means])
                chart = by_beta(seeds, means, axis, list(of_beta.values()), x, [_zero(axis)])
                words = "true reward at the end" if name == "true_end" else "AUGC, standardised form"
                row.append(Panel(chart, f"{pair['variant']} minus {pair['minus']}: {words}"))
        rows.append(row)
    if not any(rows):
        return missing("variants", title, "The differences between variants are undefined.")
    caption = "Differences within seeds at the same β. Dots: seeds; diamonds: mean with 95 % interval."
    return Figure("variants", title, caption, [row for row in rows if row])


def _quantity_row(
    results: Mapping[str, Any],
    name: str,
    variants: Sequence[str],
    form: str | None = None,
    mark: bool = False,
) -> list[Panel]:
    """A quantity by β, a panel per variant on one scale; nothing where it is undefined everywhere. With a `form`, the
    law of that form and what follows from it are drawn too; `mark`: the β to choose are shaded."""
    of_beta, measure = labels(results), REGISTRY.summary(name)
    seeds = {v: seed_values(results, v, measure.value_path) for v in variants}
    means = {v: mean_values(results, v, name) for v in variants}
    every_seed, every_mean = [*chain(*seeds.values())], [*chain(*means.values())]
    if not any(row["value"] is not None for row in every_seed):
        return []
    axis = Axis(measure.axis, reach_of(every_seed, every_mean, [0.0] if name in FROM_ZERO else []))
    panels = []
    for variant in variants:
        x, extra = beta_axis([row["x"] for row in seeds[variant]]), []
        if form is not None and beta_ends(results["summary"][variant]["betas"]) is not None:
            x, extra = _law_layers(results["summary"][variant], form, axis, x)
        elif name in FROM_ZERO:
            extra = [_zero(axis)]
        elif mark:
            extra = _chosen(results, variant)
        chart = by_beta(seeds[variant], means[variant], axis, list(of_beta.values()), x, extra)
        words = [variant_title(variant, variants), f"{form} form" if form else ""]
        panels.append(Panel(chart, ", ".join(word for word in words if word)))
    return panels


def _chosen(results: Mapping[str, Any], variant: str) -> list[Any]:
    """A shaded strip at every β that may be chosen; none where β has no logarithm, or nothing can be chosen."""
    found = results["decision"][variant]["choose"]
    if not defined(found["best"]) or beta_ends(results["summary"][variant]["betas"]) is None:
        return []
    x = beta_axis(results["summary"][variant]["betas"])
    strips = [{"x": beta / STRIP, "to": beta * STRIP} for beta in found["betas"]]
    return [alt.Chart(data(strips)).mark_rect(style="safe", opacity=0.16, clip=True).encode(x, alt.X2("to"))]


def _law_layers(summary: Mapping[str, Any], form: str, axis: Axis, x: alt.X) -> tuple[alt.X, list[Any]]:
    """The fitted line, and zones on either side of β★ with its interval; and the axis, long enough for β★."""
    law, star = summary[form]["law"], summary[form]["beta_star"]
    betas, value = summary["betas"], number(star["value"])
    layers: list[Any] = []
    if value is not None:
        x = beta_axis(betas, [value])
        low, high = beta_ends(betas, [value]) or (value, value)
        layers += _zones(value, star["interval"], low, high, x)
    if _is_drawn(law):
        at = np.geomspace(min(betas), max([max(betas), value or 0]), 60)
        rows = [{"x": number(b), "value": number(law["a"] * b ** law["b"] + law["c"])} for b in at]
        layers.append(
            alt.Chart(data(rows))
            .mark_line(style="ink", strokeDash=[5, 4], strokeWidth=1.5, clip=True)
            .encode(x, axis.y("value"))
        )
    return x, layers


def _is_drawn(law: Mapping[str, Any]) -> bool:
    return law["a"] is not None and law["beats_constant"] is not False


def _zones(value: float, interval: Mapping[str, Any], low: float, high: float, x: alt.X) -> list[Any]:
    zones = [{"x": low, "to": value, "zone": "safe"}, {"x": value, "to": high, "zone": "danger"}]
    layers: list[Any] = []
    for zone in zones:
        base = alt.Chart(data([zone]))
        layers.append(base.mark_rect(style=zone["zone"], opacity=0.13).encode(x, alt.X2("to")))
        middle = alt.Chart(data([{"x": float(np.sqrt(zone["x"] * zone["to"])), "zone": zone["zone"]}]))
        layers.append(middle.mark_text(style="note", baseline="top").encode(x, alt.Text("zone:N"), y=alt.value(4)))
    ends = [number(interval["low"]), number(interval["high"])]
    mark = alt.Chart(data([{"x": value, "text": f"β★ {value:.3g}"}]))
    layers.append(
        mark.mark_rule(style="ink", strokeWidth=1.5).encode(x, tooltip=[alt.Tooltip("x:Q", title="β★", format=".3~g")])
    )
    if None not in ends:
        row = {"x": max(ends[0] or low, low), "to": min(ends[1] or high, high), "low": ends[0], "high": ends[1]}
        tips = [alt.Tooltip("low:Q", title="β★, 95 % from"), alt.Tooltip("high:Q", title="to")]
        bar = alt.Chart(data([row])).mark_rule(style="ink", strokeWidth=4)
        layers.append(bar.encode(x, alt.X2("to"), y=alt.value(HEIGHT - 5), tooltip=tips))
    return layers


def _law_note(part: Mapping[str, Any], name: str) -> str:
    star, law = part["beta_star"], part["law"]
    exact = " (exact by construction: interpolation, not evidence)" if law["label"] == INTERPOLATION else ""
    if star["value"] is None:
        return f"{name}: the line is not evidence{exact}." if _is_drawn(law) and exact else ""
    label = exact or (f" ({star['label']})" if star["label"] else "")
    low, high = number(star["interval"]["low"]), number(star["interval"]["high"])
    bounds = ", without an interval" if low is None else f", 95 % interval {low:.3g} to {high or np.inf:.3g}"
    return f"{name}: β★ = {star['value']:.3g}{bounds}{label}."


def _paired_seeds(results: Mapping[str, Any], pair: Mapping[str, Any], where: Sequence[str]) -> list[Row]:
    sides = [{(r["x"], r["seed"]): r for r in seed_values(results, pair[k], where)} for k in ("variant", "minus")]
    rows = []
    for key, row in sides[0].items():
        other = sides[1].get(key)
        if other and None not in (row["value"], other["value"]):
            rows.append({**row, "value": number(row["value"] - other["value"])})
    return rows


def _zero(axis: Axis) -> Any:
    return alt.Chart(data([{"at": 0.0}])).mark_rule(style="ink", strokeWidth=0.7).encode(axis.y("at"))
