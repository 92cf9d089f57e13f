"""The verifiable task: problems from a data set or from a user's own Python file, and their grader."""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from betastar.data.chat import template
from betastar.data.graders import Grader, grader
from betastar.data.sources import BadRow, Malformed, Row, open_rows, usable_rows
from betastar.disk import file_digest
from betastar.errors import BetastarError
from betastar.record.responses import Grade
from betastar.settings.sections import CustomTask, DatasetSource, DatasetTask, MicroTask


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


def custom_task(section: CustomTask) -> Task:
    """Call the user's function with `options`. Raises BetastarError where it is not there, fails, or returns something
    else than a Task with problems; the grader in it raises BetastarError where it fails or returns no Grade."""
    function = _function(section)
    with _plainly(section.task):
        made = function(**section.options)
    if not isinstance(made, Task):
        raise BetastarError(f"{section.task} returned {_kind(made)}; return a betastar.data.tasks.Task.")
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


def custom_digest(section: CustomTask) -> str:
    """SHA-256 of the file that defines the function, and for an entry point of its name and version too. Raises
    BetastarError where there is none."""
    if ":" in section.task:
        return file_digest(_file(section.task)[0])
    point = _entry_point(section.task)
    with _plainly(section.task):
        point.load()
    source = inspect.getsourcefile(sys.modules[point.module])
    code = file_digest(Path(source)) if source else ""
    version = point.dist.version if point.dist else ""
    return hashlib.sha256(f"{point.value} {version} {code}".encode()).hexdigest()


def _function(section: CustomTask) -> Callable[..., Any]:
    if ":" not in section.task:
        point = _entry_point(section.task)
        with _plainly(section.task):
            return point.load()
    path, name = _file(section.task)
    function = getattr(_module(path, section.task), name, None)
    if not callable(function):
        raise BetastarError(f"{path} has no function {name}; correct task.task.")
    return function


def _module(path: Path, task: str) -> ModuleType:
    """The file's module, under a name of its own that hides no other; the same file is executed once."""
    name = "betastar_task_" + hashlib.sha256(f"{path.resolve()} {file_digest(path)}".encode()).hexdigest()[:16]
    if name not in sys.modules:
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module  # dataclasses in it look for it there
        try:
            with _plainly(task):
                exec(compile(path.read_bytes(), path, "exec"), vars(module))
        except BetastarError:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _file(task: str) -> tuple[Path, str]:
    text, _, name = task.rpartition(":")
    path = Path(text).expanduser()
    if not path.is_file():
        raise BetastarError(f"{path}: no such file; correct task.task (relative paths start at {Path.cwd()}).")
    return path, name


def _entry_point(name: str) -> EntryPoint:
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        installed = ", ".join(sorted(points)) or "none"
        raise BetastarError(
            f"task.task: no installed package has an entry point {name} in the group {GROUP} (installed: {installed}); "
            "give path/to/file.py:function, or install the package."
        )
    return points[name]


def _checked(name: str, grade: Any) -> Grader:
    def checked(response: str, gold: str) -> Grade:
        with _plainly(name):
            result = grade(response, gold)
        if not isinstance(result, Grade):
            raise BetastarError(f"{name}: grade returned {_kind(result)}; return a betastar.data.tasks.Grade.")
        return result

    return checked


@contextmanager
def _plainly(what: str) -> Iterator[None]:
    """Turn an exception in the user's code into one sentence with its type, message and line."""
    try:
        yield
    except BetastarError:
        raise
    except (Exception, SystemExit) as error:
        own = Path(what.rpartition(":")[0]).expanduser()
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == own]
        where = f" (line {lines[-1]})" if lines else ""
        message = " ".join(str(error).split()) or "no message"
        raise BetastarError(f"{what} raised {type(error).__name__}{where}: {message}; correct it.") from error


def _kind(value: object) -> str:
    return f"an object of type {type(value).__name__}" if value is not None else "nothing"


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
