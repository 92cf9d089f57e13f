"""What a result says in words: one source for terminal, page and export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import factorial, isfinite
from typing import Any, NamedTuple

from betastar.maths.conservatism import INTERPOLATION
from betastar.record.entries import REGISTRY
from betastar.record.schema import FORMS

BASELINES = {
    "constant": "(constant)",
    "step": "(step number)",
    "true_strict": "(current accuracy)",
    "proxy": "(proxy reward)",
}


def damage_columns() -> list[str]:
    """Heads of the table of `damage_rows`."""
    rise = REGISTRY.summary("proxy_standardised_rise")
    return [
        "β",
        f"{REGISTRY.summary('augc_standardised').words}, 95 %",
        REGISTRY.summary("augc_paper").words,
        f"{REGISTRY.get('condition', 'onset_step').words} by seed",
        f"{REGISTRY.get('point', 'true_strict').words}: start → lowest → end",
        f"{rise.words}, {rise.unit}",
    ]


def mechanism_columns() -> list[str]:
    """Heads of the table of `mechanism_rows`."""
    return ["β", *(measure.words for measure in REGISTRY.table)]


def signal_name(name: str) -> str:
    """What a warning sign or a baseline is called."""
    return BASELINES.get(name) or REGISTRY.get("point", name).words


def damage_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """One row of text per β: what adaptation did to both rewards; means over seeds ± standard errors, of the leading
    form of AUGC with its interval."""
    rows = []
    for row in summary["by_beta"]:
        true = " → ".join(_mean(row[name], 2) for name in ("true_start", "true_lowest", "true_end"))
        rows.append(
            [
                _beta(row),
                mean_interval(row["augc_standardised"]),
                _mean(row["augc_paper"]),
                _onsets(row["onset_steps"]),
                true,
                _mean(row["proxy_standardised_rise"], 2),
            ]
        )
    return rows


def mechanism_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """One row of text per β: the quantities of the paper's causal chain; means over seeds ± standard errors. None where
    nothing of it was logged."""
    digits = {measure.name: measure.digits for measure in REGISTRY.table}
    if all(row[name]["mean"] is None for row in summary["by_beta"] for name in digits):
        return []
    return [[_beta(row), *(_mean(row[name], places) for name, places in digits.items())] for row in summary["by_beta"]]


def conclusions(summary: Mapping[str, Any]) -> list[str]:
    """The trend, the law and β★ of a variant in sentences, standardised form first."""
    lines = []
    seeds = len(summary["seeds"])
    for form in ("standardised", "paper"):
        part = summary[form]
        rho = part["spearman"]
        if rho["rho"] is None:
            lines.append(f"{form}: no rank correlation between β and AUGC ({rho['reason']}).")
        else:
            exact = "exact" if rho["exact"] else "Monte Carlo"
            page = part["page"]
            trend = "" if page["p_two_sided"] is None else f"; Page's trend over seeds: p = {page['p_two_sided']:.2g}"
            lines.append(
                f"{form}: Spearman ρ(β, mean AUGC) = {rho['rho']:+.2f}, {exact} two-sided p = {rho['p_two_sided']:.2g} "
                f"({rho['n']} values of β, {seeds} seed{'s' * (seeds != 1)}){trend}."
            )
        lines.append(f"{form}: {_law_sentence(part)}")
    return [*lines, noise_sentence(summary)]


def noise_sentence(summary: Mapping[str, Any]) -> str:
    """How much of a gap is the instrument's (A/A), in a sentence."""
    noise, augc = summary["instrument_noise"]["gap"], summary["instrument_noise"]["augc"]["value"]
    if noise["standard_deviation"] is None:
        return f"instrument noise unknown: {noise['reason']}."
    low, high = noise["interval"]["low"], noise["interval"]["high"]
    interval = "" if low is None else f"95 % interval {low:.2g} to {high:.2g}, "
    return (
        f"instrument noise: two evaluations of one checkpoint differ by {noise['standard_deviation']:.2g} sd in the "
        f"gap ({interval}n = {noise['n']}); redrawn at every point, this noise alone would give an AUGC of {augc:.2g}."
    )


def difference_sentences(results: Mapping[str, Any]) -> list[str]:
    """How variants differ in damage, paired within seeds and averaged over β, in sentences."""
    lines = []
    for pair in results["differences"]:
        entry = pair["over_beta"]["augc_standardised"]
        if entry["mean"] is None:
            lines.append(f"{pair['variant']} minus {pair['minus']}: undefined ({entry['reason']}).")
            continue
        seeds = f"{entry['n']} seed{'s' * (entry['n'] != 1)}"
        lines.append(
            f"{pair['variant']} minus {pair['minus']}, AUGC standardised, paired within seeds, mean over β: "
            f"{mean_interval(entry, '+')} ({seeds})."
        )
    return lines


def signs_sentence(results: Mapping[str, Any]) -> str:
    """Which candidate warning signs warned, all runs pooled, in a sentence."""
    signs = results["warning_signs"]
    if all(signal["verdict"].startswith("undefined") for signal in signs["pooled"]["signals"].values()):
        return f"warning signs: undefined: {signs['pooled']['signals']['proxy']['verdict'].partition(': ')[2]}."
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
        f"warning signs, {ahead}: {parts}. The proxy itself: {proxy}; better than the proxy: "
        f"{', '.join(better) or 'none'}."
    )


def _law_sentence(part: Mapping[str, Any]) -> str:
    star, law = part["beta_star"], part["law"]
    if star["value"] is None:
        return f"{star['reason'][0].upper()}{star['reason'][1:]}."
    low, high = star["interval"]["low"], star["interval"]["high"]
    interval = "no interval" if low is None else f"95 % interval {_number(low)} to {_number(high)}"
    label = f" [{star['label']}]" if star["label"] else ""
    return (
        f"AUGC ≈ {law['a']:.3g}·β^{law['b']:.3g} + {law['c']:.3g} (R² {law['r_squared']:.2f}); "
        f"β★ = {star['value']:.3g}, {interval}{label}: {star['reason']}."
    )


def _beta(row: Mapping[str, Any]) -> str:
    return "unknown" if row["beta"] is None else f"{row['beta']:.3g}"


def _number(value: float | str) -> str:
    return "beyond 2·β_max" if value == "inf" else f"{value:.3g}"


def _mean(entry: Mapping[str, Any], digits: int | None = None) -> str:
    """Mean ± standard error; a dash where the mean is undefined."""
    mean, error = entry["mean"], entry["standard_error"]
    if mean is None:
        return "–"
    shape = (lambda v: f"{v:.3g}") if digits is None else (lambda v: f"{v:.{digits}f}")
    if error is None:
        return shape(mean)
    spread = shape(error) if digits is not None else f"{error:.0f}" if error >= 100 else f"{error:.2g}"
    return f"{shape(mean)} ± {spread}"


def mean_interval(entry: Mapping[str, Any], sign: str = "") -> str:
    """Mean and 95 % interval; a dash where the mean is undefined."""
    if entry["mean"] is None:
        return "–"
    low, high = entry["interval"]["low"], entry["interval"]["high"]
    return f"{entry['mean']:{sign}.3g}" + ("" if low is None else f" [{low:{sign}.3g}, {high:{sign}.3g}]")


def _onsets(onsets: Sequence[int | None]) -> str:
    return ", ".join("none" if step is None else str(step) for step in onsets)


LEVEL = 0.05


class Answer(NamedTuple):
    """What a variant's data say of damage and β: a verdict, the sentence with its numbers, and what limits it."""

    variant: str
    verdict: str
    sentence: str
    limits: list[str]


def answers(results: Mapping[str, Any]) -> list[Answer]:
    """One answer for each variant, in the order of the record."""
    return [_answer(variant, summary) for variant, summary in results["summary"].items()]


def _answer(variant: str, summary: Mapping[str, Any]) -> Answer:
    form = next((form for form in FORMS if summary[form]["spearman"]["rho"] is not None), None)
    seeds = _count(len(summary["seeds"]), "seed")
    if form is None:
        reason = summary["standardised"]["spearman"]["reason"]
        return Answer(variant, "cannot be compared across β", f"No correlation of AUGC with β: {reason}; {seeds}.", [])
    part = summary[form]
    rho, page = part["spearman"], part["page"]
    p, trend = rho["p_two_sided"], page["p_two_sided"]
    verdict = _verdict(rho, page)
    exact = "exact" if rho["exact"] else "Monte Carlo"
    sentence = (
        f"In this run AUGC ({form} form) {verdict}: Spearman ρ = {_signed(rho['rho'])}, {exact} two-sided p = {p:.2g}, "
        f"{rho['n']} values of β, {seeds}."
    )
    limits = []
    slope = part["slope_per_tenfold_beta"]
    if slope["mean"] is not None:
        low, high = slope["interval"]["low"], slope["interval"]["high"]
        interval = (
            f"95 % interval {_signed(low)} to {_signed(high)}"
            if low is not None
            else f"no interval: {slope['interval']['reason'] or slope['reason']}"
        )
        limits.append(
            f"Per tenfold increase of β, AUGC changes by {_signed(slope['mean'])} gap × steps ({interval}; n = "
            f"{slope['n']})."
        )
    if rho["exact"] and p > LEVEL and 2 / factorial(rho["n"]) > LEVEL:
        limits.append(
            f"The ranks of {rho['n']} values of β can never show a trend: the smallest possible two-sided p is "
            f"{2 / factorial(rho['n']):.2g}."
        )
    if trend is not None:
        limits.append(f"Page's trend test over seeds: two-sided p = {trend:.2g}.")
    return Answer(variant, verdict, sentence, [*limits, _law(part)])


def _verdict(rho: Mapping[str, Any], page: Mapping[str, Any]) -> str:
    """The ranks of the means over seeds lead; a trend within seeds that they do not show is said as that."""
    if rho["p_two_sided"] <= LEVEL:
        return f"{'rose' if rho['rho'] > 0 else 'fell'} with β"
    if page["p_two_sided"] is not None and page["p_two_sided"] <= LEVEL:
        way = "rose" if page["p_greater"] < page["p_less"] else "fell"
        return f"{way} with β within seeds, but not detectably in the ranks of the means"
    return "did not change detectably with β"


def _law(part: Mapping[str, Any]) -> str:
    star, law = part["beta_star"], part["law"]
    if star["value"] is None:
        return f"{star['reason'][0].upper()}{star['reason'][1:]}."
    low, high = star["interval"]["low"], star["interval"]["high"]
    bounds = "no interval" if low is None else f"95 % interval {_bound(low)} to {_bound(high)}"
    label = "exact by construction: interpolation, not evidence" if law["label"] == INTERPOLATION else star["label"]
    return f"β★ = {star['value']:.3g}, {bounds}{f' ({label})' if label else ''}: {star['reason']}."


def _bound(value: float | str) -> str:
    return "beyond 2·β_max" if value == "inf" else f"{float(value):.3g}"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


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
                f"{lead['band']['width']:.3g}" if _defined(lead["band"]["width"]) else "–",
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
            f"{link['value']:+.2f}" if _defined(link["value"]) else "–",
            f"{link['p_two_sided']:.2g}" if _defined(link["p_two_sided"]) else "–",
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
    if not _defined(lead["median_points"]):
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
    if value is None or not _defined(value):
        return "–"
    low, high = interval["low"], interval["high"]
    bounds = f" [{low:{sign}.2f}, {high:{sign}.2f}]" if _defined(low) and _defined(high) else ""
    return f"{value:{sign}.2f}{bounds}"


def _defined(value: float | None) -> bool:
    """Neither null, as in `results.json`, nor NaN, as before it was written."""
    return value is not None and isfinite(value)
