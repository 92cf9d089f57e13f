"""Stage: the verifiable task, problems to adapt on and problems to be evaluated on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from betastar.data.micro import language
from betastar.data.micro.language import is_held_out
from betastar.data.sources import Malformed
from betastar.data.tasks import Problem, load_task, task_digests
from betastar.disk import write_json
from betastar.errors import BetastarError
from betastar.experiment.context import Context
from betastar.experiment.making import made
from betastar.experiment.readers import Problems
from betastar.experiment.store import Artefact
from betastar.randomness import numpy_generator
from betastar.settings.config import Config
from betastar.settings.sections import BuiltInTask, DatasetTask, MicroTask

VERSION = 3
STAGE = "task"
MICRO_TRAIN_PROBLEMS = 4000


def run(ctx: Context[Config]) -> Artefact:
    task, max_bad_share = ctx.config.task, ctx.config.data.max_bad_share
    settings = [VERSION, task.model_dump(mode="json"), ctx.config.root_seed]
    if not isinstance(task, BuiltInTask):
        settings.append(task_digests(task))
    if isinstance(task, DatasetTask):
        settings.append(max_bad_share)

    def build(out: Path, key: str) -> None:
        if isinstance(task, BuiltInTask):
            drawn = (_drawn(task, ctx.config.root_seed, part) for part in Problems._fields)
            problems, malformed = Problems(*drawn), Malformed()
        else:
            loaded = load_task(task, max_bad_share)
            problems, malformed = Problems(loaded.train, loaded.test), loaded.malformed
        if malformed.n:
            ctx.reporter.say(f"{STAGE}: {malformed}")
        for part, rows in problems._asdict().items():
            (out / f"{part}.json").write_text(json.dumps([asdict(p) for p in rows], ensure_ascii=False))
        write_json(out / "statistics.json", malformed.record())

    return made(ctx, STAGE, settings, [], build)


def _drawn(task: BuiltInTask, root_seed: int, part: str) -> list[Problem]:
    """Distinct problems of one part; which part a problem belongs to depends on its text alone."""
    draw = language(task).problem
    wanted = task.test_problems if part == "test" else MICRO_TRAIN_PROBLEMS
    rng, found = numpy_generator(root_seed, "task", part), {}
    for _ in range(100 * wanted):
        prompt = draw(rng)
        if is_held_out(prompt.text) == (part == "test"):
            found.setdefault(prompt.text, prompt.gold)
        if len(found) == wanted:
            break
    else:
        where, value = ("largest", task.largest) if isinstance(task, MicroTask) else ("longest", task.longest)
        raise BetastarError(f"{value} gives too few distinct problems", where=f"task.{where}", remedy="raise it")
    return [Problem(i, text, gold) for i, (text, gold) in enumerate(found.items())]
