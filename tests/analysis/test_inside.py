"""The record of best-of-n and of the inside, from made-up answers and networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from betastar.analysis.inside import best_of_n_record, condition_extras, displacement, inside_record


def answers(seed: int, tilt: float, problems: int = 200, samples: int = 8) -> dict[str, Any]:
    """Half the answers are right; the proxy prefers right ones by `tilt`."""
    rng = np.random.default_rng(seed)
    right = rng.random((problems, samples)) < 0.5
    proxy = tilt * right + rng.normal(size=right.shape)
    return {"proxy": proxy.tolist(), "strict": right.astype(float).tolist(), "lenient": np.ones_like(proxy).tolist()}


@pytest.mark.parametrize(("tilt", "sign"), [(1.0, 1), (-1.0, -1)])
def test_a_good_and_a_misleading_proxy_are_told_apart_without_training(tilt: float, sign: int) -> None:
    record = best_of_n_record({(0.1, seed): answers(seed, tilt) for seed in range(3)})
    for part in (*record["checkpoints"], *record["by_beta"]):
        last = part["curve"][-1]
        assert last["best_of"] == 8
        low, high = (last["truth_change"]["interval"][end] for end in ("low", "high"))
        assert min(sign * low, sign * high) > 0
        assert last["proxy"]["mean"] > part["curve"][0]["proxy"]["mean"]
    assert record["by_beta"][0]["curve"][-1]["truth_change"]["n"] == 3


def test_a_proxy_that_knows_nothing_changes_nothing_and_the_interval_covers() -> None:
    """The best of 8 by noise is a random answer: of 200 intervals about 95 % hold 0."""
    held = []
    for seed in range(200):
        change = best_of_n_record({(1.0, 0): answers(seed, 0.0, 60)})["checkpoints"][0]["curve"][-1]["truth_change"]
        held.append(change["interval"]["low"] <= 0 <= change["interval"]["high"])
    assert stats.binomtest(sum(held), 200, 0.95).pvalue > 0.001


def test_the_interval_is_scipys() -> None:
    found = answers(0, 1.0)
    row = best_of_n_record({(1.0, 0): found})["checkpoints"][0]["curve"][0]["proxy"]
    means = np.mean(found["proxy"], axis=1)
    expected: Any = stats.ttest_1samp(means, 0).confidence_interval()
    assert (row["interval"]["low"], row["interval"]["high"]) == pytest.approx(tuple(expected))
    assert row["standard_error"] == pytest.approx(stats.sem(means))


def test_what_cannot_be_said_has_a_reason() -> None:
    curve = best_of_n_record({(1.0, 0): answers(0, 1.0, problems=1)})["checkpoints"][0]["curve"]
    assert "two problems" in curve[0]["proxy"]["reason"]
    lenient = best_of_n_record({(1.0, 0): answers(0, 1.0)})["checkpoints"][0]["curve"][0]["truth_lenient"]
    assert "equal" in lenient["interval"]["reason"]


def metrics(chosen: float, rejected: float, error: float = 0.1, pairs: int = 50) -> dict[str, Any]:
    return {
        "test_pairs": pairs,
        "chosen_log_ratio": {"mean": chosen, "standard_error": error},
        "rejected_log_ratio": {"mean": rejected, "standard_error": error},
    }


def test_displacement_is_when_both_fall_beyond_their_errors() -> None:
    assert displacement(metrics(-1, -3))["displaced"] is True
    assert displacement(metrics(0.5, -3))["displaced"] is False
    assert displacement(metrics(-0.15, -3))["displaced"] is False  # 1.5 standard errors
    alone = displacement(metrics(-1, -3, math.nan, pairs=1))
    assert alone["displaced"] is None
    assert "two pairs" in alone["reason"]


NETWORK = {
    "effective_rank": 9.0, "stable_rank": 2.0, "dormant_share": 0.1, "update_norm": 5.0, "gradient_cosine": math.nan,
    "update_norms": {"q": 3.0, "v": 4.0}, "texts": 8, "states": 90, "units": 64, "units_of": "feed-forward",
    "gradients": 1,
}  # fmt: skip


def test_the_offline_log_is_thinned_to_means_and_nothing_is_lost_at_its_end() -> None:
    log = [{"step": s, "chosen_log_ratio": float(s), "rejected_log_ratio": -float(s)} for s in range(1, 1001)]
    record = inside_record({(0.1, 0): metrics(-1, -3)}, {(0.1, 0): log}, {}, {(0.1, 0): NETWORK}, {})
    (checkpoint,) = record["checkpoints"]
    assert len(checkpoint["log"]["step"]) == 50
    assert checkpoint["log"]["step"][-1] == 1000
    assert np.mean(checkpoint["log"]["chosen_log_ratio"]) == pytest.approx(500.5)
    assert checkpoint["log"]["chosen_log_ratio"][0] == pytest.approx(10.5)  # steps 1 to 20
    assert checkpoint["network"]["missing"] == {"gradient_cosine": "a cosine needs two texts whose gradients are not 0"}
    assert record["probe"]["layers"] == ["q", "v"]
    assert checkpoint["network"]["update_norms"] == [3.0, 4.0]


def test_a_condition_gets_what_was_taken_and_nothing_undefined() -> None:
    assert condition_extras(metrics(-1, -3), None, None) == {"displacement": -1}
    found = condition_extras(metrics(-1, -3), NETWORK, {**NETWORK, "effective_rank": 7.0})
    assert (found["effective_rank_start"], found["effective_rank_end"]) == (9.0, 7.0)
    assert "gradient_cosine_start" not in found


def test_a_fresh_task_is_in_the_record_where_it_was_learnt_and_a_lost_policy_has_a_reason() -> None:
    learnt = {**NETWORK, "fresh_loss": [3.0, 2.5, 2.25], "fresh_gain": 0.75, "fresh_tokens": 40,
              "fresh_learning_rate": 1e-3}  # fmt: skip
    lost = {**learnt, "fresh_loss": [math.nan] * 3, "fresh_gain": math.nan}
    starts = {(0.1, 0): learnt, (1.0, 0): lost}
    record = inside_record({place: metrics(-1, -3) for place in starts}, {}, {}, starts, {("paper", 0.1, 0): learnt})
    assert record["probe"]["fresh"] == {"n_steps": 2, "n_tokens": 40, "learning_rate": 1e-3}
    found, other = (checkpoint["network"] for checkpoint in record["checkpoints"])
    assert (found["fresh_loss"], found["fresh_gain"]) == ([3.0, 2.5, 2.25], 0.75)
    assert record["conditions"][0]["network"]["fresh_gain"] == 0.75
    assert "fresh_gain" not in found["missing"]
    assert {"fresh_loss", "fresh_gain"} <= other["missing"].keys()
    extras = condition_extras(metrics(-1, -3), lost, learnt)
    assert extras["fresh_gain_end"] == 0.75
    assert "fresh_gain_start" not in extras


def test_checkpoints_of_several_methods_do_not_meet() -> None:
    """At the same strength and seed, each has its own curve, and the mean over seeds is within a method."""
    right, wrong = ({"proxy": [[1.0, 2.0]], "strict": [[s, s]], "lenient": [[s, s]]} for s in (1.0, 0.0))
    found = best_of_n_record({(0.5, 0, "dpo"): right, (0.5, 1, "dpo"): right, (0.5, 0, "ipo"): wrong})
    assert [(c["method"], c["beta"], c["seed"]) for c in found["checkpoints"]] == [
        ("dpo", 0.5, 0),
        ("dpo", 0.5, 1),
        ("ipo", 0.5, 0),
    ]
    assert [(b["method"], b["curve"][0]["truth"]["mean"]) for b in found["by_beta"]] == [("dpo", 1.0), ("ipo", 0.0)]
