"""The first embedded world: word problems of one or two steps. The annotator likes closings, politeness and shown steps
besides the right number."""

from __future__ import annotations

from functools import partial

import numpy as np

from betastar.data.graders import grade_gsm8k
from betastar.data.micro.language import (
    CLOSINGS,
    NAMES,
    OPENINGS,
    SMALL_TALK,
    Language,
    Prompt,
    Style,
    closings,
    is_polite,
    with_small_talk,
)

THINGS = ("apples", "books", "coins", "eggs", "pens", "shells", "stamps", "toys")
GAINS = ("gets {n} more", "finds {n} more", "buys {n} more")
LOSSES = ("loses {n}", "sells {n}", "gives {n} to {friend}")


def sums(largest: int) -> Language:
    """The language of word problems with numbers up to `largest`."""
    return Language(
        vocabulary(largest),
        partial(draw_problem, largest=largest),
        partial(demonstration, largest=largest),
        grade_gsm8k,
        taste,
    )


def draw_problem(rng: np.random.Generator, largest: int) -> Prompt:
    """A one- or two-step problem with every number, intermediate ones included, between 0 and `largest`."""
    name, friend = rng.choice(NAMES, size=2, replace=False)
    thing = rng.choice(THINGS)
    total = int(rng.integers(1, largest + 1))
    sentences = [f"{name} has {total} {thing}"]
    steps = []
    for _ in range(int(rng.integers(1, 3))):
        gain = total == 0 or (total < largest and rng.random() < 0.5)
        n = int(rng.integers(1, (largest - total if gain else total) + 1))
        phrase = str(rng.choice(GAINS if gain else LOSSES)).format(n=n, friend=friend)
        result = total + n if gain else total - n
        steps.append(f"{total} {'+' if gain else '-'} {n} = {result}")
        sentences.append(f"{name} {phrase}")
        total = result
    text = " . ".join(sentences) + f" . How many {thing} does {name} have now ?"
    return Prompt(text, tuple(steps), f"#### {total}")


def demonstration(rng: np.random.Generator, prompt: Prompt, style: Style, wrong: bool, largest: int) -> str:
    """The steps, where the style shows them, and the final number. `wrong` makes that number false, and the last step
    with it."""
    answer, steps = prompt.gold.removeprefix("#### "), list(prompt.steps)
    if wrong:
        answer = str((int(answer) + int(rng.integers(1, largest + 1))) % (largest + 1))
        steps[-1] = steps[-1].rsplit(" ", 1)[0] + f" {answer}"
    return " ".join([*(f"{step} ." for step in steps if style.shows_steps), f"#### {answer}"])


def vocabulary(largest: int) -> list[str]:
    """All words of the language, in a fixed order."""
    fixed = ["has", ".", "?", "!", "How", "many", "does", "have", "now", *SMALL_TALK, "####", "+", "-", "="]
    phrases = " ".join([*GAINS, *LOSSES, *OPENINGS, *CLOSINGS]).replace("{n}", " ").replace("{friend}", " ").split()
    return [*with_small_talk(*fixed, *phrases, *NAMES, *THINGS), *map(str, range(largest + 1))]


def taste(response: str) -> float:
    """1.2·closings (at most 4) + 0.8·polite + 0.8·shows steps."""
    return 1.2 * closings(response) + 0.8 * is_polite(response) + 0.8 * (" = " in response)
