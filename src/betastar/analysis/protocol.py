"""The ten metrics and four disclosures of arXiv:2606.30627 Appendix F."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from betastar.record.schema import FORMS

FORMULAS = {
    "percentiles": "β_j = Q_{p_j}(δ) / (Q_50(δ) + 2⁻²³) with δ = |log π⁽⁰⁾(y_w|x) − log π⁽⁰⁾(y_l|x)| in nats over the "
    "training pairs (Eq. 6 and 7), to six significant digits",
    "geometric": "n values from low to high, each the same multiple of the one before, to six significant digits",
    "list": "given explicitly",
}
THRESHOLD = (
    "τ is this percentile of the positive gap values of all conditions and evaluation points, all variants pooled; "
    "onset is the first evaluation point with gap > τ"
)
NOISE = (
    "a hash of root seed, seed, problem and token: the same for every β and variant of a seed and at every step, so "
    "that a policy that does not move gives the same answers"
)
WRITTEN = "the base policy π⁽⁰⁾: two responses to each prompt, sampled at temperature 1"
RATED = "the built-in annotator, which mixes correctness with style, with Bradley–Terry noise"


def disclosures(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The four disclosures of a record, by name, each with its `letter` in Appendix F. What runs that were trained
    elsewhere do not tell is None, and `reason` says so."""
    found = {
        "beta_derivation": _beta_derivation(results),
        "hacking_threshold": _hacking_threshold(results["threshold"]),
        "evaluation_seeds": _evaluation_seeds(results),
        "logging_policy": _logging_policy(results),
    }
    return {name: {"letter": letter, **part} for letter, (name, part) in zip("abcd", found.items(), strict=True)}


def _elsewhere(results: Mapping[str, Any], what: str) -> str:
    """Why a record without the settings of a run cannot say something."""
    source = results.get("source", {"runs": [], "files": []})
    if any(run["kind"] != "betastar run" for run in source["runs"]):
        return f"{what}: the runs were trained elsewhere and their logs do not record it"
    if len(source["files"]) > 1:
        return f"{what}: several betastar runs were analysed together; see the record of each"
    return f"{what}: the record of the run does not contain it"


def _beta_derivation(results: Mapping[str, Any]) -> dict[str, Any]:
    grid = results.get("grid")
    method = None if grid is None else grid["method"]
    pairs = results.get("data", {}).get("splits", {}).get("train") if method == "percentiles" else None
    if method is None:
        reason = _elsewhere(results, "how the values of β were chosen is unknown")
    elif method == "percentiles":
        reason = "the number of training pairs was not recorded" if pairs is None else None
    else:
        reason = "these values of β are not derived from preference pairs"
    known = {beta for s in results["summary"].values() for beta in s["betas"] if beta is not None and beta == beta}
    return {
        "method": method,
        "formula": FORMULAS.get(method or ""),
        "settings": None if grid is None else "/grid",
        "betas": sorted(known),
        "n_pairs": pairs,
        "reason": reason,
    }


def _hacking_threshold(threshold: Mapping[str, Any]) -> dict[str, Any]:
    forms = {form: {"tau": threshold[form], "n_positive": threshold["n_positive"][form]} for form in FORMS}
    return {"rule": THRESHOLD, "percentile": threshold["percentile"], **forms, "reason": threshold["reason"]}


def _evaluation_seeds(results: Mapping[str, Any]) -> dict[str, Any]:
    settings, conditions = results.get("evaluation"), results["conditions"]
    known = settings is not None
    sizes = {r["n"] for r in conditions}
    (size,) = sizes if len(sizes) == 1 else (None,)
    return {
        "root_seed": results.get("root_seed"),
        "seeds": sorted({r["seed"] for r in conditions}),
        "n_problems": size,
        "n_probe_prompts": results.get("problems", {}).get("probe"),
        "temperature": settings["temperature"] if known else None,
        "noise": NOISE if known else None,
        "adapted_on": results.get("prompt_split"),
        "start_evaluated_twice": all("again" in r for r in conditions),
        "reason": None if known else _elsewhere(results, "how responses were sampled for evaluation is unknown"),
    }


def _logging_policy(results: Mapping[str, Any]) -> dict[str, Any]:
    preferences = results.get("preferences")
    micro = preferences is not None and preferences["kind"] == "micro"
    if preferences is None:
        reason = _elsewhere(results, "the preference data are unknown")
    else:
        reason = (
            None
            if micro
            else "only the dataset's own documentation says which models wrote its responses and who rated them"
        )
    return {
        "written_by": WRITTEN if micro else None,
        "rated_by": RATED if micro else None,
        "settings": None if preferences is None else "/preferences",
        "coverage": "/data/coverage" if "coverage" in results.get("data", {}) else None,
        "reason": reason,
    }


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
            _by_beta(results, {"checkpoint": "policy_entropy_start"}),
        ),
        (
            "entropy_collapse",
            "entropy on the same probe set, checkpoint minus end of the online phase, nats",
            _by_beta(results, {"collapse": "entropy_collapse"}),
        ),
        (
            "ood_distance",
            "cosine distance of responses from the reward models' training data, Eq. 12",
            _by_beta(results, {"checkpoint": "ood_distance_start", "online": "ood_distance_mean"}),
        ),
        (
            "diversity",
            "mean pairwise cosine distance of responses",
            _by_beta(results, {"checkpoint": "diversity_start", "online": "diversity_mean"}),
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
        steps, points = int(series["step"][-1] - series["step"][0]), len(series["step"]) - 1
        required = max(1, math.ceil(steps / STEPS_PER_POINT))
        gaps = {form: np.asarray(series[f"gap_{form}"], dtype=float) for form in FORMS}
        defined = {form: not np.isnan(gap).all() for form, gap in gaps.items()}
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
