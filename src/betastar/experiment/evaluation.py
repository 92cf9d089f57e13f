"""One evaluation point: conditions answer the held-out problems, are scored by the ensemble and graded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from betastar.data.tasks import Problem
from betastar.experiment.context import Context
from betastar.experiment.readers import Rewards
from betastar.experiment.runtime import AdaptedModel
from betastar.maths.distributions import cosine_distance_to, ensemble_score, mean_pairwise_cosine_distance
from betastar.models.bank import Adapters
from betastar.models.generation import Sample, generate
from betastar.models.logprobs import prompt_entropy
from betastar.models.rewards import RewardEnsemble, Scored
from betastar.models.sequences import Row
from betastar.randomness import numpy_generator, stream_key, torch_generator
from betastar.record.points import EvaluationPoint, KeptResponse
from betastar.settings.config import Resolved


@dataclass(frozen=True)
class Scorer:
    """An ensemble ready to score responses of `policy`."""

    ctx: Context[Resolved]
    policy: AdaptedModel
    reward_model: AdaptedModel
    ensemble: RewardEnsemble

    def __call__(
        self, questions: Sequence[str], rows: Sequence[Row], samples: Sequence[Sample], embed: bool = False
    ) -> Scored:
        """Score responses. With one base for both, the sampled tokens are scored as they are; else their text is."""
        if self.reward_model.base is not self.policy.base:
            rows = self._retokenised(questions, samples)
        # Conditions that share noise often give the same response: each distinct one is scored once.
        place = {row: i for i, row in enumerate(dict.fromkeys((tuple(r.prompt), tuple(r.response)) for r in rows))}
        scored = self.ctx.runtime.scored(self.reward_model, self.ensemble, [Row(*r) for r in place], embed)
        at = torch.tensor([place[tuple(r.prompt), tuple(r.response)] for r in rows], device=scored.scores.device)
        return Scored(scored.scores[:, at], None if scored.embedding is None else scored.embedding[at])

    def _retokenised(self, questions: Sequence[str], samples: Sequence[Sample]) -> list[Row]:
        theirs = self.reward_model.chat
        responses = theirs.responses([self.policy.chat.text(sample.tokens) for sample in samples])
        # A response cut at the limit has no end token: the reward model should see that it was cut.
        cut = [row[:-1] or row if s.hit_limit else row for row, s in zip(responses, samples, strict=True)]
        return [Row(x, y) for x, y in zip(theirs.prompts(questions), cut, strict=True)]


NOISE_ROWS = 16  # responses of a checkpoint on which the noise of log-ratios is measured


class Evaluation(NamedTuple):
    """What is measured of one condition at one `point`, its texts, a few whole responses, and of a checkpoint the noise
    of its log-ratios (see `log_ratio_noise`)."""

    point: EvaluationPoint
    texts: list[str]
    samples: list[KeptResponse]
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
) -> list[list[Sample]]:
    """Responses to a grid of prompts `[C][B]`, sampled in pieces that fit `compute.rows_per_decode`."""
    result: list[list[Sample]] = [[] for _ in prompts]

    def some(most: int) -> list[list[Sample]]:
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
        for row, samples in zip(result, ctx.runtime.room.for_rows(len(prompts), some), strict=True):
            row += samples
    return result


def sampled_logprobs(
    ctx: Context[Resolved],
    policy: AdaptedModel,
    adapters: Adapters,
    samples: Sequence[Sequence[Sample]],
    rows: Sequence[Sequence[Row]],
    temperature: float = 1.0,
) -> torch.Tensor:
    """Log-probabilities `[C, B]` of responses under the policy that sampled them, at this `temperature`. At 1, sampling
    in float32 has given them already, exact to rounding; in less precision decoding rounds otherwise than a whole pass
    does, so one is made."""
    if policy.base.model.dtype == torch.float32 and temperature == 1:
        return torch.tensor([[sample.logprob for sample in part] for part in samples], device=ctx.runtime.device)
    return ctx.runtime.row_logprobs(policy, adapters, rows, temperature)


def log_ratio_noise(
    ctx: Context[Resolved],
    policy: AdaptedModel,
    adapters: Adapters,
    samples: Sequence[Sequence[Sample]],
    rows: Sequence[Sequence[Row]],
) -> torch.Tensor:
    """What rounding makes of log π − log π_ref where π is π_ref: its root mean square `[C]` over a few responses, nats.

    The same rows are read twice: as online adaptation reads them, and one by one with adapters that differ in the last
    bit of the base's precision. Either changes how sums are rounded, as another piece or a first small update would.
    """
    few = [list(part[:NOISE_ROWS]) for part in rows]
    usual = sampled_logprobs(ctx, policy, adapters, [part[:NOISE_ROWS] for part in samples], few)
    moved = _last_bit_moved(adapters, policy.base.model.dtype, ctx.config.root_seed)
    columns = [ctx.runtime.row_logprobs(policy, moved, [[part[i]] for part in few]) for i in range(len(few[0]))]
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
    rows = [[Row(x, sample.tokens) for x, sample in zip(prompts, part, strict=True)] for part in grid]
    noise: list[float | None] = [None] * len(seeds)
    if references is None:
        log_ratio = torch.zeros(len(seeds), len(problems))
        noise = log_ratio_noise(ctx, policy, adapters, grid, rows).tolist()
    else:
        log_ratio = sampled_logprobs(ctx, policy, adapters, grid, rows)
        log_ratio = log_ratio - ctx.runtime.row_logprobs(policy, references, rows)
    flat_rows = [row for part in rows for row in part]
    flat_samples = [sample for part in grid for sample in part]
    scored = scorer(questions * len(seeds), flat_rows, flat_samples, embed=True)
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
        texts = [policy.chat.text(sample.tokens) for sample in part]
        grades = [ctx.runtime.grade(text, p.gold) for text, p in zip(texts, problems, strict=True)]
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
            response_entropy=sum(s.entropy for s in part) / n,
            policy_entropy=entropies[c].item(),
            response_tokens=sum(len(s.tokens) for s in part) / n,
            at_limit=sum(s.hit_limit for s in part) / n,
            ood_distance=cosine_distance_to(rewards.centroid, embedding).mean().item(),
            diversity=mean_pairwise_cosine_distance(embedding).item(),
        )
        samples = [
            KeptResponse(
                problem=problems[i].problem_id,
                question=problems[i].question,
                gold=problems[i].gold,
                response=texts[i],
                proxy=proxy.mean[i].item(),
                disagreement=proxy.disagreement[i].item(),
                strict=grades[i].strict,
                lenient=grades[i].lenient,
                tokens=len(part[i].tokens),
            )
            for i in range(min(config.evaluation.samples, n))
        ]
        result.append(Evaluation(point, texts, samples, noise[c]))
    return result
