"""The sections of the configuration that say how policies are trained: the offline phase, its grid, and the online
phase."""

from __future__ import annotations

import difflib
import math
from importlib.metadata import entry_points
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from betastar.maths.methods import GROUP as OBJECTIVE_GROUP
from betastar.maths.methods import OBJECTIVES, objective_named
from betastar.maths.reward_choices import COMPARING
from betastar.settings.sections import (
    APPENDIX_C,
    MOST,
    CountOrAuto,
    Optimisation,
    Section,
    Training,
    positive,
    without_defaults,
)


class BetaSchedule(Section):
    """β-DPO: β follows how far apart the pairs of a batch are already."""

    slope: float = Field(
        default=0.6, ge=0, description="a of β₀(1 + a(M̄ − M₀)), M̄ the batch mean of Δw − Δl before the step"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="share of M₀, the running mean of M̄, kept at a step")


class Offline(Training):
    """Settings of offline training on preference pairs."""

    objective: str = Field(
        default="dpo",
        min_length=1,
        description=f"loss of a pair: {', '.join(OBJECTIVES)}; or your own, as path/to/file.py:function or the name of "
        f"an entry point in the group {OBJECTIVE_GROUP}",
    )
    options: dict[str, float] = Field(
        default_factory=dict, description="what the objective takes beside its strength, for example {epsilon: 0.1}"
    )
    beta_schedule: BetaSchedule | None = Field(
        default=None, description="β of each batch from its log-ratios (β-DPO); empty: the same β throughout"
    )

    conditions_at_once: int | None = positive("maximum number of conditions in one bank; empty: all", None)
    evaluate_every: int | None = positive(
        "optimiser steps between evaluations on the way to each checkpoint; empty: none", None
    )

    LOSS: ClassVar[set[str]] = {"objective", "options", "beta_schedule"}
    """Settings that change the loss of a pair and nothing else of the training."""

    @model_validator(mode="after")
    def _an_objective(self) -> Offline:
        if ":" not in self.objective and self.objective not in OBJECTIVES:
            own = sorted(point.name for point in entry_points(group=OBJECTIVE_GROUP))
            if self.objective not in own:
                near = difflib.get_close_matches(self.objective, [*OBJECTIVES, *own], 1)
                hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join([*OBJECTIVES, *own])}"
                raise ValueError(f"objective {self.objective} does not exist; {hint}")
            return self
        if self.objective not in OBJECTIVES:
            return self
        entry = OBJECTIVES[self.objective]
        for name, value in self.options.items():
            if name not in entry.options:
                others = ", ".join(entry.options) or "none"
                raise ValueError(
                    f"options.{name}: objective {self.objective} has no {name}; its strength {entry.strength} comes "
                    f"from the grid, and its options are: {others}"
                )
            option = entry.options[name]
            if not option.low <= value < option.high:
                limit = "" if option.high == math.inf else f" and below {option.high:g}"
                raise ValueError(f"options.{name}: should be at least {option.low:g}{limit}, not {value:g}")
        if entry.mismatched and self.batch_size == 1:
            raise ValueError(
                f"batch_size must be at least 2 with objective {self.objective}, whose z₀ pairs each prompt with the "
                "responses to another one of the batch"
            )
        return self

    @model_validator(mode="after")
    def _a_schedule_of_beta(self) -> Offline:
        entry = objective_named(self.objective)
        if self.beta_schedule is not None and (not entry.reference or entry.strength != "β"):
            what = f"strength is {entry.strength}" if entry.reference else "loss has no reference"
            raise ValueError(
                f"beta_schedule follows log-ratios to the reference and changes β, but with objective {self.objective} "
                f"the {what}; leave beta_schedule empty"
            )
        return self

    @model_validator(mode="after")
    def _an_objective_of_trl(self) -> Offline:
        if self.engine == "trl" and (objective_named(self.objective).trl is None or self.beta_schedule is not None):
            what = f"objective {self.objective}" if self.beta_schedule is None else "a beta_schedule"
            able = ", ".join(name for name, entry in OBJECTIVES.items() if entry.trl is not None)
            raise ValueError(f"engine trl cannot train {what}, only {able} at a fixed strength; set engine: bank")
        return self

    @model_serializer(mode="wrap")
    def _as_before_there_were_objectives(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, dump(self), self.LOSS)

    @model_validator(mode="after")
    def _adapters_on_the_way(self) -> Offline:
        if self.evaluate_every is not None and self.engine == "trl":
            raise ValueError(
                "evaluate_every needs engine bank, because TRL's trainer keeps no adapters on the way; set engine: "
                "bank or leave evaluate_every empty"
            )
        return self


SMALLEST_BETA, LARGEST_BETA = 1e-12, 1e12


def _in_range(beta: float) -> float:
    if not SMALLEST_BETA <= beta <= LARGEST_BETA:
        raise ValueError(
            f"a β should be between {SMALLEST_BETA:g} and {LARGEST_BETA:g}, because single precision computes with it"
        )
    return beta


BetaSetting = Annotated[float, Field(gt=0), AfterValidator(_in_range)]


class Grid(Section):
    method: Literal["percentiles", "list", "geometric", "target_kl"] = Field(
        default="percentiles", description="how the values of β (or of another objective's strength) are chosen"
    )
    percentiles: tuple[Annotated[float, Field(gt=0, lt=100)], ...] = Field(
        default=(20, 50, 80), min_length=1, max_length=MOST, description="for percentiles: p_j of Eq. 7"
    )
    values: tuple[BetaSetting, ...] = Field(
        default=(),
        max_length=MOST,
        description="for list: the values of β; for target_kl: the distances "
        "KL(π‖π⁽⁰⁾) that checkpoints should have, nats per response",
    )
    low: BetaSetting | None = Field(
        default=None, description="for geometric: smallest β; for target_kl: smallest one tried in the search"
    )
    high: BetaSetting | None = Field(
        default=None, description="for geometric: largest β; for target_kl: largest one tried"
    )
    n: int | None = Field(
        default=None, ge=2, le=MOST, description="for geometric: number of values; for target_kl: of those tried"
    )

    @model_validator(mode="after")
    def _complete(self) -> Grid:
        for name in ("percentiles", "values"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"{name} lists the same number twice; list each once")
        written = [f"{beta:.6g}" for beta in self.values]  # as folders and tables name it
        if twice := next((text for text in written if written.count(text) > 1), None):
            raise ValueError(f"two values of β are {twice} to six digits; move them apart or remove one")
        if self.method in ("list", "target_kl") and not self.values:
            raise ValueError(f"method {self.method} needs values, for example values: [0.1, 0.3, 1.0]")
        if self.method not in ("list", "target_kl") and self.values:
            raise ValueError(f"method {self.method} does not use values; set method: list or values: []")
        if self.method in ("list", "percentiles") and (self.low, self.high, self.n) != (None, None, None):
            raise ValueError(f"method {self.method} does not use low, high and n; set method: geometric or remove them")
        if self.method in ("geometric", "target_kl"):
            if self.low is None or self.high is None or self.n is None:
                raise ValueError(f"method {self.method} needs low, high and n, for example low: 0.1, high: 10, n: 7")
            if self.low >= self.high:
                raise ValueError("low must be smaller than high")
            if (self.high / self.low) ** (1 / (self.n - 1)) < 1 + 1e-5:
                raise ValueError("low and high are so close that values of β are equal to six digits; move them apart")
        return self

    @property
    def count(self) -> int:
        """How many strengths it gives."""
        if self.method in ("list", "target_kl"):
            return len(self.values)
        return self.n if self.n is not None else len(self.percentiles)


class Kl(Section):
    coupling: Literal["paper", "fixed", "target", "uncertainty"] = Field(
        default="paper",
        description="paper: κ = β / Q_p(|d|), Eq. 10; fixed: the same κ for every β; target: κ is adapted until KL is "
        "`target`; uncertainty: κ·(û₀/û)^power, û the ensemble's disagreement",
    )
    percentile: float = Field(
        default=75, ge=0, le=100, description="for paper: p of Q_p, which the paper does not state"
    )
    kappa: float = Field(
        default=0.003,
        ge=0,
        description="for fixed and uncertainty: κ; for target: κ at the start; β with place reward",
    )
    place: Literal["loss_square", "loss_k3", "reward", "none"] = Field(
        default="loss_square",
        description="loss_square: κ·mean d² (Eq. 8); loss_k3: κ·(e^−d + d − 1) per token (GRPO); reward: r − κ·d "
        "(RLOO, PPO); none: no penalty; d = log π − log π_ref",
    )
    target: float | None = positive("for target: KL from the checkpoint, nats per response", None)
    horizon: float = positive("for target: responses after which κ may have changed by a fifth", 1000.0)
    power: float = Field(
        default=1.0,
        description="for uncertainty: 1 lowers κ where the members disagree more (Appendix G), -1 raises it there",
    )

    ADDED: ClassVar[set[str]] = {"place", "target", "horizon", "power"}

    @model_validator(mode="after")
    def _a_penalty(self) -> Kl:
        if self.coupling == "paper" and self.place not in ("loss_square", "none"):
            raise ValueError(
                f"coupling paper (Eq. 10) is for place loss_square, not {self.place}; choose fixed, target or "
                "uncertainty"
            )
        if self.coupling == "target" and self.target is None:
            raise ValueError("coupling target needs target, for example target: 1.0")
        if self.coupling != "target" and self.target is not None:
            raise ValueError(f"coupling {self.coupling} does not use target; set coupling: target or remove target")
        if self.coupling in ("target", "uncertainty") and self.kappa == 0:
            raise ValueError(f"coupling {self.coupling} multiplies kappa, which must be above 0")
        return self

    @model_serializer(mode="wrap")
    def _as_before_there_were_places(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, dump(self), self.ADDED)


class Proxy(Section):
    """The reward that a variant is trained on. What is measured at evaluation points is the mean of the members' scores
    in any variant."""

    members: Literal["raw", "standardised"] = Field(
        default="raw",
        description="standardised: each member's scores less its mean, over its standard deviation, on the responses "
        "of the validation pairs",
    )
    aggregate: Literal["mean", "single", "median", "min", "lcb", "uwo", "merged"] = Field(
        default="mean",
        description="mean: Eq. 13; single: the first member; median; min: worst case; lcb: mean − weight·sd; "
        "uwo: mean − weight·variance; merged: one model with the members' mean weights (WARM)",
    )
    weight: float = Field(default=1.0, ge=0, description="for lcb and uwo: λ")
    length_penalty: float = Field(default=0.0, ge=0, description="taken from the reward for each token of the response")
    shape: Literal["none", "clip", "whiten", "par"] = Field(
        default="none",
        description="clip: to ±bound; whiten: (r − mean)/sd over the batch; par: the mean of σ(slope·(r − r_ref)) over "
        "responses of the checkpoint to the same prompt",
    )
    bound: float = positive("for clip: the largest reward, in standard deviations of validation responses", 2.0)
    slope: float = positive("for par: slope of the sigmoid", 1.0)
    references: int = positive("for par: responses of the checkpoint to each prompt", 4)

    @model_validator(mode="after")
    def _on_one_scale(self) -> Proxy:
        if self.members == "raw" and self.aggregate in COMPARING:
            raise ValueError(
                f"aggregate {self.aggregate} compares members, whose constants and scales are arbitrary; set members: "
                "standardised"
            )
        if self.members == "raw" and self.shape == "clip":
            raise ValueError("shape clip bounds rewards in standard deviations; set members: standardised")
        return self


class Act(Section):
    """What is done when the gap rises beyond what sampling noise explains, as `GoodhartMonitor` decides it at every
    evaluation point. It needs the truth, so it is what a monitor with a verifiable task can do."""

    method: Literal["none", "stop", "anneal", "rollback"] = Field(
        default="none",
        description="stop: the policy stays as it is, and is measured on; rollback: the same with the policy of the "
        "last evaluation point without an alarm; anneal: κ is multiplied by `factor`, and divided again once the gap "
        "is below half the threshold",
    )
    false_alarm_rate: float = Field(
        default=0.05, gt=0, le=0.5, description="largest probability that noise alone raises an alarm in a whole run"
    )
    factor: float = Field(default=4.0, gt=1, description="for anneal: by how much κ grows at an alarm")


class Online(Optimisation):
    """Settings of online adaptation; after the warm-up the learning rate is constant."""

    batch_size: CountOrAuto = Field(
        default=32,
        description=f"prompts per condition and step; at least 2 if each has one response; {APPENDIX_C}.3",
    )
    answers_per_prompt: int = positive("responses G to each prompt; the paper has 1", 1)
    advantage: Literal["batch", "rloo", "grpo", "dr_grpo"] = Field(
        default="batch",
        description="batch: Eq. 9, over the batch; of the answers to a prompt: rloo: r less the mean of the others; "
        "grpo: (r − mean)/(s + 1e-4); dr_grpo: r − mean",
    )
    length_normalisation: Literal["none", "response_mean", "token_mean", "constant"] = Field(
        default="none",
        description="none: sums over tokens, mean over responses (Eq. 8); response_mean: mean over a response's tokens "
        "(GRPO); token_mean: over all tokens of the batch (DAPO); constant: sums over the longest response (Dr. GRPO)",
    )
    epochs_per_batch: int = positive("optimiser steps on each batch; the paper has 1", 1)
    clip_low: float | None = Field(
        default=None, gt=0, lt=1, description="probability ratios count down to 1 − clip_low (PPO); empty: no bound"
    )
    clip_high: float | None = positive("probability ratios count up to 1 + clip_high (PPO); empty: no bound", None)
    steps: int = positive("optimiser steps T", 80)
    temperature: float = positive("sampling temperature", 1.0)
    prompt_split: Literal["train", "test"] = Field(
        default="train", description="split of the problems to adapt on; the paper uses test"
    )
    kl: Kl = Field(default_factory=Kl, description="the penalty that keeps the policy close to its checkpoint")
    proxy: Proxy = Field(
        default_factory=Proxy, description="the reward that is maximised, made of the ensemble's scores"
    )
    act: Act = Field(default_factory=Act, description="what is done when the gap rises")
    conditions_at_once: int | None = positive("maximum number of conditions in one bank; empty: all", None)

    @model_validator(mode="after")
    def _a_penalty_to_raise(self) -> Online:
        if self.act.method == "anneal" and (
            self.kl.place == "none" or (self.kl.coupling, self.kl.kappa) == ("fixed", 0)
        ):
            raise ValueError("act.method anneal raises κ, but kl has no penalty; choose stop or rollback, or set kl")
        return self

    @model_validator(mode="after")
    def _an_advantage(self) -> Online:
        if self.advantage != "batch" and self.answers_per_prompt == 1:
            raise ValueError(
                f"advantage {self.advantage} compares the answers to a prompt; set answers_per_prompt to at least 2, "
                "or advantage: batch"
            )
        if self.batch_size == 1 and self.answers_per_prompt == 1:
            raise ValueError("batch_size must be at least 2, because the advantage compares the responses in a batch")
        return self

    LOSS: ClassVar[set[str]] = {"advantage", "length_normalisation", "clip_low", "clip_high", "proxy", "act"}
    """Settings that change the loss and not the batch."""
    OF_RESPONSES: ClassVar[set[str]] = {"advantage", "proxy", "act"}
    """Of these, what leaves the loss of a response with a given advantage as it is."""
    ADDED: ClassVar[set[str]] = {*LOSS, "answers_per_prompt", "epochs_per_batch"}

    @model_serializer(mode="wrap")
    def _as_before_there_were_algorithms(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, dump(self), self.ADDED)
