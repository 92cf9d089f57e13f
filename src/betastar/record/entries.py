"""The entries of the registry: points and responses from their types, conditions and summaries from the list here."""

from __future__ import annotations

from math import inf
from typing import Any

from betastar.record.measures import Measure, Registry
from betastar.record.points import EvaluationPoint, KeptResponse, measures_of
from betastar.record.signals import SIGNALS

SHARE: dict[str, Any] = {"low": 0, "high": 1}
MAGNITUDE: dict[str, Any] = {"low": 0, "high": inf}
CORRELATION: dict[str, Any] = {"low": -1, "high": 1}
COSINE: dict[str, Any] = {"low": 0, "high": 2}  # 1 − cosine


def _condition(name: str, meaning: str, **entry: Any) -> Measure:
    return Measure(name=name, level="condition", meaning=meaning, **entry)


def _summary(name: str, path: tuple[str, ...], meaning: str, **entry: Any) -> Measure:
    return Measure(name=name, level="summary", path=path, meaning=meaning, **entry)


AUGC: dict[str, Any] = {"title": "AUGC", "unit": "gap × steps", "better": "lower", "source": "Eq. 3", **MAGNITUDE}
GAPS = tuple(
    Measure(
        name=f"gap_{form}",
        level="point",
        meaning=meaning,
        symbol=symbol,
        unit=unit,
        better="lower",
        source=source,
        needs=needs,
        in_series=True,
        derived=True,
    )
    for form, symbol, unit, meaning, source, needs in (
        (
            "standardised",
            "gap",
            "sd",
            "Goodhart gap: rise of the proxy minus rise of the truth, each in standard deviations at the start",
            "",
            "the standard deviation of the proxy at the start",
        ),
        (
            "paper",
            "gap, Def. 3.1",
            "",
            "Goodhart gap: proxy minus truth, each divided by its value at the start",
            "Eq. 2",
            "positive rewards at the start",
        ),
        (
            "common",
            "gap, common scale",
            "sd",
            "Goodhart gap in standard deviations that all β of a seed have in common, so that they can be compared",
            "",
            "the rewards of the base policy, or starts at several values of β",
        ),
    )
)

STANDARDISED = "the standard deviation of the proxy at the start"

PP = "percentage points; of a true reward that is a score, hundredths of its unit"
POINTS: dict[str, Any] = {"unit": "pp", "over_seeds": True}
ANSWERS = "single answers (a run of betastar)"
FORMS_IN_WORDS = {
    "standardised": ("standardised gap", STANDARDISED),
    "paper": ("paper's gap", "positive rewards at the start"),
    "common": ("gap on the scale that all β of a seed have in common", GAPS[2].needs),
}

OUTCOMES = (
    _condition(
        "verdict",
        "what happened, in a word: improved, hacked, weak proxy, degraded, unmoved, or not distinguishable",
        kind="text",
    ),
    _condition("verdict_reason", "the numbers on which the verdict rests, in a sentence", kind="text"),
    _condition(
        "end_change",
        f"true reward at the end minus the start, paired by problem ({PP})",
        symbol="change of truth",
        better="higher",
        **POINTS,
    ),
    _condition(
        "end_change_p",
        "two-sided p of no change: McNemar's exact test, or its like for several answers to a problem; from means "
        "alone a z or t test",
        symbol="p of the change",
        **SHARE,
    ),
    _condition(
        "end_change_lenient",
        "the change of the lenient true reward",
        symbol="change of truth, lenient",
        better="higher",
        needs="a second, lenient grading",
        **POINTS,
    ),
    _condition(
        "regret",
        "what stopping at the best step would have kept: true reward there minus the end, the step chosen on one half "
        "of the problems and measured on the other; from means alone the plain difference to the highest",
        symbol="regret",
        better="lower",
        **POINTS,
    ),
    _condition(
        "points_lost",
        "mean over time of how far the true reward is below its start",
        symbol="points lost",
        better="lower",
        low=0,
        **POINTS,
    ),
    _condition("true_peak", "highest true reward at any point", symbol="true reward, peak", over_seeds=True),
    _condition(
        "turnover_step",
        "step of the highest true reward, from all problems",
        symbol="turnover step",
        unit="steps",
        kind="step",
        low=0,
        over_seeds=True,
    ),
    _condition(
        "turnover_proxy",
        "proxy reward at the turnover",
        symbol="proxy at the turnover",
        over_seeds=True,
    ),
    _condition(
        "turnover_distance",
        "√KL to the checkpoint at the turnover",
        symbol="√KL at the turnover",
        unit="√nats",
        needs="a reference policy",
        over_seeds=True,
        **MAGNITUDE,
    ),
    _condition(
        "since_peak",
        "true reward at the end minus its highest: how far it has fallen since, luck of the highest included",
        symbol="since the peak",
        better="higher",
        high=0,
        **POINTS,
    ),
    _condition(
        "since_peak_p",
        "how often noise alone gives so large a fall since the highest point",
        symbol="p of the fall",
        **SHARE,
    ),
    *(
        _condition(
            f"gap_area_{form}",
            f"signed area under the {words}",
            symbol=f"gap area {form}",
            unit="gap × steps",
            better="lower",
            needs=needs,
            over_seeds=True,
        )
        for form, (words, needs) in FORMS_IN_WORDS.items()
    ),
    _condition(
        "augc_common",
        "area under the positive part of the gap on the scale that all β of a seed have in common",
        symbol="AUGC common",
        needs=GAPS[2].needs,
        over_seeds=True,
        **AUGC,
    ),
    _condition(
        "proxy_truth_correlation",
        "r: correlation of proxy and true reward over the checkpoint's own responses",
        symbol="proxy–truth r",
        better="higher",
        needs=ANSWERS,
        over_seeds=True,
        **CORRELATION,
    ),
    _condition(
        "gap_adjusted_end",
        "truth that is missing at the end, r·z_proxy − z_truth: a proxy that rises by z_proxy promises r times that",
        symbol="adjusted gap, end",
        unit="sd",
        better="lower",
        needs=ANSWERS,
        over_seeds=True,
    ),
    _condition(
        "departure_end",
        "how far the policy has left the cloud of the start's responses, (z_proxy − r·z_truth)/√(1 − r²)",
        symbol="departure, end",
        unit="sd",
        needs=ANSWERS,
        over_seeds=True,
    ),
    *(
        _condition(
            f"ranking_{part}",
            f"AUROC of the proxy for right against wrong answers to the same problem, at the {part}",
            symbol=f"ranking, {part}",
            better="higher",
            needs="two answers to a problem (evaluation.answers)",
            over_seeds=True,
            **SHARE,
        )
        for part in ("start", "end")
    ),
)

CONDITIONS_AND_SUMMARIES = (
    *OUTCOMES,
    _condition(
        "augc_standardised",
        "area under the positive part of the standardised gap",
        symbol="AUGC standardised",
        needs=STANDARDISED,
        over_seeds=True,
        **AUGC,
    ),
    _condition(
        "augc_paper",
        "area under the positive part of the paper's gap",
        symbol="AUGC paper",
        over_seeds=True,
        **AUGC,
    ),
    _condition(
        "onset_step",
        "first evaluation point with standardised gap > τ, or null",
        symbol="onset step",
        unit="steps",
        better="higher",
        source="section 7.1",
        kind="step",
        low=0,
    ),
    _condition(
        "onset_step_paper",
        "the same for the paper's gap",
        symbol="onset step, paper",
        unit="steps",
        better="higher",
        source="section 7.1",
        kind="step",
        low=0,
    ),
    _condition(
        "share_gap_positive_standardised",
        "share of evaluation points with a standardised gap > 0",
        needs=STANDARDISED,
        better="lower",
        over_seeds=True,
        **SHARE,
    ),
    _condition(
        "share_gap_positive_paper",
        "share of evaluation points with a paper-form gap > 0",
        better="lower",
        over_seeds=True,
        **SHARE,
    ),
    _summary("proxy_start", ("proxy", "start"), "proxy reward at the start"),
    _summary("proxy_end", ("proxy", "end"), "proxy reward at the end"),
    _condition(
        "proxy_standardised_rise",
        "highest proxy reward minus the start, in per-response standard deviations at the start",
        symbol="proxy rise",
        unit="sd",
        needs=STANDARDISED,
        over_seeds=True,
        **MAGNITUDE,
    ),
    _summary(
        "true_start",
        ("true_strict", "start"),
        "true reward at the start",
        symbol="true reward, start",
        better="higher",
        **SHARE,
    ),
    _condition(
        "true_lowest",
        "lowest true reward at any point, the step chosen on one half of the problems and measured on the other; from "
        "means alone the plain minimum, which noise makes lower",
        symbol="true reward, lowest",
        better="higher",
        over_seeds=True,
    ),
    _summary(
        "true_end",
        ("true_strict", "end"),
        "true reward at the end",
        symbol="true reward, end",
        better="higher",
        **SHARE,
    ),
    _summary(
        "disagreement_mean",
        ("disagreement", "mean"),
        "û, mean over the online phase",
        symbol="û, mean",
        title="û, mean over steps",
        better="lower",
        source="Eq. 13",
        digits=2,
        **MAGNITUDE,
    ),
    _summary(
        "disagreement_centred_mean",
        ("disagreement_centred", "mean"),
        "centred û, mean over the online phase",
        symbol="û centred, mean",
        better="lower",
        **MAGNITUDE,
    ),
    _summary(
        "policy_entropy_start",
        ("policy_entropy", "checkpoint"),
        "entropy of the checkpoint on the probe prompts",
        symbol="entropy, checkpoint",
        title="checkpoint entropy",
        unit="nats",
        source="Eq. 11",
        digits=3,
        **MAGNITUDE,
    ),
    _summary(
        "entropy_collapse",
        ("policy_entropy", "collapse"),
        "entropy on the probe prompts, checkpoint minus end of the online phase",
        symbol="entropy collapse",
        unit="nats",
    ),
    _summary(
        "response_entropy_end",
        ("response_entropy", "end"),
        "entropy at the sampled tokens, at the end",
        symbol="response entropy, end",
        unit="nats",
        **MAGNITUDE,
    ),
    _summary(
        "ood_distance_start",
        ("ood_distance", "start"),
        "OOD distance of the checkpoint",
        symbol="OOD distance, checkpoint",
        title="OOD distance of the checkpoint",
        unit="cosine",
        source="Eq. 12",
        **COSINE,
    ),
    _summary(
        "ood_distance_mean",
        ("ood_distance", "mean"),
        "OOD distance, mean over the online phase",
        symbol="OOD distance, mean",
        source="Eq. 12",
        digits=3,
        **COSINE,
    ),
    _summary(
        "diversity_start",
        ("diversity", "start"),
        "diversity of the checkpoint",
        symbol="diversity, checkpoint",
        **COSINE,
    ),
    _summary(
        "diversity_mean",
        ("diversity", "mean"),
        "diversity, mean over the online phase",
        symbol="diversity, mean",
        digits=3,
        **COSINE,
    ),
    _summary("kl_end", ("kl", "end"), "KL to the checkpoint at the end", symbol="KL, end", unit="nats"),
    _condition(
        "uq_gap_correlation_standardised",
        "Pearson's r between û(t) and the standardised gap",
        symbol="û–gap r",
        source="Table 1, r_UQ",
        needs="û at every point",
        **CORRELATION,
    ),
    _summary(
        "uq_gap_correlation",
        ("uq_gap_correlation_standardised",),
        "Pearson's r between û(t) and the standardised gap",
        symbol="û–gap r",
        source="Table 1, r_UQ",
        digits=2,
        **CORRELATION,
    ),
    _condition(
        "uq_gap_correlation_paper",
        "Pearson's r between û(t) and the paper's gap",
        symbol="û–gap r, paper",
        source="Table 1, r_UQ",
        needs="û at every point",
        over_seeds=True,
        **CORRELATION,
    ),
    _condition(
        "log_ratio_noise",
        "rounding noise of log π − log π_ref when π is π_ref, root mean square over the checkpoint's responses; Eq. "
        "10 applies no penalty below three times this",
        symbol="noise of log-ratios",
        unit="nats",
        better="lower",
        needs="a run of betastar",
        **MAGNITUDE,
    ),
    _summary(
        "pair_accuracy",
        ("alignment", "pair_accuracy"),
        "share of test pairs that the checkpoint's implicit reward ranks as labelled",
        symbol="pair accuracy",
        better="higher",
        needs="a run of betastar",
        **SHARE,
    ),
    _summary(
        "win_rate",
        ("alignment", "win_rate"),
        "𝒜: win rate of the checkpoint against the base",
        symbol="win rate",
        better="higher",
        source="Def. 6.1",
        needs="a run of betastar",
        **SHARE,
    ),
)

# Inside the networks: docs/mechanism.md.


def _at_both_ends(name: str, meaning: str, **entry: Any) -> tuple[Measure, Measure]:
    entry = {"needs": "a run of betastar with evaluation.plasticity", "over_seeds": True, **entry}
    called = entry.pop("symbol", name.replace("_", " "))
    return (
        _condition(f"{name}_start", f"{meaning}, of the checkpoint", symbol=f"{called}, start", **entry),
        _condition(f"{name}_end", f"{meaning}, at the end of the online phase", symbol=f"{called}, end", **entry),
    )


OF_THE_INSIDE = (
    _condition(
        "displacement",
        "mean log π/π⁽⁰⁾ of the checkpoint over chosen responses of held-out pairs; below 0, DPO made them less likely",
        symbol="chosen log-ratio",
        unit="nats",
        better="higher",
        source="Razin et al. 2025",
        needs="a run of betastar",
        over_seeds=True,
    ),
    *_at_both_ends(
        "effective_rank",
        "exp(H(σ/Σσ)) of the last hidden states on fixed texts",
        better="higher",
        source="Roy & Vetterli 2007",
        **MAGNITUDE,
    ),
    *_at_both_ends(
        "stable_rank", "‖W‖_F²/‖W‖₂² of the last hidden states W on fixed texts", better="higher", **MAGNITUDE
    ),
    *_at_both_ends(
        "dormant_share",
        "share of inner units with E|h| ≤ 0.025 of their layer's mean on fixed texts",
        symbol="dormant units",
        better="lower",
        source="Sokar et al. 2023",
        **SHARE,
    ),
    *_at_both_ends("update_norm", "‖(α/r)AB‖_F over all adapted layers", symbol="‖ΔW‖", **MAGNITUDE),
    *_at_both_ends(
        "gradient_cosine",
        "mean cosine between the adapter's gradients on pairs of fixed texts",
        source="Lyle et al. 2023",
        **CORRELATION,
    ),
    *_at_both_ends(
        "fresh_gain",
        "fall of the loss on a fresh task in evaluation.fresh_steps steps of further training",
        unit="nats per token",
        better="higher",
        source="Lyle et al. 2023",
        needs="a run of betastar with evaluation.fresh_steps",
    ),
)
INSIDE = tuple(m.name for m in OF_THE_INSIDE)

REGISTRY = Registry(
    [
        *GAPS,
        *measures_of(EvaluationPoint),
        *SIGNALS,
        *measures_of(KeptResponse),
        *CONDITIONS_AND_SUMMARIES,
        *OF_THE_INSIDE,
    ]
)
"""Every measure that betastar knows."""
