"""What a benchmark must say of itself, arXiv:2606.30627, Appendix F: where β came from, the hacking threshold, seeds,
and who wrote the preference data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from betastar.record.schema import FORMS

FORMULAS = {
    "percentiles": "β_j = Q_{p_j}(δ) / (Q_50(δ) + 2⁻²³) with δ = |log π⁽⁰⁾(y_w|x) − log π⁽⁰⁾(y_l|x)| in nats over the "
    "training pairs (Eq. 6 and 7), to six significant digits",
    "geometric": "n values from low to high, each the same multiple of the one before, to six significant digits",
    "list": "given as they are",
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
RATED = "the micro world's annotator, which mixes correctness with style, with Bradley–Terry noise"


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
        return f"{what}: the runs were trained elsewhere, and their logs do not say it"
    if len(source["files"]) > 1:
        return f"{what}: several runs of betastar were analysed together; the record of each says it"
    return f"{what}: the record of the run does not say it"


def _beta_derivation(results: Mapping[str, Any]) -> dict[str, Any]:
    grid = results.get("grid")
    method = None if grid is None else grid["method"]
    pairs = results.get("data", {}).get("splits", {}).get("train") if method == "percentiles" else None
    if method is None:
        reason = _elsewhere(results, "how the β were found is not known")
    elif method == "percentiles":
        reason = "the number of training pairs was not recorded" if pairs is None else None
    else:
        reason = "these β do not follow from preference pairs"
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
        "reason": None if known else _elsewhere(results, "how responses were sampled in evaluation is not known"),
    }


def _logging_policy(results: Mapping[str, Any]) -> dict[str, Any]:
    preferences = results.get("preferences")
    micro = preferences is not None and preferences["kind"] == "micro"
    if preferences is None:
        reason = _elsewhere(results, "the preference data are not known")
    else:
        reason = None if micro else "which models wrote the responses of a dataset, and who rated them, only it can say"
    return {
        "written_by": WRITTEN if micro else None,
        "rated_by": RATED if micro else None,
        "settings": None if preferences is None else "/preferences",
        "coverage": "/data/coverage" if "coverage" in results.get("data", {}) else None,
        "reason": reason,
    }
