"""The benchmark protocol of arXiv:2606.30627, Appendix F, as part of the record: ten metrics, in the paper's order and
numbering, and four disclosures (`disclosures`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from betastar.analysis.disclosures import disclosures
from betastar.record.schema import FORMS

STEPS_PER_POINT = 50
FEWEST_SEEDS = 3

# Fields of the summary that make up a metric; what is told beside them, such as other models of AUGC, stays there.
SPEARMAN = ("rho", "p_greater", "p_less", "p_two_sided", "exact", "n", "n_seeds", "interval", "reason")
LAW = ("a", "b", "c", "r_squared", "intervals", "n", "n_beta", "n_seeds", "label", "reason")
BETA_STAR = ("value", "interval", "augc", "status", "label", "reference", "n_seeds", "reason")

Rows = list[dict[str, Any]]


def protocol_record(results: Mapping[str, Any]) -> dict[str, Any]:
    """`results["protocol"]`, from a record that is otherwise complete.

    A metric has its `number` in Appendix F, its `title`, and one row per variant and β (the gap series: and seed; the
    correlation over β, the law and β★: per variant). Numbers are copied whole from `summary`, with error, interval, n
    and reason; a series is named by JSON pointer (RFC 6901), not copied. Where a metric rests on the gap, the
    standardised form leads and the paper's stands beside it. Distance and diversity are the checkpoint's, as in
    Algorithm 1, with the mean over the online phase beside.
    """
    unknown = {reason for r in results["conditions"] if (reason := r.get("missing", {}).get("beta"))}
    return {
        "source": "arXiv:2606.30627, Appendix F",
        "metrics": {
            name: {"number": number, "title": title, "rows": rows}
            for number, (name, title, rows) in enumerate(_metrics(results), start=1)
        },
        "disclosures": disclosures(results),
        **({"missing": {"beta": "; ".join(sorted(unknown))}} if unknown else {}),
    }


def _metrics(results: Mapping[str, Any]) -> list[tuple[str, str, Rows]]:
    """Name, title and rows of each metric, in the paper's order."""
    return [
        ("gap_series", "Goodhart gap G(t; β), Eq. 2, over online steps", _gap_series(results["conditions"])),
        ("augc", "AUGC, Eq. 3, mean over seeds, gap × steps", _augc(results)),
        (
            "checkpoint_entropy",
            "entropy of the DPO checkpoint on a fixed probe set, Eq. 11, nats",
            _by_beta(results, {"checkpoint": "policy_entropy"}),
        ),
        (
            "entropy_collapse",
            "entropy on the same probe set, checkpoint minus end of the online phase, nats",
            _by_beta(results, {"collapse": "entropy_collapse"}),
        ),
        (
            "ood_distance",
            "cosine distance of responses from the reward models' training data, Eq. 12",
            _by_beta(results, {"checkpoint": "ood_distance_start", "online": "ood_distance"}),
        ),
        (
            "diversity",
            "mean pairwise cosine distance of responses",
            _by_beta(results, {"checkpoint": "diversity_start", "online": "diversity"}),
        ),
        ("spearman", "Spearman's ρ between β and mean AUGC", _by_variant(results, "spearman", SPEARMAN)),
        (
            "uq_gap_correlation",
            "Pearson's r between û(t), Eq. 13, and G(t; β), mean over seeds",
            _by_beta(results, {"standardised": "uq_gap_correlation", "paper": "uq_gap_correlation_paper"}),
        ),
        ("law", "AUGC(β) = a·β^b + c, Eq. 14, fitted to all seeds", _by_variant(results, "law", LAW)),
        ("beta_star", "β★ by Eq. 15 and the fitted AUGC there", _by_variant(results, "beta_star", BETA_STAR)),
    ]


def _gap_series(conditions: Sequence[Mapping[str, Any]]) -> Rows:
    """Where each series stands, and whether it has the ⌈T/50⌉ evaluation points that Appendix F asks for. The start
    does not count: the gap there is 0 by definition. T: steps from the first evaluation point to the last."""
    rows = []
    for i, condition in enumerate(conditions):
        series, missing = condition["series"], condition.get("missing", {})
        steps, points = series["step"][-1] - series["step"][0], len(series["step"]) - 1
        required = max(1, math.ceil(steps / STEPS_PER_POINT))
        defined = {form: any(not _is_undefined(gap) for gap in series[f"gap_{form}"]) for form in FORMS}
        why = dict.fromkeys(missing[f"gap_{form}"] for form in FORMS if f"gap_{form}" in missing)
        rows.append(
            {
                **{name: condition[name] for name in ("variant", "beta", "seed")},
                "steps": steps,
                "points": points,
                "points_required": required,
                "enough": points >= required,
                "step": f"/conditions/{i}/series/step",
                **{form: f"/conditions/{i}/series/gap_{form}" if there else None for form, there in defined.items()},
                "reason": "; ".join(why) or None,
            }
        )
    return rows


def _augc(results: Mapping[str, Any]) -> Rows:
    rows = _by_beta(results, {"standardised": "augc_standardised", "paper": "augc_paper"})
    return [{**row, "enough_seeds": row["standardised"]["n"] >= FEWEST_SEEDS} for row in rows]


def _by_beta(results: Mapping[str, Any], parts: Mapping[str, str]) -> Rows:
    """A row per variant and β; of each part the mean over seeds that the summary has of its quantity."""
    return [
        {"variant": variant, "beta": row["beta"], **{name: row[quantity] for name, quantity in parts.items()}}
        for variant, summary in results["summary"].items()
        for row in summary["by_beta"]
    ]


def _by_variant(results: Mapping[str, Any], part: str, fields: Sequence[str]) -> Rows:
    """A row per variant; of each form of the gap the fields of a part of its summary."""
    return [
        {"variant": variant, **{form: {name: summary[form][part][name] for name in fields} for form in FORMS}}
        for variant, summary in results["summary"].items()
    ]


def _is_undefined(value: float | None) -> bool:
    return value is None or math.isnan(value)
