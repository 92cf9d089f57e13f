"""Held-out problems: the forms that are read, and those that are refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset

from betastar.errors import BetastarError
from betastar.monitor.answering import digest, held_out

CHAT = [{"role": "user", "content": "2 + 2 ?"}]


def test_pairs_rows_and_datasets_are_the_same_problems() -> None:
    rows = [{"prompt": "a", "answer": "#### 1"}, {"prompt": "b", "answer": "#### 2"}]
    found = held_out([("a", "#### 1"), ("b", "#### 2")], "answer")
    assert found == held_out(rows, "answer") == held_out(Dataset.from_list(rows), "answer")
    assert found[1] == ("b", "#### 2", {"answer": "#### 2"})
    assert rows[0]["prompt"] == "a", "the user's rows are left as they are"


def test_rows_keep_the_columns_that_reward_functions_read() -> None:
    rows = [{"prompt": CHAT, "solution": 4, "level": "easy"}] * 2
    assert held_out(rows, "solution")[0] == (CHAT, 4, {"solution": 4, "level": "easy"})


def test_the_digest_knows_prompts_gold_answers_order_and_settings() -> None:
    one = held_out([("a", 1), ("b", 2)], "answer")
    assert digest(one, [0.7]) == digest(held_out([("a", 1), ("b", 2)], "gold"), [0.7])
    others = [one, one[::-1], held_out([("a", 1), ("b", 3)], "answer")]
    assert len({digest(one, [1.0]), *(digest(other, [0.7]) for other in others)}) == 4


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        ([("a", "1")], "has 1 held-out problems; give at least 2"),
        (["ab", "cd"], r"Held-out problem 0 is 'ab'; give pairs \(prompt, gold answer\)"),
        ([{"prompt": "a", "gold": "1"}] * 2, "Held-out problem 0 has prompt, gold; give .* `prompt` and `answer`"),
        ([("a", "1"), (CHAT, "1")], "Some held-out prompts are texts and others are messages"),
        ([(3, "1")] * 2, "Held-out problem 0: the prompt is neither a text nor a list of messages"),
        ([{"prompt": CHAT, "answer": "1", "image": None}] * 2, "has images"),
    ],
)
def test_what_is_no_problem_is_refused(problems: list[Any], message: str) -> None:
    with pytest.raises(BetastarError, match=message):
        held_out(problems, "answer")
