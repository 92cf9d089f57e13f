"""Colours and themes. β is an ordered scale: hue and lightness rise together, so the order survives print and colour
blindness; a β has the same colour in every chart. The page has a light and a dark set, the figures on paper the light.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Seven steps of OKLCH from purple to amber. Each has a contrast of 3 or more with its background, white or near black.
LIGHT = ("#500462", "#362f8e", "#085681", "#066e75", "#06855f", "#6a900e", "#b48c05")
DARK = ("#a55fb9", "#7f83e9", "#2faaf5", "#1bc8d4", "#48e0a9", "#bae573", "#ffe29b")
INK, MUTED, RULE = "#1b1f24", "#555c66", "#d7dbe0"
SAFE, DANGER = "#3b76c4", "#d9730d"  # blue and orange: told apart by every common kind of colour vision
SANS = "Helvetica, Arial, sans-serif"


def colours(n: int, anchors: Sequence[str] = LIGHT) -> list[str]:
    """`n` colours from the first to the last anchor; a single one is taken from the middle."""
    if n == 1:
        return [anchors[len(anchors) // 2]]
    return [_between(anchors, i * (len(anchors) - 1) / (n - 1)) for i in range(n)]


def beta_labels(betas: Sequence[float | None]) -> dict[float | None, str]:
    """A short name of each β, in order; three digits where they suffice to tell them apart."""
    ordered = sorted(set(betas), key=lambda beta: (beta is None, beta))
    known = [beta for beta in ordered if beta is not None]
    digits = next((d for d in range(3, 17) if len({f"{beta:.{d}g}" for beta in known}) == len(known)), 17)
    named: dict[float | None, str] = {beta: f"{beta:.{digits}g}" for beta in known}
    return {**named, None: "unknown"} if None in ordered else named


def print_theme(n_beta: int) -> dict[str, Any]:
    """Vega-Lite configuration of the figures on paper."""
    theme = _theme(INK, MUTED, RULE, SAFE, DANGER, SANS, colours(n_beta))
    return {**theme, "background": "white"}


PAPER_FONT = 8  # pt, of every word in a figure for a paper


def paper_theme(n_beta: int, columns: int) -> dict[str, Any]:
    """Vega-Lite configuration of a figure for a paper, in points: one size of type, thin lines, the legend above in so
    many columns."""
    theme = print_theme(n_beta)
    small = {"labelFontSize": PAPER_FONT, "titleFontSize": PAPER_FONT}
    return {
        **theme,
        "axis": {**theme["axis"], **small, "labelColor": INK, "titlePadding": 4, "tickSize": 3, "gridWidth": 0.5},
        "legend": {
            **theme["legend"],
            **small,
            "titleFontWeight": "normal",
            "orient": "top",
            "titleOrient": "left",
            "columns": columns,
            "direction": "horizontal",
            "offset": 4,
            "columnPadding": 6,
            "symbolSize": 24,
        },
        "title": {**theme["title"], "fontSize": PAPER_FONT, "fontWeight": "bold", "offset": 4},
        "style": {**theme["style"], "note": {"color": INK, "fontSize": PAPER_FONT}},
        "concat": {"spacing": 8},
    }


def page_theme(n_beta: int) -> dict[str, Any]:
    """Vega-Lite configuration of the charts in the page: colours are variables of its style sheet, so dark mode and
    printing need no second drawing. The page has a legend of its own, which filters all charts at once."""
    scale = [f"var(--beta-{i})" for i in range(n_beta)]
    theme = _theme("var(--ink)", "var(--muted)", "var(--rule)", "var(--safe)", "var(--danger)", "system-ui", scale)
    return {**theme, "background": "transparent", "legend": {"disable": True}}


def _theme(ink: str, muted: str, rule: str, safe: str, danger: str, font: str, scale: list[str]) -> dict[str, Any]:
    return {
        "font": font,
        "view": {"stroke": rule},
        "range": {"category": scale, "ordinal": scale},
        "axis": {
            "labelColor": muted,
            "titleColor": ink,
            "gridColor": rule,
            "gridOpacity": 0.6,
            "domainColor": muted,
            "tickColor": muted,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelOverlap": "greedy",
        },
        "legend": {"labelColor": ink, "titleColor": ink, "labelFontSize": 11, "titleFontSize": 12, "symbolOpacity": 1},
        "title": {"color": ink, "subtitleColor": muted, "fontSize": 12, "anchor": "start"},
        "style": {
            "ink": {"color": ink},
            "note": {"color": ink, "fontSize": 11},
            "safe": {"color": safe},
            "danger": {"color": danger},
        },
    }


def _between(anchors: Sequence[str], place: float) -> str:
    low = min(int(place), len(anchors) - 2)
    share = place - low
    pairs = zip(_rgb(anchors[low]), _rgb(anchors[low + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
