"""The answer says what the numbers say, and no more."""

from __future__ import annotations

import copy
import json
from typing import Any

import pandas as pd
import pytest
from analysis.records import analyzed
from report.records import BETAS, record

from betastar.record.files import to_json
from betastar.report.words import Answer, answers


def answer(**changes: Any) -> Answer:
    """The answer of the first variant of a record in which parts of its standardised form are changed."""
    numbers = copy.deepcopy(record())
    for part, values in changes.items():
        numbers["summary"]["paper"]["standardised"][part].update(values)
    return answers(numbers)[0]


def test_damage_that_rises_with_five_beta_is_said_to_rise() -> None:
    found = answers(record())
    assert [a.variant for a in found] == ["paper", "fixed"]
    # Five β in the same order as their damage: two of the 120 orders are as extreme, p = 1/60.
    assert found[0].sentence == (
        "In this run AUGC (standardised form) rose with β: Spearman ρ = +1, exact two-sided p = 0.017, 5 values of β, "
        "3 seeds."
    )
    assert any("95 % interval" in limit and "n = 3" in limit for limit in found[0].limits)
    assert any(limit.startswith("β★ = ") and "95 % interval" in limit for limit in found[0].limits)


@pytest.mark.parametrize(
    ("rho", "p", "page", "verdict"),
    [
        (-0.9, 0.04, 0.01, "fell with β"),
        (0.5, 0.3, 0.4, "did not change detectably with β"),
        (0.5, 0.3, None, "did not change detectably with β"),
        (0.5, 0.3, 0.01, "rose with β within seeds, but not detectably in the ranks of the means"),
    ],
)
def test_the_verdict_follows_the_tests(rho: float, p: float, page: float | None, verdict: str) -> None:
    trend = {"p_two_sided": page, "p_greater": page, "p_less": None if page is None else 1 - page}
    assert answer(spearman={"rho": rho, "p_two_sided": p}, page=trend).verdict == verdict


def test_three_beta_are_said_to_be_too_few() -> None:
    """The orders of three β are six, so two-sided p is at least 1/3."""
    found = answer(spearman={"n": 3, "rho": 1.0, "p_two_sided": 1 / 3}, page={"p_two_sided": None})
    assert (
        "The ranks of 3 values of β can never show a trend: the smallest possible two-sided p is 0.33." in found.limits
    )
    assert "did not change detectably" in found.sentence


def test_a_law_that_fits_by_construction_says_so() -> None:
    found = answer(law={"label": "interpolation, not evidence"})
    assert "exact by construction: interpolation, not evidence" in found.limits[-1]


def test_runs_without_beta_have_no_comparison() -> None:
    frame = pd.DataFrame({"step": [0, 1], "reward": [1.0, 2.0], "acc": [0.5, 0.4]})
    (found,) = answers(json.loads(to_json(analyzed(frame))))
    assert found.verdict == "cannot be compared across β"
    assert found.sentence.startswith("No correlation of AUGC with β: ")
    assert len(BETAS) == 5
