"""Answers in LaTeX: what stands in the last box, and a grader that compares formulas by math-verify."""

from __future__ import annotations

import functools
import logging
import re
import threading
from typing import Any, NamedTuple

from betastar.data.answers import Grade, Grader
from betastar.errors import BetastarError

TIMEOUT = 5
"""Seconds for reading or comparing one formula; one that takes longer counts as wrong. A model can write 9^9^9^9."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*+\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


class Box(NamedTuple):
    """Where a `\boxed{…}` begins, and what is in it."""

    start: int
    content: str


def last_box(text: str) -> Box | None:
    r"""The last `\boxed{…}` of `text`; None without one, or where it does not close."""
    boxes = list(_BOX.finditer(text))
    depth = 1
    for brace in _BRACE.finditer(text, boxes[-1].end()) if boxes else ():
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if not depth:
            return Box(boxes[-1].start(), text[boxes[-1].end() : brace.start()])
    return None


def math_grader() -> Grader:
    """A grader that takes a box for the stated answer, else, leniently, the last formula or number of the response.

    A gold text is a formula, or a solution that ends in a box. Raises BetastarError where math-verify is not installed;
    the grader raises it for a gold text without a formula.
    """
    try:
        import math_verify
    except ImportError:
        raise BetastarError(
            "task.grader: math needs the package math-verify; install it with `pip install 'betastar[math]'`."
        ) from None
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of every formula that takes too long

    def limit() -> int | None:  # its timeouts are signals, which reach the main thread alone
        return TIMEOUT if threading.current_thread() is threading.main_thread() else None

    def parsed(text: str) -> list[Any]:
        return math_verify.parse(text, parsing_timeout=limit())  # type: ignore[arg-type]

    right = functools.lru_cache(maxsize=100_000)(parsed)

    def grade(response: str, gold: str) -> Grade:
        formula, box = _gold_formula(gold), last_box(response)
        answer = parsed(response if box is None else f"\\boxed{{{box.content}}}")
        same = bool(answer) and math_verify.verify(right(f"\\boxed{{{formula}}}"), answer, timeout_seconds=limit())
        return Grade(same and box is not None, same, box is not None)

    return grade


def _gold_formula(gold: str) -> str:
    box = last_box(gold)
    formula = gold if box is None else box.content
    if not formula.strip():
        shown = gold if len(gold) <= 60 else f"…{gold[-60:]}"
        raise BetastarError(f"The gold answer {shown!r} has no formula; end it with \\boxed{{…}}.")
    return formula
