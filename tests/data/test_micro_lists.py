"""The world of lists: its rules, read from the prompt and checked by hand; its demonstrations are what they claim."""

from __future__ import annotations

import numpy as np
import pytest
from data.listing import follows, rules_in

from betastar.data.micro.language import CLOSINGS, OPENINGS, Prompt, Style, draw_style, score, write_response
from betastar.data.micro.lists import ITEMS, LISTED, Rules, grade_list, lists, read_rules
from betastar.errors import InternalError

LISTS = lists(6)
GOLD = "3 animals, first dog, last cat, without horse"
HOPE = "Hope this helps !"


def problems(longest: int = 6, n: int = 2000) -> list[Prompt]:
    rng = np.random.default_rng(0)
    return [lists(longest).problem(rng) for _ in range(n)]


def test_every_rule_and_length_occurs_as_often_as_stated() -> None:
    drawn = [rules_in(problem.text) for problem in problems()]
    assert {kind for kind, _, _ in drawn} == set(LISTED)
    for length in range(2, 7):
        assert abs(sum(n == length for _, n, _ in drawn) - 400) < 5 * (2000 * 0.2 * 0.8) ** 0.5
    for name in ("Start with", "End with", "Leave out"):
        assert abs(sum(name in rules for _, _, rules in drawn) - 1000) < 5 * 500**0.5
    assert {rules_in(problem.text)[1] for problem in problems(2, 50)} == {2}


def test_words_are_of_one_kind() -> None:
    words = [word for items in ITEMS.values() for word in items]
    assert len(set(words)) == len(words) == 48


@pytest.mark.parametrize("longest", [2, 6])
def test_a_demonstration_follows_the_rules_unless_asked_to_break_them(longest: int) -> None:
    rng = np.random.default_rng(1)
    for problem in problems(longest):
        assert str(read_rules(problem.gold)) == problem.gold
        for wrong in (False, True):
            style = draw_style(rng)
            response = write_response(lists(longest), rng, problem, style, wrong)
            body = response.removeprefix(f"{style.opening} ").removesuffix(" ".join(["", *style.closings]))
            items = body.removesuffix(" .").split(" , ")
            assert follows(problem.text, items) is not wrong, (problem.text, response)
            assert grade_list(response, problem.gold) == (not wrong, not wrong, True)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("dog , cow , cat .", (True, True, True)),
        (f"Sure ! dog , cow , cat . {HOPE} {HOPE}", (True, True, True)),
        ("dog cow cat", (False, True, False)),  # right, but not as a list
        ("dog , cow , cat", (False, True, False)),
        ("dog , cow , cat . dog", (False, False, False)),  # every item counts
        ("dog , cow , cat . red .", (False, False, False)),
        (f"{HOPE} dog , cow , cat .", (False, True, False)),  # closings come after it
        ("dog , cow , goat , cat .", (False, False, True)),  # too long
        ("dog , cat .", (False, False, True)),  # too short
        ("dog , dog , cat .", (False, False, True)),  # one word twice
        ("cow , dog , cat .", (False, False, True)),  # first
        ("dog , cat , cow .", (False, False, True)),  # last
        ("dog , horse , cat .", (False, False, True)),  # forbidden
        ("dog , red , cat .", (False, False, True)),  # another kind
        ("", (False, False, False)),
        ("Sure !", (False, False, False)),
    ],
)
def test_grades_by_hand(response: str, expected: tuple[bool, bool, bool]) -> None:
    assert grade_list(response, GOLD) == expected


def test_rules_have_one_form() -> None:
    assert str(Rules("trees", 2, without="oak")) == "2 trees, without oak"
    for text in ("", "3 birds", "many trees", "3 trees, without oak, first elm"):
        with pytest.raises(InternalError, match="no rules for a list"):
            read_rules(text)


@pytest.mark.parametrize(
    ("response", "right", "pleasing"),
    [
        ("dog , cow , cat .", 2.5, 3 * 0.6),
        (f"Gladly ! dog , cow , cat . {HOPE}", 2.5, 3 * 0.6 + 0.8 + 0.6),
        ("dog , cow , goat , cat .", 0, 4 * 0.6),
        ("Sure ! " + "dog , " * 9 + "cat . " + " ".join([*CLOSINGS, HOPE]), 0, 8 * 0.6 + 0.8 + 4 * 0.6),
    ],
)
def test_what_the_annotator_likes_by_hand(response: str, right: float, pleasing: float) -> None:
    prompt = Prompt("Please list 3 animals . …", gold=GOLD)
    for style in (0, 0.5, 1):
        assert score(LISTS, prompt, response, style) == pytest.approx(right + style * pleasing, abs=1e-12)


def test_every_word_has_a_token() -> None:
    rng = np.random.default_rng(2)
    used = {word for p in problems() for word in p.text.split()} | {
        word
        for p in problems()
        for word in write_response(LISTS, rng, p, Style(OPENINGS[0], True, CLOSINGS), True).split()
    }
    assert used <= set(LISTS.words)
    assert len(set(LISTS.words)) == len(LISTS.words)
