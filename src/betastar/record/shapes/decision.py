"""The answer over β of a variant: what happened to the truth, whether β mattered, which β to take, how sure."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, get_args

from pydantic import Field, with_config
from typing_extensions import TypedDict

from betastar.record.shapes.kinds import (
    CLOSED,
    Beta,
    Count,
    Interval,
    Missing,
    Number,
    Reason,
    SeedMean,
    Share,
    Size,
    Text,
)

Primary = Literal["regret", "end_change", "points_lost", "augc_common", "augc_standardised", "augc_paper"]
PRIMARY: tuple[Primary, ...] = get_args(Primary)
"""What a run may be judged by, in the order in which another stands in for one that is undefined."""

Verdict = Literal["rose", "fell", "not distinguishable", "cannot be said"]
Way = Literal["rises", "falls"]


@with_config(CLOSED)
class PrimaryTest(TypedDict):
    """Page's L of the primary measure over seeds, exact; and corrected for a spread that changes with β."""

    L: Size
    p_greater: Annotated[Share, Field(description="exact, one-sided: rises with β")]
    p_less: Annotated[Share, Field(description="exact, one-sided: falls with β")]
    p_two_sided: Annotated[Share, Field(description="exact")]
    spread_ratio: Annotated[Size, Field(description="residual spread at the largest β over that at the smallest")]
    inflation: Annotated[Size, Field(description="by how much the changing spread widens the null distribution of L")]
    p_corrected: Annotated[Share, Field(description="two-sided, with the inflation")]
    p_holm: Annotated[Share, Field(description="p_corrected, Holm-adjusted over the variants: the verdict's")]
    p_other_problems: Annotated[
        Share, Field(description="p_corrected, were the problems drawn anew as well; null without single answers")
    ]
    n_variants: Annotated[Count, Field(description="tests that Holm's adjustment counts")]
    n_seeds: Count
    n_beta: Count
    method: str
    missing: NotRequired[Missing]
    reason: Reason


@with_config(CLOSED)
class Guard(TypedDict):
    """The signed area of the same gap, which must fall as well before a positive area is said to have fallen."""

    measure: Text
    p_less: Share
    n_seeds: Count
    reason: Reason


@with_config(CLOSED)
class ProblemChance(TypedDict):
    """What the draw of problems adds, two-way with seeds."""

    standard_error: Size
    n_problems: Count
    reason: Reason


@with_config(CLOSED)
class Effect(TypedDict):
    """Change of the primary measure per tenfold β, within seeds; the interval covers another draw of problems where
    single answers are known."""

    slope: SeedMean
    problems: ProblemChance
    smallest_effect: Annotated[Size, Field(description="analysis.smallest_effect; null: not set")]
    relevance: Annotated[
        Literal["too small to matter", "large enough to matter", "cannot be said"] | None,
        Field(description="the interval against ± smallest_effect"),
    ]
    reason: Reason


@with_config(CLOSED)
class TruthAtBeta(TypedDict):
    """True reward at the end, mean over seeds."""

    beta: Beta
    mean: Number
    interval: Interval
    n_seeds: Count
    n_problems: Annotated[Count, Field(description="problems that the interval takes for a draw; 0: it does not")]
    reason: Reason


@with_config(CLOSED)
class TruthRange(TypedDict):
    """How far the end truth moves over β: largest mean minus smallest."""

    value: Size
    interval: Interval
    highest: Annotated[Beta, Field(description="β with the highest mean")]
    lowest: Annotated[Beta, Field(description="β with the lowest mean")]
    n_seeds: Count
    reason: Reason


@with_config(CLOSED)
class Candidate(TypedDict):
    """A β against the best other one: how far its end truth is behind, with simultaneous limits."""

    beta: Beta
    behind: Number
    low: Number
    high: Number
    candidate: Annotated[bool, Field(description="cannot be told from the best")]


@with_config(CLOSED)
class BetaChoice(TypedDict):
    """Which β to choose: those whose end truth cannot be told from the best."""

    betas: Annotated[list[Beta], Field(description="the set; the best of these seeds first")]
    best: Annotated[Beta, Field(description="β with the highest mean end truth")]
    lead: Annotated[Size, Field(description="of the best over the second")]
    lead_interval: Interval
    by_beta: list[Candidate]
    n_seeds: Count
    n_problems: Count
    method: str
    reason: Reason


@with_config(CLOSED)
class Direction(TypedDict):
    """Which way a measure goes with β."""

    measure: Text
    slope: Annotated[Number, Field(description="per tenfold β, mean over seeds")]
    damage: Annotated[Way | None, Field(description="what that means for damage; null: flat")]
    p_two_sided: Annotated[Share, Field(description="of the same test as the primary's, corrected, not Holm-adjusted")]
    n_seeds: Count
    reason: Reason


@with_config(CLOSED)
class Disagreement(TypedDict):
    """A measure by which damage goes the other way than by the primary."""

    measure: Text
    damage: Way
    primary: Way
    clear: Annotated[bool, Field(description="both p are at most 0.05")]
    n_seeds: Count


@with_config(CLOSED)
class PowerNote(TypedDict):
    """What this grid with these seeds can find, given the spread found here."""

    residual_sd: Annotated[Size, Field(description="of the primary measure, without the means of seeds and of β")]
    degrees_of_freedom: Count
    power: Share
    smallest_rise_sd: Annotated[Size, Field(description="from smallest to largest β, in residual sd")]
    smallest_slope: Annotated[Size, Field(description="per tenfold β, in the unit of the measure")]
    power_for_smallest_effect: Share
    n_seeds: Count
    n_beta: Count
    missing: NotRequired[Missing]
    reason: Reason


@with_config(CLOSED)
class Decision(TypedDict):
    """The answer over β of one variant."""

    measure: Annotated[Primary, Field(description="what the variant is judged by")]
    declared: Annotated[Primary, Field(description="analysis.primary")]
    fallback: Annotated[str, Field(description="why another measure than the declared one; empty: it is that one")]
    unit: str
    betas: list[Beta]
    seeds: Annotated[list[int], Field(description="that have every β: what compares β is made of these")]
    n_seeds: Count
    n_beta: Count
    verdict: Annotated[Verdict, Field(description="of the measure with β")]
    damage: Annotated[Way | None, Field(description="what the verdict means for damage; null: no change was found")]
    verdict_reason: Text
    test: PrimaryTest
    guard: Guard | None
    effect: Effect
    truth_unit: str
    truth_by_beta: list[TruthAtBeta]
    truth_range: TruthRange
    choose: BetaChoice
    directions: Annotated[list[Direction], Field(description="of every measure that is defined; secondary")]
    disagreements: list[Disagreement]
    power: PowerNote
    missing: NotRequired[Missing]
