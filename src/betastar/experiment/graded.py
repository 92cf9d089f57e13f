"""Answers to problems with both rewards, for stages that need no whole evaluation point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from betastar.data.tasks import Problem
from betastar.experiment import readers
from betastar.experiment.conditions import Inputs
from betastar.experiment.context import Context
from betastar.experiment.evaluation import Scorer, answer
from betastar.maths.distributions import ensemble_score
from betastar.models.bank import Adapters
from betastar.record.responses import Response
from betastar.settings.config import Resolved


def scorer_for(ctx: Context[Resolved], inputs: Inputs, seeds: Sequence[int]) -> Scorer:
    """What scores the answers of conditions of these seeds [C]."""
    policy, reward_model = ctx.policy(inputs.base), ctx.reward_model(inputs.reward_base)
    return Scorer(ctx, policy, reward_model, readers.rewards(ctx, inputs.ensembles, seeds))


class Graded(NamedTuple):
    """The responses of C conditions to B problems, `[C][B]`, with `proxy`, `strict` and `lenient` rewards `[C, B]`."""

    responses: list[list[Response]]
    proxy: Tensor
    strict: Tensor
    lenient: Tensor


def graded(
    ctx: Context[Resolved],
    scorer: Scorer,
    adapters: Adapters,
    problems: Sequence[Problem],
    keys: Sequence[Sequence[int]],
    limit: int,
) -> Graded:
    """Every condition answers `problems` with the noise of `keys [C][B]`, in at most `limit` tokens, at the temperature
    of evaluation."""
    policy, questions = scorer.policy, [p.question for p in problems]
    prompts = [policy.chat.prompts(questions)] * len(keys)
    grid = answer(ctx, policy, adapters, prompts, keys, limit, ctx.config.evaluation.temperature)
    scored = scorer(questions * len(keys), [response for part in grid for response in part])
    grades = [
        [
            ctx.runtime.grade(policy.chat.text(response.tokens), p.gold)
            for p, response in zip(problems, part, strict=True)
        ]
        for part in grid
    ]
    return Graded(
        grid,
        ensemble_score(scored.scores).mean.view(len(keys), -1).cpu(),
        torch.tensor([[float(g.strict) for g in part] for part in grades]),
        torch.tensor([[float(g.lenient) for g in part] for part in grades]),
    )
