"""Work cut into pieces that fit the memory: where it runs out, the pieces shrink and the work is done again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from betastar.errors import BetastarError
from betastar.models.out_of_memory import is_out_of_memory
from betastar.progress import Reporter

T = TypeVar("T")


class Room:
    """How much is computed at once: `tokens` in a forward pass, `rows` sampled together. Both only shrink."""

    def __init__(self, tokens: int, rows: int, reporter: Reporter):
        self.tokens, self.rows, self.reporter = tokens, rows, reporter

    def for_tokens(self, longest: int, attempt: Callable[[int], T]) -> T:
        """`attempt(most_tokens)`; out of memory, again with half as many, down to one item of `longest` tokens.

        Pieces change where sums are rounded and nothing else. Raises BetastarError where one item does not fit.
        """
        while True:
            done, result = _tried(attempt, self.tokens)
            if done:
                return result  # type: ignore[return-value]
            if self.tokens <= longest:
                raise BetastarError(
                    f"Out of memory with one sequence of {longest} tokens at a time; lower lengths.prompt and "
                    "lengths.response, set compute.gradient_checkpointing, or load the base with quantization nf4."
                )
            self.tokens = max(longest, self.tokens // 2)
            self.reporter.say(f"out of memory: going on with {self.tokens} tokens at once (compute.tokens_per_forward)")

    def for_rows(self, conditions: int, attempt: Callable[[int], T]) -> T:
        """`attempt(most_rows)` of sampling; out of memory, again with half as many, down to one per condition."""
        while True:
            done, result = _tried(attempt, self.rows)
            if done:
                return result  # type: ignore[return-value]
            if self.rows <= conditions:
                raise BetastarError(
                    f"Out of memory while sampling one response for each of {conditions} conditions; lower "
                    "lengths.generated or online.conditions_at_once."
                )
            self.rows = max(conditions, self.rows // 2)
            self.reporter.say(f"out of memory: going on with {self.rows} responses at once (compute.rows_per_decode)")


def _tried(attempt: Callable[[int], T], size: int) -> tuple[bool, T | None]:
    """Whether the attempt fitted, and its result. The failed attempt's tensors are gone when this returns."""
    try:
        return True, attempt(size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False, None
