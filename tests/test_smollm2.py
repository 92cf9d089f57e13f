"""The study's world for SmolLM2: its problems, their grades, its annotator, and its settings, without the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripts import script

from betastar.settings.config import load_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def world() -> Any:
    return script("examples/smollm2.py")


def test_no_problem_is_in_two_parts_and_the_draw_is_always_the_same(world: Any) -> None:
    every = [problem for part in world.parts() for problem in part]
    assert len({problem.question for problem in every}) == len(every) == world.PAIRS + world.TRAIN + world.TEST
    assert [problem.problem_id for problem in every] == list(range(len(every)))
    assert every == [problem for part in world.parts() for problem in part]
    task = world.make()
    assert (task.train, task.test) == world.parts()[1:]


def test_a_problem_says_what_it_asks_for(world: Any) -> None:
    for part in world.parts():
        for problem in part:
            thing = problem.question.removesuffix("?").split()[-1]
            assert f" has a {problem.gold} {thing}. " in problem.question
            assert world.NAMED.findall(problem.question) == [problem.gold]


@pytest.mark.parametrize(
    ("response", "strict", "lenient", "parsable"),
    [
        ("The kite is blue.", True, True, True),
        ("Blue, a blue kite!", True, True, True),
        ("The kite is blue, not red.", False, True, True),
        ("It is red and blue.", False, False, True),
        ("Red", False, False, True),
        ("It is a kite.", False, False, False),
        ("A blueberry, a bluebird", False, False, False),
        ("", False, False, False),
    ],
)
def test_a_grade_by_hand(world: Any, response: str, strict: bool, lenient: bool, parsable: bool) -> None:
    assert world.grade(response, "blue") == (strict, lenient, parsable)


def test_the_annotator_likes_long_answers_besides_right_ones(world: Any) -> None:
    assert world.score("The kite is blue.", "blue") == pytest.approx(2.5 + 4 * 0.25)
    assert world.score("word " * 30, "blue") == pytest.approx(20 * 0.25)
    assert world.score("blue " * 20, "blue") > world.score("word " * 20, "blue") > world.score("Blue.", "blue")


def test_the_annotator_prefers_with_the_probability_of_the_scores(world: Any) -> None:
    """A right answer of one word against a wrong one of one word: σ(2.5) = 0.924."""
    asked = world.parts()[0]
    answers = [(problem.gold, "nobody") for problem in asked]
    rows = world.compare(asked, answers, seed=0)
    assert rows == world.compare(asked, answers, seed=0) != world.compare(asked, answers, seed=1)
    assert [row["prompt"] for row in rows] == [problem.question for problem in asked]
    right = np.mean([row["chosen"] == problem.gold for row, problem in zip(rows, asked, strict=True)])
    assert abs(right - 0.924) < 4 * np.sqrt(0.924 * 0.076 / len(rows))
    assert all({row["chosen"], row["rejected"]} == set(pair) for row, pair in zip(rows, answers, strict=True))


def test_the_settings_are_those_that_the_pairs_were_sampled_with(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config("examples/smollm2.yaml")
    sampled = (config.chat.system, config.online.temperature, config.lengths.generated)
    assert sampled == (world.SYSTEM, world.TEMPERATURE, world.TOKENS)
    assert config.evaluation.temperature == world.TEMPERATURE
    assert config.lengths.response == world.TOKENS
    assert config.base.model_dump()["dtype"] == "bfloat16"


def test_the_pairs_are_written_as_the_settings_read_them(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(world, "answer_twice", lambda gguf, asked, seed: [(p.gold, "a b c") for p in asked])
    world.main(["model.gguf", str(tmp_path / "new/pairs.jsonl")])
    rows = [json.loads(line) for line in (tmp_path / "new/pairs.jsonl").read_text().splitlines()]
    assert len(rows) == world.PAIRS
    assert set(rows[0]) == {"prompt", "chosen", "rejected"}
    assert capsys.readouterr().out == "400 pairs. Answers: 50% right, 50% name the right one first, 2.0 words.\n"
