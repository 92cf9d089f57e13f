"""Conditions, summaries of a variant, differences, warning signs and the chain."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

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
    Sign,
    Size,
    Text,
)


@with_config(CLOSED)
class Alignment(TypedDict):
    """Alignment quality of the checkpoint."""

    pair_accuracy: Annotated[Share, Field(description="of the implicit reward on test pairs")]
    test_pairs: Count
    win_rate: Annotated[Share, Field(description="over the bare base on the n evaluation problems")]
    judge: Literal["annotator", "reward model not used online"]


@with_config(CLOSED)
class BaseAccuracy(TypedDict):
    """Both rewards of the bare base, over as many responses as a checkpoint gives, scored by the same ensemble."""

    true_strict: Share
    true_lenient: Share
    n: NotRequired[Annotated[Natural, Field(description="responses")]]
    answers: NotRequired[Annotated[Natural, Field(description="to each problem")]]
    correct_strict: NotRequired[Annotated[Count, Field(description="responses that are exactly right")]]
    proxy: NotRequired[Number]
    proxy_std: NotRequired[Annotated[Size, Field(description="over responses")]]


@with_config(CLOSED)
class Again(TypedDict):
    """The evaluation at t=0 repeated with fresh sampling noise."""

    proxy: Number
    true_strict: Number
    true_lenient: NotRequired[Share]
    disagreement: NotRequired[Size]


@with_config(CLOSED)
class StartNearZero(TypedDict):
    """Whether the reward at t=0 is within 10 standard errors of zero."""

    proxy: bool | None
    true_strict: bool | None


@with_config(CLOSED)
class CommonScale(TypedDict):
    """What the common form of the gap divides the rise of each reward by, the same for all β of a seed."""

    proxy: Size
    truth: Size
    source: Annotated[Text | None, Field(description="whose standard deviations they are")]
    reason: Reason


@with_config(CLOSED)
class NoiseFloor(TypedDict):
    """What noise alone would give on average at the same evaluation points."""

    value: Number
    method: Annotated[Text | None, Field(description="how the noise is known")]
    reason: Reason


class Condition(TypedDict):
    """One (variant, β, seed). The measures of a condition, and parts of those of a point, stand beside these fields."""

    variant: str
    beta: Beta
    seed: int
    n: Annotated[Natural | None, Field(description="number of responses behind each mean, over all problems")]
    n_points: Annotated[Natural, Field(description="evaluation points, including the start")]
    alignment: NotRequired[Alignment]
    base: NotRequired[BaseAccuracy]
    again: NotRequired[Again]
    start_near_zero: Annotated[
        StartNearZero, Field(description="whether the reward at t=0 is within 10 standard errors of zero")
    ]
    diverged: NotRequired[
        Annotated[Text, Field(description="why nothing of this run counts, if its training diverged")]
    ]
    proxy_is_truth: Annotated[
        bool, Field(description="whether the proxy is the true reward on another scale: there is no gap then")
    ]
    common_scale: CommonScale
    intervals: Annotated[
        dict[str, Interval],
        Field(description="measure of a condition → interval over problems, or of its mean's noise"),
    ]
    noise_floor: Annotated[
        dict[str, NoiseFloor], Field(description="measure of a condition → what noise alone would give")
    ]
    missing: NotRequired[Missing]
    series: NotRequired[dict[str, list[Any]]]


@with_config(CLOSED)
class FrontierRow(TypedDict):
    """A finished run."""

    variant: str
    beta: Beta
    seed: int
    distance: Annotated[Size, Field(description="√KL from the checkpoint")]
    proxy: Number
    truth: Number


@with_config(CLOSED)
class Frontier(TypedDict):
    """Finished runs of which one point each is known."""

    ordered_by: Literal["distance", "proxy"]
    n: Annotated[Natural, Field(description="runs")]
    rows: Annotated[list[FrontierRow], Field(min_length=3, description="in that order")]
    best: Annotated[Count | None, Field(description="place of the highest truth in `rows`")]
    lost: Annotated[Number, Field(description="truth there minus truth at the far end")]
    beyond: Annotated[Correlation, Field(description="Spearman's ρ of proxy and truth from there on")]
    reason: Reason
    missing: NotRequired[Missing]


# The summary of a variant.


@with_config(CLOSED)
class Estimate(TypedDict):
    """A value with its interval."""

    value: Size
    interval: Interval
    n: Count
    reason: Reason


@with_config(CLOSED)
class FittedAugc(TypedDict):
    """The fitted AUGC at β★."""

    value: Size
    interval: Interval
    n_seeds: Count
    reason: Reason


@with_config(CLOSED)
class Noise(TypedDict):
    """Root mean square over n conditions, beside what independent draws are expected to give."""

    standard_deviation: Annotated[Size, Field(description="root mean square over n conditions")]
    interval: Interval
    expected: Annotated[Size, Field(description="of independent draws, by theory")]
    n: Count
    n_seeds: Count
    reason: Reason


@with_config(CLOSED)
class ExpectedNoise(TypedDict, total=False):
    """By theory, of independent draws."""

    gap: Size
    z_proxy: Size
    z_true: Size


@with_config(CLOSED)
class NoisePair(TypedDict):
    """One checkpoint evaluated twice."""

    beta: Beta
    seed: int
    n: Annotated[Natural | None, Field(description="responses in each evaluation")]
    gap: Number
    z_proxy: Number
    z_true: Number
    gap_paper: Number
    expected: ExpectedNoise
    reason: Reason


@with_config(CLOSED)
class InstrumentNoise(TypedDict):
    """A checkpoint evaluated twice (A/A): the gap that sampling noise alone makes."""

    gap: Noise
    z_proxy: Noise
    z_true: Noise
    gap_paper: Noise
    augc: Annotated[Estimate, Field(description="mean AUGC of such noise, fresh at every evaluation point of the run")]
    conditions: list[NoisePair]


@with_config(CLOSED)
class Alternatives(TypedDict):
    """What each p is against."""

    p_greater: str
    p_less: str
    p_two_sided: str


@with_config(CLOSED)
class Spearman(TypedDict):
    """ρ between β and AUGC, mean over seeds; `exact`: p counts all orders of n β."""

    rho: Correlation
    p_greater: Share
    p_less: Share
    p_two_sided: Share
    n: Annotated[Count, Field(description="β")]
    n_seeds: Count
    exact: bool
    interval: Interval
    reason: Reason
    alternatives: NotRequired[Alternatives]


@with_config(CLOSED)
class Page(TypedDict):
    """Page's trend test over seeds."""

    L: Size
    p_greater: Share
    p_less: Share
    p_two_sided: Share
    n_seeds: Count
    n_beta: Count
    method: str
    reason: Reason
    alternatives: Alternatives


@with_config(CLOSED)
class LawIntervals(TypedDict):
    """Of the law's parameters."""

    a: Interval
    b: Interval
    c: Interval


ByModel = TypedDict("ByModel", {"power law": Number, "constant": Number, "linear": Number, "logarithmic": Number})
ByModel = with_config(CLOSED)(ByModel)
ModelName = Literal["power law", "constant", "linear", "logarithmic"]


@with_config(CLOSED)
class Models(TypedDict):
    """AICc of the law beside a constant, a line in β and in log β."""

    aicc: ByModel
    difference: ByModel
    best: ModelName | None
    n: Count
    reason: Reason


@with_config(CLOSED)
class Prediction(TypedDict):
    """At a β that was left out."""

    beta: Beta
    measured: Size
    predicted: ByModel


@with_config(CLOSED)
class LeaveOneOut(TypedDict):
    """Root mean square error in predicting the mean AUGC at a β that was left out."""

    error: ByModel
    predictions: list[Prediction]
    n_beta: Count
    reason: Reason


@with_config(CLOSED)
class LawParameters(TypedDict):
    """AUGC(β) = a·β^b + c (Eq. 14), fitted to n points at n_beta β."""

    a: Size
    b: Size
    c: Size
    r_squared: Number
    intervals: LawIntervals
    n: Count
    n_beta: Count
    n_seeds: Count
    label: Annotated[str, Field(description="what must be known to read the numbers")]
    reason: Reason


@with_config(CLOSED)
class Law(LawParameters):
    """AUGC(β) = a·β^b + c (Eq. 14), fitted to n points at n_beta β, beside other models."""

    aicc: Number
    aicc_constant: Number
    beats_constant: bool | None
    refusal: Annotated[
        Literal["β not above 0", "undefined AUGC", "too few β", "constant AUGC", "no convergence"] | None,
        Field(description="why there is no fit, in brief"),
    ]
    missing: NotRequired[Missing]
    models: Models
    leave_one_beta_out: LeaveOneOut


BetaStarStatus = Literal[
    "estimate", "no dependence", "not a rising law", "no rise", "not resolved", "never exceeded", "refused"
]


@with_config(CLOSED)
class BetaStar(TypedDict):
    """First β whose fitted AUGC exceeds 1.5 × its reference (Eq. 15)."""

    value: Beta
    interval: Interval
    augc: FittedAugc
    status: BetaStarStatus
    label: str
    reference: Annotated[
        Literal["beta_min", "grid"],
        Field(description="1.5 × the fit at the smallest β, or × its minimum over the searched range"),
    ]
    n_seeds: Count
    reason: Text


@with_config(CLOSED)
class ShareOfBeta(TypedDict):
    """In what share of draws a β is the least."""

    beta: Beta
    share: Share


@with_config(CLOSED)
class BetaStarDefinition(TypedDict):
    """The measured β with the least AUGC − λ·𝒜 (Def. 6.1)."""

    value: Beta
    trade_off: Annotated[Size, Field(description="λ, the AUGC that one unit of alignment quality is worth")]
    alignment: Annotated[Literal["win_rate"], Field(description="what 𝒜 is")]
    share: NotRequired[
        Annotated[
            list[ShareOfBeta], Field(description="share of draws of the mean curves in which each β is the smallest")
        ]
    ]
    interval: Interval
    n_seeds: Count
    reason: Reason


@with_config(CLOSED)
class OverBeta(TypedDict):
    """How AUGC in one form of the gap depends on β."""

    spearman: Spearman
    spearman_within_seeds: SeedMean
    slope_per_tenfold_beta: SeedMean
    page: Page
    law: Law
    beta_star: BetaStar
    beta_star_grid_reference: BetaStar
    beta_star_definition: BetaStarDefinition


class Summary(TypedDict):
    """Of a variant, over seeds."""

    betas: Annotated[list[Beta], Field(min_length=1)]
    seeds: Annotated[list[int], Field(min_length=1)]
    incomplete_seeds: Annotated[
        list[int], Field(description="seeds that lack some β; comparisons across β leave them out")
    ]
    by_beta: list[dict[str, Any]]
    minus_smallest_beta: dict[str, Any]
    instrument_noise: InstrumentNoise
    standardised: OverBeta
    paper: OverBeta
    missing: NotRequired[Missing]


class Difference(TypedDict):
    """`variant` minus `minus` at the same β and seed. Between two offline objectives, whose strengths are not
    comparable, there is no row by β."""

    variant: str
    minus: str
    by_beta: list[dict[str, Any]]
    over_beta: Annotated[
        dict[str, Any],
        Field(description="of each seed's mean over β; between two offline objectives, over the own strengths of each"),
    ]


# Warning signs and the chain.


@with_config(CLOSED)
class LaterGap(TypedDict):
    """Spearman's ρ with the standardised gap `lag` points later, mean over runs."""

    lag: Count
    value: Correlation
    interval: Interval
    n_runs: Count
    n_seeds: Count
    reason: Reason


@with_config(CLOSED)
class QuietBand(TypedDict):
    """What a signal does in quiet runs."""

    width: Size
    n_quiet: Count
    n_repeats: Count
    expected_false_alarm_rate: Share
    reason: Reason
    missing: NotRequired[Missing]


@with_config(CLOSED)
class Lead(TypedDict):
    """How long before the onset the signal leaves its band."""

    median_points: Number
    median_steps: Number
    interval_points: Interval
    n_onset: Count
    n_seeds: Count
    n_warned: Count
    n_warned_rising: Count
    n_never: Count
    band: QuietBand
    reason: Reason


@with_config(CLOSED)
class AreaDifference(TypedDict):
    """The area less that of a baseline at the same points."""

    value: Correlation
    interval: Interval
    verdict: Text
    reason: Reason


@with_config(CLOSED)
class Roc(TypedDict):
    """Area under the ROC curve for a fall within `horizon` points, among points of the same variant and step."""

    horizon: Count
    area: Share
    area_all_steps: Annotated[Share, Field(description="over all points at once, as the clock can explain it")]
    interval: Interval
    n_positive: Annotated[Count, Field(description="points before a fall")]
    n_negative: Annotated[Count, Field(description="other points")]
    n_seeds: Count
    reason: Reason
    verdict: Text
    minus_clock: Annotated[AreaDifference, Field(description="the clock's area among points of one step is 0.5")]
    minus_accuracy: Annotated[AreaDifference, Field(description="less the area of current accuracy")]
    minus_proxy: Annotated[AreaDifference, Field(description="less the area of the proxy itself")]
    beyond_accuracy: Annotated[
        AreaDifference, Field(description="area above 0.5 once current accuracy is taken out of the signal")
    ]


@with_config(CLOSED)
class Signal(TypedDict):
    """How well a signal warned; of a baseline, what it would have said."""

    direction: Sign
    source: str
    baseline: bool
    later_gap: list[LaterGap]
    lead: Lead
    roc: list[Roc]
    verdict: Text
    beats_proxy: Text


class Signs(TypedDict):
    """The signals over one set of runs."""

    n_runs: Count
    n_seeds: Count
    signals: dict[str, Signal]


class WarningSigns(TypedDict):
    """Whether a signal warned of a later fall of the true reward (docs/warning_signs.md)."""

    drop: Annotated[Setting, Field(description="a fall of the true reward of at least this")]
    horizons: list[Count]
    headline_horizon: Annotated[Count, Field(description="the one at which the verdict is read")]
    false_alarm_rate: Share
    every: NotRequired[
        Annotated[Natural, Field(description="every so many-th evaluation point of long runs was used; absent: all")]
    ]
    comparisons: Count
    by_variant: dict[str, Signs]
    pooled: Signs


@with_config(CLOSED)
class Link(TypedDict):
    """A link of the chain, cause → effect: what the paper says and what these runs show."""

    cause: str
    effect: str
    stated: Annotated[Sign, Field(description="sign in the paper's text")]
    paper_measured: Annotated[Sign | None, Field(description="sign of the paper's own numbers")]
    note: str
    statistic: Literal["ρ across β", "mean r within runs"]
    value: Correlation
    measured: Literal[-1, 0, 1] | None
    p_two_sided: Share
    smallest_p: Annotated[Share, Field(description="the least that so few values can give")]
    n: Annotated[Count, Field(description="β, or seeds within runs")]
    n_seeds: Count
    agreement: Text
    reason: Reason
    missing: NotRequired[Missing]
