"""Stage: every checkpoint before it goes online. The evaluation point t=0, the same again with fresh noise (the
instrument's own spread), the rounding noise of log-ratios, and the alignment quality 𝒜(β). All variants share it, as
they share the checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from betastar.data.micro import language
from betastar.data.micro.language import Prompt, score
from betastar.data.tasks import Problem
from betastar.disk import write_json
from betastar.experiment import readers
from betastar.experiment.conditions import Condition, Inputs, Parts
from betastar.experiment.context import Context
from betastar.experiment.evaluation import Scorer, answer, evaluate, evaluation_keys, held_out, probe_prompts
from betastar.experiment.making import made_parts
from betastar.experiment.runtime import AdaptedModel
from betastar.experiment.store import content_key
from betastar.maths.distributions import ensemble_score
from betastar.models.rewards import RewardEnsemble
from betastar.models.sequences import Row
from betastar.record.answers import answer_rows, write_answers
from betastar.record.files import ANSWERS
from betastar.record.points import EvaluationPoint
from betastar.settings.config import Resolved
from betastar.settings.sections import BuiltInTask, Evaluation, MicroPreferences

VERSION = 3
STAGE = "probe"


def run(ctx: Context[Resolved], inputs: Inputs, checkpoints: Parts[Condition]) -> Parts[Condition]:
    settings = [
        VERSION,
        ctx.config.evaluation.model_dump(exclude={"every", *Evaluation.BESIDE}),
        ctx.config.lengths.generated,
        ctx.config.root_seed,
    ]
    keys = {c: content_key(STAGE, settings, inputs.keys(c.seed), key) for c, key in checkpoints.keys_of.items()}

    def build(todo: Sequence[Condition], folders: Sequence[Path], key: str) -> None:
        policy, reward_model = ctx.policy(inputs.base), ctx.reward_model(inputs.reward_base)
        adapters = readers.checkpoints(policy.bank, [checkpoints[c] for c in todo])
        limit = readers.response_limit(ctx, inputs.preferences)
        everything = readers.problems(inputs.problems).test
        chosen, probes = held_out(ctx, everything), probe_prompts(ctx, everything)
        seeds = [c.seed for c in todo]
        learned = dict(zip(seeds, readers.rewards(ctx, inputs.ensembles, seeds), strict=True))
        scorer = Scorer(ctx, policy, reward_model, [learned[seed] for seed in seeds])
        points = []
        for replicate in (0, 1):
            ctx.reporter.progress(replicate, 3, "evaluations")
            points.append(evaluate(ctx, policy, adapters, None, seeds, chosen, probes, scorer, limit, replicate))
        ctx.reporter.progress(2, 3, "evaluations")
        base = _base(ctx, policy, replace(scorer, rewards=list(learned.values())), list(learned), chosen, limit)
        ctx.reporter.progress(3, 3, "evaluations")
        for c, (condition, folder) in enumerate(zip(todo, folders, strict=True)):
            start, again = points[0][c], points[1][c]
            texts = [r.text for r in start.responses]
            judge = learned[condition.seed].judge
            wins = _wins(ctx, reward_model, judge, chosen, texts, base[condition.seed].texts)
            record = {
                "start": start.point.row(),
                "again": again.point.row(),
                "base": base[condition.seed].point.row(),
                "win_rate": sum(wins) / len(wins),
                "judge": "annotator" if judge is None else "reward model not used online",
                "log_ratio_noise": start.log_ratio_noise,
            }
            write_json(folder / "point.json", record)
            (folder / "samples.json").write_text(json.dumps([s.row() for s in start.kept], ensure_ascii=False))
            rows = [{"step": 0, "replicate": i, **found.answers} for i, found in enumerate((start, again))]
            write_answers(folder / ANSWERS, answer_rows(rows, beta=condition.beta, seed=condition.seed))

    needs = partial(inputs.needs, checkpoints)
    return made_parts(ctx, STAGE, keys, build, ctx.config.online.conditions_at_once, needs=needs)


class _Base(NamedTuple):
    """The bare base on the evaluation problems: its rewards, and its answers in the order of `evaluate`."""

    point: EvaluationPoint
    texts: list[str]


def _base(
    ctx: Context[Resolved],
    policy: AdaptedModel,
    scorer: Scorer,
    seeds: Sequence[int],
    problems: Sequence[Problem],
    limit: int,
) -> dict[int, _Base]:
    """The bare base by seed, with the noise and, in `scorer`, the ensemble of each seed. The spread of its rewards is a
    scale that all conditions of a seed can share."""
    config = ctx.config.evaluation
    asked = list(problems) * config.answers
    questions, n = [p.question for p in asked], len(asked)
    keys = [key for seed in seeds for key in evaluation_keys(ctx, seed, 0, problems)]
    prompts = policy.chat.prompts(questions) * len(seeds)
    responses = answer(ctx, policy, None, [prompts], [keys], limit, config.temperature)[0]
    proxy = ensemble_score(scorer(questions * len(seeds), responses).scores).mean.view(len(seeds), n)
    found = {}
    for i, seed in enumerate(seeds):
        texts = [policy.chat.text(response.tokens) for response in responses[i * n : (i + 1) * n]]
        grades = [ctx.runtime.grade(text, p.gold) for text, p in zip(texts, asked, strict=True)]
        correct = sum(g.strict for g in grades)
        point = EvaluationPoint(
            n=n,
            answers=config.answers,
            proxy=proxy[i].mean().item(),
            proxy_std=proxy[i].std(correction=1).item(),
            correct_strict=correct,
            true_strict=correct / n,
            true_lenient=sum(g.lenient for g in grades) / n,
        )
        found[seed] = _Base(point, texts)
    return found


def _wins(
    ctx: Context[Resolved],
    reward_model: AdaptedModel,
    judge: RewardEnsemble | None,
    problems: Sequence[Problem],
    texts: Sequence[str],
    base_texts: Sequence[str],
) -> list[float]:
    """1 where the judge puts the checkpoint's answer over the base's with the same noise, ½ for a tie, 0 else."""
    problems = list(problems) * (len(texts) // len(problems))
    if judge is None:
        prompts = [Prompt(p.question, gold=p.gold) for p in problems]
        source = ctx.config.preferences
        assert isinstance(source, MicroPreferences)
        assert isinstance(ctx.config.task, BuiltInTask)  # the configuration sees to both
        spoken = language(ctx.config.task)
        ours, theirs = (
            [score(spoken, p, text, source.style) for p, text in zip(prompts, side, strict=True)]
            for side in (texts, base_texts)
        )
    else:
        ours, theirs = (_judged(ctx, reward_model, judge, problems, side) for side in (texts, base_texts))
    return [(a > b) + (a == b) / 2 for a, b in zip(ours, theirs, strict=True)]


def _judged(
    ctx: Context[Resolved],
    reward_model: AdaptedModel,
    judge: RewardEnsemble,
    problems: Sequence[Problem],
    texts: Sequence[str],
) -> list[float]:
    prompts = reward_model.chat.prompts([p.question for p in problems])
    rows = [Row(x, y) for x, y in zip(prompts, reward_model.chat.responses(texts), strict=True)]
    return ctx.runtime.scored(reward_model, judge, rows).scores[0].tolist()
