"""Runs beside each other, with every difference worked by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from analysis.test_results import point
from scipy import stats

from betastar.analysis.compare import ABSENT, UNSET, Subject, compare, difference, differing
from betastar.analysis.results import build_results
from betastar.record.files import to_json
from betastar.report.words import difference_sentences

CONFIG = {"name": "x", "task": {"preset": "gsm8k"}, "seeds": [0, 1, 2], "online": {"learning_rate": 0.1}}


def run(
    name: str,
    rise: Any = lambda beta, seed: 1.0 + seed,
    *,
    betas: Sequence[float] = (0.1, 1.0),
    seeds: Sequence[int] = (0, 1, 2),
    steps: Sequence[int] = (0, 2, 4),
    config: Any = CONFIG,
    **context: Any,
) -> Subject:
    """The proxy rises by `rise(β, seed)` per step and responses are right as often throughout, so with a standard
    deviation of 2 the gap at step t is rise·t/2, and AUGC over four steps 4·rise."""
    rows = [
        point("paper", beta, seed, step, 4.0 + rise(beta, seed) * step, 5)
        for beta in betas
        for seed in seeds
        for step in steps
    ]
    given = {"name": name, "root_seed": 0, "rewards": {"test": {"pairs": 9}}, **context}
    return Subject(name, json.loads(to_json(build_results(rows, {}, given))), config)


def compared(*runs: Subject) -> dict[str, Any]:
    return json.loads(to_json(compare(runs)))


def test_paired_differences_by_hand() -> None:
    # At β = 0.1 run b has 0.5, 1, 1.5 more per step than a, at β = 1 twice that: 2, 4, 6 and 4, 8, 12 more AUGC.
    more = {0.1: 0.5, 1.0: 1.0, 10.0: 5.0}
    b = run("b", lambda beta, seed: (1.0 + more[beta]) * (1.0 + seed), betas=(0.1, 1.0, 10.0))
    (entry,) = compared(run("a"), b)["differences"]
    assert (entry["run"], entry["minus"], entry["method"], entry["reason"]) == ("b", "a", "paired", None)
    assert (entry["betas"], entry["other_betas"], entry["seeds"]) == ([0.1, 1.0], {"b": [10.0], "a": []}, [0, 1, 2])
    low, high = (row["augc_standardised"] for row in entry["by_beta"])
    assert (low["mean"], low["n"], high["mean"]) == (4.0, 3, 8.0)
    # Standard error 2/√3, and Student's t with two degrees of freedom: 4 ± 4.30265·1.1547.
    assert low["interval"]["low"] == pytest.approx(4 - 4.302653 * 2 / 3**0.5)
    assert low["interval"]["high"] == pytest.approx(4 + 4.302653 * 2 / 3**0.5)
    # Each seed's mean over both β: 3, 6, 9.
    assert entry["over_beta"]["augc_standardised"]["mean"] == pytest.approx(6.0)
    assert entry["over_beta"]["true_end"]["mean"] == 0.0


def test_slopes_are_each_over_the_own_beta_of_a_run() -> None:
    # Run a: 4 and 8 times 1 + seed at β = 0.1 and 1. Run b: 4 and 16 times that at 0.01 and 1, two tenfold steps.
    a = run("a", lambda beta, seed: (1 + (beta == 1.0)) * (1.0 + seed))
    b = run("b", lambda beta, seed: (1 + 3 * (beta == 1.0)) * (1.0 + seed), betas=(0.01, 1.0))
    (entry,) = compared(a, b)["differences"]
    # Per tenfold β: a 4, 8, 12; b 6, 12, 18. The difference: 2, 4, 6.
    assert entry["slope_per_tenfold_beta"]["augc_standardised"]["mean"] == pytest.approx(4.0)
    assert entry["betas"] == [1.0]


METHODS = {
    name: {"objective": name, "strength": "β", "closer": "larger", "variants": [name]} for name in ("dpo", "ipo")
}


def test_strengths_of_two_objectives_are_not_paired() -> None:
    """One run, both objectives with a strength of 0.5, which means nothing: the mean over the own strengths of each.
    Dpo gains 1 + seed per step at both of its strengths, ipo 2 and 4 times that at its own: 4·(1 + seed)/2 a step is an
    AUGC of 4, 8, 12 and, on average over strengths, 12, 24, 36; ipo minus dpo 8, 16, 24."""
    more = {("dpo", 0.5): 1.0, ("dpo", 5.0): 1.0, ("ipo", 0.5): 2.0, ("ipo", 8.0): 4.0}
    rows = [
        point(name, beta, seed, step, 4.0 + factor * (1.0 + seed) * step, 5)
        for (name, beta), factor in more.items()
        for seed in (0, 1, 2)
        for step in (0, 2, 4)
    ]
    results = build_results(rows, {}, {"name": "x", "methods": METHODS})
    (entry,) = results["differences"]
    assert (entry["variant"], entry["minus"], entry["by_beta"]) == ("ipo", "dpo", [])
    assert entry["over_beta"]["augc_standardised"]["mean"] == pytest.approx((8 + 16 + 24) / 3)
    assert entry["over_beta"]["augc_standardised"]["n"] == 3
    sentence = next(line for line in difference_sentences(json.loads(to_json(results))))
    assert sentence.startswith("ipo minus dpo, paired within 3 seeds, mean over the strengths of each: end truth")
    # The same rows as two variants of one objective share β = 0.5: 4·(2 − 1)·(1 + seed) there.
    (entry,) = build_results(rows, {}, {"name": "x"})["differences"]
    assert [row["beta"] for row in entry["by_beta"]] == [0.5]
    assert entry["over_beta"]["augc_standardised"]["mean"] == pytest.approx(8.0)


def test_runs_whose_objectives_differ_are_not_subtracted() -> None:
    other = {"online": {**METHODS["ipo"], "variants": ["paper"]}}
    (entry,) = compared(run("a"), run("b", methods=other))["differences"]
    assert (entry["method"], entry["by_beta"], entry["over_beta"]) == (None, [], None)
    assert entry["reason"] == "their objectives differ (ipo and dpo): no strength of one is that of the other"


def test_beta_that_differ_are_not_forced_together() -> None:
    (entry,) = compared(run("a"), run("b", betas=(0.1000001, 0.9999999)))["differences"]
    assert (entry["betas"], entry["by_beta"]) == ([], [])
    assert entry["over_beta"]["augc_standardised"]["mean"] is None
    assert entry["over_beta"]["augc_standardised"]["reason"] == "the runs have no β in common"
    assert entry["slope_per_tenfold_beta"]["augc_standardised"]["mean"] is not None


def test_seeds_that_share_nothing_are_independent_samples() -> None:
    b = run("b", lambda beta, seed: 1.0 + seed**2, root_seed=7)
    (entry,) = compared(run("a"), b)["differences"]
    assert entry["method"] == "unpaired"
    assert entry["reason"] == "their root seeds differ (7 and 0), so equal seeds share nothing"
    assert entry["seeds"] == {"b": [0, 1, 2], "a": [0, 1, 2]}
    row = entry["by_beta"][0]["augc_standardised"]
    outside = stats.ttest_ind([4.0, 8.0, 20.0], [4.0, 8.0, 12.0], equal_var=False)
    assert row["mean"] == pytest.approx(32 / 3 - 8)
    assert row["interval"]["low"] == pytest.approx(outside.confidence_interval().low)
    assert row["interval"]["high"] == pytest.approx(outside.confidence_interval().high)
    assert (row["n"], row["n_minus"]) == (3, 3)


@pytest.mark.parametrize(
    ("changes", "method", "reason"),
    [
        ({"seeds": (5, 6)}, "unpaired", "no seed in common"),
        ({"config": {**CONFIG, "task": {"preset": "math"}}}, "unpaired", "task.preset: math and gsm8k"),
        ({"problems": {"test": 7}}, "unpaired", "different problems (test: 7 and None)"),
        ({"config": {}}, "unpaired", "the task of one of them is not recorded"),
        ({"root_seed": None}, "unpaired", "the root seed of one of them is not recorded"),
        ({"seeds": (5,)}, None, "no seed in common, and b has only one seed"),
        ({"steps": (0, 2, 6)}, None, "end at different steps (6 and 4)"),
        ({"steps": (0, 1, 2, 4)}, None, "evaluated at different steps (4 and 3 points)"),
        ({"evaluation": {"temperature": 0.5}}, None, "different temperatures (0.5 and None)"),
    ],
)
def test_what_cannot_be_paired_says_why(changes: dict[str, Any], method: str | None, reason: str) -> None:
    entry = difference(run("b", **changes), run("a"), "paper")
    assert entry["method"] == method
    assert reason in entry["reason"]
    assert (entry["over_beta"] is None) == (method is None)


def test_seeds_of_one_run_alone_are_left_out_of_pairs() -> None:
    entry = difference(run("b", seeds=(1, 2, 3)), run("a"), "paper")
    assert (entry["method"], entry["seeds"]) == ("paired", [1, 2])
    assert [row["augc_standardised"]["n"] for row in entry["by_beta"]] == [2, 2]


def test_another_reward_ensemble_is_said() -> None:
    assert difference(run("b"), run("a"), "paper")["cautions"] == []
    (caution,) = difference(run("b", rewards={"test": {"pairs": 8}}), run("a"), "paper")["cautions"]
    assert caution.startswith("They have different reward ensembles")


def test_the_first_run_is_the_reference_of_all() -> None:
    record = compared(run("a"), run("b"), run("c"))
    assert record["reference"] == "a"
    assert [(d["run"], d["minus"]) for d in record["differences"]] == [("b", "a"), ("c", "a")]
    assert [(d["run"], d["variant"]) for d in record["outcomes"]] == [("a", "paper"), ("b", "paper"), ("c", "paper")]
    for row in record["differences"][0]["by_beta"]:
        assert (row["augc_standardised"]["mean"], row["augc_standardised"]["standard_error"]) == (0, 0)
        assert row["augc_standardised"]["interval"]["reason"] == "all 3 values are equal: their spread is unknown"


def test_settings_that_differ_come_in_the_order_of_the_experiment() -> None:
    first = {"seeds": [0, 1], "online.steps": 4, "compute.device": "cpu", "base.model": "x", "law.c": 1}
    second = {"seeds": [0, 2], "online.steps": 4, "compute.device": "cuda", "base.model": "y", "new": 1, "law.c": 1}
    assert differing([first, second]) == [
        ("base.model", ["x", "y"]),
        ("seeds", [[0, 1], [0, 2]]),
        ("new", [UNSET, 1]),
        ("compute.device", ["cpu", "cuda"]),
    ]
    # Of the second a part is known: what it does not tell is no difference.
    assert differing([first, {"seeds": [3]}], [1]) == [("seeds", [[0, 1], [3]])]
    assert differing([first, {}, {**first, "law.c": 2}], [1]) == [("law.c", [1, ABSENT, 2])]


@pytest.mark.parametrize("names", [("a",), ("a", "a")])
def test_a_comparison_needs_two_names(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="two runs"):
        compare([run(name) for name in names])


def test_a_beta_of_zero_has_no_slope_and_still_differences() -> None:
    a, b = run("a", betas=(0.0, 1.0)), run("b", lambda beta, seed: 2.0 + seed, betas=(0.0, 1.0))
    (entry,) = compared(a, b)["differences"]
    assert [row["augc_standardised"]["mean"] for row in entry["by_beta"]] == [4.0, 4.0]
    assert entry["slope_per_tenfold_beta"]["augc_standardised"]["mean"] is None
    assert "above 0" in entry["slope_per_tenfold_beta"]["augc_standardised"]["reason"]
