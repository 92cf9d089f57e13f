"""Verifiable tasks of any kind: their problems, and the function that grades a response."""

from __future__ import annotations

from typing import Any

from betastar.data.answers import Grade, Grader
from betastar.data.custom import custom_digest, custom_task
from betastar.data.graders import grader
from betastar.data.problems import Problem, Task
from betastar.data.rows import BadRow, Malformed, Row, usable_rows
from betastar.data.sources import open_rows
from betastar.data.templates import template
from betastar.errors import BetastarError
from betastar.sections import CustomTask, DatasetSource, DatasetTask, MicroTask

__all__ = ["Grade", "Grader", "Problem", "Task", "load_task", "task_digests", "task_grader"]


def load_task(section: DatasetTask | CustomTask, max_bad_share: float = 0.0) -> Task:
    """Read the problems. Raises BetastarError where that fails, more than `max_bad_share` of the rows of either part
    are malformed, or the grader cannot read a gold answer (which makes its row a malformed one)."""
    if isinstance(section, CustomTask):
        return custom_task(section)
    grade = grader(section.grader)
    prompt, gold = template(section.prompt, "task.prompt"), template(section.gold, "task.gold")

    def parse(row: Row) -> tuple[str, str]:
        question, answer = prompt(row), gold(row)
        try:
            grade("", answer)
        except BetastarError as fault:
            raise BadRow(str(fault).rstrip(".")) from None
        return question, answer

    def part(source: DatasetSource, setting: str) -> tuple[list[Problem], Malformed]:
        found = usable_rows(open_rows(source, setting), parse, max_bad_share, source.limit)
        return [Problem(i, *texts) for i, texts in enumerate(found.items)], found.malformed

    (train, left_out), (test, also_left_out) = part(section.train, "task.train"), part(section.test, "task.test")
    return Task(train, test, grade, left_out.together(also_left_out))


def task_grader(section: MicroTask | DatasetTask | CustomTask) -> Grader:
    """The function that grades a response; the data of a dataset task are not read."""
    if isinstance(section, CustomTask):
        return custom_task(section).grade
    return grader(section.grader if isinstance(section, DatasetTask) else "gsm8k")


def task_digests(section: DatasetTask | CustomTask) -> list[Any]:
    """What decides the problems besides the settings: digests of the data, or of the code. Raises BetastarError where
    either is not there."""
    if isinstance(section, CustomTask):
        return [custom_digest(section)]
    return [open_rows(section.train, "task.train").digest, open_rows(section.test, "task.test").digest]
