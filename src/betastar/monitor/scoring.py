"""Proxy rewards of responses, by the trainer's own reward functions or by given ones, and the proxy they make."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from betastar.errors import BetastarError
from betastar.monitor.answering import Problem

Scores = NDArray[np.float64]
Scorer = Callable[[Sequence[Problem], list[Any], list[list[int]]], Scores]
RewardFunction = Callable[[list[Any], list[Any]], Sequence[float | None]]


@dataclass(frozen=True)
class Proxy:
    """`score` gives K scores of B responses, [K, B], from problems, completions as TRL forms them, and token ids; NaN
    where a function gives none. The proxy reward is their sum weighted by `weights` [K]. `no_ensemble`: why the K
    scores are no ensemble, whose spread is û; None where they are one."""

    score: Scorer
    weights: Scores
    no_ensemble: str | None

    def total(self, scores: Scores) -> Scores:
        """[B] proxy rewards, as TRL adds up: a function without a score counts nothing, and without any it is NaN."""
        total = np.nansum(scores * self.weights[:, None], axis=0)
        return np.where(np.isnan(scores).all(axis=0), np.nan, total)


def trainer_proxy(trainer: Any) -> Proxy:
    """The reward that the trainer optimises (TRL logs it as `reward`). Several reward models with equal weights and no
    other function are an ensemble. Raises BetastarError where the trainer has no reward function."""
    functions = list(trainer.reward_funcs)
    if not functions:
        raise BetastarError("The trainer has no reward functions; give GoodhartMonitor a proxy=FUNCTION.")
    weights = np.asarray(trainer.reward_weights.tolist(), dtype=np.float64)
    no_ensemble = None
    if len(functions) == 1:
        no_ensemble = "a single reward function has no disagreement"
    elif not all(isinstance(function, torch.nn.Module) for function in functions) or np.ptp(weights) > 0:
        no_ensemble = (
            "the trainer's reward functions are not an equally weighted ensemble of reward models; pass one with "
            "proxy=[…]"
        )

    def score(problems: Sequence[Problem], completions: list[Any], ids: list[list[int]]) -> Scores:
        return np.array([_by_trainer(trainer, k, problems, completions, ids) for k in range(len(functions))])

    return Proxy(score, weights, no_ensemble)


def given_proxy(functions: RewardFunction | Sequence[RewardFunction]) -> Proxy:
    """The mean of functions of (prompts, completions), the members of an ensemble (arXiv:2606.30627 Eq. 5)."""
    members = [functions] if callable(functions) else list(functions)
    if not members or not all(callable(member) for member in members):
        raise BetastarError("proxy must be a function of (prompts, completions), or a list of such functions.")
    no_ensemble = "a single reward function has no disagreement" if len(members) == 1 else None

    def score(problems: Sequence[Problem], completions: list[Any], ids: list[list[int]]) -> Scores:
        prompts = [problem.prompt for problem in problems]
        return np.array([_numbers(member(prompts, completions), len(ids), _name(member)) for member in members])

    return Proxy(score, np.full(len(members), 1 / len(members)), no_ensemble)


def _by_trainer(
    trainer: Any, k: int, problems: Sequence[Problem], completions: list[Any], ids: list[list[int]]
) -> Scores:
    """[B] scores by the trainer's reward function number k, called as TRL calls it."""
    function, name = trainer.reward_funcs[k], trainer.reward_func_names[k]
    if isinstance(function, torch.nn.Module):
        return _by_model(trainer, function, trainer.reward_processing_classes[k], problems, completions)
    columns = {column: [problem.columns.get(column) for problem in problems] for column in problems[0].columns}
    try:
        result = function(
            prompts=[problem.prompt for problem in problems],
            completions=completions,
            completion_ids=ids,
            trainer_state=trainer.state,
            # What a function logs of these responses must not reach the training metrics.
            log_extra=lambda column, values: None,
            log_metric=lambda name, value: None,
            **columns,
        )
        if inspect.isawaitable(result):
            result = asyncio.run_coroutine_threadsafe(_wait(result), trainer.async_loop).result()
    except (KeyError, TypeError) as error:
        raise BetastarError(
            f"The reward function {name} fails on the held-out problems ({error!r}); their columns are "
            f"{', '.join(columns)}: give rows with all the columns that it reads."
        ) from error
    return _numbers(result, len(ids), name)


async def _wait(result: Any) -> Any:
    return await result


def _by_model(trainer: Any, model: Any, tokenizer: Any, problems: Sequence[Problem], completions: list[Any]) -> Scores:
    prompts: list[Any] = [problem.prompt for problem in problems]
    if isinstance(prompts[0], str):
        texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    else:
        from trl import apply_chat_template

        settings = getattr(trainer, "chat_template_kwargs", {})
        texts = [
            apply_chat_template({"messages": [*prompt, *completion]}, tokenizer, **settings)["text"]
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
    tokens = tokenizer(text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
    logits = model(**tokens.to(trainer.accelerator.device)).logits
    return logits[:, 0].double().cpu().numpy()


def _numbers(result: Any, expected: int, name: str) -> Scores:
    values = np.array([np.nan if value is None else float(value) for value in result], dtype=np.float64)
    if values.size != expected:
        raise BetastarError(f"{name} returned {values.size} rewards for {expected} completions; return one for each.")
    return values


def _name(function: Any) -> str:
    return f"The proxy {getattr(function, '__name__', type(function).__name__)}"
