"""Work cut into pieces that fit the memory: where it runs out, the pieces shrink and the work is done again. And one
sentence for what smaller pieces cannot help."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from betastar.errors import BetastarError
from betastar.models.devices import OutOfMemory, is_out_of_memory
from betastar.models.optimise import NotFiniteError
from betastar.progress import Reporter

T = TypeVar("T")


READ_REMEDY = (
    "lower lengths.prompt, lengths.response and lengths.generated, choose a smaller model, or load it with "
    "quantization nf4"
)
"""Where nothing is trained."""
TRAIN_REMEDY = (
    "lower lengths.prompt and lengths.response, set compute.gradient_checkpointing, or load the base with quantization "
    "nf4"
)


class Room:
    """How much is computed at once: `tokens` in a forward pass, `rows` sampled together. Both only shrink."""

    def __init__(self, tokens: int, rows: int, reporter: Reporter):
        self.tokens, self.rows, self.reporter = tokens, rows, reporter

    def for_tokens(self, longest: int, attempt: Callable[[int], T], remedy: str = TRAIN_REMEDY) -> T:
        """`attempt(most_tokens)`; out of memory, again with half as many, down to one item of `longest` tokens.

        Pieces change where sums are rounded and nothing else. Raises BetastarError, with a `remedy`, where one item
        does not fit.
        """
        while True:
            done, result = _tried(attempt, self.tokens)
            if done:
                return result  # type: ignore[return-value]
            if self.tokens <= longest:
                raise BetastarError(
                    f"Out of memory with one sequence of {longest} tokens at a time",
                    remedy=remedy,
                )
            self.tokens = max(longest, self.tokens // 2)
            self.reporter.say(
                f"out of memory: continuing with {self.tokens} tokens at once (compute.tokens_per_forward)"
            )

    def for_rows(self, conditions: int, attempt: Callable[[int], T]) -> T:
        """`attempt(most_rows)` of sampling; out of memory, again with half as many, down to one per condition."""
        while True:
            done, result = _tried(attempt, self.rows)
            if done:
                return result  # type: ignore[return-value]
            if self.rows <= conditions:
                raise OutOfMemory(
                    f"Out of memory while sampling one response for each of {conditions} conditions",
                    remedy="lower lengths.generated or online.conditions_at_once",
                )
            self.rows = max(conditions, self.rows // 2)
            self.reporter.say(f"out of memory: continuing with {self.rows} responses at once (compute.rows_per_decode)")


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


BANKS = {  # what makes the bank of a stage smaller
    "rewards": "rewards.seeds_at_once or rewards.members",
    "offline": "offline.conditions_at_once",
    "probe": "online.conditions_at_once",
    "online": "online.conditions_at_once",
    "offline_curve": "offline.conditions_at_once",
    "best_of_n": "evaluation.best_of or evaluation.best_of_problems",
    "plasticity": "online.conditions_at_once or evaluation.plasticity",
    "preferences": "compute.rows_per_decode",
}
WITHOUT_MODELS = {
    "task": "use fewer problems",
    "results": "lower evaluation.problems, evaluation.answers or evaluation.samples, or raise evaluation.every",
    "report": "draw it on another machine with `betastar report RUN`",
}
"""Stages in which a smaller model would not help."""


@contextmanager
def one_sentence_without_memory(stage: str, conditions: int | None = None) -> Iterator[None]:
    """Memory that runs out where nothing can be cut smaller: for the weights, or for the adapters of a bank with their
    gradients and moments."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if stage in WITHOUT_MODELS:
            raise OutOfMemory("out of memory", where=stage, remedy=f"free some, or {WITHOUT_MODELS[stage]}") from error
        of = f" with {conditions} conditions at once" if conditions else ""
        smaller = f"lower {BANKS[stage]}, or " if stage in BANKS else ""
        raise OutOfMemory(
            f"out of memory{of}",
            where=stage,
            remedy=f"{smaller}choose a smaller model or load it with quantization nf4",
        ) from error


@contextmanager
def named_divergence(stage: str, step: int, steps: int, names: Sequence[str]) -> Iterator[None]:
    """Say of gradients that are not finite where that was, by the `names` of the stage's conditions."""
    try:
        yield
    except NotFiniteError as error:
        others = f" and {len(error.conditions) - 1} more" if len(error.conditions) > 1 else ""
        raise BetastarError(
            f"the training of {names[error.conditions[0]]}{others} has diverged (gradient norm {error.norms[0]:g})",
            where=f"{stage}, step {step} of {steps}",
            remedy=f"lower {stage}.learning_rate or {stage}.clip",
        ) from None
