"""Stage: the verifiable task, problems to adapt on and problems to be evaluated on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from betastar.config import MicroTask
from betastar.data.tasks import Problem, read_gsm8k
from betastar.errors import BetastarError
from betastar.micro.language import draw_problem, is_held_out
from betastar.randomness import numpy_generator
from betastar.store import Artefact, file_digest
from betastar.workbench.context import Context
from betastar.workbench.readers import Problems

VERSION = 1
STAGE = "task"
MICRO_TRAIN_PROBLEMS = 4000


def run(ctx: Context) -> Artefact:
    task = ctx.config.task
    settings = [VERSION, task.model_dump(mode="json"), ctx.config.root_seed]
    if not isinstance(task, MicroTask):
        settings += [_digest(task.train), _digest(task.test)]

    def build(out: Path, key: str) -> None:
        if isinstance(task, MicroTask):
            problems = Problems(*(_micro_problems(ctx, part) for part in ("train", "test")))
        else:
            problems = Problems(read_gsm8k(task.train, task.train_limit), read_gsm8k(task.test, task.test_limit))
        for part, rows in problems._asdict().items():
            (out / f"{part}.json").write_text(json.dumps([asdict(p) for p in rows], ensure_ascii=False))

    return ctx.made(STAGE, settings, [], build)


def _digest(path: Path) -> str:
    if not path.is_file():
        raise BetastarError(f"{path}: no such file; correct task.train or task.test.")
    return file_digest(path)


def _micro_problems(ctx: Context, part: str) -> list[Problem]:
    """Distinct problems of one part; which part a problem belongs to depends on its text alone."""
    task = ctx.config.task
    assert isinstance(task, MicroTask)
    wanted = task.test_problems if part == "test" else MICRO_TRAIN_PROBLEMS
    rng, found = numpy_generator(ctx.config.root_seed, "task", part), {}
    for _ in range(100 * wanted):
        prompt = draw_problem(rng, task.largest)
        if is_held_out(prompt.text) == (part == "test"):
            found.setdefault(prompt.text, f"#### {prompt.gold}")
        if len(found) == wanted:
            break
    else:
        raise BetastarError(f"task.largest: {task.largest} gives too few distinct problems; raise it.")
    return [Problem(i, text, gold) for i, (text, gold) in enumerate(found.items())]
