"""Tasks from datasets: templates and graders from the settings, malformed rows, and every ready-made task in its
dataset's own columns."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from betastar.data.graders import Grade
from betastar.data.tasks import Problem, load_task, task_digests, task_grader
from betastar.errors import BetastarError
from betastar.settings.config import TASKS, load_config, task_names
from betastar.settings.sections import DatasetTask, MicroTask

GSM8K = {"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"}
RIGHT = Grade(strict=True, lenient=True, parsable=True)


def section(folder: Path, train: list[dict[str, Any]], test: list[dict[str, Any]], **settings: Any) -> DatasetTask:
    """A task whose parts are files made of these rows."""
    for name, rows in (("train", train), ("test", test)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = {name: str(folder / f"{name}.jsonl") for name in ("train", "test")}
    return DatasetTask.model_validate({"kind": "dataset"} | paths | settings)


def test_problems_are_numbered_and_limited(tmp_path: Path) -> None:
    made = section(tmp_path, [GSM8K, GSM8K | {"question": "5?", "extra": 1}], [GSM8K] * 3)
    task = load_task(made)
    assert task.train == [Problem(0, "2 + 3?", GSM8K["answer"]), Problem(1, "5?", GSM8K["answer"])]
    assert [problem.problem_id for problem in task.test] == [0, 1, 2]
    assert task.grade("#### 5", task.train[0].gold) == RIGHT
    limited = made.model_copy(update={"test": made.test.model_copy(update={"limit": 2})})
    assert len(load_task(limited).test) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "#### 5"}, "no column `question` (columns: answer); correct task.prompt"),
        (GSM8K | {"question": "  "}, "task.prompt gives an empty text; correct the row or the template"),
        (GSM8K | {"question": None}, "task.prompt prints a column that is null; fill it in or remove the row"),
        (GSM8K | {"answer": "#### five"}, "The gold answer '#### five' has no number; end it with `#### n`"),
        (GSM8K | {"answer": "#### 1/2"}, "The gold answer '#### 1/2' has no number; end it with `#### n`"),
    ],
)
def test_malformed_rows_are_refused_or_left_out(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    made = section(tmp_path, [GSM8K], [GSM8K, row, GSM8K])
    with pytest.raises(BetastarError) as error:
        load_task(made)
    assert str(error.value).startswith(f"{tmp_path}/test.jsonl, line 2: {message}")
    assert str(error.value).endswith("data.max_bad_share from 0 to skip malformed rows (1 of 3, 33.3 %).")
    task = load_task(made, max_bad_share=0.34)
    assert [problem.problem_id for problem in task.test] == [0, 1]
    assert (task.malformed.n, task.malformed.of) == (1, 4)  # of both parts
    assert task.malformed.examples[0].startswith(f"{tmp_path}/test.jsonl, line 2: {message}")


def test_a_template_may_name_columns_and_a_wrong_one_is_a_setting(tmp_path: Path) -> None:
    rows = [{"Body": "Two apples.", "Ask": "How many?", "n": 2}]
    made = section(tmp_path, rows, rows, prompt="{{ Body }} {{ Ask }}", gold="{{ n }}", grader="number")
    assert load_task(made).train == [Problem(0, "Two apples. How many?", "2")]
    with pytest.raises(BetastarError) as error:
        load_task(made.model_copy(update={"gold": "{{ m }}"}), max_bad_share=0.9)
    assert str(error.value) == f"{tmp_path}/train.jsonl: no column `m` (columns: Body, Ask, n); correct task.gold."


def test_the_grader_needs_no_data_and_the_digests_follow_the_data(tmp_path: Path) -> None:
    made = section(tmp_path, [GSM8K], [GSM8K, GSM8K], grader="choice")
    before = task_digests(made)
    assert before[0] != before[1]
    (tmp_path / "test.jsonl").write_text((tmp_path / "train.jsonl").read_text())
    assert task_digests(made) == [before[0], before[0]]
    (tmp_path / "test.jsonl").unlink()
    assert task_grader(made)("Answer: B", "B") == RIGHT
    assert task_grader(MicroTask(kind="micro"))("#### 5", "#### 5") == RIGHT
    with pytest.raises(BetastarError, match=r"test\.jsonl: no such file; correct task\.test"):
        task_digests(made)


def test_gsm8k_is_read_whole(shared_data: Path) -> None:
    path = shared_data / "gsm8k" / "test.jsonl"
    task = load_task(DatasetTask.model_validate({"kind": "dataset", "train": str(path), "test": str(path)}))
    assert [problem.problem_id for problem in task.test] == list(range(1319))
    assert task.test[0].question.startswith("Janet’s ducks lay 16 eggs per day.")
    assert task.grade("#### 18", task.test[0].gold).strict


def choices(*texts: str, label: str = "ABCDE") -> dict[str, list[str]]:
    return {"text": list(texts), "label": list(label[: len(texts)])}


SCHOOL = "Think briefly. End with a line that holds Answer: and the letter."
YES_OR_NO = "Think briefly. End with a line that holds Answer: and yes or no."
ROWS: dict[str, list[tuple[dict[str, Any], str, str, str]]] = {
    "gsm8k": [
        (
            GSM8K,
            "2 + 3?\n\nThink step by step. End with a line that holds #### and the answer as a number.",
            "#### 5",
            "#### 6",
        )
    ],
    "svamp": [
        (
            {
                "ID": "chal-2",
                "Body": "Dan had $ 3 left with him after he bought a candy bar. If he had $ 4 at the start",
                "Question": "How much did the candy bar cost?",
                "Equation": "( 4.0 - 3.0 )",
                "Answer": "1.0",
                "Type": "Subtraction",
            },
            "Dan had $ 3 left with him after he bought a candy bar. If he had $ 4 at the start How much did the candy "
            "bar cost?\n\nThink step by step. End with a line that holds Answer: and the number.",
            "4 - 3 = 1\nAnswer: 1",
            "Answer: 10",
        )
    ],
    "math500": [
        (
            {"problem": "Find $x$ if $2x = 1$.", "level": "Level 1", "type": "Algebra", "solution": r"\boxed{\frac12}"},
            "Find $x$ if $2x = 1$.\n\nThink step by step. Put the final answer in \\boxed{}.",
            r"so \boxed{0.5}",
            r"so \boxed{2}",
        )
    ],
    "arc_challenge": [
        (
            {"id": "1", "question": "Hot?", "choices": choices("Sun", "Ice", label="1234"), "answerKey": "2"},
            f"Hot?\nA. Sun\nB. Ice\n\n{SCHOOL}",
            "Answer: B",
            "Answer: A",
        ),
        (
            {"id": "2", "question": "Hot?", "choices": choices("Ice", "Sun", "Dew"), "answerKey": "C"},
            f"Hot?\nA. Ice\nB. Sun\nC. Dew\n\n{SCHOOL}",
            "Answer: C",
            "Answer: A",
        ),
    ],
    "commonsense_qa": [
        (
            {
                "id": "3",
                "question": "Where is a bed?",
                "question_concept": "bed",
                "choices": choices("sea", "sky", "room", "bag", "cup"),
                "answerKey": "C",
            },
            f"Where is a bed?\nA. sea\nB. sky\nC. room\nD. bag\nE. cup\n\n{SCHOOL}",
            "Answer: (C)",
            "Answer: D",
        )
    ],
    "boolq": [
        (
            {"question": "is snow cold", "answer": True, "passage": "Snow is cold."},
            f"Snow is cold.\n\nQuestion: is snow cold?\n\n{YES_OR_NO}",
            "Answer: yes",
            "Answer: no",
        ),
        (
            {"question": "is snow hot", "answer": False, "passage": "Snow is cold."},
            f"Snow is cold.\n\nQuestion: is snow hot?\n\n{YES_OR_NO}",
            "Answer: No.",
            "Answer: yes",
        ),
    ],
}
"""Rows as in the hub's datasets, with the prompt that each must give, a right response and a wrong one."""


@pytest.mark.parametrize("name", task_names())
def test_every_ready_made_task_reads_its_dataset_s_own_columns(tmp_path: Path, name: str) -> None:
    rows = [row for row, *_ in ROWS[name]]
    for part in ("train", "test"):
        pd.DataFrame(rows).to_parquet(tmp_path / f"{part}.parquet")
    files = f"train: {tmp_path}/train.parquet, test: {tmp_path}/test.parquet"
    config = load_config("files", [f"task={{preset: {name}, {files}}}"])
    assert isinstance(config.task, DatasetTask)
    task = load_task(config.task)
    for problem, (_, prompt, right, wrong) in zip(task.test, ROWS[name], strict=True):
        assert problem.question == prompt
        assert task.grade(right, problem.gold) == RIGHT
        assert task.grade(wrong, problem.gold) == Grade(strict=False, lenient=False, parsable=True)


def test_math500_tests_on_columns_of_its_own(tmp_path: Path) -> None:
    """Its two parts come from two datasets, which share `problem` and `solution` alone."""
    (row, prompt, right, _) = ROWS["math500"][0]
    other = {"problem": row["problem"], "solution": row["solution"], "answer": r"\frac12", "subject": "Algebra"}
    other |= {"level": 1, "unique_id": "test/algebra/1.json"}
    ready = yaml.safe_load((TASKS / "math500.yaml").read_text())
    task = load_task(section(tmp_path, [row], [other], **{k: ready[k] for k in ("prompt", "gold", "grader")}))
    assert task.train == task.test
    assert task.test[0].question == prompt
    assert task.grade(right, task.test[0].gold) == RIGHT


@pytest.mark.parametrize("name", task_names())
def test_every_ready_made_task_names_source_and_licence(name: str) -> None:
    text = (TASKS / f"{name}.yaml").read_text()
    comment = " ".join(line for line in text.splitlines() if line.startswith("#"))
    assert "licence" in comment or "CC BY" in comment
    made = DatasetTask.model_validate(yaml.safe_load(text))
    assert made.train != made.test
    assert all("/" in source.dataset for source in (made.train, made.test))


def test_the_settings_on_the_page_are_accepted_and_its_table_lists_every_ready_made_task(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = re.findall(r"`(task: \{\w+: \w+,.*\})`", page)
    assert (len(blocks), len(lines)) == (4, 2)
    bases = blocks.pop(0).splitlines()  # three choices
    for block in (*bases, *blocks, *lines):
        (tmp_path / "mine.yaml").write_text(f"preset: files\nname: mine\n{block}")
        config = load_config(str(tmp_path / "mine.yaml"))
        ((key, written),) = yaml.safe_load(block).items()
        if key == "base":
            assert written.items() <= config.base.model_dump().items()
            continue
        expected = "dataset" if "preset" in written else written["kind"]
        assert getattr(config, key).kind == expected
    assert set(re.findall(r"^\| `(\w+)` \| .* \| `\w+` \|$", page, re.MULTILINE)) == set(task_names())
