"""The offline objectives by name: what the strength of each is called, its options, and where it comes from.

An objective is one function in `maths/objectives.py` and one entry here. This file imports no torch, because settings
are checked against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple


class Option(NamedTuple):
    """A number that an objective takes beside its strength: its default, its range `low` ≤ value < `high`, and its name
    in TRL's settings."""

    default: float
    meaning: str
    low: float = 0.0
    high: float = float("inf")
    trl: str = ""


class Objective(NamedTuple):
    """`loss`: the function in `maths/objectives.py`. `strength`: the symbol of the knob that a grid sets, and whether a
    larger one keeps the policy `closer` to π⁽⁰⁾. `reference`: whether π_ref is in the loss. `mismatched`: whether the
    loss needs z₀, from responses to other prompts of the batch. `trl`: the loss type of TRL's DPOTrainer, or of its
    KTOTrainer, if one has it; with it the engine `trl` can train this objective."""

    loss: str
    strength: str
    closer: Literal["larger", "smaller"]
    formula: str
    source: str
    options: Mapping[str, Option] = {}
    reference: bool = True
    mismatched: bool = False
    trl: str | None = None


_LABEL_NOISE = {
    "epsilon": Option(
        0.1, "ε, the share of pairs assumed to be labelled the wrong way round", 0.0, 0.5, "label_smoothing"
    )
}

KTO = "kto"
"""The loss type of TRL's KTOTrainer; the others are DPOTrainer's."""

OBJECTIVES: Mapping[str, Objective] = {
    "dpo": Objective(
        "dpo",
        "β",
        "larger",
        "−log σ(β(Δw − Δl))",
        "Rafailov et al. 2023, arXiv:2305.18290; arXiv:2606.30627 Eq. 1",
        trl="sigmoid",
    ),
    "ipo": Objective(
        "ipo",
        "τ",
        "larger",
        "(Δw/|w| − Δl/|l| − 1/(2τ))², |y| response tokens",
        "Azar et al. 2023, arXiv:2310.12036 Eq. 17; log-ratios per token as in TRL, which its authors confirmed",
        trl="ipo",
    ),
    "cdpo": Objective(
        "cdpo",
        "β",
        "larger",
        "(1 − ε)·L(β) + ε·L(−β), L that of dpo",
        "Mitchell 2023, A note on DPO with noisy preferences",
        _LABEL_NOISE,
    ),
    "rdpo": Objective(
        "rdpo",
        "β",
        "larger",
        "((1 − ε)·L(β) − ε·L(−β))/(1 − 2ε), L that of dpo",
        "Chowdhury et al. 2024, arXiv:2403.00409",
        _LABEL_NOISE,
        trl="robust",
    ),
    "orpo": Objective(
        "orpo",
        "λ",
        "smaller",
        "−ȳw − λ·log σ(logit e^ȳw − logit e^ȳl), ȳ the mean log π per response token",
        "Hong et al. 2024, arXiv:2403.07691; the likelihood term is that of the response, without the prompt",
        reference=False,
    ),
    "simpo": Objective(
        "simpo",
        "β",
        "larger",
        "−log σ(β(ȳw − ȳl) − γ), ȳ the mean log π per response token",
        "Meng et al. 2024, arXiv:2405.14734",
        {"gamma_over_beta": Option(0.5, "γ/β, the margin that ȳw − ȳl should reach (published: 0.1 to 0.8)")},
        reference=False,
    ),
    "kto": Objective(
        "kto",
        "β",
        "larger",
        "λ_D(1 − σ(β(Δw − z₀))) + λ_U(1 − σ(β(z₀ − Δl))), z₀ = max(0, mean Δ of responses to other prompts)",
        "Ethayarajh et al. 2024, arXiv:2402.01306 Eq. 7; both responses of a pair are one example each",
        {
            "desirable": Option(1.0, "λ_D, the weight of chosen responses", trl="desirable_weight"),
            "undesirable": Option(1.0, "λ_U, the weight of rejected responses", trl="undesirable_weight"),
        },
        mismatched=True,
        trl=KTO,
    ),
    "chipo": Objective(
        "chipo",
        "β",
        "larger",
        "−log σ(clip(β(φ(e^Δw) − φ(e^Δl)), ±2R)), φ(z) = z + log z",
        "Huang et al. 2024, arXiv:2407.13399",
        {"bound": Option(10.0, "R, the largest reward; the margin is clipped to ±2R")},
    ),
}
"""Every objective that `offline.objective` knows. Δ = log π − log π_ref, summed over response tokens; w chosen, l
rejected."""

OWN = Objective("", "strength", "larger", "your function", "your function")
"""What is known of a user's own objective."""

GROUP = "betastar.objectives"
"""The group of entry points in which users register their own."""


def objective_named(name: str) -> Objective:
    """The entry of an objective; any other name is a user's own."""
    return OBJECTIVES.get(name, OWN)


def table() -> str:
    """The objectives as a table in Markdown, for docs/objectives.md."""
    rows = ["| objective | loss of a pair | strength | options | source |", "| --- | --- | --- | --- | --- |"]
    for name, entry in OBJECTIVES.items():
        options = "; ".join(f"`{o}` {spec.default:g}: {spec.meaning}" for o, spec in entry.options.items()) or "none"
        direction = "↑" if entry.closer == "larger" else "↓"
        rows.append(f"| `{name}` | {entry.formula} | {entry.strength} {direction} | {options} | {entry.source} |")
    return "\n".join([*rows, "", "↑: a larger strength stays closer to the base; ↓: a smaller one does."])
