"""The task stage: what decides whether its problems are made anew, what it leaves, and what it says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from betastar.data.tasks import Problem
from betastar.disk import read_json
from betastar.errors import BetastarError
from betastar.experiment.context import Context
from betastar.experiment.readers import problems
from betastar.experiment.runtime import Runtime
from betastar.experiment.stages import task
from betastar.experiment.store import Artefact, Store
from betastar.progress import Reporter
from betastar.settings.config import Config, load_config

CUSTOM = """
from betastar.data.tasks import Grade, Problem, Task

def make(word):
    asked = [Problem(i, f"{word} {i}", str(i)) for i in range(3)]
    return Task(asked, asked, lambda response, gold: Grade(response == gold, gold in response, True))
"""


class Listener(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def made(folder: Path, *overrides: str) -> tuple[Artefact, Context[Config], list[str]]:
    listener = Listener()
    base = "base={source: random}"
    preferences = "preferences={kind: dataset, source: pairs.jsonl}"
    with Store(folder / "run") as store:
        config = load_config("files", [base, preferences, *overrides])
        ctx = Context(config, store, listener, Runtime(config, listener))
        return task.run(ctx), ctx, listener.said


def test_problems_of_a_dataset_and_its_malformed_rows(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(10)]
    for part in ("train", "test"):
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = f"train: {tmp_path}/train.jsonl, test: {tmp_path}/test.jsonl"
    files = f"task={{preset: gsm8k, prompt: '{{{{ question }}}}', {paths}}}"
    first, ctx, said = made(tmp_path, files)
    assert problems(first).test == [Problem(i, f"{i}?", f"#### {i}") for i in range(10)]
    assert read_json(first.folder / "statistics.json") == {"malformed_dropped": 0, "malformed_examples": []}
    assert (ctx.runtime.grade("#### 3", "#### 3").strict, said) == (True, [])
    again, _, said = made(tmp_path, files)
    assert (again.key, said) == (first.key, ["task: reused"])

    with (tmp_path / "test.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(BetastarError, match=r"test\.jsonl, line 11: not valid JSON .* 1 of 11 rows \(9\.09 %\)\.$"):
        made(tmp_path, files)
    left_out, _, said = made(tmp_path, files, "data.max_bad_share=0.1")
    assert left_out.key != first.key
    assert problems(left_out) == problems(first)
    statistics = read_json(left_out.folder / "statistics.json")
    assert statistics["malformed_dropped"] == 1
    assert said == [f"task: 1 of 21 rows are malformed and skipped: {statistics['malformed_examples'][0]}"]
    # A stricter share refuses what a milder one has let through.
    with pytest.raises(BetastarError, match=r"now 0\.05, to skip malformed rows"):
        made(tmp_path, files, "data.max_bad_share=0.05")


def test_a_custom_task_follows_its_file_and_options_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(CUSTOM)
    settings = f"task={{kind: custom, task: '{path}:make', options: {{word: say}}}}"
    first, ctx, _ = made(tmp_path, settings)
    assert [asdict(problem) for problem in problems(first).train] == [
        {"problem_id": i, "question": f"say {i}", "gold": str(i)} for i in range(3)
    ]
    assert (ctx.runtime.grade("1", "1").strict, ctx.runtime.grade("10", "1").strict) == (True, False)
    assert made(tmp_path, settings, "data.max_bad_share=0.5")[0].key == first.key
    assert made(tmp_path, settings, "task.options.word=tell")[0].key != first.key
    path.write_text(CUSTOM + "\n# changed\n")
    assert made(tmp_path, settings)[0].key != first.key
