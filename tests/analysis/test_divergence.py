"""Conditions whose training diverged: named, counted, left out of every mean and test; a report still draws."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from analysis.records import check
from analysis.test_results import point
from report.records import REWARDS

from betastar.analysis.results import build_results
from betastar.experiment.stages.publish import diverged_conditions
from betastar.record.files import to_json
from betastar.report.figures import all_figures
from betastar.report.words import condition_rows, headlines

BETAS, SEEDS, STEPS = (0.1, 1.0, 10.0), (0, 1, 2), (0, 2, 4)
Row = dict[str, Any]


def results(change: Callable[[Row], Row] = lambda row: row, extras: Any = None) -> dict[str, Any]:
    rows = [
        change(point("paper", beta, seed, step, 4.0 + (1 + seed / 10) * step, 5 - step // 2))
        for beta in BETAS
        for seed in SEEDS
        for step in STEPS
    ]
    found = build_results(rows, extras or {}, {"name": "hand", "rewards": REWARDS}, primary="regret")
    return check(json.loads(to_json(found)))


def without(row: Row, beta: float, seed: int, value: float) -> Row:
    lost = (row["beta"], row["seed"]) == (beta, seed) and row["step"] > 0
    return {**row, "proxy": value} if lost else row


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_condition_is_named_counted_and_left_out(value: float) -> None:
    """The other eight give what they give alone."""
    found = results(lambda row: without(row, 1.0, 1, value))
    assert found["warnings"][0] == (
        "1 of 9 conditions diverged, left out of every mean, test and figure: paper, β 1, seed 1. Lower the "
        "learning rate."
    )
    lost = next(c for c in found["conditions"] if (c["beta"], c["seed"]) == (1.0, 1))
    assert lost["diverged"] == "diverged: the proxy reward is not a finite number at step 2"
    assert lost["verdict"] is None
    assert lost["augc_standardised"] is None
    assert lost["missing"]["augc_standardised"] == lost["missing"]["verdict"] == lost["diverged"]
    at_one = found["summary"]["paper"]["by_beta"][1]["augc_standardised"]
    whole = {(c["beta"], c["seed"]): c for c in results()["conditions"]}
    others = [whole[1.0, seed]["augc_standardised"] for seed in (0, 2)]
    assert at_one["n"] == 2
    assert at_one["mean"] == pytest.approx(sum(others) / 2)
    assert found["summary"]["paper"]["incomplete_seeds"] == [1]
    for condition in found["conditions"]:
        if condition is not lost:
            assert condition["augc_standardised"] == whole[condition["beta"], condition["seed"]]["augc_standardised"]


def test_rewards_that_look_sound_do_not_count_where_the_policy_computes_no_numbers() -> None:
    """A policy of NaN samples something, and its rewards are finite: KL and entropy are what is missing."""
    rows: list[Row] = [
        {"variant": "paper", "beta": beta, "seed": 0, "step": step, "proxy": 1.0, "policy_entropy": 2.0, "kl": 0.1}
        for beta in BETAS
        for step in STEPS
    ]
    del rows[4]["kl"], rows[5]["kl"], rows[5]["policy_entropy"]
    found = diverged_conditions(rows)
    assert found == {("paper", 1.0, 0): "diverged: KL not a finite number at step 2"}
    given = results(extras={("paper", 1.0, 0): {"diverged": found["paper", 1.0, 0]}})
    assert given["warnings"][0].startswith("1 of 9 conditions diverged")
    assert [c["augc_paper"] for c in given["conditions"] if "diverged" in c] == [None]
    assert diverged_conditions(rows[:3]) == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.thorough
def test_where_all_diverged_there_is_no_result_and_the_report_still_draws(value: float, first: int) -> None:
    found = results(lambda row: {**row, "proxy": value} if row["step"] >= first else row)
    assert found["warnings"][0].startswith("9 of 9 conditions diverged, so there is no result: paper, β 0.1, seed 0; ")
    assert "; paper, β 1, seed 1 and 4 more. Lower" in found["warnings"][0]
    assert found["summary"]["paper"]["by_beta"][0]["augc_standardised"]["mean"] is None
    (headline,) = headlines(found)
    assert headline.verdict.startswith("No verdict: diverged: the proxy reward is not a finite number at step")
    assert len(condition_rows(found)) == 9
    assert all_figures(found)


@pytest.mark.parametrize("size", [1e160, 1e300])
def test_rewards_of_any_size_are_drawn(size: float) -> None:
    """Their squares are not finite, and so there is no standard error."""
    assert all_figures(results(lambda row: {**row, "proxy": size} if row["step"] else row))
