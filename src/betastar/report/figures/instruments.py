"""Figures of the instruments: how well the reward ensemble ranks pairs it has not seen, and whether signals warn."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from statistics import NormalDist
from typing import Any

import altair as alt

from betastar.report.figures.panels import Figure, Panel, data, missing
from betastar.report.points import Row, extent, number
from betastar.report.words.signs import signal_name

CALIBRATION = (
    "A calibration curve needs the predicted probability σ(margin) and the label of every held-out pair. The record "
    "keeps only accuracies and mean margins, so the curve cannot be drawn."
)


def ensemble(results: Mapping[str, Any]) -> Figure:
    """Accuracy of every reward model, and of their mean, on pairs they were not trained on; and their mean margins."""
    title = "The reward ensemble on held-out pairs"
    record = results.get("rewards")
    parts = [part for part in ("validation", "test") if (record or {}).get(part, {}).get("member_accuracy")]
    if not record or not parts:
        return missing("ensemble", title, f"No accuracy of reward models was logged. {CALIBRATION}")
    rows: list[Row] = []
    margins: list[Row] = []
    for part in parts:
        split, pairs = record[part], record[part]["pairs"]
        shares = {_member(record, k): share for k, share in enumerate(split["member_accuracy"])}
        for who, share in {**shares, "mean": split["mean_accuracy"]}.items():
            low, high = _wilson(round(share * pairs), pairs)
            rows.append({"who": who, "part": part, "value": number(share), "low": low, "high": high, "pairs": pairs})
        for k, margin in enumerate(split["member_margin"]):
            margins.append({"who": _member(record, k), "part": part, "value": number(margin)})
    order = list(dict.fromkeys(row["who"] for row in rows))
    chance = alt.Chart(data([{"at": 0.5}])).mark_rule(style="ink", strokeDash=[6, 4]).encode(alt.X("at:Q"))
    domain = extent([row[end] for row in rows for end in ("low", "high")], [0.5])
    accuracy = _forest(rows, order, "pairs ranked correctly (share)", domain, ["pairs:Q"])
    margin = _forest(margins, order, "mean margin, nats", extent([row["value"] for row in margins], [0.0]), [])
    shares = ", ".join(f"{record[p]['sign_disagreement']:.0%} ({p})".replace("%", " %") for p in parts)
    caption = (
        "Circles: validation pairs, squares: test pairs. Left: share ranked as labelled, with Wilson's 95 % interval "
        "(pairs treated as independent); dashed: chance. Right: mean score difference within a pair. Members disagree "
        f"in sign on {shares} of pairs. {CALIBRATION}"
    )
    panels = [Panel(alt.layer(chance, accuracy), "accuracy"), Panel(margin, "margin")]
    return Figure("ensemble", title, caption, [panels])


def _wilson(count: int, of: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); `scipy.stats` has it, and takes as long to import as a figure to draw."""
    z = NormalDist().inv_cdf(0.975)
    share, spread = count / of, z**2 / of
    reach = sqrt(share * (1 - share) * spread + spread**2 / 4)
    return (share + spread / 2 - reach) / (1 + spread), (share + spread / 2 + reach) / (1 + spread)


def _member(record: Mapping[str, Any], place: int) -> str:
    """What a reward model is called by its place in the lists of the record."""
    seeds, members = record.get("seeds"), record["members"]
    return f"seed {seeds[place // members]}, member {place % members}" if seeds else f"member {place}"


def warning_signs(results: Mapping[str, Any]) -> Figure:
    """Whether a signal tells the points before a fall of the true reward from the others: ROC area with interval."""
    title, signs = "Do the warning signs warn?", results["warning_signs"]
    horizon, rows = signs["headline_horizon"], []
    for name, signal in signs["pooled"]["signals"].items():
        roc = next(entry for entry in signal["roc"] if entry["horizon"] == horizon)
        low, high = number(roc["interval"]["low"]), number(roc["interval"]["high"])
        if roc["area"] is not None and low is not None and name != "constant":
            row = {"who": signal_name(name), "part": "pooled", "value": number(roc["area"])}
            rows.append({**row, "low": low, "high": high, "events": roc["n_positive"]})
    if not rows:
        return missing(
            "signs", title, "No area under the ROC curve has an interval in this record; the table says why."
        )
    order = [row["who"] for row in rows]
    chance = alt.Chart(data([{"at": 0.5}])).mark_rule(style="ink", strokeDash=[6, 4]).encode(alt.X("at:Q"))
    domain = extent([row[end] for row in rows for end in ("low", "high")], [0.5])
    areas = _forest(rows, order, "area under the ROC curve", domain, ["events:Q"])
    caption = (
        f"A point comes before a fall if the true reward is lower by {signs['drop']:g} or more within {horizon} "
        "points. Dots: area under the ROC curve among points of the same step, all runs pooled; bars: 95 % interval "
        "over seeds; dashed: the clock. In brackets: free baselines. Left of the line, the signal warns in the other "
        "direction."
    )
    return Figure("signs", title, caption, [[Panel(alt.layer(chance, areas), "")]])


def _forest(rows: list[Row], order: list[str], title: str, domain: Any, more: list[str]) -> Any:
    """Values with intervals, one line each; several parts of the data as shapes, one above the other."""
    x = alt.X(
        "value:Q", title=title, scale=alt.Scale(domain=list(domain), nice=False, zero=False), axis=alt.Axis(tickCount=5)
    )
    y = alt.Y("who:N", title=None, sort=order, axis=alt.Axis(grid=False))
    parts = list(dict.fromkeys(row["part"] for row in rows))
    shape = alt.Shape("part:N", title=None, scale=alt.Scale(domain=parts, range=["circle", "square"][: len(parts)]))
    shape = shape if len(parts) > 1 else alt.Shape("part:N", legend=None)
    offset = alt.YOffset("part:N", sort=parts)
    tips = [alt.Tooltip("who:N", title="of"), alt.Tooltip("part:N", title="on"), alt.Tooltip("value:Q", format=".3~g")]
    tips += [
        alt.Tooltip(f"{end}:Q", title=f"95 % {word}", format=".3~g")
        for end, word in (("low", "from"), ("high", "to"))
        if end in rows[0]
    ]
    tips += [alt.Tooltip(field) for field in more]
    base = alt.Chart(data(rows))
    dots = base.mark_point(style="ink", filled=True, size=50, opacity=1).encode(x, y, shape, tooltip=tips)
    layers = [dots.encode(yOffset=offset) if len(parts) > 1 else dots]
    if "low" in rows[0]:
        bar = base.mark_rule(style="ink", strokeWidth=1.5).encode(
            alt.X("low:Q", title=title), alt.X2("high"), y, tooltip=tips
        )
        layers.insert(0, bar.encode(yOffset=offset) if len(parts) > 1 else bar)
    return alt.layer(*layers).properties(height=(26 if len(parts) == 1 else 36) * len(order))
