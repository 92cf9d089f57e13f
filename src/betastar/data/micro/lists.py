"""The second embedded world: lists that must follow up to four rules, so that the truth is a check of rules rather than
arithmetic. The annotator likes long lists, politeness and closings besides, and a longer list breaks a rule."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

import numpy as np

from betastar.data.micro.language import (
    CLOSINGS,
    OPENINGS,
    Language,
    Prompt,
    Style,
    closings,
    is_polite,
    with_small_talk,
)
from betastar.errors import InternalError
from betastar.record.responses import Grade

LISTED = {
    "animals": "dog cat horse rabbit cow goat sheep mouse",
    "fruits": "apple pear plum cherry lemon melon fig peach",
    "colours": "red blue green yellow pink brown white black",
    "trees": "oak pine birch maple elm ash cedar willow",
    "tools": "hammer saw drill file plane chisel axe knife",
    "drinks": "tea coffee milk water juice wine beer cocoa",
}
ITEMS = {kind: tuple(words.split()) for kind, words in LISTED.items()}
EVERY_ITEM = frozenset(word for words in ITEMS.values() for word in words)
SHORTEST = 2  # words; with the longest list, at most 6 of 8 words, there is always room for one that is too long
MOST_ITEMS = 8


@dataclass(frozen=True)
class Rules:
    """What a list must be: so many different words of a kind, with a first, a last and a forbidden one, if any."""

    kind: str
    length: int
    first: str | None = None
    last: str | None = None
    without: str | None = None

    def __str__(self) -> str:
        more = {"first": self.first, "last": self.last, "without": self.without}
        return ", ".join([f"{self.length} {self.kind}", *(f"{name} {word}" for name, word in more.items() if word)])

    def allow(self, items: list[str]) -> bool:
        return (
            len(items) == len(set(items)) == self.length
            and set(items) <= set(ITEMS[self.kind]) - {self.without}
            and self.first in (None, items[0])
            and self.last in (None, items[-1])
        )


def read_rules(gold: str) -> Rules:
    """The inverse of `str`. Raises InternalError for any other text."""
    found = re.fullmatch(r"(\d+) (\w+)(?:, first (\w+))?(?:, last (\w+))?(?:, without (\w+))?", gold)
    if not found or found[2] not in ITEMS:
        raise InternalError(f"{gold!r} are no rules for a list; please report this bug.")
    return Rules(found[2], int(found[1]), *found.groups()[2:])


def lists(longest: int) -> Language:
    """The language of lists of 2 to `longest` words."""
    numbers = map(str, range(SHORTEST, longest + 1))
    fixed = ["list", ",", "!", "Start", "with", "End", "Leave", "out"]
    words = with_small_talk(*fixed, *numbers, *(word for kind, items in ITEMS.items() for word in (kind, *items)))
    return Language(words, partial(draw_problem, longest=longest), demonstration, grade_list, taste)


def draw_problem(rng: np.random.Generator, longest: int) -> Prompt:
    """Rules that a list can follow: each of the three about single words is there in half of the problems."""
    kind = str(rng.choice(list(ITEMS)))
    length = int(rng.integers(SHORTEST, longest + 1))
    words = [str(word) for word in rng.choice(ITEMS[kind], size=3, replace=False)]
    first, last, without = (word if rng.random() < 0.5 else None for word in words)
    sentences = [f"Please list {length} {kind}"]
    sentences += [f"{rule} {word}" for rule, word in (("Start with", first), ("End with", last)) if word]
    sentences += [f"Leave out {without}"] if without else []
    return Prompt(" . ".join(sentences) + " .", gold=str(Rules(kind, length, first, last, without)))


def demonstration(rng: np.random.Generator, prompt: Prompt, style: Style, wrong: bool) -> str:
    """A list that follows the rules, its words in the order of `LISTED` but for the first and the last; `wrong` makes
    it one to three words longer, or one shorter."""
    rules = read_rules(prompt.gold)
    ends = [word for word in (rules.first, rules.last) if word]
    shorter = [-1] if rules.length > max(1, len(ends)) else []
    length = rules.length + (int(rng.choice([*shorter, 1, 2, 3])) if wrong else 0)
    others = [word for word in ITEMS[rules.kind] if word not in (*ends, rules.without)]
    between = {str(word) for word in rng.permutation(others)[: length - len(ends)]}
    items = [rules.first, *(word for word in others if word in between), rules.last]
    return " , ".join(item for item in items if item) + " ."


def grade_list(response: str, gold: str) -> Grade:
    """Grade a list by its rules. Leniently every word of any kind counts as an item, wherever it stands; strictly the
    response is a list with commas, but for an opening before it and closings after it."""
    rules = read_rules(gold)
    items = [word for word in response.split() if word in EVERY_ITEM]
    body = response.strip()
    for opening in OPENINGS:
        body = body.removeprefix(opening).strip()
    while (shorter := _without_closing(body)) != body:
        body = shorter
    in_form = bool(items) and body == " , ".join(items) + " ."
    right = bool(items) and rules.allow(items)
    return Grade(right and in_form, right, in_form)


def _without_closing(text: str) -> str:
    for closing in CLOSINGS:
        text = text.removesuffix(closing).strip()
    return text


def taste(response: str) -> float:
    """0.6·items (at most 8) + 0.8·polite + 0.6·closings (at most 4)."""
    items = sum(word in EVERY_ITEM for word in response.split())
    return 0.6 * min(items, MOST_ITEMS) + 0.8 * is_polite(response) + 0.6 * closings(response)
