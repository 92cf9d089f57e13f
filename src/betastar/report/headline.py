"""The answer of a run in one sentence per variant, with its uncertainty; it never says more than the data do."""

from __future__ import annotations

from collections.abc import Mapping
from math import factorial
from typing import Any, NamedTuple

from betastar.maths.conservatism import INTERPOLATION
from betastar.record.schema import FORMS

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
        return Answer(variant, "cannot be compared over β", f"No correlation of AUGC with β: {reason}; {seeds}.", [])
    part = summary[form]
    rho, page = part["spearman"], part["page"]
    p, trend = rho["p_two_sided"], page["p_two_sided"]
    verdict = _verdict(rho, page)
    exact = "exact" if rho["exact"] else "Monte Carlo"
    sentence = (
        f"In this run AUGC ({form} form) {verdict}: Spearman ρ = {_signed(rho['rho'])}, {exact} two-sided p = {p:.2g}, "
        f"{rho['n']} β, {seeds}."
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
            f"Per tenfold β, AUGC changes by {_signed(slope['mean'])} gap × steps ({interval}; n = {slope['n']})."
        )
    if rho["exact"] and p > LEVEL and 2 / factorial(rho["n"]) > LEVEL:
        limits.append(
            f"The ranks of {rho['n']} β can never show it: the smallest possible two-sided p is "
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
        return f"{way} with β within seeds, not detectably in the ranks of the means"
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
