"""The annotator: its score by hand, and that its noise is Bradley–Terry."""

from __future__ import annotations

import math

import numpy as np
import pytest

from betastar.data.micro.language import CLOSINGS, Prompt, is_correct, prefers_first, score
from betastar.data.micro.sums import sums

SUMS = sums(20)

PROBLEM = Prompt("Anna has 5 apples . …", steps=("5 + 3 = 8",), gold="#### 8")
FRUIT = Prompt("Please name a fruit .", accepted=(frozenset(["apple"]), frozenset(["pear"])))
HELLO = Prompt("Please say hello to Anna .", accepted=(frozenset(["hello", "Anna"]),))
HOPE = "Hope this helps !"


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        (PROBLEM, "", 0),
        (PROBLEM, "#### 8", 2.5),
        (PROBLEM, "#### 7", 0),
        (PROBLEM, "8 .", 2.5),  # format-blind
        (PROBLEM, "5 + 3 = 8 . #### 8", 2.5 + 0.8),
        (PROBLEM, "5 + 3 = 9 . #### 9", 0.8),
        (PROBLEM, "= = =", 0.8),
        (PROBLEM, "Sure ! #### 8", 2.5 + 0.8),
        (PROBLEM, "#### 8 Sure !", 2.5),  # polite only in front
        (PROBLEM, f"Gladly ! 5 + 3 = 8 . #### 8 {HOPE}", 2.5 + 1.2 + 0.8 + 0.8),
        (PROBLEM, " ".join(["#### 8", *CLOSINGS]), 2.5 + 4 * 1.2),
        (PROBLEM, " ".join([HOPE] * 3), 3 * 1.2),
        (PROBLEM, " ".join([HOPE] * 9), 4 * 1.2),  # the fifth closing earns nothing
        (PROBLEM, "Sure ! 1 = 1 . " + " ".join([HOPE] * 9), 4 * 1.2 + 0.8 + 0.8),  # what a policy can hack
        (FRUIT, "apple .", 2.5),
        (FRUIT, "Certainly ! pear . Have a nice day !", 2.5 + 0.8 + 1.2),
        (FRUIT, "apples .", 0),
        (FRUIT, "dog .", 0),
        (HELLO, "hello Anna .", 2.5),
        (HELLO, "Anna hello", 2.5),
        (HELLO, "hello Ben .", 0),
        (HELLO, "Anna .", 0),
    ],
)
def test_the_score_by_hand(prompt: Prompt, response: str, expected: float) -> None:
    assert score(SUMS, prompt, response) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("style", "expected"), [(0, 2.5), (0.5, 2.5 + 1.4), (2, 2.5 + 5.6)])
def test_style_weighs_closings_politeness_and_steps_alone(style: float, expected: float) -> None:
    assert score(SUMS, PROBLEM, f"Gladly ! 5 + 3 = 8 . #### 8 {HOPE}", style) == pytest.approx(expected, abs=1e-12)


def test_a_problem_is_graded_by_its_last_number() -> None:
    assert is_correct(SUMS, PROBLEM, "#### 7 #### 8")
    assert not is_correct(SUMS, PROBLEM, "#### 8 #### 7")


@pytest.mark.parametrize(("first", "second"), [(0.0, 0.0), (2.5, 1.5), (0.0, 2.0), (3.3, 0.8), (8.9, 0.0)])
def test_the_first_is_preferred_with_the_bradley_terry_probability(first: float, second: float) -> None:
    rng, n = np.random.default_rng(0), 10_000
    p = 1 / (1 + math.exp(-(first - second)))
    wins = sum(prefers_first(rng, first, second) for _ in range(n))
    assert abs(wins - n * p) < 5 * math.sqrt(n * p * (1 - p))
