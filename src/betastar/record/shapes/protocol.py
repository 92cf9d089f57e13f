"""The protocol of Appendix F: ten metrics and four disclosures."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from betastar.record.shapes.analysis import BetaStar, LawParameters, Spearman
from betastar.record.shapes.kinds import CLOSED, Beta, Count, Missing, Natural, Pointer, Reason, SeedMean, Size, Text


@with_config(CLOSED)
class GapSeries(TypedDict):
    """Where a condition's series are, and whether it has the points that Appendix F asks for."""

    variant: str
    beta: Beta
    seed: int
    steps: Annotated[Count, Field(description="from the first evaluation point to the last, T")]
    points: Annotated[Count, Field(description="evaluation points after the start")]
    points_required: Annotated[Natural, Field(description="⌈T/50⌉")]
    enough: bool
    step: Pointer
    standardised: Pointer
    paper: Pointer
    reason: Reason


@with_config(CLOSED)
class FormsRow(TypedDict):
    """In both forms of the gap."""

    variant: str
    beta: Beta
    standardised: SeedMean
    paper: SeedMean


@with_config(CLOSED)
class AugcRow(FormsRow):
    """AUGC in both forms."""

    enough_seeds: Annotated[bool, Field(description="whether there are at least three")]


@with_config(CLOSED)
class CheckpointRow(TypedDict):
    """Of the checkpoint."""

    variant: str
    beta: Beta
    checkpoint: SeedMean


@with_config(CLOSED)
class CollapseRow(TypedDict):
    """Checkpoint minus end."""

    variant: str
    beta: Beta
    collapse: SeedMean


@with_config(CLOSED)
class CheckpointOnlineRow(CheckpointRow):
    """Of the checkpoint, and mean over the online phase."""

    online: Annotated[SeedMean, Field(description="mean over the online phase")]


@with_config(CLOSED)
class SpearmanRow(TypedDict):
    """Spearman's ρ in both forms."""

    variant: str
    standardised: Spearman
    paper: Spearman


@with_config(CLOSED)
class LawRow(TypedDict):
    """The law in both forms."""

    variant: str
    standardised: LawParameters
    paper: LawParameters


@with_config(CLOSED)
class BetaStarRow(TypedDict):
    """β★ in both forms."""

    variant: str
    standardised: BetaStar
    paper: BetaStar


def _metric(number: int, row: Any) -> Any:
    fields = {
        "number": Annotated[Literal[number], Field(description="in Appendix F")],
        "title": Text,
        "rows": Annotated[list[row], Field(min_length=1)],
    }
    made: Any = TypedDict(f"Metric{number}", fields)  # pyright: ignore[reportArgumentType]
    return with_config(CLOSED)(made)


PROTOCOL_METRICS: dict[str, Any] = {
    "gap_series": _metric(1, GapSeries),
    "augc": _metric(2, AugcRow),
    "checkpoint_entropy": _metric(3, CheckpointRow),
    "entropy_collapse": _metric(4, CollapseRow),
    "ood_distance": _metric(5, CheckpointOnlineRow),
    "diversity": _metric(6, CheckpointOnlineRow),
    "spearman": _metric(7, SpearmanRow),
    "uq_gap_correlation": _metric(8, FormsRow),
    "law": _metric(9, LawRow),
    "beta_star": _metric(10, BetaStarRow),
}


@with_config(CLOSED)
class BetaDerivation(TypedDict):
    """Disclosure (a): where β came from."""

    letter: Literal["a"]
    method: Literal["percentiles", "list", "geometric"] | None
    formula: str | None
    settings: Pointer
    betas: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    n_pairs: Annotated[int | None, Field(description="training pairs from whose log-ratios the β follow")]
    reason: Reason


@with_config(CLOSED)
class Tau(TypedDict):
    """τ of a form of the gap."""

    tau: Size
    n_positive: Annotated[Count, Field(description="number of positive gaps that it is a percentile of")]


@with_config(CLOSED)
class HackingThreshold(TypedDict):
    """Disclosure (b): the hacking threshold."""

    letter: Literal["b"]
    rule: Text
    percentile: Literal[75]
    standardised: Tau
    paper: Tau
    reason: Reason


@with_config(CLOSED)
class EvaluationSeeds(TypedDict):
    """Disclosure (c): seeds and problems of the evaluation."""

    letter: Literal["c"]
    root_seed: int | None
    seeds: list[int]
    n_problems: Annotated[int | None, Field(description="answered at each evaluation point")]
    n_probe_prompts: Annotated[int | None, Field(description="of the fixed probe set of metric 3")]
    temperature: Size
    noise: Annotated[str | None, Field(description="which draws share their sampling noise")]
    adapted_on: Annotated[
        Literal["train", "test"] | None,
        Field(description="part of the task that the policy adapted on; it is evaluated on test"),
    ]
    start_evaluated_twice: Annotated[bool, Field(description="at t=0, with fresh noise: summary.*.instrument_noise")]
    reason: Reason


@with_config(CLOSED)
class LoggingPolicy(TypedDict):
    """Disclosure (d): who wrote and rated the preference pairs."""

    letter: Literal["d"]
    written_by: Annotated[str | None, Field(description="the model that wrote the responses of the preference pairs")]
    rated_by: str | None
    settings: Pointer
    coverage: Pointer
    reason: Reason


@with_config(CLOSED)
class Disclosures(TypedDict):
    """The four disclosures of Appendix F."""

    beta_derivation: BetaDerivation
    hacking_threshold: HackingThreshold
    evaluation_seeds: EvaluationSeeds
    logging_policy: LoggingPolicy


class Protocol(TypedDict):
    """arXiv:2606.30627, Appendix F: ten metrics and four disclosures."""

    source: Literal["arXiv:2606.30627, Appendix F"]
    metrics: dict[str, Any]
    disclosures: Disclosures
    missing: NotRequired[Missing]
