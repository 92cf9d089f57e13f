"""One evaluation point during somebody else's training, and the file that it is written to."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from numpy.typing import NDArray
from transformers import GenerationConfig

from betastar.disk import flush, write_atomically
from betastar.errors import BetastarError
from betastar.monitor.answering import Answer, Problem, Reference, answer, policy, tokenised, undisturbed
from betastar.monitor.gaps import is_binary
from betastar.monitor.scoring import Proxy
from betastar.randomness import stream_key
from betastar.record.points import EvaluationPoint
from betastar.record.responses import Grade

Row = dict[str, Any]

logger = logging.getLogger(__name__)


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Write one row at the end of the file and have it on the disk before returning. NaN and infinity become null.

    Raises BetastarError, as `begin` does, where the disk is full or may not be written.
    """
    with _plain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())
        flush(path.parent)


def begin(path: Path) -> None:
    """Make room for a run that starts anew: a file of an earlier run is set aside as `NAME.1`, `NAME.2`, …"""
    if not path.exists():
        return
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    with _plain_errors(path):
        path.rename(aside)
    logger.warning("%s belongs to an earlier run and was renamed to %s.", path, aside.name)


def resume(path: Path, step: int) -> list[Row]:
    """The rows up to and including `step`, at which training resumes. Later ones, and a line that a kill left
    unfinished, are removed from the file. Empty where there is no file.

    Raises BetastarError for another line that is no row.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        del lines[-1]
    kept: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if row["step"] <= step:
                kept.append(row)
        except (ValueError, TypeError, KeyError):
            raise BetastarError(
                f"{path}, line {number}: not written by a GoodhartMonitor; rename the file, or give another path."
            ) from None
    data = b"".join(_line(row) for row in kept)
    if data != path.read_bytes():
        write_atomically(path, data)
    return kept


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BetastarError(
            f"{path}: cannot be written ({reason}); fix that, or give GoodhartMonitor another path."
        ) from error


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(plain(row), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def plain(value: Any) -> Any:
    """Undefined numbers as null, which every JSON reader accepts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


Array = NDArray[np.float64]
Reasons = dict[str, str]
TrueReward = Callable[[str, Any], bool | float | Grade]


@dataclass(frozen=True)
class Instrument:
    """What stays the same at every evaluation of a run."""

    trainer: Any
    problems: list[Problem]
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
    """Every problem `answered` once, and the `proxy` rewards [n] that the scores make."""

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
    """Answer every problem once with the policy as it is. The noise depends on the batch and `replicate` alone: a
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


def measures(instrument: Instrument, found: Evaluation, binary: bool, step: int) -> tuple[EvaluationPoint, Reasons]:
    """What one evaluation says, without the gap, and why a measure is undefined. `binary`: whether the true rewards at
    the start were right or wrong alone; all rows of a run are of one kind, as its gaps are."""
    answers, reasons = [one.answer for one in found.answered], {}
    scores, true, grades = found.scores, found.true, found.grades
    disagreement = math.nan
    if instrument.proxy.no_ensemble is None:
        by_all = scores[:, np.isfinite(scores).all(axis=0)]
        if by_all.size:
            disagreement = float(by_all.std(axis=0, ddof=1).mean())
        else:
            reasons["disagreement"] = "no response has a score of every member"
    else:
        reasons["disagreement"] = instrument.proxy.no_ensemble
    if instrument.reference.reason is not None:
        reasons["kl"] = instrument.reference.reason
    scored = found.proxy[~np.isnan(found.proxy)]
    if scored.size < 2:
        reasons["proxy"] = f"{scored.size} of {len(answers)} responses have a proxy reward"
    members = [float(np.nanmean(member)) if np.isfinite(member).any() else math.nan for member in scores]
    point = EvaluationPoint(
        step=step,
        n=len(answers),
        proxy=float(scored.mean()) if scored.size else math.nan,
        proxy_std=float(scored.std(ddof=1)) if scored.size > 1 else math.nan,
        correct_strict=int(true.sum()) if binary and is_binary(true) else None,
        true_strict=float(true.mean()),
        true_std=math.nan if binary else float(true.std(ddof=1)),
        true_lenient=_mean([grade.lenient for grade in grades]) if grades else math.nan,
        unparsable=_mean([not grade.parsable for grade in grades]) if grades else math.nan,
        kl=math.nan if instrument.reference.reason is not None else _mean([a.log_ratio for a in answers]),
        disagreement=disagreement,
        members=tuple(members) if len(members) > 1 else None,
        response_entropy=_mean([a.entropy for a in answers]),
        response_tokens=_mean([len(a.tokens) for a in answers]),
        at_limit=_mean([a.at_limit for a in answers]),
    )
    return point, reasons


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


def _mean(values: Sequence[Any]) -> float:
    return float(np.mean(values))
