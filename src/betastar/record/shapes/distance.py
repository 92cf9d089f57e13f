"""Rewards against √KL: Gao's forms, β at equal KL, and the measured conservatism of the checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from betastar.record.shapes.analysis import BetaStarStatus, LawParameters, Page
from betastar.record.shapes.kinds import (
    CLOSED,
    Beta,
    Count,
    Interval,
    Missing,
    Number,
    Reason,
    SeedMean,
    Size,
    Text,
)

FormName = Literal["none", "line", "quadratic", "logarithmic"]


@with_config(CLOSED)
class ByForm(TypedDict):
    """A number of each form."""

    none: Number
    line: Number
    quadratic: Number
    logarithmic: Number


@with_config(CLOSED)
class FormPeak(TypedDict):
    """Where the form is highest."""

    distance: Annotated[Size, Field(description="√nats")]
    interval: Interval
    height: Annotated[Number, Field(description="above d = 0")]
    inside: Annotated[bool | None, Field(description="whether it lies among the distances measured")]
    reason: Reason


@with_config(CLOSED)
class LineForm(TypedDict):
    """α·d"""

    alpha: Number
    alpha_interval: Interval
    reason: Reason


@with_config(CLOSED)
class CurvedForm(TypedDict):
    """d(α − δ·d) or d(α − δ·log d)"""

    alpha: Number
    alpha_interval: Interval
    delta: Number
    delta_interval: Interval
    peak: FormPeak
    reason: Reason


@with_config(CLOSED)
class FormFit(TypedDict):
    """A reward as a function of d = √KL, by least squares with a constant for each seed."""

    aicc: ByForm
    difference: Annotated[ByForm, Field(description="from the least AICc")]
    plausible: Annotated[list[FormName], Field(description="forms within 2 of the least AICc")]
    best: Annotated[FormName | None, Field(description="the only plausible form")]
    verdict: FormName | Literal["not distinguishable", "undefined"]
    turns: Annotated[
        bool | None, Field(description="whether every plausible form has its maximum among the distances measured")
    ]
    n: Count
    n_seeds: Count
    n_effective: Annotated[Size, Field(description="independent points that the n correlated ones are worth")]
    lowest: Annotated[Size, Field(description="least d, √nats")]
    highest: Annotated[Size, Field(description="largest d, √nats")]
    line: LineForm
    quadratic: CurvedForm
    logarithmic: CurvedForm
    reason: Reason


@with_config(CLOSED)
class FormsOfRewards(TypedDict):
    """Of both rewards at one β."""

    truth: FormFit
    proxy: FormFit
    n_points: Annotated[Count, Field(description="points with a known KL")]
    n_k3: Annotated[Count, Field(description="of them, those at which k3 stands in for k1 near 0")]
    n_clamped: Annotated[Count, Field(description="of them, those at which a negative k1 counts as 0")]


@with_config(CLOSED)
class FormsAtBeta(TypedDict):
    """At one β."""

    beta: Beta
    from_checkpoint: FormsOfRewards
    from_base: FormsOfRewards


@with_config(CLOSED)
class SlopesAtEqualKl(TypedDict):
    """Change of a reward per tenfold β, within seeds."""

    matched: Annotated[SeedMean, Field(description="at equal √KL, mean over `rows`")]
    at_end: Annotated[SeedMean, Field(description="at the last point, however far each policy got")]
    explained: Annotated[SeedMean, Field(description="`at_end` minus `matched`: what the distance accounts for")]


@with_config(CLOSED)
class SlopesAtDistance(TypedDict):
    """Change per tenfold β at one √KL."""

    distance: Annotated[Size, Field(description="√nats")]
    truth: SeedMean
    proxy: SeedMean


@with_config(CLOSED)
class RewardsAtEqualKl(TypedDict):
    """Rewards at one β, mean over the distances of `rows`."""

    beta: Beta
    truth: SeedMean
    proxy: SeedMean


@with_config(CLOSED)
class LimitingRun(TypedDict):
    """The condition that went the shortest way."""

    beta: Beta
    seed: int


@with_config(CLOSED)
class MatchedKl(TypedDict):
    """β compared at equal √KL. From the checkpoint, rewards are changes from the start; from the base, levels."""

    low: Annotated[Size, Field(description="√KL that all conditions start within")]
    high: Annotated[Size, Field(description="√KL that all conditions reach")]
    limited_by: LimitingRun | None
    n_seeds: Annotated[Count, Field(description="seeds with every β")]
    n_beta: Count
    reached: Annotated[SeedMean, Field(description="√KL of the last point, change per tenfold β")]
    truth: SlopesAtEqualKl
    proxy: SlopesAtEqualKl
    rows: list[SlopesAtDistance]
    by_beta: list[RewardsAtEqualKl]
    reason: Reason


@with_config(CLOSED)
class MatchedByOrigin(TypedDict):
    """By where the KL is measured from."""

    from_checkpoint: MatchedKl
    from_base: MatchedKl


@with_config(CLOSED)
class StartDistance(TypedDict):
    """Of the checkpoint."""

    beta: Beta
    distance: Annotated[SeedMean, Field(description="√KL from the base, √nats")]


@with_config(CLOSED)
class OutcomeOverDistance(TypedDict):
    """An outcome against the checkpoint's √KL from the base, over β within seeds."""

    outcome: Text
    spearman: SeedMean
    slope: Annotated[SeedMean, Field(description="per √nat")]
    page: Page


@with_config(CLOSED)
class DistanceStar(TypedDict):
    """Distance below which the fitted AUGC exceeds 1.5 × that of the farthest checkpoint: Eq. 15 in measured
    conservatism."""

    value: Annotated[Size, Field(description="√nats")]
    interval: Interval
    status: BetaStarStatus
    label: str
    n_seeds: Count
    reason: Text


@with_config(CLOSED)
class LawOverDistance(LawParameters):
    """AUGC(d) = a·d^−b + c (Eq. 14 with 1/d in the place of β), d the mean √KL of a β's checkpoints from the base."""

    aicc: Number
    aicc_constant: Number
    aicc_beta: Annotated[Number, Field(description="of the law in β at the same points, with as many parameters")]
    beats_constant: bool | None
    star: DistanceStar
    missing: NotRequired[Missing]


@with_config(CLOSED)
class LawsOverDistance(TypedDict):
    """By form of the gap."""

    standardised: LawOverDistance
    paper: LawOverDistance


@with_config(CLOSED)
class Conservatism(TypedDict):
    """How far the checkpoints are from the base: conservatism as measured, in place of β."""

    by_beta: list[StartDistance]
    with_beta: Annotated[SeedMean, Field(description="Spearman's ρ between β and √KL from the base, within seeds")]
    outcomes: Annotated[list[OutcomeOverDistance], Field(description="the primary outcome, and the end change")]
    laws: Annotated[LawsOverDistance, Field(description="of AUGC over the measured distance")]
    n_seeds: Count
    n_beta: Count
    reason: Reason


@with_config(CLOSED)
class DistanceRecord(TypedDict):
    """Of a variant (docs/distance.md)."""

    unit: Annotated[
        Literal["pp", "true reward"],
        Field(description="of truth: percentage points, or its own if it is no share of right answers"),
    ]
    by_beta: Annotated[list[FormsAtBeta], Field(min_length=1)]
    matched: MatchedByOrigin
    conservatism: Conservatism
    missing: NotRequired[Missing]
