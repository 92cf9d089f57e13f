"""The whole record of a run or an analysis."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from betastar.record.shapes.analysis import Condition, Difference, Frontier, Link, Summary, WarningSigns
from betastar.record.shapes.decision import Decision
from betastar.record.shapes.distance import DistanceRecord
from betastar.record.shapes.inside import BestOfN, Inside
from betastar.record.shapes.kinds import Count, Text
from betastar.record.shapes.protocol import Protocol
from betastar.record.shapes.run import (
    Data,
    EvaluationSettings,
    Grid,
    Hyperparameter,
    MethodSettings,
    OnlineSettings,
    PointsFile,
    PreferenceSettings,
    Problems,
    Rewards,
    Source,
    Threshold,
)

SCHEMA_VERSION = 4


class ResultsRecord(TypedDict):
    """Every number of a run or analysis."""

    schema_version: Annotated[Literal[4], Field(description="version of this schema")]
    betastar: Annotated[str, Field(description="version of the package that wrote this")]
    name: Annotated[str, Field(description="of the run, or of what was analysed")]
    root_seed: NotRequired[Annotated[Count, Field(description="from which every random stream of the run is derived")]]
    prompt_split: NotRequired[
        Annotated[
            Literal["train", "test"],
            Field(description="problems used for adaptation: `train`, or `test` as in the paper"),
        ]
    ]
    grid: NotRequired[Annotated[Grid, Field(description="how the values of β were chosen (Eq. 6 and 7)")]]
    methods: NotRequired[
        Annotated[
            dict[str, MethodSettings],
            Field(
                description="if a run has others than DPO: each method's `objective`, its `strength` (the records' β), "
                "`options`, `grid`, and the `variants` under which its conditions are recorded"
            ),
        ]
    ]
    variants: NotRequired[Annotated[dict[str, OnlineSettings], Field(description="online settings of each variant")]]
    evaluation: NotRequired[Annotated[EvaluationSettings, Field(description="settings of the evaluation")]]
    problems: NotRequired[
        Annotated[
            Problems,
            Field(
                description="how many in `train` and `test`, how many are `evaluated` at each point, and how many "
                "prompts the `probe` set of policy entropy has"
            ),
        ]
    ]
    preferences: NotRequired[Annotated[PreferenceSettings, Field(description="where the preference pairs came from")]]
    data: NotRequired[
        Annotated[
            Data,
            Field(
                description="`coverage` of the preference pairs (pairs, unique prompts, ties dropped, duplicates, "
                "tokens, length gap, vocabulary seen); `lengths`: token limits and the share truncated; `splits`: "
                "pairs in each"
            ),
        ]
    ]
    rewards: NotRequired[
        Annotated[
            Rewards,
            Field(
                description="the ensemble on `validation` and `test` pairs: `member_accuracy`, `member_margin`, "
                "`mean_accuracy`, `sign_disagreement`, `member_mean` (each member's mean score, its arbitrary "
                "constant), and the number of `pairs`"
            ),
        ]
    ]
    hyperparameters: NotRequired[
        Annotated[
            dict[str, Hyperparameter],
            Field(description="by setting: the value in use, and what Appendix C gives, with formula and inputs"),
        ]
    ]
    best_of_n: NotRequired[
        Annotated[
            BestOfN,
            Field(
                description="what keeping the best of n answers by the proxy gives, before any training: by "
                "checkpoint, and `by_beta` over seeds ([mechanism.md](mechanism.md#best-of-n))"
            ),
        ]
    ]
    inside: NotRequired[
        Annotated[
            Inside,
            Field(
                description="the offline phase of every checkpoint, and plasticity before and after the online phase "
                "([mechanism.md](mechanism.md))"
            ),
        ]
    ]
    source: NotRequired[
        Annotated[
            Source,
            Field(description="of an analysis of logs: `files`, `runs` with the columns that were read, `notes`"),
        ]
    ]
    frontier: NotRequired[
        Annotated[
            Frontier,
            Field(description="of finished runs with one point each: both rewards against √KL, from run to run"),
        ]
    ]
    points: NotRequired[
        Annotated[
            PointsFile,
            Field(
                description="if there are more than 20 000 evaluation points, the Parquet `file` next to this one with "
                "the series of all conditions (column `condition`: place in `conditions`), and its number of `rows`; "
                "pointers into a series then hold for the record as `betastar.load` joins it"
            ),
        ]
    ]
    threshold: Annotated[
        Threshold,
        Field(description="τ of each form: this `percentile` of all `n_positive` positive gaps"),
    ]
    conditions: Annotated[list[Condition], Field(min_length=1, description="one object per (variant, β, seed), below")]
    summary: Annotated[dict[str, Summary], Field(min_length=1, description="per variant, over seeds, below")]
    decision: Annotated[
        dict[str, Decision],
        Field(
            min_length=1,
            description="per variant, the answer over β: the declared measure, its test, its effect, the end truth, "
            "and which β to choose, below",
        ),
    ]
    differences: Annotated[
        list[Difference],
        Field(
            description="`variant` minus `minus`, paired within seeds at the same β: `by_beta`, and `over_beta` (of "
            "each seed's mean over β; between two offline objectives, over the own strengths of each), for "
            "`augc_standardised`, `augc_paper`, `true_lowest`, `true_end`"
        ),
    ]
    warning_signs: Annotated[
        WarningSigns,
        Field(
            description="whether signals warned of falls of the true reward, `by_variant` and `pooled`: "
            "[warning_signs.md](warning_signs.md)"
        ),
    ]
    chain: Annotated[
        dict[str, list[Link]],
        Field(
            description="the links of the paper's causal chain per variant, as stated and as measured: "
            "[the same page](warning_signs.md#the-chain)"
        ),
    ]
    distance: Annotated[
        dict[str, DistanceRecord],
        Field(
            description="per variant, rewards against √KL from the checkpoint and from the base: forms, β at equal KL, "
            "measured conservatism: [distance.md](distance.md)"
        ),
    ]
    protocol: Annotated[Protocol, Field(description="Appendix F: ten metrics and four disclosures, below")]
    warnings: Annotated[list[Text], Field(description="what limits this result, in words")]
