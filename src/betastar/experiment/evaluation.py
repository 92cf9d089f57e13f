"""One evaluation point: conditions answer the held-out problems, are scored by the ensemble and graded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from betastar.data.tasks import Problem
from betastar.experiment.context import Context
from betastar.experiment.memory import READ_REMEDY
from betastar.experiment.readers import Rewards
from betastar.experiment.runtime import AdaptedModel
from betastar.maths.answers import distinct_bigrams, divergence, ranking
from betastar.maths.distributions import cosine_distance_to, ensemble_score, mean_pairwise_cosine_distance
from betastar.models.bank import Adapters
from betastar.models.generation import generate
from betastar.models.logprobs import prompt_entropy
from betastar.models.rewards import Scored
from betastar.models.sequences import Row
from betastar.randomness import numpy_generator, stream_key, torch_generator
from betastar.record.points import EvaluationPoint, KeptResponse
from betastar.record.responses import Response
from betastar.settings.config import Resolved


class Distinct(NamedTuple):
    """Rows without repetition, and of each original row its `place` among them. Conditions that share noise often give
    the same response: what depends on the row alone is computed once."""

    rows: list[Row]
    place: list[int]

    @staticmethod
    def of(rows: Sequence[Row]) -> Distinct:
        keys = [(tuple(row.prompt), tuple(row.response)) for row in rows]
        place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        return Distinct([Row(*key) for key in place], [place[key] for key in keys])


@dataclass(frozen=True)
class Scorer:
    """Ensembles ready to score responses of `policy`: `rewards [C]`, that of each condition, often the same one."""

    ctx: Context[Resolved]
    policy: AdaptedModel
    reward_model: AdaptedModel
    rewards: Sequence[Rewards]

    def __call__(self, questions: Sequence[str], responses: Sequence[Response], embed: bool = False) -> Scored:
        """Score responses, as many of each condition, in the order of conditions. With one base for both, the sampled
        tokens are scored as they are; else their text is."""
        shared = self.reward_model.base is self.policy.base
        rows = [Row.of(r) for r in responses] if shared else self._retokenised(questions, responses)
        device, size = self.ctx.runtime.device, len(rows) // len(self.rewards)
        mine: dict[int, list[int]] = {}  # by ensemble, which only ever sees its own conditions' rows
        for c, rewards in enumerate(self.rewards):
            mine.setdefault(id(rewards), []).extend(range(c * size, (c + 1) * size))
        scores = torch.empty(len(self.rewards[0].ensemble), len(rows), device=device)
        embedding: torch.Tensor | None = None
        for places in mine.values():
            part = Distinct.of([rows[i] for i in places])
            ensemble = self.rewards[places[0] // size].ensemble
            scored = self.ctx.runtime.scored(self.reward_model, ensemble, part.rows, embed)
            at, place = torch.tensor(places, device=device), torch.tensor(part.place, device=device)
            scores[:, at] = scored.scores[:, place]
            if scored.embedding is not None:
                if embedding is None:
                    embedding = scored.embedding.new_empty(len(rows), scored.embedding.shape[1])
                embedding[at] = scored.embedding[place]
        return Scored(scores, embedding)

    def _retokenised(self, questions: Sequence[str], responses: Sequence[Response]) -> list[Row]:
        theirs = self.reward_model.chat
        rows = theirs.responses([self.policy.chat.text(response.tokens) for response in responses])
        # A response cut at the limit has no end token: the reward model should see that it was cut.
        cut = [row[:-1] or row if r.hit_limit else row for row, r in zip(rows, responses, strict=True)]
        return [Row(x, y) for x, y in zip(theirs.prompts(questions), cut, strict=True)]


NOISE_ROWS = 16  # responses of a checkpoint on which the noise of log-ratios is measured


class Evaluation(NamedTuple):
    """What is measured of one condition at one `point`, its scored and graded responses (the first answers to all
    problems, then the second ones, …), the few of them that are kept, columns of the table of answers, and of a
    checkpoint the noise of its log-ratios (see `log_ratio_noise`)."""

    point: EvaluationPoint
    responses: list[Response]
    kept: list[KeptResponse]
    answers: dict[str, list[Any]]
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
    """Responses to a grid of prompts `[C][B]`, at most `compute.rows_per_decode` sampled at once."""

    def sampled(most: int) -> list[list[Response]]:
        return generate(
            policy.bank,
            adapters,
            prompts,
            keys,
            end_tokens=policy.ends,
            pad=policy.pad,
            max_new_tokens=limit,
            temperature=temperature,
            at_once=most,
        )

    return ctx.runtime.room.for_rows(len(prompts), sampled)


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


def base_logprobs(
    ctx: Context[Resolved], policy: AdaptedModel, responses: Sequence[Sequence[Response]]
) -> torch.Tensor:
    """Log-probabilities `[C, B]` of responses under the base π⁽⁰⁾, each distinct response read once."""
    found = Distinct.of([Row.of(response) for part in responses for response in part])
    logprobs = ctx.runtime.row_logprobs(policy, None, [found.rows])[0]
    return logprobs[torch.tensor(found.place, device=logprobs.device)].view(len(responses), -1)


def evaluation_keys(ctx: Context[Resolved], seed: int, replicate: int, problems: Sequence[Problem]) -> list[int]:
    """The random streams of a seed's answers: the first answers to all problems, then the second ones, … The streams of
    the first do not depend on how many there are."""
    return [
        stream_key(ctx.config.root_seed, "evaluation", seed, replicate, p.problem_id, *([answer] if answer else []))
        for answer in range(ctx.config.evaluation.answers)
        for p in problems
    ]


def evaluate(
    ctx: Context[Resolved],
    policy: AdaptedModel,
    adapters: Adapters,
    references: Adapters | None,
    seeds: Sequence[int],
    problems: Sequence[Problem],
    probes: Sequence[Problem],
    scorer: Scorer,
    limit: int,
    replicate: int = 0,
    step: int = 0,
) -> list[Evaluation]:
    """Evaluate every condition of `adapters` after `step` online steps; `references=None` says that they are their own
    references.

    A row's noise depends on seed, problem, answer and `replicate` alone: all conditions of a seed share it, at every
    step, so a policy that has not moved gives the same answers, and what changes is due to the policy. Another
    replicate is fresh noise.
    """
    config, count = ctx.config.evaluation, len(problems)
    asked = list(problems) * config.answers
    questions, prompts = [p.question for p in asked], policy.chat.prompts([p.question for p in problems])
    keys = [evaluation_keys(ctx, seed, replicate, problems) for seed in seeds]
    grid = answer(ctx, policy, adapters, [prompts * config.answers] * len(seeds), keys, limit, config.temperature)
    noise: list[float | None] = [None] * len(seeds)
    logprobs = sampled_logprobs(ctx, policy, adapters, grid)
    from_base = logprobs - base_logprobs(ctx, policy, grid)
    if references is None:
        log_ratio = torch.zeros_like(logprobs)
        noise = log_ratio_noise(ctx, policy, adapters, grid).tolist()
    else:
        log_ratio = logprobs - ctx.runtime.row_logprobs(policy, references, rows_of(grid))
    scored = scorer(questions * len(seeds), [response for part in grid for response in part], embed=True)
    assert scored.embedding is not None
    probed = policy.chat.prompts([p.question for p in probes])
    entropies = ctx.runtime.room.for_tokens(
        max(map(len, probed)),
        lambda most: prompt_entropy(policy.bank, adapters, probed, policy.pad, most),
        READ_REMEDY,
    )
    n, result = len(asked), []
    for c, part in enumerate(grid):
        scores = scored.scores[:, c * n : (c + 1) * n]
        proxy = ensemble_score(scores)
        embedding = scored.embedding[c * n : (c + 1) * n]
        responses = [
            _evaluated(ctx, policy, response, problem, *measured)
            for response, problem, *measured in zip(
                part, asked, scores.T.tolist(), *(field.tolist() for field in proxy), strict=True
            )
        ]
        grades = [r.grade for r in responses if r.grade is not None]
        kl, kl_base = (divergence(_by_problem(d[c], count).cpu().numpy()) for d in (log_ratio, from_base))
        right = _by_problem(torch.tensor([g.strict for g in grades]), count)
        point = EvaluationPoint(
            step=step,
            n=n,
            answers=config.answers,
            proxy=proxy.mean.mean().item(),
            proxy_std=proxy.mean.std(correction=1).item(),
            members=tuple(scores.mean(dim=1).tolist()),
            disagreement=proxy.disagreement.mean().item(),
            # A Bradley-Terry reward is defined up to a constant, so raw disagreement also measures how far apart the
            # members' constants happen to lie; this one does not.
            disagreement_centred=ensemble_score(scores - scorer.rewards[c].offset[:, None]).disagreement.mean().item(),
            correct_strict=sum(g.strict for g in grades),
            true_strict=sum(g.strict for g in grades) / n,
            true_lenient=sum(g.lenient for g in grades) / n,
            unparsable=sum(not g.parsable for g in grades) / n,
            ranking=ranking(_by_problem(proxy.mean, count).cpu().numpy(), right.numpy()),
            kl=kl.k1,
            kl_error=kl.error,
            kl_k3=kl.k3,
            kl_base=kl_base.k1,
            kl_base_error=kl_base.error,
            kl_base_k3=kl_base.k3,
            response_entropy=sum(r.entropy for r in responses) / n,
            policy_entropy=entropies[c].item(),
            response_tokens=sum(len(r.tokens) for r in responses) / n,
            at_limit=sum(r.hit_limit for r in responses) / n,
            ood_distance=cosine_distance_to(scorer.rewards[c].centroid, embedding).mean().item(),
            diversity=mean_pairwise_cosine_distance(embedding).item(),
            prompt_diversity=mean_pairwise_cosine_distance(_by_problem(embedding, count)).mean().item(),
            distinct_bigrams=distinct_bigrams([r.tokens for r in responses]),
        )
        kept = [_kept(*pair) for pair in zip(problems, responses, strict=False)][: config.samples]
        table = _table(asked, responses, count, log_ratio[c].tolist(), from_base[c].tolist())
        result.append(Evaluation(point, responses, kept, table, noise[c]))
    return result


def _by_problem(values: torch.Tensor, problems: int) -> torch.Tensor:
    """Values `[A · P, …]` of the first answers to all problems, then the second ones, …, as `[P, A, …]`."""
    return values.unflatten(0, (-1, problems)).transpose(0, 1)


def _table(
    asked: Sequence[Problem],
    responses: Sequence[Response],
    problems: int,
    log_ratio: Sequence[float],
    log_ratio_base: Sequence[float],
) -> dict[str, list[Any]]:
    """Columns of the table of answers (`betastar.record.answers`), one entry per response."""
    grades = [r.grade for r in responses if r.grade is not None]
    return {
        "problem": [str(p.problem_id) for p in asked],
        "answer": [i // problems for i in range(len(asked))],
        "proxy": _short(r.proxy for r in responses),
        "disagreement": _short(r.disagreement for r in responses),
        "strict": [int(g.strict) for g in grades],
        "lenient": [int(g.lenient) for g in grades],
        "parsable": [int(g.parsable) for g in grades],
        "tokens": [len(r.tokens) for r in responses],
        "at_limit": [int(r.hit_limit) for r in responses],
        "log_ratio": _short(log_ratio),
        "log_ratio_base": _short(log_ratio_base),
    }


def _short(values: Iterable[float]) -> list[float]:
    """Numbers of single precision with the nine digits that identify them, which is half of what JSON would write."""
    return [float(f"{value:.9g}") for value in values]


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
