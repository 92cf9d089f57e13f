"""Tasks that users bring: the documented example, entry points, and one sentence for every fault in their code."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from betastar.data.graders import Grade
from betastar.data.tasks import Problem, load_task, task_digests, task_grader
from betastar.errors import BetastarError
from betastar.settings.sections import CustomTask

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
GOOD = """
from dataclasses import dataclass
from betastar.data.tasks import Grade, Problem, Task

@dataclass
class Size:
    n: int

def grade(response, gold):
    right = response == gold
    return Grade(right, right, True)

def make(n: int = 1):
    problems = [Problem(i, f"say {i}", str(i)) for i in range(Size(n).n)]
    return Task(problems, problems, grade)
"""


def section(task: str, **options: Any) -> CustomTask:
    return CustomTask(kind="custom", task=task, options=options)


def written(folder: Path, code: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(code)
    return path


def test_the_documented_example_works(tmp_path: Path) -> None:
    """The code of docs/data.md, executed as a user would save it."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (path, function, option, value) = re.findall(
        r"task: \{kind: custom, task: (.*):(\w+), options: \{(\w+): (\d+)\}\}", PAGE.read_text()
    )[0]
    made = section(f"{written(tmp_path, code, Path(path).name)}:{function}", **{option: int(value)})
    task, grade = load_task(made), task_grader(made)
    assert len(task.train) == int(value)
    assert not {p.question for p in task.train} & {p.question for p in task.test}
    for problem in (*task.train, *task.test):
        assert task.grade(problem.gold, problem.gold).strict
        assert not grade(f"not {problem.gold}", problem.gold).strict


def test_options_are_handed_over_and_other_modules_left_alone(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD, "json.py")  # hides no module of that name
    before = dict(sys.modules)
    task = load_task(section(f"{path}:make", n=3))
    assert task.train == [Problem(0, "say 0", "0"), Problem(1, "say 1", "1"), Problem(2, "say 2", "2")]
    assert {name: sys.modules[name] for name in before} == before
    assert [name for name in sys.modules.keys() - before.keys() if not name.startswith("betastar_task_")] == []
    assert list(tmp_path.iterdir()) == [path]  # no compiled copy that could go stale


def test_a_changed_file_is_another_task(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    before = task_digests(section(f"{path}:make"))
    assert load_task(section(f"{path}:make")).train[0].question == "say 0"
    written(tmp_path, GOOD.replace("say", "SAY"))
    assert task_digests(section(f"{path}:make")) != before
    assert load_task(section(f"{path}:make")).train[0].question == "SAY 0"


def test_paths_start_from_the_current_directory_and_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("mine.py", "~/mine.py"):
        assert len(load_task(section(f"{path}:make", n=2)).test) == 2


def refusal(made: CustomTask) -> str:
    with pytest.raises(BetastarError) as error:
        load_task(made)
    assert "\n" not in str(error.value)
    return str(error.value)


TASK = "from betastar.data.tasks import Grade, Problem, Task\n"
P = "[Problem(0, 'q', 'g')]"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def other(): ...", "{path} has no function make; correct task.task."),
        ("make = 3", "{path} has no function make; correct task.task."),
        ("def make(): return 3", "{task} returned an object of type int; return a betastar.data.tasks.Task."),
        ("def make(): ...", "{task} returned nothing; return a betastar.data.tasks.Task."),
        ("def make(:", "{task} raised SyntaxError: invalid syntax (mine.py, line 1); correct it."),
        ("import nowhere_to_be_found", "{task} raised ModuleNotFoundError (line 1): No module named 'nowhere_to_be"),
        ("import sys\nsys.exit(3)", "{task} raised SystemExit (line 2): 3; correct it."),
        ("def make():\n  x = {}\n  return x['a']", "{task} raised KeyError (line 3): 'a'; correct it."),
        ("def make():\n  raise ValueError('one\\ntwo')", "{task} raised ValueError (line 2): one two; correct it."),
        ("def make():\n  raise ValueError", "{task} raised ValueError (line 2): no message; correct it."),
        ("def make(a): ...", "{task} raised TypeError: make() missing 1 required positional argument: 'a'"),
        (f"{TASK}def make(): return Task([], {P}, len)", "{task}: `train` must be a non-empty list of Problem"),
        (
            f"{TASK}def make(): return Task({P}, ['q'], len)",
            "{task}: `test` must be a non-empty list of Problem",
        ),
        (
            f"{TASK}def make(): return Task([Problem(0, 'q', 3)], {P}, len)",
            "{task}: Problem(problem_id=0, question='q', gold=3) is not Problem(number, text, text); correct its type",
        ),
        (
            f"{TASK}def make(): return Task({P} * 2, {P}, len)",
            "{task}: two problems of `train` have the same problem_id; give each its own.",
        ),
        (
            f"{TASK}def make(): return Task({P}, {P}, lambda response, gold: response == gold)",
            "{task}: grade returned an object of type bool; return a betastar.data.tasks.Grade.",
        ),
        (f"{TASK}\ndef make(): return Task({P}, {P}, lambda r, g: r[9])", "{task} raised IndexError (line 3): string"),
    ],
)
def test_every_fault_is_one_sentence(tmp_path: Path, code: str, message: str) -> None:
    path = written(tmp_path, code)
    task = f"{path}:make"
    assert refusal(section(task)).startswith(message.replace("{path}", str(path)).replace("{task}", task))
    assert not [name for name in sys.modules if name == "mine"]


def test_missing_files_and_unknown_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = f"none.py: no such file; correct task.task (relative paths start at {tmp_path})."
    assert refusal(section("none.py:make")) == expected
    with pytest.raises(BetastarError, match=r"^none\.py: no such file"):
        task_digests(section("none.py:make"))
    path = written(tmp_path, GOOD)
    assert refusal(section(f"{path}:make", m=3)).endswith(
        "raised TypeError: make() got an unexpected keyword argument 'm'; correct it."
    )


def test_a_grader_that_fails_later_is_one_sentence_too(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.replace("right = response == gold", "right = response == gold or 1 / len(response)"))
    grade = task_grader(section(f"{written(tmp_path, GOOD)}:make"))
    assert grade("0", "0") == Grade(True, True, True)
    broken = GOOD.replace("right = response == gold", "right = not response or int(response) == gold")
    grade = task_grader(section(f"{written(tmp_path, broken)}:make"))
    with pytest.raises(BetastarError) as error:
        grade("x", "0")
    assert str(error.value) == (
        f"{path}:make raised ValueError (line 10): invalid literal for int() with base 10: 'x'; correct it."
    )


def test_entry_points_of_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package as an installer leaves it: its module, and its metadata beside it."""
    written(tmp_path, GOOD, "someones_tasks.py")
    metadata = tmp_path / "someones_tasks-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: someones-tasks\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[betastar.tasks]\nsay = someones_tasks:make\ngone = someones_tasks:x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(load_task(section("say", n=2)).train) == 2
    before = task_digests(section("say"))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: someones-tasks\nVersion: 1.1\n")
    assert task_digests(section("say")) != before
    assert refusal(section("gone")).startswith(
        "gone raised AttributeError: module 'someones_tasks' has no attribute 'x'"
    )
    assert refusal(section("sya")) == (
        "task.task: no installed package has an entry point sya in the group betastar.tasks (installed: gone, say); "
        "give path/to/file.py:function, or install the package."
    )
