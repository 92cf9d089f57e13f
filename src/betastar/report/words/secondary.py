"""What is secondary: the forms of AUGC, the law and β★, ranks, noise, the quantities of the paper's chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import factorial
from typing import Any

from betastar.maths.constants import INTERPOLATION
from betastar.record.entries import REGISTRY
from betastar.record.schema import FORMS
from betastar.report.words.numbers import (
    beta_name,
    count,
    defined,
    mean_error,
    mean_interval,
    minus,
    unit_of_changes,
)

LEVEL = 0.05


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


def damage_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """One row of text per β: what adaptation did to both rewards; means over seeds ± standard errors, of the leading
    form of AUGC with its interval."""
    rows = []
    for row in summary["by_beta"]:
        true = " → ".join(mean_error(row[name], 2) for name in ("true_start", "true_lowest", "true_end"))
        rows.append(
            [
                beta_name(row["beta"]),
                mean_interval(row["augc_standardised"]),
                mean_error(row["augc_paper"]),
                _onsets(row["onset_steps"]),
                true,
                mean_error(row["proxy_standardised_rise"], 2),
            ]
        )
    return rows


def mechanism_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """One row of text per β: the quantities of the paper's causal chain; means over seeds ± standard errors. None where
    nothing of it was logged."""
    digits = {measure.name: measure.digits for measure in REGISTRY.table}
    if all(row[name]["mean"] is None for row in summary["by_beta"] for name in digits):
        return []
    return [
        [beta_name(row["beta"]), *(mean_error(row[name], places) for name, places in digits.items())]
        for row in summary["by_beta"]
    ]


def conclusions(summary: Mapping[str, Any]) -> list[str]:
    """Of both forms of AUGC, standardised first: the change with β, the ranks, the law and β★; of one β only how noisy
    the instrument is."""
    if len(summary["betas"]) < 2:
        return [noise_sentence(summary)]
    lines = []
    for form in FORMS:
        part = summary[form]
        name = f"AUGC, {form} form"
        lines += [f"{name}: {sentence}" for sentence in (_slope(part), _ranks(part, len(summary["seeds"])), _law(part))]
    return [*lines, noise_sentence(summary)]


def _slope(part: Mapping[str, Any]) -> str:
    slope = part["slope_per_tenfold_beta"]
    if not defined(slope["mean"]):
        return f"no change per tenfold β ({slope['reason']})."
    low, high = slope["interval"]["low"], slope["interval"]["high"]
    interval = (
        minus(f"95 % interval {low:+.3g} to {high:+.3g}")
        if defined(low)
        else f"no interval: {slope['interval']['reason'] or slope['reason']}"
    )
    mean = minus(f"{slope['mean']:+.3g}")
    return f"{mean} gap × steps per tenfold β ({interval}; n = {slope['n']})."


def _ranks(part: Mapping[str, Any], seeds: int) -> str:
    rho, page = part["spearman"], part["page"]
    if not defined(rho["rho"]):
        return f"no rank correlation with β ({rho['reason']})."
    exact = "exact" if rho["exact"] else "Monte Carlo"
    trend = f"; Page's trend over seeds: p = {page['p_two_sided']:.2g}" if defined(page["p_two_sided"]) else ""
    least = 2 / factorial(rho["n"])
    never = f"; {count(rho['n'], 'β')} cannot give less than p = {least:.2g}" if rho["exact"] and least > LEVEL else ""
    value = minus(f"{rho['rho']:+z.2f}")
    return (
        f"Spearman ρ of β and mean = {value}, {exact} two-sided p = {rho['p_two_sided']:.2g} "
        f"({count(rho['n'], 'β')}, {count(seeds, 'seed')}){never}{trend}."
    )


def _law(part: Mapping[str, Any]) -> str:
    star, law = part["beta_star"], part["law"]
    if not defined(star["value"]):
        return f"{star['reason'][0].lower()}{star['reason'][1:]}."
    low, high = star["interval"]["low"], star["interval"]["high"]
    interval = "no interval" if low is None else f"95 % interval {_bound(low)} to {_bound(high)}"
    label = "exact by construction: interpolation, not evidence" if law["label"] == INTERPOLATION else star["label"]
    return (
        f"≈ {law['a']:.3g}·β^{law['b']:.3g} + {law['c']:.3g} (R² {law['r_squared']:.2f}); "
        f"β★ = {star['value']:.3g}, {interval}{f' ({label})' if label else ''}: {star['reason']}."
    )


def distance_conclusions(found: Mapping[str, Any]) -> list[str]:
    """Of both forms of AUGC: the law in the measured distance of the checkpoints, and d★. Nothing for one β. `found`: a
    variant's `distance`."""
    if len(found["by_beta"]) < 2:
        return []
    return [
        f"AUGC, {form} form, over √KL of the checkpoint from the base (d): {_law_over_distance(law)}"
        for form, law in found["conservatism"]["laws"].items()
    ]


def _law_over_distance(law: Mapping[str, Any]) -> str:
    star = law["star"]
    if not defined(star["value"]):
        return f"{star['reason']}."
    low, high = star["interval"]["low"], star["interval"]["high"]
    interval = f", 95 % interval {low:.3g} to {high:.3g}" if defined(low) and defined(high) else ", no interval"
    better = ""
    if defined(law["aicc_beta"]) and defined(law["aicc"]):
        margin = law["aicc_beta"] - law["aicc"]
        better = f"; as a predictor, distance {'beats' if margin > 0 else 'loses to'} β by {abs(margin):.1f} in AICc"
    label = f" ({star['label']})" if star["label"] else ""
    return (
        f"≈ {law['a']:.3g}·d^−{law['b']:.3g} + {law['c']:.3g} (R² {law['r_squared']:.2f}); damage exceeds 1.5 × that "
        f"of the farthest checkpoint below d★ = {star['value']:.3g}{interval}{label}: {star['reason']}{better}."
    )


def _bound(value: float | str) -> str:
    return "beyond 2·β_max" if value == "inf" else f"{float(value):.3g}"


def noise_sentence(summary: Mapping[str, Any]) -> str:
    """How much of a gap is the instrument's (A/A), in a sentence."""
    noise, augc = summary["instrument_noise"]["gap"], summary["instrument_noise"]["augc"]["value"]
    if noise["standard_deviation"] is None:
        return f"Instrument noise unknown: {noise['reason']}."
    low, high = noise["interval"]["low"], noise["interval"]["high"]
    interval = "" if low is None else f"95 % interval {low:.2g} to {high:.2g}, "
    return (
        f"Instrument noise: two evaluations of one checkpoint differ by {noise['standard_deviation']:.2g} sd in the "
        f"gap ({interval}n = {noise['n']}). Redrawn at every point, this noise alone would give an AUGC of {augc:.2g}."
    )


def difference_sentences(results: Mapping[str, Any]) -> list[str]:
    """How variants differ in end truth and in damage, paired within seeds and averaged over β, or over the strengths of
    each where these are not comparable, in sentences."""
    lines = []
    for pair in results["differences"]:
        truth, augc = pair["over_beta"]["true_end"], pair["over_beta"]["augc_standardised"]
        unit = unit_of_changes(results["decision"][pair["variant"]])
        parts = []
        if defined(truth["mean"]):
            of_change = {k: v if v is None else 100 * v for k, v in truth["interval"].items() if k in ("low", "high")}
            parts.append(
                f"end truth {unit.with_interval(100 * truth['mean'], {**truth['interval'], **of_change}, '+')}"
            )
        if defined(augc["mean"]):
            parts.append(f"standardised AUGC {minus(mean_interval(augc, '+'))}")
        if not parts:
            lines.append(f"{pair['variant']} minus {pair['minus']}: undefined ({truth['reason']}).")
            continue
        over = "β" if pair["by_beta"] else "the strengths of each"
        lines.append(
            f"{pair['variant']} minus {pair['minus']}, paired within {count(max(truth['n'], augc['n']), 'seed')}, mean "
            f"over {over}: {', '.join(parts)}."
        )
    return lines


def _onsets(onsets: Sequence[int | None]) -> str:
    return ", ".join("none" if step is None else str(step) for step in onsets)
