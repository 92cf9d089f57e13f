"""Graders of dataset tasks: what is stated, what is read leniently, what is refused, and that no text takes long."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betastar.data import graders as answers
from betastar.data.graders import (
    Grade,
    Grader,
    grade_choice,
    grade_number,
    grade_text,
    grader,
    stated_letter,
    stated_number,
)
from betastar.errors import BetastarError

RIGHT = Grade(strict=True, lenient=True, parsable=True)
WRONG = Grade(strict=False, lenient=False, parsable=True)
LENIENT = Grade(strict=False, lenient=True, parsable=False)
NOTHING = Grade(strict=False, lenient=False, parsable=False)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2 + 16\nAnswer: 18", "18"),
        ("**Answer:** 18.00", "18"),
        ("**Answer: $18**", "18"),
        ("Final answer: 18 apples", "18"),
        ("Answer: $18$", "18"),
        (r"Answer: \(18\)", "18"),
        (r"\boxed{18}", "18"),
        (r"so $x = \boxed{1{,}234}$.", "1234"),
        (r"\boxed{1\,234}", "1234"),
        (r"\boxed{-\$5}", "-5"),
        (r"\boxed{50\%}", "50"),
        (r"Answer: \boxed{18}", "18"),
        (r"\boxed{3} #### 18", "18"),
        (r"#### 18 then \boxed{3}", "3"),
        ("Answer: 17\nAnswer: 18", "18"),
        ("Answer: #### 18", "18"),
        ("Answer: 16-18", None),
        ("Answer: 3, 4", None),
        ("Answer: x = 18", None),
        (r"Answer: \frac{36}{2}", None),
        (r"\boxed{18", None),
        ("Answer:\n18", None),
        ("the answers: 18", None),
        ("It is 18.", None),
    ],
)
def test_stated_number(text: str, number: str | None) -> None:
    assert stated_number(text) == (None if number is None else Decimal(number))
    assert grade_number(text, "18").parsable == (number is not None)


def test_numbers_are_compared_exactly_and_a_stated_one_is_final() -> None:
    assert grade_number("Answer: 145", "145.0") == RIGHT  # SVAMP writes its gold answers so
    assert grade_number("Answer: 145.0000001", "145.0") == WRONG
    assert grade_number("Answer: 17, but I meant 18", "18") == WRONG
    assert grade_number("I think it is 18", "18") == LENIENT
    assert grade_number(r"half is \frac{36}{2}", "2") == NOTHING  # a fraction has no value here
    assert grade_number("18", "… #### 18") == LENIENT


@given(st.text("0123456789#,.$%\\{} \nAnswer:boxd") | st.text())
def test_any_text_has_a_number_grade_and_strictly_right_is_leniently_right(text: str) -> None:
    grade = grade_number(text, "18")
    assert grade.lenient or not grade.strict
    assert grade.parsable or not grade.strict


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: B", "B"),
        ("Answer: (B)", "B"),
        ("**Answer:** B", "B"),
        ("**Answer: B**", "B"),
        ("Answer: b.", "B"),
        ("Answer: B) heat", "B"),
        ("Answer: B. Vitamin C", "B"),
        ("Answer: B. A cat", "B"),
        ("Answer: B, because", "B"),
        (r"Answer: \boxed{B}", "B"),
        (r"Answer: $\boxed{\text{(B)}}$", "B"),
        ("Final answer: [B]", "B"),
        ("Answer: `B`", "B"),
        ("Answer: A\nAnswer: B", "B"),
        ("Answer: B the heat", None),
        ("Answer: A cat", None),
        ("Answer: A, B", None),
        ("Answer: A or B", None),
        ("Answer: (B) and (C)", None),
        ("Answer: B/C", None),
        ("Answer: AB", None),
        ("Answer: B-cells.", None),
        ("Answer: B's", None),
        ("Answer: F", None),
        ("Answer:\nB", None),
        ("B", None),
    ],
)
def test_stated_letter(text: str, letter: str | None) -> None:
    assert stated_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (B).", "B"),
        ("I would say the correct option is B because of C.", "B"),
        ("A. cat\nB. dog\nC. cow\nThe best answer is: **B**", "B"),
        ("Answer: B the heat", "B"),
        ("B", "B"),
        ("B.", "B"),
        ("- (B) heat", "B"),
        ("**B**", "B"),
        (r"so \boxed{\text{B}}", "B"),
        ("I think (A) is wrong, so (B).", "B"),
        ("Vitamin B is good", None),
        ("A cat sat", None),
        ("The answer is not B", None),
        ("Option B is wrong", None),
        ("Because of heat", None),
    ],
)
def test_lenient_letter(text: str, letter: str | None) -> None:
    assert grade_choice(text, "B") == (LENIENT if letter == "B" else NOTHING)
    assert grade_choice(text, "D") == NOTHING


@given(st.sampled_from("ABCDE"), st.sampled_from("ABCDE"))
def test_a_stated_letter_is_final(stated: str, gold: str) -> None:
    response = f"The answer is {gold}.\nAnswer: {stated}"
    assert grade_choice(response, f"({gold.lower()})") == (RIGHT if stated == gold else WRONG)


@pytest.mark.parametrize(
    ("response", "gold", "grade"),
    [
        ("Answer: Yes.", "yes", RIGHT),
        ("Think.\n**Answer:** New  York", "new york", RIGHT),
        ("Answer: ＹＥＳ", "yes", RIGHT),
        ("Answer: yes, because of the rain", "yes", Grade(strict=False, lenient=True, parsable=True)),
        ("Yes.\nAnswer: no", "yes", WRONG),
        ("Answer: yesterday", "yes", WRONG),
        ("Answer:\nyes", "yes", WRONG),
        ("Yes", "yes", LENIENT),
        ("Yes, because of the rain", "yes", LENIENT),
        ("It rains.\nYes!\n", "yes", LENIENT),
        ("It says yes and no", "yes", NOTHING),
        ("", "yes", NOTHING),
    ],
)
def test_texts_are_compared_by_their_words(response: str, gold: str, grade: Grade) -> None:
    assert grade_text(response, gold) == grade


@pytest.mark.parametrize(
    ("name", "gold", "message"),
    [
        ("gsm8k", "eighteen", "The gold answer 'eighteen' has no number; end it with `#### n`"),
        ("number", "1/2", "The gold answer '1/2' has no number; end it with `#### n`"),
        ("text", " … ", "The gold answer ' … ' contains no words; write the answer in words"),
        ("choice", "F", "The gold answer 'F' is not a letter from A to E; correct task.gold."),
        ("choice", "AB", "The gold answer 'AB' is not a letter from A to E; correct task.gold."),
        ("choice", "", "The gold answer '' is not a letter from A to E; correct task.gold."),
    ],
)
def test_a_gold_answer_that_cannot_be_read_is_refused(name: str, gold: str, message: str) -> None:
    with pytest.raises(BetastarError) as error:
        grader(name)("", gold)
    assert str(error.value).startswith(message)


def test_graders_by_name() -> None:
    named = [grader(name) for name in ("gsm8k", "number", "text", "choice")]
    assert named == [answers.grade_gsm8k, grade_number, grade_text, grade_choice]


HOSTILE = ["answer:", "answer ", "Answer: ", "(", "(A", "A, ", r"\boxed{", r"\boxed", "{", "}", "####", "*_", "\n", " "]


@pytest.mark.parametrize("piece", [*HOSTILE, r"\text{", "\n\n", r"\frac{", "1{,}", "$", "A.", ". "])
@pytest.mark.parametrize(("grade", "gold"), [(grade_number, "18"), (grade_text, "yes"), (grade_choice, "B")])
def test_long_hostile_texts_take_linear_time(grade: Grader, gold: str, piece: str) -> None:
    """Quadratic time over these would take minutes."""
    text, started = piece * (100_000 // len(piece)), time.perf_counter()
    for whole in (text, f"Answer: {text}", f"answer {text} is"):
        assert not grade(whole, gold).strict
    assert time.perf_counter() - started < 3
