"""The grader of LaTeX answers, with math-verify itself: boxes, equal formulas, gold answers, formulas that hang."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from betastar.data.graders import Box, Grade, last_box, math_grader
from betastar.errors import BetastarError

RIGHT = Grade(strict=True, lenient=True, parsable=True)
WRONG = Grade(strict=False, lenient=False, parsable=True)
LENIENT = Grade(strict=False, lenient=True, parsable=False)
NOTHING = Grade(strict=False, lenient=False, parsable=False)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{1}", "1"),
        (r"first \boxed{1}, then \boxed {\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\fbox{x}", "x"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),  # escaped braces do not count
        (r"\boxed{}", ""),
        (r"\boxed{1", None),
        (r"\boxed{1} and \boxed{2", None),  # cut off while it corrects itself
        ("1", None),
    ],
)
def test_the_last_box(text: str, content: str | None) -> None:
    box = last_box(text)
    assert (box and box.content) == content
    if box:
        assert text[box.start :].startswith(("\\boxed", "\\fbox"))


@given(st.text("a{}\\ "), st.text("ab\\boxed{}"))
def test_what_was_boxed_is_found(before: str, after: str) -> None:
    found = last_box(f"{before}\\boxed{{x^{{2}}}} {after.replace('boxed', '')}")
    assert found is not None
    assert found.content == "x^{2}"
    assert isinstance(found, Box)


@pytest.mark.parametrize(
    ("response", "gold", "grade"),
    [
        (r"so \boxed{\frac{1}{2}}", r"\frac12", RIGHT),
        (r"so \boxed{0.5}", r"We get $\boxed{\dfrac{1}{2}}$.", RIGHT),  # MATH's gold is the solution
        (r"\boxed{(x+1)^2}", "x^2 + 2x + 1", RIGHT),
        (r"\boxed{1, 2}", r"\{2, 1\}", RIGHT),
        (r"\boxed{\frac{2}{3}}", r"\frac12", WRONG),
        (r"\boxed{3}. No: it is 1/2", r"\frac12", WRONG),  # a stated answer is final
        (r"it is $\frac{1}{2}$", r"\frac12", LENIENT),
        ("it is 1/2.", r"\frac12", LENIENT),
        ("I do not know", r"\frac12", NOTHING),
        ("", r"\frac12", NOTHING),
        (r"\boxed{}", r"\frac12", WRONG),
    ],
)
def test_formulas_are_compared_by_value(response: str, gold: str, grade: Grade) -> None:
    assert math_grader()(response, gold) == grade


@settings(max_examples=30, deadline=None)
@given(st.integers(-99, 99), st.integers(1, 99))
def test_equal_fractions_are_equal_and_others_not(numerator: int, denominator: int) -> None:
    grade, gold = math_grader(), rf"\frac{{{2 * numerator}}}{{{2 * denominator}}}"
    assert grade(rf"\boxed{{\frac{{{numerator}}}{{{denominator}}}}}", gold) == RIGHT
    assert grade(rf"\boxed{{\frac{{{numerator + 1}}}{{{denominator}}}}}", gold) == WRONG


@pytest.mark.parametrize("gold", ["", r"\boxed{ }", " "])
def test_a_gold_text_without_a_formula_is_refused(gold: str) -> None:
    with pytest.raises(BetastarError, match=r"^The gold answer '.*' has no formula; end it with \\boxed\{…\}\.$"):
        math_grader()("1", gold)


@pytest.mark.thorough
def test_a_tower_of_powers_counts_as_wrong_after_seconds(capfd: pytest.CaptureFixture[str]) -> None:
    started = time.perf_counter()
    assert math_grader()(r"\boxed{9^{9^{9}}}", "1") == WRONG
    assert time.perf_counter() - started < 20
    assert capfd.readouterr().err == ""


def test_other_threads_may_grade_too() -> None:
    grades = []
    thread = threading.Thread(target=lambda: grades.append(math_grader()(r"\boxed{0.5}", r"\frac12")))
    thread.start()
    thread.join()
    assert grades == [RIGHT]


def test_without_math_verify_the_extra_is_named(tmp_path: Path) -> None:
    """A package of that name that cannot be imported stands for one that is not there."""
    (tmp_path / "math_verify.py").write_text("raise ModuleNotFoundError('No module named math_verify')")
    script = "from betastar.data.graders import math_grader\nmath_grader()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1].endswith(
        "task.grader: math needs the package math-verify; install it with `pip install 'betastar[math]'`."
    )
