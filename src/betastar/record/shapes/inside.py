"""Best-of-n before any training, and what goes on inside the networks: the offline phase and plasticity."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from betastar.record.shapes.kinds import (
    CLOSED,
    Beta,
    Correlation,
    Count,
    Interval,
    Missing,
    Natural,
    Number,
    Reason,
    SeedMean,
    Setting,
    Share,
    Size,
)

Rank = Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
Method = Annotated[str, Field(description="offline method of the checkpoint, if the run has others than DPO")]
Logged = Annotated[list[Number], Field(min_length=1)]


@with_config(CLOSED)
class ProblemMean(TypedDict):
    """Mean over n problems, its standard error and interval."""

    mean: Number
    standard_error: Size
    interval: Interval
    n: Natural
    reason: Reason


@with_config(CLOSED)
class BestOf(TypedDict):
    """The best of so many answers of a checkpoint."""

    best_of: Natural
    kl: Annotated[Size, Field(description="log n − (n − 1)/n, nats; an upper bound where proxies tie")]
    proxy: ProblemMean
    truth: Annotated[ProblemMean, Field(description="share of right answers by the strict grader")]
    truth_lenient: Annotated[ProblemMean, Field(description="the same by the lenient grader")]
    truth_change: Annotated[ProblemMean, Field(description="against a single answer, paired by problem, pp")]


@with_config(CLOSED)
class BestOfAtBeta(TypedDict):
    """The same over seeds."""

    best_of: Natural
    kl: Size
    proxy: SeedMean
    truth: SeedMean
    truth_lenient: SeedMean
    truth_change: Annotated[SeedMean, Field(description="pp")]


@with_config(CLOSED)
class BestOfCheckpoint(TypedDict):
    """A checkpoint."""

    method: NotRequired[Method]
    beta: Beta
    seed: int
    curve: Annotated[list[BestOf], Field(min_length=1)]
    missing: NotRequired[Missing]


@with_config(CLOSED)
class BestOfBeta(TypedDict):
    """A β."""

    method: NotRequired[Method]
    beta: Beta
    curve: Annotated[list[BestOfAtBeta], Field(min_length=1)]
    missing: NotRequired[Missing]


@with_config(CLOSED)
class BestOfN(TypedDict):
    """What keeping the best of n answers by the proxy gives, from `n_samples` answers to each problem."""

    n_samples: Natural
    n_problems: Natural
    checkpoints: Annotated[list[BestOfCheckpoint], Field(min_length=1)]
    by_beta: Annotated[list[BestOfBeta], Field(min_length=1)]


@with_config(CLOSED)
class LogRatio(TypedDict):
    """Mean of log π/π⁽⁰⁾ over responses, nats."""

    mean: Number
    standard_error: Size
    reason: Reason


@with_config(CLOSED)
class Displacement(TypedDict):
    """What DPO has done to the likelihood of held-out responses."""

    n_pairs: Natural
    chosen: LogRatio
    rejected: LogRatio
    displaced: Annotated[
        bool | None,
        Field(description="likelihood displacement: both means are more than two standard errors below 0"),
    ]
    reason: Reason


@with_config(CLOSED)
class OfflineLog(TypedDict):
    """log π/π⁽⁰⁾ of the training pairs at each step, nats: each entry the mean over the steps since the one before."""

    step: Annotated[list[Natural], Field(min_length=1)]
    chosen_log_ratio: Logged
    rejected_log_ratio: Logged


@with_config(CLOSED)
class OfflinePoint(TypedDict):
    """A point of the offline phase, on the evaluation problems."""

    step: Annotated[Count, Field(description="optimiser steps of DPO; 0 is the base")]
    n: Natural
    proxy: Number
    true_strict: Share
    true_lenient: Share
    policy_entropy: Annotated[Number, Field(description="on the probe prompts, nats (Eq. 11)")]
    kl_base: Annotated[Number, Field(description="KL from the base, nats per response")]
    kl_base_error: Annotated[Size, Field(description="its standard error")]
    response_tokens: Number


@with_config(CLOSED)
class Network(TypedDict):
    """A policy's network on the fixed texts."""

    effective_rank: Annotated[Rank, Field(description="exp(H(σ/Σσ)) of the last hidden states")]
    stable_rank: Annotated[Rank, Field(description="‖W‖_F²/‖W‖₂² of the last hidden states")]
    dormant_share: Annotated[Share, Field(description="share of units with E|h| ≤ 0.025 of their layer's mean")]
    update_norm: Annotated[Size, Field(description="‖(α/r)AB‖_F over all adapted layers")]
    update_norms: Annotated[list[Size], Field(description="by layer, in the order of `layers`")]
    gradient_cosine: Annotated[
        Correlation, Field(description="mean over pairs of texts of the cosine of their gradients")
    ]
    fresh_loss: NotRequired[
        Annotated[Logged, Field(description="loss on the fresh task after 0, 1, … steps, nats per response token")]
    ]
    fresh_gain: NotRequired[Annotated[Number, Field(description="by how much it fell in all steps")]]
    missing: NotRequired[Missing]


@with_config(CLOSED)
class FreshTask(TypedDict):
    """The task that every policy learns: the prompts of the texts, each with the response of the next one."""

    n_steps: Annotated[Natural, Field(description="of full-batch AdamW, from each policy as it is")]
    n_tokens: Annotated[Natural, Field(description="response tokens over which the loss is a mean")]
    learning_rate: Setting


@with_config(CLOSED)
class Probe(TypedDict):
    """On what networks are read."""

    n_texts: Annotated[Natural, Field(description="held-out chosen responses with their prompts")]
    n_states: Annotated[Natural, Field(description="last hidden states at response tokens, of which ranks are taken")]
    n_units: Annotated[Natural, Field(description="units of which dormant ones are counted")]
    units_of: Annotated[
        Literal["feed-forward", "last hidden state"],
        Field(description="feed-forward: inner units of all layers, after the nonlinearity"),
    ]
    n_gradients: Annotated[Natural, Field(description="texts whose gradients are compared")]
    layers: list[str]
    fresh: NotRequired[FreshTask]


@with_config(CLOSED)
class InsideCheckpoint(TypedDict):
    """A checkpoint: how the offline phase went, and its network."""

    method: NotRequired[Method]
    beta: Beta
    seed: int
    displacement: Displacement
    log: NotRequired[OfflineLog]
    curve: NotRequired[Annotated[list[OfflinePoint], Field(min_length=1)]]
    network: NotRequired[Network]


@with_config(CLOSED)
class InsideCondition(TypedDict):
    """The network at the end of an online condition; at its start it is that of the checkpoint."""

    variant: str
    beta: Beta
    seed: int
    network: Network


@with_config(CLOSED)
class Inside(TypedDict):
    """The offline phase of every checkpoint, and plasticity before and after the online phase."""

    n_checkpoints: Natural
    probe: NotRequired[Probe]
    checkpoints: Annotated[list[InsideCheckpoint], Field(min_length=1)]
    conditions: list[InsideCondition]
