"""A sampled response and its grade, as they travel from the sampler to the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import NamedTuple, final


class Grade(NamedTuple):
    """Whether one response is right: by its `#### n` alone, by either reading, and whether it has a `#### n` at all."""

    strict: bool
    lenient: bool
    parsable: bool


@final
@dataclass(frozen=True, slots=True)
class Response:
    """One sampled response. The sampler knows its tokens; evaluation adds the text, the scores and the grade.

    `prompt` and `tokens` are token ids; `tokens` end with the end token unless `hit_limit`. `logprob` (sum, nats) and
    `entropy` (mean over response tokens, nats) are those of the policy at temperature 1. `scores`: of each reward
    model; `proxy` is their mean and `disagreement` û their standard deviation (arXiv:2606.30627 Eq. 13).
    """

    prompt: Sequence[int]
    tokens: list[int]
    hit_limit: bool
    logprob: float
    entropy: float
    text: str = ""
    scores: tuple[float, ...] = ()
    proxy: float = nan
    disagreement: float = nan
    grade: Grade | None = None
