"""Settings of training and measurement."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from betastar.errors import InternalError
from betastar.maths.appendix_c import warm_up_steps
from betastar.sections.base import (
    CountOrAuto,
    FromZeroOrAuto,
    PositiveOrAuto,
    Section,
    WholeFromZeroOrAuto,
    positive,
)

Engine = Literal["bank", "trl"]
APPENDIX_C = "auto: Appendix C"


class Numbers(NamedTuple):
    batch_size: int
    learning_rate: float
    weight_decay: float
    clip: float
    warmup_steps: int


class Optimisation(Section):
    """What Appendix C derives from model, hardware and data where it says auto."""

    batch_size: CountOrAuto = Field(default=32, description=f"pairs per optimiser step; {APPENDIX_C}.3")
    learning_rate: PositiveOrAuto = Field(default=1e-3, description=f"peak learning rate; {APPENDIX_C}.4")
    weight_decay: FromZeroOrAuto = Field(default=0.0, description=f"AdamW weight decay; {APPENDIX_C}.7")
    clip: PositiveOrAuto = Field(default=1.0, description=f"largest gradient norm of a condition; {APPENDIX_C}.5")
    warmup_steps: WholeFromZeroOrAuto = Field(
        default="auto", description=f"steps of linear warm-up; {APPENDIX_C}.6, ⌊√steps⌋"
    )

    def numbers(self, steps: int) -> Numbers:
        """The settings as numbers, for a loop of `steps`. Raises InternalError where one is still to be derived."""
        values = [self.batch_size, self.learning_rate, self.weight_decay, self.clip]
        if "auto" in values:
            raise InternalError("A training setting was used before it was derived (auto); report this fault.")
        warm_up = warm_up_steps(steps) if self.warmup_steps == "auto" else self.warmup_steps
        return Numbers(*values, warm_up)  # type: ignore[arg-type]


class Training(Optimisation):
    """Settings of a training loop over preference pairs; after the warm-up the learning rate falls linearly to zero."""

    engine: Engine = Field(
        default="bank", description="bank: all conditions in one batch; trl: TRL's trainer for one after the other"
    )
    epochs: float = positive("passes over the training pairs; a fraction is allowed", 1.0)


class Offline(Training):
    """Settings of offline DPO."""

    conditions_at_once: int | None = positive("most conditions in one bank; empty: all", None)


class Rewards(Training):
    members: int = Field(default=3, ge=2, description="reward models K in the ensemble")


class Grid(Section):
    method: Literal["percentiles", "list", "geometric"] = Field(
        default="percentiles", description="how the β are found"
    )
    percentiles: tuple[Annotated[float, Field(gt=0, lt=100)], ...] = Field(
        default=(20, 50, 80), min_length=1, description="for percentiles: p_j of Eq. 7"
    )
    values: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(), description="for list: the β themselves")
    low: float | None = positive("for geometric: smallest β", None)
    high: float | None = positive("for geometric: largest β", None)
    n: int | None = Field(default=None, ge=2, description="for geometric: how many")

    @model_validator(mode="after")
    def _complete(self) -> Grid:
        for name in ("percentiles", "values"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"{name} holds the same number twice; list each once")
        if self.method == "list" and not self.values:
            raise ValueError("method list needs values, for example values: [0.1, 0.3, 1.0]")
        if self.method != "list" and self.values:
            raise ValueError(f"method {self.method} does not use values; set method: list or values: []")
        if self.method != "geometric" and (self.low, self.high, self.n) != (None, None, None):
            raise ValueError(f"method {self.method} does not use low, high and n; set method: geometric or remove them")
        if self.method == "geometric":
            if self.low is None or self.high is None or self.n is None:
                raise ValueError("method geometric needs low, high and n")
            if self.low >= self.high:
                raise ValueError("low must be smaller than high")
        return self


class Kl(Section):
    coupling: Literal["paper", "fixed"] = Field(
        default="paper", description="paper: κ = β / Q_p(|d|), Eq. 10; fixed: the same κ for every β"
    )
    percentile: float = Field(
        default=75, ge=0, le=100, description="for paper: p of Q_p, which the paper does not give"
    )
    kappa: float = Field(default=0.003, ge=0, description="for fixed: κ")


class Online(Optimisation):
    """Settings of online adaptation; after the warm-up the learning rate is constant."""

    batch_size: CountOrAuto = Field(
        default=32, description=f"prompts per condition and step, one response each, at least 2; {APPENDIX_C}.3"
    )
    steps: int = positive("optimiser steps T", 80)
    temperature: float = positive("sampling temperature", 1.0)
    prompt_split: Literal["train", "test"] = Field(
        default="train", description="problems to adapt on; the paper uses test"
    )
    kl: Kl = Field(default_factory=Kl, description="the penalty that ties the policy to its checkpoint")
    conditions_at_once: int | None = positive("most conditions in one bank; empty: all", None)

    @model_validator(mode="after")
    def _an_advantage(self) -> Online:
        if self.batch_size == 1:
            raise ValueError("batch_size must be at least 2: the advantage compares responses of a batch")
        return self


class Evaluation(Section):
    every: int = positive("online steps between evaluation points", 10)
    problems: int = positive("held-out problems answered at each point", 100)
    temperature: float = Field(default=1.0, ge=0, description="0 is greedy")
    samples: int = Field(default=4, ge=0, description="whole responses kept per condition and point, for the report")


class Law(Section):
    trade_off: float | None = positive("λ of Def. 6.1; empty: that β★ is not computed", None)
