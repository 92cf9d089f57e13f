"""What a run's record says of its settings and data, and an analysis of its source."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from betastar.record.shapes.kinds import CLOSED, Beta, Count, Missing, Number, Reason, Setting, Share, Size, Text


@with_config(CLOSED)
class Grid(TypedDict):
    """How the β were found (Eq. 6 and 7); settings that are not used are left out."""

    method: Literal["percentiles", "list", "geometric", "target_kl"]
    percentiles: NotRequired[list[Setting]]
    values: NotRequired[list[Setting]]
    low: NotRequired[Setting]
    high: NotRequired[Setting]
    n: NotRequired[Count]


@with_config(CLOSED)
class Tried(TypedDict):
    """A strength that was tried in search of a distance."""

    strength: Setting
    kl: Annotated[Number, Field(description="KL from the base on the evaluation problems, nats per response")]
    error: Annotated[Size, Field(description="its standard error")]
    n: Annotated[Count, Field(description="responses")]


@with_config(CLOSED)
class MethodSettings(TypedDict):
    """An offline method. Where records say β, they mean its strength."""

    objective: Annotated[str, Field(description="the loss, built in or a user's own")]
    strength: Annotated[str, Field(description="symbol of the knob that the grid sets")]
    closer: Annotated[Literal["larger", "smaller"], Field(description="which strengths stay closer to the base")]
    options: Annotated[dict[str, Setting], Field(description="what the objective takes beside its strength")]
    beta_schedule: NotRequired[
        Annotated[dict[str, Setting], Field(description="β-DPO's slope and momentum, if β follows each batch")]
    ]
    grid: Grid
    strengths: Annotated[list[Setting], Field(description="the strengths in use, ascending")]
    variants: Annotated[list[str], Field(description="the names of its conditions in this record")]
    searched: NotRequired[Annotated[list[Tried], Field(description="of a grid by distance: what was tried")]]


@with_config(CLOSED)
class Kl(TypedDict):
    """The penalty of the online phase."""

    coupling: Annotated[
        Literal["paper", "fixed", "target", "uncertainty"],
        Field(
            description="paper: κ ∝ β (Eq. 10); fixed: the same κ for every β; target: adapted to a KL; "
            "uncertainty: by the ensemble's disagreement"
        ),
    ]
    percentile: Setting
    kappa: Setting
    place: NotRequired[
        Annotated[
            Literal["loss_square", "loss_k3", "reward", "none"],
            Field(description="where the penalty enters; absent: loss_square, Eq. 8"),
        ]
    ]
    target: NotRequired[Annotated[Setting, Field(description="KL from the checkpoint, nats per response")]]
    horizon: NotRequired[Setting]
    power: NotRequired[Annotated[Setting, Field(description="exponent of û₀/û")]]


@with_config(CLOSED)
class OnlineSettings(TypedDict):
    """The online phase of a variant."""

    batch_size: Count
    learning_rate: Setting
    weight_decay: Setting
    clip: Annotated[Setting, Field(description="largest gradient norm")]
    warmup_steps: Annotated[Count | Literal["auto"], Field(description="auto: ⌊√steps⌋")]
    steps: Annotated[Count, Field(description="optimiser steps T")]
    temperature: Setting
    prompt_split: Literal["train", "test"]
    kl: Kl
    conditions_at_once: NotRequired[Count]
    answers_per_prompt: NotRequired[Annotated[Count, Field(description="absent: 1")]]
    advantage: NotRequired[Annotated[str, Field(description="absent: batch, Eq. 9")]]
    length_normalisation: NotRequired[Annotated[str, Field(description="absent: none, Eq. 8")]]
    epochs_per_batch: NotRequired[Annotated[Count, Field(description="absent: 1")]]
    proxy: NotRequired[
        Annotated[
            dict[str, Setting | str], Field(description="the reward that is maximised; absent: the members' mean")
        ]
    ]
    act: NotRequired[
        Annotated[dict[str, Setting | str], Field(description="what is done when the gap rises; absent: nothing")]
    ]
    clip_low: NotRequired[Setting]
    clip_high: NotRequired[Setting]


@with_config(CLOSED)
class EvaluationSettings(TypedDict):
    """How checkpoints are evaluated."""

    every: Annotated[Count, Field(description="online steps between evaluation points")]
    problems: Annotated[Count, Field(description="at most so many are answered at each point")]
    answers: NotRequired[Annotated[Count, Field(description="responses to each problem")]]
    temperature: Annotated[Setting, Field(ge=0)]
    samples: Annotated[Count, Field(description="whole responses kept per condition and point")]
    best_of: NotRequired[Annotated[Count, Field(description="answers per problem and checkpoint for best-of-n")]]
    best_of_problems: NotRequired[Annotated[Count, Field(description="problems answered for best-of-n, at most")]]
    plasticity: NotRequired[
        Annotated[Count, Field(description="held-out responses on which the inside of every policy is read")]
    ]
    fresh_steps: NotRequired[Annotated[Count, Field(description="steps of the fresh task; absent: 0, none")]]


@with_config(CLOSED)
class Problems(TypedDict):
    """How many problems there are."""

    train: Count
    test: Count
    evaluated: Annotated[Count, Field(description="test problems answered at each evaluation point")]
    probe: Annotated[Count, Field(description="test problems on whose prompts policy entropy is read (Eq. 11)")]


@with_config(ConfigDict(extra="allow"))
class PreferenceSettings(TypedDict):
    """Where the preference pairs came from; which settings there are depends on the kind."""

    kind: Literal["micro", "dataset"]


@with_config(CLOSED)
class LengthSummary(TypedDict):
    """Of a number of tokens."""

    mean: Setting
    p5: Setting
    p50: Setting
    p95: Setting


@with_config(CLOSED)
class Tokens(TypedDict):
    """Tokens of the policy's tokenizer."""

    prompt: LengthSummary
    chosen: LengthSummary
    rejected: LengthSummary


@with_config(CLOSED)
class Vocabulary(TypedDict):
    """Tokens that the pairs use."""

    seen: Count
    size: Count
    share: Share


@with_config(CLOSED)
class Coverage(TypedDict):
    """Of all usable preference pairs, before the split."""

    pairs: Count
    unique_prompts: Count
    duplicate_pairs: Count
    ties_dropped: Annotated[Count, Field(description="rows whose two responses are the same text")]
    malformed_dropped: Count
    malformed_examples: list[str]
    tokens: Tokens
    chosen_minus_rejected_tokens: LengthSummary
    vocabulary: Vocabulary


@with_config(CLOSED)
class Lengths(TypedDict):
    """Token limits and the share of texts that they cut."""

    prompt: Count
    response: Count
    share_prompts_truncated: Share
    share_responses_truncated: Share


@with_config(CLOSED)
class Splits(TypedDict):
    """Pairs in each split."""

    train: Count
    validation: Count
    test: Count


@with_config(CLOSED)
class Data(TypedDict):
    """The preference data."""

    coverage: Coverage
    lengths: Lengths
    splits: Splits


@with_config(CLOSED)
class RewardAccuracy(TypedDict):
    """Of the reward models on so many pairs."""

    pairs: Count
    member_mean: Annotated[list[Number], Field(description="each member's mean score, its arbitrary constant")]
    member_accuracy: list[Share]
    member_margin: Annotated[list[Number], Field(description="mean score of chosen minus rejected")]
    mean_accuracy: Annotated[Share, Field(description="of the members' mean")]
    sign_disagreement: Annotated[
        Share, Field(description="of pairs on which members disagree which response is better")
    ]


@with_config(CLOSED)
class Rewards(TypedDict):
    """The reward ensembles on pairs that they were not trained on. If each seed has its own, lists have the members of
    the first seed, then those of the second, …, and other numbers are means over seeds."""

    members: Annotated[Count, Field(description="reward models in an ensemble")]
    seeds: NotRequired[Annotated[list[int], Field(description="if each seed has its own ensemble")]]
    validation: RewardAccuracy
    test: RewardAccuracy


@with_config(CLOSED)
class Hyperparameter(TypedDict):
    """A setting and what Appendix C gives for it."""

    value: Annotated[Setting | str, Field(description="in use")]
    appendix_c: NotRequired[Annotated[Setting, Field(description="what Appendix C gives")]]
    formula: NotRequired[str]
    inputs: NotRequired[dict[str, Setting]]
    raw: NotRequired[Annotated[Setting, Field(description="the formula's value before it is clipped")]]
    clipped: NotRequired[Annotated[Literal["low", "high"], Field(description="the bound on which it sits, if it does")]]
    given: NotRequired[Annotated[bool, Field(description="whether a configured number counts instead")]]


@with_config(CLOSED)
class SourceRun(TypedDict):
    """A run in the logs."""

    name: str
    kind: Annotated[str, Field(description="format of the log")]
    variant: str
    beta: Beta
    seed: int
    points: Annotated[Count, Field(description="evaluation points")]
    columns: Annotated[dict[str, str], Field(description="quantity → column it was read from")]
    missing: NotRequired[Missing]


@with_config(CLOSED)
class Source(TypedDict):
    """Of an analysis of logs: what was read."""

    files: list[str]
    runs: list[SourceRun]
    notes: Annotated[list[Text], Field(description="what was guessed, skipped and changed")]


@with_config(CLOSED)
class PointsFile(TypedDict):
    """The table that holds the series of a large record."""

    file: Literal["points.parquet"]
    rows: Annotated[Count, Field(description="evaluation points of all conditions")]


@with_config(CLOSED)
class ByForm(TypedDict):
    """Of each form of the gap."""

    standardised: Count
    paper: Count


@with_config(CLOSED)
class Threshold(TypedDict):
    """Hacking threshold τ of each form of the gap."""

    standardised: Size
    paper: Size
    percentile: Literal[75]
    n_positive: ByForm
    reason: Reason
