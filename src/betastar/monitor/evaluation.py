"""One evaluation of a TRL trainer's policy: every problem answered, scored and graded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from transformers import GenerationConfig

from betastar.errors import BetastarError
from betastar.monitor.answering import Answer, Problem, Reference, answer, policy, tokenised, undisturbed
from betastar.monitor.measuring import Array, Sampled
from betastar.monitor.scoring import Proxy
from betastar.randomness import stream_key
from betastar.record.responses import Grade

TrueReward = Callable[[str, Any], bool | float | Grade]


@dataclass(frozen=True)
class Instrument:
    """What stays the same at every evaluation of a run. `problems`: each as often as it is answered, in a row."""

    trainer: Any
    problems: list[Problem]
    answers: int
    proxy: Proxy
    true: TrueReward
    config: GenerationConfig
    reference: Reference
    batch_size: int
    noise_seed: int


@dataclass(frozen=True)
class Answered:
    """The answer to one problem with the scores of the K proxy functions, NaN where one gave none, and what the truth
    says of it: a betastar grader's grade, or a number."""

    answer: Answer
    scores: tuple[float, ...]
    truth: Grade | float

    @property
    def true(self) -> float:
        """The true reward."""
        return float(self.truth.strict if isinstance(self.truth, Grade) else self.truth)


@dataclass(frozen=True)
class Evaluation:
    """Every problem `answered`, and the `proxy` rewards [n] that the scores make."""

    answered: list[Answered]
    proxy: Array

    @property
    def scores(self) -> Array:
        """Of the proxy functions, [K, n]."""
        return np.array([one.scores for one in self.answered]).T

    @property
    def true(self) -> Array:
        """True rewards, [n]."""
        return np.array([one.true for one in self.answered])

    @property
    def grades(self) -> list[Grade]:
        """Of a betastar grader; empty where the truth is a number."""
        return [one.truth for one in self.answered if isinstance(one.truth, Grade)]


def evaluate(instrument: Instrument, replicate: int = 0) -> Evaluation:
    """Answer every problem with the policy as it is. The noise depends on the batch and `replicate` alone: a
    policy that has not moved gives the same answers. Processes share the batches; each gets the whole result."""
    trainer, size = instrument.trainer, instrument.batch_size
    accelerator = trainer.accelerator
    starts = range(0, len(instrument.problems), size)
    with undisturbed(policy(trainer)):
        mine = [
            (number, _batch(instrument, instrument.problems[start : start + size], number, replicate))
            for number, start in enumerate(starts)
            if number % accelerator.num_processes == accelerator.process_index
        ]
    answered = [one for _, part in sorted(gather_object(mine), key=lambda batch: batch[0]) for one in part]
    return Evaluation(answered, instrument.proxy.total(np.array([one.scores for one in answered]).T))


ALWAYS = (
    "n",
    "proxy",
    "proxy_std",
    "correct_strict",
    "true_strict",
    "kl",
    "disagreement",
    "response_entropy",
    "response_tokens",
    "at_limit",
)
"""Measures that a monitor's row has, null where undefined."""


def sampled(instrument: Instrument, found: Evaluation) -> Sampled:
    """An evaluation as arrays over its answers."""
    answers = [one.answer for one in found.answered]
    unknown = instrument.reference.reason is not None
    return Sampled(
        scores=found.scores,
        proxy=found.proxy,
        true=found.true,
        grades=found.grades,
        answers=instrument.answers,
        tokens=np.array([len(a.tokens) for a in answers], dtype=float),
        at_limit=np.array([a.at_limit for a in answers], dtype=float),
        entropy=np.array([a.entropy for a in answers]),
        log_ratio=None if unknown else np.array([a.log_ratio for a in answers], dtype=float),
    )


def shown(problems: Sequence[Problem], found: Evaluation, count: int) -> list[dict[str, Any]]:
    """The first responses whole, for a person to read."""
    return [
        {
            "prompt": problem.prompt,
            "response": one.answer.text,
            "proxy": float(proxy),
            "true": one.true,
        }
        for problem, one, proxy in zip(problems[:count], found.answered, found.proxy, strict=False)
    ]


def _batch(instrument: Instrument, problems: list[Problem], number: int, replicate: int) -> list[Answered]:
    prompts = tokenised(instrument.trainer, [problem.prompt for problem in problems])
    seed = stream_key(instrument.noise_seed, "monitor", replicate, number) % 2**63
    answers = answer(instrument.trainer, prompts, instrument.config, instrument.reference, seed)
    completions: list[Any] = [a.text for a in answers]
    if not isinstance(problems[0].prompt, str):
        completions = [[{"role": "assistant", "content": text}] for text in completions]
    scores = instrument.proxy.score(problems, completions, [a.tokens for a in answers])
    return [
        Answered(made, tuple(of_each), _graded(instrument.true, made.text, problem.gold))
        for made, of_each, problem in zip(answers, scores.T.tolist(), problems, strict=True)
    ]


def _graded(true: TrueReward, text: str, gold: Any) -> Grade | float:
    result = true(text, gold)
    if isinstance(result, Grade):
        return result
    try:
        value = float(result)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise BetastarError(
            f"The true reward of a response is {result!r}; the function must return a bool or a number."
        )
    return value
