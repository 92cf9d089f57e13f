"""Several runs beside each other."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, with_config
from typing_extensions import TypedDict

from betastar.record.shapes.kinds import CLOSED, Reason, SeedMean

COMPARISON_VERSION = 2


@with_config(CLOSED)
class ComparedRun(TypedDict):
    """A run of a comparison."""

    name: Annotated[str, Field(description="the name it goes by")]
    run: Annotated[str | None, Field(description="its own name")]
    betastar: str | None
    root_seed: int | None
    variants: list[str]
    betas: list[float]
    seeds: list[int]
    last_step: list[int]
    problems_evaluated: list[int]
    truth_unit: Annotated[
        Literal["pp", "score"], Field(description="pp: the true reward is a share of right answers; score: it is not")
    ]


@with_config(CLOSED)
class ComparedSetting(TypedDict):
    """A setting that is not the same in all runs, with its values by run."""

    setting: str
    values: dict[str, Any]


@with_config(CLOSED)
class Outcomes(TypedDict):
    """Truth at the end, regret and AUGC of a variant of a run: means as its own record has them, and slopes."""

    run: str
    variant: str
    by_beta: list[dict[str, Any]]
    slope_per_tenfold_beta: dict[str, SeedMean]


@with_config(CLOSED)
class RunDifference(TypedDict):
    """`run` minus `minus` at the same `variant`."""

    run: str
    minus: str
    variant: str
    method: Literal["paired", "unpaired"] | None
    reason: Reason
    cautions: list[str]
    betas: list[float]
    other_betas: dict[str, list[float]]
    seeds: list[int] | dict[str, list[int]]
    by_beta: list[dict[str, Any]]
    over_beta: dict[str, SeedMean] | None
    slope_per_tenfold_beta: dict[str, SeedMean] | None


@with_config(CLOSED)
class ComparisonRecord(TypedDict):
    """Several runs beside each other."""

    comparison_version: Literal[2]
    betastar: str
    reference: Annotated[str, Field(description="the run that the others are compared with, the first")]
    runs: list[ComparedRun]
    settings_unknown: Annotated[list[str], Field(description="the runs whose settings were not kept")]
    settings: list[ComparedSetting]
    outcomes: list[Outcomes]
    differences: list[RunDifference]
