"""The two kinds of panel that most figures are made of: lines by online step, and quantities by β. A panel knows
neither its width nor its colours: those are the theme's, of paper or of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np

from betastar.report.points import Row, extent, picked

HEIGHT = 180
SHOWN = "shown === null || indexof(shown, datum.beta) >= 0"  # `shown`: the β that the page's legend lets through
AXIS_TICKS = 7


class Panel(NamedTuple):
    """One set of axes and the words above it."""

    chart: Any
    title: str


class Figure(NamedTuple):
    """Panels in rows, or a sentence on why there are none. `caption` says what is seen and how to read it."""

    key: str
    title: str
    caption: str
    rows: list[list[Panel]]
    missing: str = ""


def missing(key: str, title: str, why: str) -> Figure:
    """A figure that this record cannot give."""
    return Figure(key, title, "", [], why)


def data(rows: Sequence[Row]) -> alt.InlineData:
    return alt.InlineData(values=tuple(rows))  # Altair copies lists again and again


def beta_colour(names: Sequence[str]) -> alt.Color:
    """The colour of a β: its place among all β of the record."""
    return alt.Color("beta:N", title="β", scale=alt.Scale(domain=list(names)))


def seen(opacity: float) -> alt.OpacityValue:
    """This opacity for the β that are shown; the others nearly vanish."""
    return alt.OpacityValue(0.04, condition={"test": SHOWN, "value": opacity})  # alt.condition takes much longer


class Axis(NamedTuple):
    """What a vertical axis shows: title, domain, whether its scale is logarithmic on both sides of zero."""

    title: str
    domain: tuple[float, float] | None = None
    symlog: bool = False

    def y(self, field: str) -> alt.Y:
        if not self.symlog:
            scale = alt.Scale(domain=list(self.domain), nice=False) if self.domain else alt.Scale(zero=False)
            return alt.Y(f"{field}:Q", title=self.title, scale=scale, axis=alt.Axis(tickCount=5))
        low, high = self.domain or (-1.0, 1.0)
        axis = alt.Axis(values=decades(low, high), format="~s")
        return alt.Y(
            f"{field}:Q", title=self.title, axis=axis, scale=alt.Scale(type="symlog", constant=1, domain=[low, high])
        )

    def with_foot(self, share: float) -> Axis:
        """The axis with this share of its height free below what it shows."""
        if self.domain is None or share == 0:
            return self
        there = [float(np.sign(v) * np.log1p(abs(v))) if self.symlog else v for v in self.domain]
        low = there[0] - (there[1] - there[0]) * share / (1 - share)
        return self._replace(domain=(float(np.sign(low) * np.expm1(abs(low))) if self.symlog else low, self.domain[1]))


def decades(low: float, high: float) -> list[float]:
    """Zero and powers of ten on both sides, few enough to be read."""
    up = range(int(np.ceil(np.log10(max(high, 1)))) + 1)
    down = range(int(np.ceil(np.log10(max(-low, 1)))) + 1)
    every = max(1, -(-(len(up) * (high > 0) + len(down) * (low < 0)) // AXIS_TICKS))
    ticks = {0.0}
    ticks |= {float(10**e) for e in up if e % every == 0 and high > 0}
    ticks |= {-float(10**e) for e in down if e % every == 0 and low < 0}
    return sorted(t for t in ticks if low <= t <= high)


def lines(
    rows: Sequence[Row],
    name: str,
    axis: Axis,
    names: Sequence[str],
    extra: Sequence[Any] = (),
    x_title: str = "online step",
) -> Any:
    """A quantity by step: a line with points for the mean over seeds, a band of one standard error."""
    x = alt.X("step:Q", title=x_title, axis=alt.Axis(tickCount=6), scale=alt.Scale(nice=False, zero=False))
    base = alt.Chart(data(_slim(rows, name)))
    colour = beta_colour(names)
    band = base.mark_area().encode(x, axis.y("low"), alt.Y2("high"), colour, opacity=seen(0.18))
    tips = [
        alt.Tooltip("beta:N", title="β"),
        alt.Tooltip("step:Q", title="step"),
        alt.Tooltip("mean:Q", title=f"mean {axis.title}", format=".4~g"),
        alt.Tooltip("error:Q", title="± standard error", format=".2~g"),
        alt.Tooltip("n:Q", title="seeds"),
    ]
    line = base.mark_line(strokeWidth=2).encode(x, axis.y("mean"), colour, opacity=seen(1), tooltip=tips)
    dots = base.mark_point(filled=True, size=26).encode(x, axis.y("mean"), colour, opacity=seen(1), tooltip=tips)
    return alt.layer(band, *extra, line, dots).properties(height=HEIGHT)


def _slim(rows: Sequence[Row], name: str) -> list[Row]:
    return [
        {
            "step": row["step"],
            "beta": row["beta"],
            "mean": row[name],
            "low": row[f"{name}_low"],
            "high": row[f"{name}_high"],
            "error": _error(row[name], row[f"{name}_high"]),
            "n": row["n"],
        }
        for row in rows
    ]


def _error(mean: float | None, high: float | None) -> float | None:
    """One standard error; None where an end is not known, or no finite number."""
    return None if mean is None or high is None else float(f"{high - mean:.3g}")


def line_rows(
    rows: Sequence[Row], name: str, title: str, names: Sequence[str], variants: Sequence[str], **limits: Any
) -> list[Panel]:
    """One panel of lines per variant, all on the same vertical scale."""
    domain = limits.pop("domain", None) or extent([row[f"{name}_{end}"] for row in rows for end in ("low", "high")])
    axis = Axis(title, domain, **limits)
    return [Panel(lines(picked(rows, variant=v), name, axis, names), variant_title(v, variants)) for v in variants]


def paired(rows: list[list[Panel]]) -> list[list[Panel]]:
    """Rows of one panel each, two to a row."""
    if any(len(row) != 1 for row in rows):
        return rows
    flat = [row[0] for row in rows]
    return [flat[i : i + 2] for i in range(0, len(flat), 2)]


def variant_title(variant: str, variants: Sequence[str]) -> str:
    return f"variant {variant}" if len(variants) > 1 else ""


def beta_axis(betas: Sequence[float | None], reach: Sequence[float] = ()) -> alt.X:
    """The horizontal axis of β: logarithmic with a tick at each, or places in order where a logarithm has none."""
    ends = beta_ends(betas, reach)
    if ends is None:
        return alt.X("beta:O", title="β", axis=alt.Axis(labelAngle=0), sort=None)
    known = sorted(b for b in set(betas) if b is not None)
    scale = alt.Scale(type="log", nice=False, domain=list(ends))
    axis = alt.Axis(values=known, format=".3~g", grid=False, labelOverlap="greedy")
    return alt.X("x:Q", title="β (log scale)", scale=scale, axis=axis)


def beta_ends(betas: Sequence[float | None], reach: Sequence[float] = ()) -> tuple[float, float] | None:
    """Where a logarithmic axis of β begins and ends; None where a β is unknown or not above zero."""
    if not betas or any(b is None or b <= 0 for b in betas):
        return None
    there = [*(b for b in betas if b is not None), *(r for r in reach if r > 0)]
    return min(there) / 1.35, max(there) * 1.35


def by_beta(
    seeds: Sequence[Row], means: Sequence[Row], axis: Axis, names: Sequence[str], x: alt.X, extra: Sequence[Any] = ()
) -> Any:
    """A quantity by β: a dot for each seed, the mean as a diamond with its 95 % interval."""
    tips = [alt.Tooltip("beta:N", title="β"), alt.Tooltip("value:Q", title=axis.title, format=".4~g")]
    seed_tips = [*tips, alt.Tooltip("seed:N", title="seed")]
    mean_tips = [
        tips[0],
        alt.Tooltip("value:Q", title=f"mean {axis.title}", format=".4~g"),
        alt.Tooltip("low:Q", title="95 % from", format=".4~g"),
        alt.Tooltip("high:Q", title="95 % to", format=".4~g"),
        alt.Tooltip("n:Q", title="seeds"),
    ]
    mean = alt.Chart(data(means))
    # Side by side, so that neither hides the other.
    interval = mean.mark_rule(style="ink", strokeWidth=1.5, xOffset=6).encode(
        x, axis.y("low"), alt.Y2("high"), opacity=seen(1), tooltip=mean_tips
    )
    bar = mean.mark_point(style="ink", shape="diamond", filled=True, size=60, xOffset=6).encode(
        x, axis.y("value"), opacity=seen(1), tooltip=mean_tips
    )
    dots = alt.Chart(data(seeds)).mark_point(filled=True, size=45, xOffset=-5)
    drawn = dots.encode(x, axis.y("value"), beta_colour(names), opacity=seen(0.85), tooltip=seed_tips)
    return alt.layer(*extra, interval, bar, drawn).properties(height=HEIGHT)


def reach_of(seeds: Sequence[Row], means: Sequence[Row], include: Sequence[float | None] = ()) -> Any:
    """The vertical extent of what `by_beta` draws."""
    values = [row["value"] for row in seeds]
    return extent([*values, *(row[end] for row in means for end in ("value", "low", "high"))], include)
