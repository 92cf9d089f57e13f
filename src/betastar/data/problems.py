"""What a verifiable task is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from betastar.data.answers import Grader
from betastar.data.rows import Malformed


@dataclass(frozen=True)
class Problem:
    """One verifiable problem: what the policy is asked, and the gold answer that a grader compares its response with.
    `problem_id` numbers the problems of a part; sampling noise depends on it."""

    problem_id: int
    question: str
    gold: str


class Task(NamedTuple):
    """Problems to adapt on and to be evaluated on, and the grader of responses to either: grade(response, gold)."""

    train: list[Problem]
    test: list[Problem]
    grade: Grader
    malformed: Malformed = Malformed()
