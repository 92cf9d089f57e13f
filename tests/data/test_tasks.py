"""Reading verifiable problems in GSM8K's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from betastar.data.answers import grade
from betastar.data.tasks import Problem, read_gsm8k
from betastar.errors import BetastarError

ROW = {"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"}


def read(tmp_path: Path, *rows: dict[str, Any], limit: int | None = None) -> list[Problem]:
    path = tmp_path / "problems.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    return read_gsm8k(path, limit)


def test_problem_ids_are_positions(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"question": "5?", "answer": "#### 5", "extra": 1}, ROW]
    first, second, third = read(tmp_path, *rows)
    assert first == Problem(0, "2 + 3?", "2 + 3 = 5\n#### 5")
    assert second == Problem(1, "5?", "#### 5")
    assert third == Problem(2, first.question, first.gold)
    assert read(tmp_path, *rows, limit=2) == [first, second]
    assert read(tmp_path, *rows, limit=9) == [first, second, third]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "#### 5"}, "no text in `question`; give each row `question` and `answer` texts."),
        (ROW | {"question": "  "}, "no text in `question`; give each row"),
        ({"question": "q"}, "no text in `answer`; give each row `question` and `answer` texts."),
        (ROW | {"answer": 5}, "no text in `answer`; give each row `question` and `answer` texts."),
        (ROW | {"answer": "5"}, "the answer has no number after its last `####`; end it with `#### n`."),
        (ROW | {"answer": "#### five"}, "the answer has no number after its last `####`; end it with `#### n`."),
        (ROW | {"answer": "#### 1/2"}, "the answer has no number after its last `####`; end it with `#### n`."),
    ],
)
def test_faults_name_file_line_and_remedy(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(BetastarError) as error:
        read(tmp_path, ROW, row)
    assert str(error.value).startswith(f"{tmp_path}/problems.jsonl, line 3: {message}")


def test_limit_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(BetastarError, match="The limit on problems is 0; give at least 1, or none to read them all"):
        read(tmp_path, ROW, limit=0)


def test_gsm8k_is_read_whole(shared_data: Path) -> None:
    problems = read_gsm8k(shared_data / "gsm8k" / "test.jsonl")
    assert [problem.problem_id for problem in problems] == list(range(1319))
    assert problems[0].question.startswith("Janet’s ducks lay 16 eggs per day.")
    assert grade("#### 18", problems[0].gold).strict
