"""Warning signs and the paper's causal chain in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from betastar.record.entries import REGISTRY
from betastar.report.words.numbers import defined

BASELINES = {
    "constant": "(constant)",
    "step": "(step number)",
    "true_strict": "(current accuracy)",
    "proxy": "(proxy reward)",
}


def signal_name(name: str) -> str:
    """What a warning sign or a baseline is called."""
    return BASELINES.get(name) or REGISTRY.get("point", name).words


def signs_sentence(results: Mapping[str, Any]) -> str:
    """Which candidate warning signs warned, all runs pooled, in a sentence."""
    signs = results["warning_signs"]
    if all(signal["verdict"].startswith("undefined") for signal in signs["pooled"]["signals"].values()):
        return f"Warning signs: undefined: {signs['pooled']['signals']['proxy']['verdict'].partition(': ')[2]}."
    found: dict[str, list[str]] = {}
    for name, signal in signs["pooled"]["signals"].items():
        if not signal["baseline"]:
            verdict = signal["verdict"].split(":")[0]
            found.setdefault(verdict, []).append(signal_name(name))
    parts = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in found.items())
    signals = signs["pooled"]["signals"]
    better = [signal_name(n) for n, s in signals.items() if s["beats_proxy"] == "better than the proxy"]
    ahead = f"{signs['headline_horizon']} points ahead of a fall of {signs['drop']:g}"
    proxy = signals["proxy"]["verdict"].split(":")[0]
    return (
        f"Warning signs, {ahead}: {parts}. The proxy itself: {proxy}; better than the proxy: "
        f"{', '.join(better) or 'none'}."
    )


SIGNAL_COLUMNS = ("signal", "expected to", "ROC area, 95 %", "verdict", "minus the proxy's", "before a fall / others")
TIMING_COLUMNS = ("signal", "ρ with the later gap", "lead before onset", "runs warned", "band ±")
CHAIN_COLUMNS = ("link", "paper claims", "its numbers", "measured here", "exact p", "n", "agreement")


def signal_rows(table: Mapping[str, Any], horizon: int) -> list[list[str]]:
    """One row of text per signal, baselines last: does it tell the points before a fall within `horizon` points from
    the others? `table` is a variant of `warning_signs`, or its pooled one."""
    rows = []
    for name, signal in table["signals"].items():
        roc = next(entry for entry in signal["roc"] if entry["horizon"] == horizon)
        difference = roc["minus_proxy"]
        rows.append(
            [
                signal_name(name),
                "–" if signal["baseline"] else _DIRECTIONS[signal["direction"]],
                _estimate(roc["area"], roc["interval"]),
                roc["verdict"],
                "–" if name == "proxy" else _estimate(difference["value"], difference["interval"], "+"),
                f"{roc['n_positive']} / {roc['n_negative']}",
            ]
        )
    return rows


def signal_notes(signs: Mapping[str, Any]) -> list[str]:
    """How far to trust the verdicts of `warning_signs`, in sentences."""
    return [
        f"Points are compared with points of the same step only. Verdicts use a horizon of {signs['headline_horizon']} "
        "points, fixed in advance; a signal warns if it does better than the clock and than current accuracy. If none "
        f"does, {0.05 * signs['comparisons']:.0f} of the {signs['comparisons']} intervals in a table still miss 0.5 by "
        "chance."
    ]


def timing_rows(table: Mapping[str, Any], lag: int) -> list[list[str]]:
    """One row of text per signal: rank correlation with the gap `lag` points later, and lead before the onset."""
    rows = []
    for name, signal in table["signals"].items():
        later = next(entry for entry in signal["later_gap"] if entry["lag"] == lag)
        lead = signal["lead"]
        rows.append(
            [
                signal_name(name),
                _estimate(later["value"], later["interval"], "+"),
                _lead(lead),
                f"{lead['n_warned']} of {lead['n_onset']}",
                f"{lead['band']['width']:.3g}" if defined(lead["band"]["width"]) else "–",
            ]
        )
    return rows


def chain_rows(links: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """One row of text per link of the chain."""
    return [
        [
            f"{link['cause']} → {link['effect']}",
            _SIGNS[link["stated"]],
            _SIGNS.get(link["paper_measured"], "none given"),
            f"{link['value']:+.2f}" if defined(link["value"]) else "–",
            f"{link['p_two_sided']:.2g}" if defined(link["p_two_sided"]) else "–",
            str(link["n"]),
            link["agreement"],
        ]
        for link in links
    ]


def chain_notes(links: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the paper contradicts itself, and which links could not have been decided, in sentences."""
    lines = [
        f"{link['cause']} → {link['effect']}: {link['note']}."
        for link in links
        if link["paper_measured"] not in (None, link["stated"])
    ]
    hopeless = [link for link in links if link["reason"] is None and (link["smallest_p"] or 0) > 0.05]
    if hopeless:
        least = min(link["smallest_p"] for link in hopeless)
        lines.append(
            f"{len(hopeless)} of {len(links)} links have too few values to decide anything: the smallest possible "
            f"two-sided p is {least:.2g} or more."
        )
    return lines


_SIGNS = {1: "+", -1: "−"}
_DIRECTIONS = {1: "rise", -1: "fall"}


def _lead(lead: Mapping[str, Any]) -> str:
    """Median lead in points, with its interval, and in steps. Few seeds do not reach 95 %; the level then is shown."""
    if not defined(lead["median_points"]):
        return "none" if lead["n_onset"] and lead["n_never"] else f"– ({lead['reason']})"
    interval, bounds = lead["interval_points"], ""
    if interval["reason"] is None:
        level = "" if interval["level"] >= 0.95 else f"; {interval['level']:.0%}".replace("%", " %")
        bounds = f" [{_points(interval['low'])}, {_points(interval['high'])}{level}]"
    return f"{lead['median_points']:+g} points{bounds}, {lead['median_steps']:+g} steps"


def _points(value: float | str) -> str:
    """A bound of a lead; a run without alarm is minus infinity, the text "-inf" in `results.json`."""
    return {float("-inf"): "none", float("inf"): "open"}.get(float(value)) or f"{value:+g}"


def _estimate(value: float | None, interval: Mapping[str, Any], sign: str = "") -> str:
    """A value with its interval; a dash where it is undefined."""
    if value is None or not defined(value):
        return "–"
    low, high = interval["low"], interval["high"]
    bounds = f" [{low:{sign}.2f}, {high:{sign}.2f}]" if defined(low) and defined(high) else ""
    return f"{value:{sign}.2f}{bounds}"
