"""A run's results as a person reads them at the terminal: table rows and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DAMAGE_COLUMNS = (
    "β",
    "AUGC standardised",
    "AUGC paper",
    "onset step by seed",
    "true reward: start → lowest → end",
    "proxy rise, sd",
)
MECHANISM_COLUMNS = ("β", "û", "entropy", "OOD distance", "diversity", "û–gap r")


def damage_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """One row of text per β: what adaptation did to both rewards; means over seeds ± standard errors."""
    rows = []
    for row in summary["by_beta"]:
        true = " → ".join(_mean(row[name], 2) for name in ("true_start", "true_lowest", "true_end"))
        rows.append(
            [
                _beta(row),
                _mean(row["augc_standardised"]),
                _mean(row["augc_paper"]),
                _onsets(row["onset_steps"]),
                true,
                _mean(row["proxy_standardised_rise"], 2),
            ]
        )
    return rows


def mechanism_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """One row of text per β: the quantities of the paper's causal chain; means over seeds ± standard errors."""
    digits = {
        "disagreement": 2,
        "policy_entropy": 3,
        "ood_distance": 3,
        "diversity": 3,
        "uq_gap_correlation": 2,
    }
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
            lines.append(
                f"{form}: Spearman ρ(β, mean AUGC) = {rho['rho']:+.2f}, {exact} two-sided p = {rho['p_two_sided']:.2g} "
                f"({rho['n']} β, {seeds} seed{'s' * (seeds != 1)})."
            )
        lines.append(f"{form}: {_law_sentence(part)}")
    return lines


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
    return shape(mean) if error is None else f"{shape(mean)} ± {shape(error) if digits is not None else f'{error:.2g}'}"


def _onsets(onsets: Sequence[int | None]) -> str:
    return ", ".join("none" if step is None else str(step) for step in onsets)
