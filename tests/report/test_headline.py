"""The answer says what the numbers say, in the order in which a person needs it, and no more."""

from __future__ import annotations

import copy
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis.records import analyzed
from report.records import record

from betastar.report.words import Headline, headlines, outcome_columns, outcome_rows, penalty
from betastar.report.words.headline import verdict_counts
from betastar.report.words.numbers import HUNDREDTHS, POINTS, listed, p_value

EXAMPLE = runpy.run_path(str(Path(__file__).resolve().parents[2] / "examples" / "clear_case.py"))
BETAS, SEEDS, analysis, logs = (EXAMPLE[name] for name in ("BETAS", "SEEDS", "analysis", "logs"))


@cache
def clear() -> dict[str, Any]:
    return dict(analysis().record)


def clear_with(**changes: Any) -> Headline:
    """The answer of the clear case with parts of its decision changed."""
    numbers = copy.deepcopy(clear())
    for part, values in changes.items():
        found = numbers["decision"]["logged"]
        found[part] = {**found[part], **values} if isinstance(values, dict) else values
    return headlines(numbers)[0]


# --- the clear case: 7 β × 5 seeds, damage rising ---------------------------------------------------------------------


def test_the_verdicts_come_first_the_worst_leading() -> None:
    (found,) = headlines(clear())
    verdicts = [run["verdict"] for run in clear()["conditions"]]
    assert len(verdicts) == len(BETAS) * len(SEEDS) == 35
    assert found.verdict.startswith(f"Hacked in {verdicts.count('hacked')} of 35 runs, ")
    assert f"improved in {verdicts.count('improved')}" in found.verdict
    assert found.sentences[0] == found.verdict


def test_the_truth_is_given_as_a_range_over_beta_in_points() -> None:
    rows = {row["beta"]: row["end_change"]["mean"] for row in clear()["summary"]["logged"]["by_beta"]}
    assert min(rows, key=rows.__getitem__) == 2.0
    found = headlines(clear())[0].truth
    assert found.startswith(f"From start to end: −{abs(rows[2.0]):.0f} points at β = 2, +")
    across = clear()["decision"]["logged"]["truth_range"]
    interval = across["interval"]
    bounds = f"{interval['low']:.0f} to {interval['high']:.0f}"
    assert f"The end differs across β by {across['value']:.0f} points (95 % interval {bounds})." in found


def test_a_rise_is_said_with_the_primary_measure_its_slope_and_p() -> None:
    found = headlines(clear())[0].effect
    slope = clear()["decision"]["logged"]["effect"]["slope"]["mean"]
    assert found.startswith(f"Yes: damage rises with β. Regret +{slope:.0f} points per tenfold β (95 % interval ")
    assert found.endswith("p < 0.0001.")


def test_which_beta_to_take_is_a_sentence_to_act_on() -> None:
    choose = clear()["decision"]["logged"]["choose"]
    found = headlines(clear())[0].choice
    assert choose["best"] == 0.03
    assert found.startswith("Take β = 0.03; 0.06 and 0.12 cannot be distinguished from it; of the other 4, 0.25 costs ")
    worst = next(row for row in choose["by_beta"] if row["beta"] == 2.0)
    assert f"2 most ({worst['low']:.0f} to {worst['high']:.0f} points)" in found


def test_few_values_that_cost_are_named_one_by_one() -> None:
    rows = [
        {"beta": 0.1, "behind": 11.0, "low": 8.0, "high": 14.0, "candidate": False},
        {"beta": 0.3, "behind": 1.0, "low": -2.0, "high": 4.0, "candidate": True},
        {"beta": 1.0, "behind": -1.0, "low": -4.0, "high": 2.0, "candidate": True},
    ]
    by_beta = [{**clear()["summary"]["logged"]["by_beta"][0], "beta": 1.0}]
    numbers = copy.deepcopy(clear())
    numbers["summary"]["logged"]["by_beta"] = by_beta
    numbers["decision"]["logged"]["choose"] |= {"best": 1.0, "betas": [1.0, 0.3], "by_beta": rows}
    assert headlines(numbers)[0].choice == (
        "Take β = 1; 0.3 cannot be distinguished from it; 0.1 costs 8 to 14 points."
    )


def test_the_best_beta_that_still_loses_truth_is_said_to() -> None:
    numbers = copy.deepcopy(clear())
    best = next(row for row in numbers["summary"]["logged"]["by_beta"] if row["beta"] == 0.03)
    best["end_change"] |= {"mean": -6.0, "interval": {**best["end_change"]["interval"], "low": -9.0, "high": -3.0}}
    assert headlines(numbers)[0].choice.endswith(
        " Even there the truth ends 6.0 points below its start, so stop earlier."
    )


def test_how_sure_names_seeds_beta_problems_and_the_smallest_slope() -> None:
    found, power = headlines(clear())[0].certainty, clear()["decision"]["logged"]["power"]
    assert found.startswith("5 seeds × 7 β, 1319 problems: enough to find a slope of ")
    assert found.endswith(f" {power['smallest_slope']:.1f} points per tenfold β (80 % power).")


def test_problems_are_counted_not_answers() -> None:
    """Two answers to each of 64 problems are 128 responses."""
    numbers = {**copy.deepcopy(clear()), "evaluation": {"answers": 2}}
    for run in numbers["conditions"]:
        run["n"] = 128
    assert headlines(numbers)[0].certainty.startswith("5 seeds × 7 β, 64 problems: ")


def test_the_clear_case_has_a_beta_star_with_zones() -> None:
    from betastar.report.figures.across_beta import augc

    for form in ("standardised", "paper"):
        star = clear()["summary"]["logged"][form]["beta_star"]
        assert BETAS[0] < star["interval"]["low"] < star["value"] < star["interval"]["high"] < BETAS[-1] * 2
        assert not star["label"]  # neither extrapolated nor exact by construction
    assert "safe to its left, danger to its right" in augc(clear()).caption


# --- no effect, two β, disagreement -----------------------------------------------------------------------------------


def test_no_effect_names_no_beta_star() -> None:
    noise = np.random.default_rng(3)
    frame = logs().assign(true=lambda f: noise.binomial(100, 0.55, len(f)) / 100)
    numbers = analyzed(frame, n=100, true="true", proxy="proxy")
    (found,) = headlines(numbers)
    assert found.effect.startswith("No effect was detected: regret ")
    assert found.choice.startswith("No β can be ruled out; β = ")
    assert "β★" not in " ".join(found.sentences)
    assert all(numbers["summary"]["logged"][form]["beta_star"]["value"] is None for form in ("standardised", "paper"))


def test_two_beta_have_no_trend() -> None:
    frame = logs()
    numbers = analyzed(frame[frame["beta"].isin([0.12, 1.0])], n=1319, true="true", proxy="proxy")
    (found,) = headlines(numbers)
    assert found.effect.startswith("No test of β: there are only two values of β, and a trend needs three. Regret +")
    assert found.choice.startswith("Take β = 0.12, ahead of the next by ")
    assert "No trend of any size could have been found" in found.certainty


@pytest.mark.parametrize(
    ("verdict", "damage", "start"),
    [
        ("fell", "falls", "Yes: damage falls with β. Regret"),
        ("not distinguishable", None, "No effect was detected: regret"),
    ],
)
def test_the_effect_follows_the_verdict(verdict: str, damage: str | None, start: str) -> None:
    assert clear_with(verdict=verdict, damage=damage, verdict_reason="p = 0.2").effect.startswith(start)


def test_less_movement_is_not_less_damage() -> None:
    reason = "p = 0.01; the area of the positive gap falls, but not the gap itself: less movement, not less damage"
    found = clear_with(verdict="not distinguishable", damage=None, verdict_reason=reason).effect
    assert found.endswith(
        " The area of the positive gap falls, but not the gap itself: less movement, not less damage."
    )


def test_measures_that_disagree_in_sign_are_named_on_the_first_screen() -> None:
    rows = [{"measure": "augc_paper", "damage": "falls", "primary": "rises", "clear": True, "n_seeds": 5}]
    (caution,) = clear_with(disagreements=rows).cautions
    assert caution == "Measures disagree: damage rises with β by regret, but falls by AUGC in the paper's form."
    assert clear_with(disagreements=[{**rows[0], "clear": False}]).cautions == [
        "Measures disagree, within noise: damage rises with β by regret, but falls by AUGC in the paper's form."
    ]


def test_grades_that_disagree_are_named() -> None:
    numbers = copy.deepcopy(clear())
    for run in numbers["conditions"][:4]:
        run |= {"end_change": -8.0, "end_change_lenient": 3.0}
        run["intervals"] |= {
            "end_change": {"low": -12.0, "high": -4.0},
            "end_change_lenient": {"low": 0.5, "high": 6.0},
        }
    assert headlines(numbers)[0].cautions[-1] == (
        "In 4 of 35 runs strict and lenient grades moved in opposite directions: the format changed, not the knowledge."
    )


def test_holm_and_the_unit_of_another_measure() -> None:
    found = headlines(record())
    assert [one.variant for one in found] == ["paper", "fixed"]
    assert found[0].effect == (
        "Yes: damage rises with β. Standardised AUGC +7.8 gap × steps per tenfold β (95 % interval 6.0 to 9.6), "
        "p < 0.0001 (Holm, 2 variants)."
    )
    # Every run falls from five to three of ten: with ten problems that is within noise.
    assert found[0].verdict == "None of the 15 runs changed enough for a verdict."
    assert found[0].truth == "From start to end: −20 points at every β."
    assert found[0].choice == "The truth ends the same at every β."


# --- one β ------------------------------------------------------------------------------------------------------------


def one_run(truth: list[float], n: int = 1319) -> dict[str, Any]:
    """A single run without a β: the proxy rises by a standard deviation at every point."""
    steps = range(0, 10 * len(truth), 10)
    frame = pd.DataFrame({"step": steps, "proxy": range(len(truth)), "proxy_std": 1.0, "true": truth})
    return analyzed(frame, n=n, true="true", proxy="proxy")


def test_one_run_is_told_by_its_peak_without_a_word_about_beta() -> None:
    numbers = one_run([0.61, 0.64, 0.69, 0.72, 0.71, 0.68, 0.64, 0.59])
    (found,) = headlines(numbers)
    assert found.verdict == "Verdict: hacked."
    assert found.truth == "The truth went from 0.61 to a peak of 0.72 at step 30, and ended at 0.59."
    low, high = (-numbers["conditions"][0]["intervals"]["since_peak"][end] for end in ("high", "low"))
    assert found.effect.startswith(
        f"The truth peaked at step 30 and has fallen by 13 points (95 % interval {low:.0f} to {high:.0f}) since."
    )
    assert found.choice == "Take the checkpoint nearest to step 30."
    assert "1319 problems" in found.certainty
    assert "β" not in " ".join([*found.sentences, *(label for label, _ in found.labelled)])
    assert "β" not in " ".join(outcome_columns(numbers, found.variant))
    assert outcome_rows(numbers, found.variant)[0][0] == "0.61 → 0.72 → 0.59"


def test_a_run_that_is_best_at_its_end() -> None:
    (found,) = headlines(one_run([0.5, 0.6, 0.7]))
    assert (found.verdict, found.choice) == ("Verdict: improved.", "")
    assert found.truth == "The truth went from 0.5 to 0.7, and is highest at the end."
    assert found.effect.startswith("Over the whole run it changed by +20 points (95 % interval ")


def test_a_fall_within_noise_is_not_called_one() -> None:
    (found,) = headlines(one_run([0.5, 0.52, 0.51], n=100))
    assert found.effect.startswith("The truth was highest at step 10, but a fall by 1 point (95 % interval −")
    assert "since is within noise" in found.effect
    assert found.choice == ""


def test_one_beta_with_several_seeds() -> None:
    frame = logs()
    numbers = analyzed(frame[frame["beta"] == 1.0], n=1319, true="true", proxy="proxy")
    (found,) = headlines(numbers)
    assert found.verdict == "All 5 runs were hacked."
    assert found.effect.startswith("The truth peaked at steps ")
    assert found.choice == "Stop earlier: the truth falls after its peak."
    assert found.certainty == "5 seeds, 1319 problems; intervals are over seeds."
    assert "β" not in " ".join(found.sentences)


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"), [(13.2, "13 points"), (1.04, "1.0 point"), (-6.04, "−6.0 points"), (0.004, "0.00 points")]
)
def test_points(value: float, words: str) -> None:
    assert POINTS.of(value) == words


def test_a_score_is_in_its_own_unit() -> None:
    assert HUNDREDTHS.with_interval(150.0, {"low": 100.0, "high": 200.0, "reason": None}, "+") == (
        "+1.5 (95 % interval 1.0 to 2.0)"
    )


def test_lists_and_p() -> None:
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [p_value(1e-9), p_value(0.034), p_value(0.43)] == ["p < 0.0001", "p = 0.034", "p = 0.4"]


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["hacked"], "Verdict: hacked."),
        (["hacked"] * 2, "Both runs were hacked."),
        (["unmoved"] * 2, "Neither of the 2 runs moved."),
        (["improved"] * 25, "All 25 runs improved."),
    ],
)
def test_runs_of_one_verdict_are_counted_in_words(verdicts: list[str], said: str) -> None:
    assert verdict_counts([{"verdict": verdict} for verdict in verdicts]) == said


def test_the_strength_of_another_objective_has_its_own_symbol() -> None:
    found = copy.deepcopy(clear())
    (variant,) = found["summary"]
    plain = headlines(found)[0]
    found["methods"] = {"orpo": {"objective": "orpo", "strength": "λ", "closer": "smaller", "variants": [variant]}}
    ours = headlines(found)[0]
    assert [label for label, _ in ours.labelled] == ["The truth?", "Did λ matter?", "Which λ?", "How sure?"]
    assert "Take λ = " in ours.choice
    assert "β" in " ".join(plain.sentences)
    assert [line.replace("β", "λ") for line in plain.sentences] == ours.sentences
    assert outcome_columns(found, variant)[0] == "λ"


@pytest.mark.parametrize(
    ("kl", "words"),
    [
        ({"coupling": "paper", "kappa": 0.003}, "κ ∝ τ (Eq. 10)"),
        ({"coupling": "fixed", "kappa": 0.01, "place": "reward"}, "κ = 0.01 for every τ, KL in the reward"),
        ({"coupling": "fixed", "kappa": 0.04, "place": "loss_k3"}, "κ = 0.04 for every τ, KL by the k3 estimate"),
        ({"coupling": "fixed", "kappa": 0.003, "place": "none"}, "no KL penalty"),
        ({"coupling": "fixed", "kappa": 0.0}, "no KL penalty"),
        ({"coupling": "target", "kappa": 0.003, "target": 1.0}, "κ adapted to a KL of 1 nat"),
        ({"coupling": "uncertainty", "kappa": 0.003, "power": -1.0}, "κ = 0.003 · (û₀/û)^−1"),
        (None, ""),
    ],
)
def test_the_penalty_of_a_variant_in_words(kl: dict[str, Any] | None, words: str) -> None:
    """Every coupling and place, of a method whose strength is τ."""
    methods = {"ipo": {"strength": "τ", "variants": ["x"]}}
    assert penalty({"methods": methods, "variants": {"x": {"kl": kl}}}, "x") == words
