"""Stage: several answers of every checkpoint to each problem, scored and graded, before any training. What best-of-n
gives follows from them. Kept by checkpoint, as the probe is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from betastar.data.tasks import Problem
from betastar.disk import write_json
from betastar.experiment import readers
from betastar.experiment.conditions import Condition, Inputs, Parts
from betastar.experiment.context import Context
from betastar.experiment.evaluation import held_out
from betastar.experiment.graded import graded, scorer_for
from betastar.experiment.making import made_parts
from betastar.experiment.store import content_key
from betastar.randomness import numpy_generator, stream_key
from betastar.settings.config import Resolved

VERSION = 1
STAGE = "best_of_n"
FILE = "answers.json"


def run(ctx: Context[Resolved], inputs: Inputs, checkpoints: Parts[Condition]) -> Parts[Condition]:
    """A folder with `answers.json` for each checkpoint; none where `evaluation.best_of` is 0."""
    evaluation = ctx.config.evaluation
    if evaluation.best_of == 0:
        ctx.reporter.say(f"{STAGE}: off (evaluation.best_of)")
        return Parts({}, {})
    settings = [
        VERSION,
        evaluation.model_dump(include={"best_of", "best_of_problems", "problems", "temperature"}),
        ctx.config.lengths.generated,
        ctx.config.root_seed,
    ]
    keys = {c: content_key(STAGE, settings, inputs.keys(c.seed), key) for c, key in checkpoints.keys_of.items()}

    def build(todo: Sequence[Condition], folders: Sequence[Path], key: str) -> None:
        scorer = scorer_for(ctx, inputs, [c.seed for c in todo])
        adapters = readers.checkpoints(scorer.policy.bank, [checkpoints[c] for c in todo])
        evaluated = held_out(ctx, readers.problems(inputs.problems).test)
        problems = _some(ctx, evaluated)
        limit, seed, count = readers.response_limit(ctx, inputs.preferences), ctx.config.root_seed, evaluation.best_of
        found: list[dict[str, list]] = [{"proxy": [], "strict": [], "lenient": []} for _ in todo]
        at_once = max(1, len(evaluated) // count)  # as many answers together as an evaluation point has
        for start in range(0, len(problems), at_once):
            ctx.reporter.progress(start, len(problems), "problems")
            asked = [p for p in problems[start : start + at_once] for _ in range(count)]
            draws = [
                [stream_key(seed, STAGE, c.seed, p.problem_id, i % count) for i, p in enumerate(asked)] for c in todo
            ]
            answers = graded(ctx, scorer, adapters, asked, draws, limit)
            for c, rows in enumerate(found):
                for name, values in rows.items():
                    values += getattr(answers, name)[c].view(-1, count).tolist()
        ctx.reporter.progress(len(problems), len(problems), "problems")
        for rows, folder in zip(found, folders, strict=True):
            write_json(folder / FILE, {"problems": [p.problem_id for p in problems], **rows})

    needs = partial(inputs.needs, checkpoints)
    return made_parts(ctx, STAGE, keys, build, ctx.config.online.conditions_at_once, needs=needs)


def _some(ctx: Context[Resolved], problems: Sequence[Problem]) -> list[Problem]:
    """As many of the evaluation problems as are answered here, the same for every checkpoint."""
    count = min(ctx.config.evaluation.best_of_problems, len(problems))
    chosen = numpy_generator(ctx.config.root_seed, STAGE).choice(len(problems), count, replace=False)
    return [problems[i] for i in sorted(chosen)]
