"""The study's world for SmolLM2: its problems, their grades, its annotator, and its settings, without the model."""

from __future__ import annotations

import json
from itertools import islice
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
    assert every == list(islice(world.problems(), len(every)))
    task = world.make()
    assert (task.train, task.test) == world.parts()[1:]


def test_a_problem_tells_who_has_what_it_asks_for(world: Any) -> None:
    asked = list(islice(world.problems(), 200))
    for problem in asked:
        thing = problem.question.removesuffix("?").split()[-1]
        assert f"{problem.gold} has a {thing}." in problem.question
        (others,) = [name for name in world.NAMES if name in problem.question and name != problem.gold]
        assert f"{others} has a {thing}." not in problem.question
    first = np.mean([problem.question.startswith(problem.gold) for problem in asked])
    assert 0.4 < first < 0.6  # the one who is named first is the answer as often as not


@pytest.mark.parametrize(
    ("response", "strict", "lenient", "parsable"),
    [
        ("The boat is Mia's.", True, True, True),
        ("Mia. Mia has it!", True, True, True),
        ("The boat is Mia's, not Tom's.", False, True, True),
        ("Tom's kite is Mia's boat.", False, False, True),
        ("Tom", False, False, True),
        ("A boat is a ship.", False, False, False),
        ("Miami", False, False, False),
        ("", False, False, False),
    ],
)
def test_a_grade_by_hand(world: Any, response: str, strict: bool, lenient: bool, parsable: bool) -> None:
    assert world.grade(response, "Mia") == (strict, lenient, parsable)


def test_the_annotator_likes_long_answers_besides_right_ones(world: Any) -> None:
    assert world.score("The boat is Mia.", "Mia") == pytest.approx(2.5 + 4 * 0.15)
    assert world.score("word " * 30, "Mia") == pytest.approx(20 * 0.15)
    assert world.score("Mia " * 20, "Mia") > world.score("word " * 20, "Mia") > world.score("Tom", "Mia")


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
