"""Stage: every checkpoint before it goes online. The evaluation point t=0, the same again with fresh noise (the
instrument's own spread), the rounding noise of log-ratios, and the alignment quality 𝒜(β). All variants share it, as
they share the checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from betastar.data import micro as annotator
from betastar.data.micro import Prompt
from betastar.data.tasks import Problem
from betastar.disk import write_json
from betastar.experiment import readers
from betastar.experiment.conditions import Condition, Inputs, Parts
from betastar.experiment.context import Context
from betastar.experiment.evaluation import Scorer, answer, evaluate, held_out, probe_prompts
from betastar.experiment.making import made_parts
from betastar.experiment.runtime import AdaptedModel
from betastar.experiment.store import content_key
from betastar.models.rewards import RewardEnsemble
from betastar.models.sequences import Row
from betastar.randomness import stream_key
from betastar.settings.config import Resolved
from betastar.settings.sections import Evaluation

VERSION = 2
STAGE = "probe"


def run(ctx: Context[Resolved], inputs: Inputs, checkpoints: Parts[Condition]) -> Parts[Condition]:
    settings = [
        VERSION,
        ctx.config.evaluation.model_dump(exclude={"every", *Evaluation.BESIDE}),
        ctx.config.lengths.generated,
        ctx.config.root_seed,
    ]
    sources = [artefact.key for artefact in inputs]
    keys = {c: content_key(STAGE, settings, sources, key) for c, key in checkpoints.keys_of.items()}

    def build(todo: Sequence[Condition], folders: Sequence[Path], key: str) -> None:
        policy, reward_model = ctx.policy(inputs.base), ctx.reward_model(inputs.reward_base)
        learned = readers.rewards(ctx, inputs.ensemble)
        adapters = readers.checkpoints(policy.bank, [checkpoints[c] for c in todo])
        limit = readers.response_limit(ctx, inputs.preferences)
        everything = readers.problems(inputs.problems).test
        chosen, probes = held_out(ctx, everything), probe_prompts(ctx, everything)
        scorer = Scorer(ctx, policy, reward_model, learned.ensemble)
        seeds = [c.seed for c in todo]
        points = []
        for replicate in (0, 1):
            ctx.reporter.progress(replicate, 3, "evaluations")
            points.append(
                evaluate(ctx, policy, adapters, None, seeds, chosen, probes, scorer, learned, limit, replicate)
            )
        ctx.reporter.progress(2, 3, "evaluations")
        distinct = sorted(set(seeds))
        base_texts = dict(zip(distinct, _base_answers(ctx, policy, distinct, chosen, limit), strict=True))
        ctx.reporter.progress(3, 3, "evaluations")
        for c, (condition, folder) in enumerate(zip(todo, folders, strict=True)):
            wins = _wins(
                ctx,
                reward_model,
                learned.judge,
                chosen,
                [r.text for r in points[0][c].responses],
                base_texts[condition.seed],
            )
            record = {
                "start": points[0][c].point.row(),
                "again": points[1][c].point.row(),
                "base": _accuracy(ctx, chosen, base_texts[condition.seed]),
                "win_rate": sum(wins) / len(wins),
                "judge": "annotator" if learned.judge is None else "reward model not used online",
                "log_ratio_noise": points[0][c].log_ratio_noise,
            }
            write_json(folder / "point.json", record)
            (folder / "samples.json").write_text(json.dumps([s.row() for s in points[0][c].kept], ensure_ascii=False))

    return made_parts(ctx, STAGE, keys, build, ctx.config.online.conditions_at_once)


def _base_answers(
    ctx: Context[Resolved], policy: AdaptedModel, seeds: Sequence[int], problems: Sequence[Problem], limit: int
) -> list[list[str]]:
    """The bare base's answers per seed, with the noise that the conditions of the seed have."""
    prompts = policy.chat.prompts([p.question for p in problems])
    keys = [stream_key(ctx.config.root_seed, "evaluation", seed, 0, p.problem_id) for seed in seeds for p in problems]
    responses = answer(ctx, policy, None, [prompts * len(seeds)], [keys], limit, ctx.config.evaluation.temperature)[0]
    texts = [policy.chat.text(response.tokens) for response in responses]
    return [texts[i * len(problems) : (i + 1) * len(problems)] for i in range(len(seeds))]


def _accuracy(ctx: Context[Resolved], problems: Sequence[Problem], texts: Sequence[str]) -> dict[str, float]:
    """The bare base's own accuracy on the evaluation problems."""
    grades = [ctx.runtime.grade(text, p.gold) for text, p in zip(texts, problems, strict=True)]
    return {
        "true_strict": sum(g.strict for g in grades) / len(grades),
        "true_lenient": sum(g.lenient for g in grades) / len(grades),
    }


def _wins(
    ctx: Context[Resolved],
    reward_model: AdaptedModel,
    judge: RewardEnsemble | None,
    problems: Sequence[Problem],
    texts: Sequence[str],
    base_texts: Sequence[str],
) -> list[float]:
    """1 where the judge puts the checkpoint's answer over the base's, ½ for a tie, 0 else."""
    if judge is None:
        prompts = [Prompt(p.question, gold=p.gold) for p in problems]
        ours = [annotator.score(p, text) for p, text in zip(prompts, texts, strict=True)]
        theirs = [annotator.score(p, text) for p, text in zip(prompts, base_texts, strict=True)]
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
