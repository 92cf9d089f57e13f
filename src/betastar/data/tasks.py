"""The verifiable task: problems from a data set or from a user's own Python file, and their grader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from betastar.data.chat import template
from betastar.data.graders import Grader, grader
from betastar.data.micro import language
from betastar.data.sources import BadRow, Malformed, Row, open_rows, usable_rows
from betastar.errors import BetastarError
from betastar.plugins import Plugin, kind_of, plainly
from betastar.record.responses import Grade
from betastar.settings.sections import BuiltInTask, CustomTask, DatasetSource, DatasetTask


@dataclass(frozen=True)
class Problem:
    """One verifiable problem: what the policy is asked, and the gold answer that a grader compares its response with.
    `problem_id` numbers the problems of a part; sampling noise depends on it."""

    problem_id: int
    question: str
    gold: str


class Task(NamedTuple):
    """Problems to adapt on and to be evaluated on, and the grader of responses to either: grade(response, gold)."""

    train: list[Problem]
    test: list[Problem]
    grade: Grader
    malformed: Malformed = Malformed()


GROUP = "betastar.tasks"


def _plugin(section: CustomTask) -> Plugin:
    return Plugin(section.task, GROUP, "task.task")


def custom_task(section: CustomTask) -> Task:
    """Call the user's function with `options`. Raises BetastarError where it is not there, fails, or returns something
    else than a Task with problems; the grader in it raises BetastarError where it fails or returns no Grade."""
    function = _plugin(section).load()
    with plainly(section.task):
        made = function(**section.options)
    if not isinstance(made, Task):
        raise BetastarError(f"{section.task} returned {kind_of(made)}; return a betastar.data.tasks.Task.")
    for part in ("train", "test"):
        problems = getattr(made, part)
        if not isinstance(problems, list) or not problems or not all(isinstance(p, Problem) for p in problems):
            raise BetastarError(f"{section.task}: `{part}` must be a non-empty list of Problem; return one.")
        for p in problems:
            if not (isinstance(p.problem_id, int) and isinstance(p.question, str) and isinstance(p.gold, str)):
                raise BetastarError(f"{section.task}: {p} is not Problem(number, text, text); correct its types.")
        if len({p.problem_id for p in problems}) < len(problems):
            raise BetastarError(
                f"{section.task}: two problems of `{part}` have the same problem_id; give each its own."
            )
    grade = _checked(section.task, made.grade)
    for problem in (made.train[0], made.test[0]):
        grade("", problem.gold)
    return made._replace(grade=grade)


def _checked(name: str, grade: Any) -> Grader:
    def checked(response: str, gold: str) -> Grade:
        with plainly(name):
            result = grade(response, gold)
        if not isinstance(result, Grade):
            raise BetastarError(f"{name}: grade returned {kind_of(result)}; return a betastar.data.tasks.Grade.")
        return result

    return checked


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


def task_grader(section: BuiltInTask | DatasetTask | CustomTask) -> Grader:
    """The function that grades a response; the data of a dataset task are not read."""
    if isinstance(section, CustomTask):
        return custom_task(section).grade
    return grader(section.grader) if isinstance(section, DatasetTask) else language(section).grade


def task_digests(section: DatasetTask | CustomTask) -> list[Any]:
    """What decides the problems besides the settings: digests of the data, or of the code. Raises BetastarError where
    either is not there."""
    if isinstance(section, CustomTask):
        return [_plugin(section).digest()]
    return [open_rows(section.train, "task.train").digest, open_rows(section.test, "task.test").digest]
