"""One evaluation point: conditions answer the held-out problems, are scored by the ensemble and graded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from betastar.data.tasks import Problem
from betastar.experiment.context import Context
from betastar.experiment.readers import Rewards
from betastar.experiment.runtime import AdaptedModel
from betastar.maths.distributions import cosine_distance_to, ensemble_score, mean_pairwise_cosine_distance
from betastar.models.bank import Adapters
from betastar.models.generation import generate
from betastar.models.logprobs import prompt_entropy
from betastar.models.rewards import RewardEnsemble, Scored
from betastar.models.sequences import Row
from betastar.randomness import numpy_generator, stream_key, torch_generator
from betastar.record.points import EvaluationPoint, KeptResponse
from betastar.record.responses import Response
from betastar.settings.config import Resolved


@dataclass(frozen=True)
class Scorer:
    """An ensemble ready to score responses of `policy`."""

    ctx: Context[Resolved]
    policy: AdaptedModel
    reward_model: AdaptedModel
    ensemble: RewardEnsemble

    def __call__(self, questions: Sequence[str], responses: Sequence[Response], embed: bool = False) -> Scored:
        """Score responses. With one base for both, the sampled tokens are scored as they are; else their text is."""
        shared = self.reward_model.base is self.policy.base
        rows = [Row.of(r) for r in responses] if shared else self._retokenised(questions, responses)
        # Conditions that share noise often give the same response: each distinct one is scored once.
        place = {row: i for i, row in enumerate(dict.fromkeys((tuple(r.prompt), tuple(r.response)) for r in rows))}
        scored = self.ctx.runtime.scored(self.reward_model, self.ensemble, [Row(*r) for r in place], embed)
        at = torch.tensor([place[tuple(r.prompt), tuple(r.response)] for r in rows], device=scored.scores.device)
        return Scored(scored.scores[:, at], None if scored.embedding is None else scored.embedding[at])

    def _retokenised(self, questions: Sequence[str], responses: Sequence[Response]) -> list[Row]:
        theirs = self.reward_model.chat
        rows = theirs.responses([self.policy.chat.text(response.tokens) for response in responses])
        # A response cut at the limit has no end token: the reward model should see that it was cut.
        cut = [row[:-1] or row if r.hit_limit else row for row, r in zip(rows, responses, strict=True)]
        return [Row(x, y) for x, y in zip(theirs.prompts(questions), cut, strict=True)]


NOISE_ROWS = 16  # responses of a checkpoint on which the noise of log-ratios is measured


class Evaluation(NamedTuple):
    """What is measured of one condition at one `point`, its scored and graded responses, the few of them that are kept,
    and of a checkpoint the noise of its log-ratios (see `log_ratio_noise`)."""

    point: EvaluationPoint
    responses: list[Response]
    kept: list[KeptResponse]
    log_ratio_noise: float | None = None


def held_out(ctx: Context[Resolved], problems: Sequence[Problem]) -> list[Problem]:
    """The fixed evaluation set: the same problems for every condition, seed and step."""
    count = min(ctx.config.evaluation.problems, len(problems))
    chosen = numpy_generator(ctx.config.root_seed, "evaluation").choice(len(problems), count, replace=False)
    return [problems[i] for i in sorted(chosen)]


def probe_prompts(ctx: Context[Resolved], problems: Sequence[Problem]) -> list[Problem]:
    """⌈√|D_test|⌉ problems on which policy entropy is read (arXiv:2606.30627 Eq. 11)."""
    count = math.isqrt(len(problems) - 1) + 1
    chosen = numpy_generator(ctx.config.root_seed, "probe").choice(len(problems), count, replace=False)
    return [problems[i] for i in sorted(chosen)]


def answer(
    ctx: Context[Resolved],
    policy: AdaptedModel,
    adapters: Adapters | None,
    prompts: Sequence[Sequence[Sequence[int]]],
    keys: Sequence[Sequence[int]],
    limit: int,
    temperature: float,
) -> list[list[Response]]:
    """Responses to a grid of prompts `[C][B]`, sampled in pieces that fit `compute.rows_per_decode`."""
    result: list[list[Response]] = [[] for _ in prompts]

    def some(most: int) -> list[list[Response]]:
        start, size = len(result[0]), max(1, most // len(prompts))
        return generate(
            policy.bank,
            adapters,
            [row[start : start + size] for row in prompts],
            [row[start : start + size] for row in keys],
            end_tokens=policy.ends,
            pad=policy.pad,
            max_new_tokens=limit,
            temperature=temperature,
        )

    while len(result[0]) < len(prompts[0]):
        for row, responses in zip(result, ctx.runtime.room.for_rows(len(prompts), some), strict=True):
            row += responses
    return result


def rows_of(responses: Sequence[Sequence[Response]]) -> list[list[Row]]:
    """What a model reads of a grid of responses `[C][B]`."""
    return [[Row.of(response) for response in part] for part in responses]


def sampled_logprobs(
    ctx: Context[Resolved],
    policy: AdaptedModel,
    adapters: Adapters,
    responses: Sequence[Sequence[Response]],
    temperature: float = 1.0,
) -> torch.Tensor:
    """Log-probabilities `[C, B]` of responses under the policy that sampled them, at this `temperature`. At 1, sampling
    in float32 has given them already, exact to rounding; in less precision decoding rounds otherwise than a whole pass
    does, so one is made."""
    if policy.base.model.dtype == torch.float32 and temperature == 1:
        return torch.tensor([[r.logprob for r in part] for part in responses], device=ctx.runtime.device)
    return ctx.runtime.row_logprobs(policy, adapters, rows_of(responses), temperature)


def log_ratio_noise(
    ctx: Context[Resolved], policy: AdaptedModel, adapters: Adapters, responses: Sequence[Sequence[Response]]
) -> torch.Tensor:
    """What rounding makes of log π − log π_ref where π is π_ref: its root mean square `[C]` over a few responses, nats.

    The same rows are read twice: as online adaptation reads them, and one by one with adapters that differ in the last
    bit of the base's precision. Either changes how sums are rounded, as another piece or a first small update would.
    """
    few = [part[:NOISE_ROWS] for part in responses]
    usual, rows = sampled_logprobs(ctx, policy, adapters, few), rows_of(few)
    moved = _last_bit_moved(adapters, policy.base.model.dtype, ctx.config.root_seed)
    columns = [ctx.runtime.row_logprobs(policy, moved, [[part[i]] for part in rows]) for i in range(len(rows[0]))]
    return (usual - torch.cat(columns, dim=1)).square().mean(dim=1).sqrt()


def _last_bit_moved(adapters: Adapters, dtype: torch.dtype, root_seed: int) -> Adapters:
    """Each weight larger or smaller by about half its last bit in `dtype`, in all conditions alike."""
    half = torch.finfo(dtype).eps / 2

    def moved(weights: Mapping[str, torch.Tensor], side: str) -> dict[str, torch.Tensor]:
        result = {}
        for name, weight in weights.items():
            drawn = torch.rand(weight.shape[1:], generator=torch_generator(root_seed, "last bit", side, name))
            result[name] = weight * torch.where(drawn < 0.5, 1 - half, 1 + half).to(weight.device)
        return result

    return Adapters(moved(adapters.a, "a"), moved(adapters.b, "b"), adapters.scale)


def evaluate(
    ctx: Context[Resolved],
    policy: AdaptedModel,
    adapters: Adapters,
    references: Adapters | None,
    seeds: Sequence[int],
    problems: Sequence[Problem],
    probes: Sequence[Problem],
    scorer: Scorer,
    rewards: Rewards,
    limit: int,
    replicate: int = 0,
    step: int = 0,
) -> list[Evaluation]:
    """Evaluate every condition of `adapters` after `step` online steps; `references=None` says that they are their own
    references.

    A row's noise depends on seed, problem and `replicate` alone: all conditions of a seed share it, at every step, so
    a policy that has not moved gives the same answers, and what changes is due to the policy. Another replicate is
    fresh noise.
    """
    config, seed = ctx.config, ctx.config.root_seed
    questions = [p.question for p in problems]
    prompts = policy.chat.prompts(questions)
    keys = [[stream_key(seed, "evaluation", s, replicate, p.problem_id) for p in problems] for s in seeds]
    grid = answer(ctx, policy, adapters, [prompts] * len(seeds), keys, limit, config.evaluation.temperature)
    noise: list[float | None] = [None] * len(seeds)
    if references is None:
        log_ratio = torch.zeros(len(seeds), len(problems))
        noise = log_ratio_noise(ctx, policy, adapters, grid).tolist()
    else:
        log_ratio = sampled_logprobs(ctx, policy, adapters, grid)
        log_ratio = log_ratio - ctx.runtime.row_logprobs(policy, references, rows_of(grid))
    scored = scorer(questions * len(seeds), [response for part in grid for response in part], embed=True)
    assert scored.embedding is not None
    probed = policy.chat.prompts([p.question for p in probes])
    entropies = ctx.runtime.room.for_tokens(
        max(map(len, probed)), lambda most: prompt_entropy(policy.bank, adapters, probed, policy.pad, most)
    )
    n, result = len(problems), []
    for c, part in enumerate(grid):
        scores = scored.scores[:, c * n : (c + 1) * n]
        proxy = ensemble_score(scores)
        embedding = scored.embedding[c * n : (c + 1) * n]
        responses = [
            _evaluated(ctx, policy, response, problem, *measured)
            for response, problem, *measured in zip(
                part, problems, scores.T.tolist(), *(field.tolist() for field in proxy), strict=True
            )
        ]
        grades = [r.grade for r in responses if r.grade is not None]
        point = EvaluationPoint(
            step=step,
            n=n,
            proxy=proxy.mean.mean().item(),
            proxy_std=proxy.mean.std(correction=1).item(),
            members=tuple(scores.mean(dim=1).tolist()),
            disagreement=proxy.disagreement.mean().item(),
            # A Bradley-Terry reward is defined up to a constant, so raw disagreement also measures how far apart the
            # members' constants happen to lie; this one does not.
            disagreement_centred=ensemble_score(scores - rewards.offset[:, None]).disagreement.mean().item(),
            correct_strict=sum(g.strict for g in grades),
            true_strict=sum(g.strict for g in grades) / n,
            true_lenient=sum(g.lenient for g in grades) / n,
            unparsable=sum(not g.parsable for g in grades) / n,
            kl=log_ratio[c].mean().item(),
            response_entropy=sum(r.entropy for r in responses) / n,
            policy_entropy=entropies[c].item(),
            response_tokens=sum(len(r.tokens) for r in responses) / n,
            at_limit=sum(r.hit_limit for r in responses) / n,
            ood_distance=cosine_distance_to(rewards.centroid, embedding).mean().item(),
            diversity=mean_pairwise_cosine_distance(embedding).item(),
        )
        kept = [_kept(*pair) for pair in zip(problems, responses, strict=True)][: config.evaluation.samples]
        result.append(Evaluation(point, responses, kept, noise[c]))
    return result


def _evaluated(
    ctx: Context[Resolved],
    policy: AdaptedModel,
    response: Response,
    problem: Problem,
    scores: Sequence[float],
    proxy: float,
    disagreement: float,
) -> Response:
    """A response with what evaluation adds to it."""
    text = policy.chat.text(response.tokens)
    grade = ctx.runtime.grade(text, problem.gold)
    return replace(response, text=text, scores=tuple(scores), proxy=proxy, disagreement=disagreement, grade=grade)


def _kept(problem: Problem, response: Response) -> KeptResponse:
    assert response.grade is not None  # evaluation has graded it
    return KeptResponse(
        problem=problem.problem_id,
        question=problem.question,
        gold=problem.gold,
        response=response.text,
        proxy=response.proxy,
        disagreement=response.disagreement,
        strict=response.grade.strict,
        lenient=response.grade.lenient,
        tokens=len(response.tokens),
    )
