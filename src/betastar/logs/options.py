"""What a person can say about logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Unit = Literal["share", "percent", "score"]


@dataclass(frozen=True)
class Options:
    """What is left out is guessed, and the guess is noted.

    `columns`: field → column, or a number that holds throughout; a field is one of step, proxy, true, uncertainty, kl,
    entropy, length, at_limit, proxy_std and the other columns of `metrics.jsonl`. `beta`, `seed`: a number for all
    runs, or a column; `variant`: a column. `patterns`: regular expressions over the names of runs, with the groups
    variant, beta and seed. `n`: responses behind each true reward. `true_unit`: whether true rewards are shares of
    right answers, percentages or other scores. `until`: the last step that counts.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    beta: float | str | None = None
    seed: float | str | None = None
    variant: str | None = None
    patterns: Sequence[str] = ()
    n: int | None = None
    true_unit: Unit | None = None
    until: int | None = None
