"""The held-out problems that a monitor answers, as rows with a prompt, a gold answer and what rewards read besides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from betastar.disk import content_key
from betastar.errors import BetastarError

Prompt = str | list[dict[str, Any]]


class Problem(NamedTuple):
    """`prompt`: a text, or messages. `gold`: what the true reward compares with. `columns`: the whole row, which TRL
    hands to its reward functions, without the prompt."""

    prompt: Prompt
    gold: Any
    columns: dict[str, Any]


def held_out(problems: Iterable[Any], gold: str) -> list[Problem]:
    """Problems from pairs (prompt, gold answer), or from rows with `prompt` and the column named `gold`, as those of a
    `datasets.Dataset` are. Raises BetastarError for fewer than two, or a row that is neither."""
    result = [_problem(problem, gold, place) for place, problem in enumerate(problems)]
    if len(result) < 2:
        raise BetastarError(
            f"GoodhartMonitor has {len(result)} held-out problems; give at least two, better 100 (docs/monitor.md)."
        )
    if len({isinstance(problem.prompt, str) for problem in result}) > 1:
        raise BetastarError("Some held-out prompts are texts and others are messages; give them all in one form.")
    return result


def digest(problems: list[Problem], settings: Sequence[Any]) -> str:
    """A hash of prompts, gold answers and settings of sampling, by which a resumed run knows that they are the same."""
    return content_key([[problem.prompt, repr(problem.gold)] for problem in problems], list(settings))


def _problem(given: Any, gold: str, place: int) -> Problem:
    if isinstance(given, Mapping):
        columns = dict(given)
        lacking = {"prompt", gold} - columns.keys()
    else:
        pair = isinstance(given, tuple | list) and len(given) == 2
        columns, lacking = (dict(zip(("prompt", gold), given, strict=True)), set()) if pair else ({}, {"prompt", gold})
    if lacking:
        has = f"has {', '.join(columns)}" if columns else f"is {given!r:.60}"
        raise BetastarError(
            f"Held-out problem {place} {has}; give pairs (prompt, gold answer), or rows with `prompt` and `{gold}` "
            "(gold=COLUMN names another column)."
        )
    prompt = columns.pop("prompt")
    if not isinstance(prompt, str) and not (
        isinstance(prompt, list) and prompt and all(isinstance(m, Mapping) and "role" in m for m in prompt)
    ):
        raise BetastarError(f"Held-out problem {place}: the prompt is neither a text nor a list of messages.")
    if {"image", "images"} & columns.keys():
        raise BetastarError(f"Held-out problem {place} has images; GoodhartMonitor answers text prompts only.")
    return Problem(prompt, columns[gold], columns)
