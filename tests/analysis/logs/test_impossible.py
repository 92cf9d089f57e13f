"""Numbers that no step, seed or β can be: one sentence with file, column and value, never another number in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import betastar
from betastar.errors import BetastarError

ROWS = [{"step": step, "proxy": 1.0 + step, "true_reward": 0.5 - step / 10} for step in range(3)]


def log(folder: Path, **changes: Any) -> Path:
    """A log whose rows hold these columns besides; a list gives each row its own value."""
    rows = [
        {**row, **{name: value[i] if isinstance(value, list) else value for name, value in changes.items()}}
        for i, row in enumerate(ROWS)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "log.jsonl"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 0.5}, "log.jsonl: seed is 0.5, but a seed is a whole number below 2^63"),
        ({"seed": 1e30}, "log.jsonl: seed is 1e+30, but a seed is a whole number below 2^63"),
        ({"seed": float("inf")}, "log.jsonl: seed is inf, but a seed"),
        ({"seed": "zero"}, "log.jsonl: seed is 'zero', which is not a number"),
        ({"beta": -1}, "log.jsonl: beta is -1"),
        ({"beta": float("inf")}, "log.jsonl: beta is inf, but β is a finite number from 0"),
        ({"beta": "much"}, "log.jsonl: beta is 'much', which is not a number"),
        ({"step": [0, 1, 2**63]}, "too large to be counted exactly; name the step with step=…"),
        ({"step": [0, 2**63, 2**64 + 1]}, "too large to be counted exactly; name the step with step=…"),
        ({"step": [-(2**63), 1, 2]}, "too large to be counted exactly; name the step with step=…"),
        ({"step": [0, 1, 1e30]}, "too large to be counted exactly; name the step with step=…"),
        ({"step": [0, 1, 1.5]}, "log.jsonl: step is not a whole number in every row"),
        ({"step": [0, 10**399, 10**400]}, "log.jsonl: a gap needs two points"),
        ({"proxy": [10**399] * 3}, "log.jsonl: "),
    ],
)
def test_a_column_that_cannot_be_is_named_with_its_value(tmp_path: Path, changes: Any, words: str) -> None:
    columns: dict[str, Any] = {name: name for name in ("beta", "seed") if name in changes}
    with pytest.raises(BetastarError) as error:
        betastar.analyze(log(tmp_path, **changes), proxy="proxy", true="true_reward", **columns)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("seed", 0.5, "seed=…: it is 0.5, but a seed is a whole number"),
        ("seed", 2**63, "seed=…: it is 9223372036854775808, but a seed"),
        ("seed", float("nan"), "seed=…: it is nan, but a seed"),
        ("beta", -1.0, "beta=…: it is -1.0, but β is a finite number from 0"),
        ("beta", float("nan"), "beta=…: it is nan, but β"),
        ("beta", float("inf"), "beta=…: it is inf, but β"),
    ],
)
def test_an_option_that_cannot_be_is_named_with_its_value(
    tmp_path: Path, option: str, value: float, words: str
) -> None:
    given: dict[str, Any] = {option: value}
    with pytest.raises(BetastarError) as error:
        betastar.analyze(log(tmp_path), proxy="proxy", true="true_reward", **given)
    assert words in str(error.value)


def test_whole_numbers_keep_every_digit(tmp_path: Path) -> None:
    found = betastar.analyze(log(tmp_path), proxy="proxy", true="true_reward", beta=0, seed=2**63 - 1)
    assert (found.record["conditions"][0]["beta"], found.record["conditions"][0]["seed"]) == (0.0, 2**63 - 1)
