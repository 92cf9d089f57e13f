"""A run's results as a person reads them at the terminal: table rows and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from betastar.record.entries import REGISTRY

BASELINES = {"constant": "(a constant)", "step": "(the clock)", "proxy": "(proxy reward)"}


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
                f"({rho['n']} β, {seeds} seed{'s' * (seeds != 1)}){trend}."
            )
        lines.append(f"{form}: {_law_sentence(part)}")
    return [*lines, noise_sentence(summary)]


def noise_sentence(summary: Mapping[str, Any]) -> str:
    """How much of a gap is the instrument's (A/A), in a sentence."""
    noise, augc = summary["instrument_noise"]["gap"], summary["instrument_noise"]["augc"]["value"]
    if noise["standard_deviation"] is None:
        return f"instrument noise unknown: {noise['reason']}."
    low, high = noise["interval"]["low"], noise["interval"]["high"]
    interval = "" if low is None else f" (95 % {low:.2g} to {high:.2g})"
    return (
        f"instrument noise: two evaluations of a checkpoint differ by {noise['standard_deviation']:.2g} sd in the gap"
        f"{interval}, n = {noise['n']}; fresh at every point, that alone would make an AUGC of {augc:.2g}."
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
    clock, proxy = (signals[name]["verdict"].split(":")[0] for name in ("step", "proxy"))
    return (
        f"warning signs, {ahead}: {parts}. Baselines: the clock is {clock}, the proxy itself {proxy}; better than the "
        f"proxy: {', '.join(better) or 'none'}."
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
