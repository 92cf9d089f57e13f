"""Verifiable problems: a question and a gold answer that a grader can check."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from betastar.data.answers import strict_answer
from betastar.data.jsonl import read_jsonl
from betastar.errors import BetastarError


@dataclass(frozen=True)
class Problem:
    """One verifiable problem; `gold` is the gold text, ending in `#### n`."""

    problem_id: int
    question: str
    gold: str


def read_gsm8k(path: Path | str, limit: int | None = None) -> list[Problem]:
    """Read at most `limit` problems from GSM8K's JSON Lines: `question`, and `answer` ending in `#### n`.

    `problem_id` is the position in the file, from 0, blank lines not counted. Raises BetastarError naming file and
    line for a missing or empty field and for an answer without `#### n`.
    """
    if limit is not None and limit < 1:
        raise BetastarError(f"The limit on problems is {limit}; give at least 1, or none to read them all.")
    problems: list[Problem] = []
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        for field in ("question", "answer"):
            if not isinstance(row.get(field), str) or not row[field].strip():
                raise BetastarError(f"{where}: no text in `{field}`; give each row `question` and `answer` texts.")
        if strict_answer(row["answer"]) is None:
            raise BetastarError(f"{where}: the answer has no number after its last `####`; end it with `#### n`.")
        problems.append(Problem(len(problems), row["question"], row["answer"]))
        if len(problems) == limit:
            break
    return problems
