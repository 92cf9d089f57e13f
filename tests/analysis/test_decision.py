"""The answer over β from made-up records: verdict, effect, which β, disagreements, power, and single answers."""

from __future__ import annotations

import json
from math import log10, sqrt
from typing import Any, get_args

import numpy as np
import pytest
from analysis.made_up import grid, records
from analysis.records import check
from analysis.test_results import build, point
from scipy import stats

import betastar
from betastar.analysis.decision import CONTRIBUTIONS, PRIMARY, decide, no_rise
from betastar.analysis.results import build_results
from betastar.errors import BetastarError
from betastar.maths.power import smallest_rise
from betastar.record.files import to_json
from betastar.settings.sections import Analysis

BETAS = (0.1, 0.3, 1.0, 3.0, 10.0)
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(4, 5))
RISING = 10 + np.arange(5) * 4 + NOISE  # 16 points over two decades: 8 per tenfold β


def decided(tables: dict[str, Any], betas: Any = BETAS, **told: Any) -> dict[str, Any]:
    end = told.pop("end", None)
    return decide({"paper": records(tables, betas, end)}, **told)["paper"]


def test_a_regret_that_rises_is_damage_that_rises():
    found = decided({"regret": RISING})
    assert (found["measure"], found["fallback"]) == ("regret", "")
    assert (found["verdict"], found["damage"], no_rise(found)) == ("rose", "rises", None)
    assert found["verdict_reason"].startswith("p = ")
    page = stats.page_trend_test(RISING, method="exact")
    assert found["test"]["p_greater"] == pytest.approx(page.pvalue)
    assert found["test"]["p_holm"] == found["test"]["p_corrected"] >= found["test"]["p_two_sided"]


def test_the_effect_is_the_slope_within_seeds():
    found = decided({"regret": RISING})["effect"]["slope"]
    slopes = [np.polyfit(np.log10(BETAS), row, 1)[0] for row in RISING]
    reach = stats.t.ppf(0.975, 3) * stats.sem(slopes)
    assert found["mean"] == pytest.approx(np.mean(slopes))
    assert (found["interval"]["low"], found["interval"]["high"]) == pytest.approx(
        (np.mean(slopes) - reach, np.mean(slopes) + reach)
    )


@pytest.mark.parametrize(
    ("name", "table", "verdict", "damage"),
    [
        ("end_change", RISING, "rose", "falls"),
        ("end_change", -RISING, "fell", "rises"),
        ("points_lost", -RISING, "fell", "falls"),
        ("regret", NOISE, "not distinguishable", None),
    ],
)
def test_what_a_change_means_for_damage(name, table, verdict, damage):
    found = decided({name: table}, primary=name)
    assert (found["verdict"], found["damage"]) == (verdict, damage)
    assert (no_rise(found) is None) == (damage == "rises")


def test_holm_counts_the_variants():
    # Three seeds in perfect order over three β: p = 2/216 in both variants; Holm doubles the smaller.
    ordered = np.arange(3) + 0.1 * np.arange(3)[:, None]
    both = {name: records({"regret": ordered}, (1.0, 2.0, 4.0), variant=name) for name in ("paper", "fixed")}
    found = decide(both)
    assert [found[name]["test"]["p_holm"] for name in both] == pytest.approx([4 / 216, 4 / 216])
    assert "Holm-adjusted over 2 variants" in found["paper"]["verdict_reason"]
    assert found["paper"]["test"]["n_variants"] == 2


# --- the declared measure ---------------------------------------------------------------------------------------------


def test_the_settings_and_the_record_offer_the_same_measures():
    assert get_args(Analysis.model_fields["primary"].annotation) == PRIMARY
    assert Analysis().primary == "regret"


def test_an_unknown_measure_is_one_sentence_with_the_choices():
    for call in (
        lambda: decide({}, primary="gap"),
        lambda: betastar.analyze("nowhere.csv", primary="gap"),
    ):
        with pytest.raises(BetastarError) as error:
            call()
        if "nowhere" not in str(error.value):
            assert str(error.value) == (
                "primary: 'gap' is not a measure that a run can be judged by; choose regret, end_change, points_lost, "
                "augc_common, augc_standardised or augc_paper."
            )


def test_another_measure_stands_in_for_an_undefined_one_and_the_record_says_so():
    undefined = RISING.copy()
    undefined[1, 2] = np.nan
    found = decided({"regret": undefined, "augc_paper": RISING, "augc_common": RISING})
    assert (found["measure"], found["declared"]) == ("augc_common", "regret")
    assert found["fallback"] == (
        "regret is undefined in 1 of 20 conditions (not in the record); augc_common is used instead"
    )
    nothing = decided({"x": RISING})
    assert (nothing["measure"], nothing["verdict"]) == ("regret", "cannot be said")
    assert nothing["fallback"].endswith("and so is every other measure")


# --- M6 and M18: what may not be said ---------------------------------------------------------------------------------


def test_a_positive_area_that_falls_only_since_less_moves_is_not_said_to_fall():
    """The gap has mean 0 at every β and moves less the larger β is: its positive part falls, the gap does not."""
    scale = np.array([16.0, 8.0, 4.0, 2.0, 1.0])
    signed = scale * np.array([[1, -1, 1, -1, 1], [-1, 1, -1, 1, -1], [1, 1, -1, -1, 1], [-1, -1, 1, 1, -1]])
    positive = scale * (2 + 0.1 * NOISE)
    found = decided({"augc_common": positive, "gap_area_common": signed}, primary="augc_common")
    assert found["test"]["p_holm"] < 0.001
    assert found["verdict"] == "not distinguishable"
    assert "less movement, not less damage" in found["verdict_reason"]
    real = decided({"augc_common": positive, "gap_area_common": -RISING}, primary="augc_common")
    assert (real["verdict"], real["damage"]) == ("fell", "falls")


def test_no_beta_star_where_the_primary_test_sees_no_rise():
    """AUGC jumps at the last of three β in three seeds while the truth does not care: M18's cliff."""
    rows = [
        point("paper", beta, seed, step, 4.0 + (5.0 + 0.1 * seed) * (beta > 1) * step + seed * step * 0.1, 5)
        for beta in (0.2, 0.9, 1.2)
        for seed in (0, 1, 2)
        for step in (0, 2, 4)
    ]
    results = json.loads(to_json(build_results(rows, {}, {"name": "cliff"}, primary="augc_standardised")))
    check(results)
    law = results["summary"]["paper"]["standardised"]
    assert law["beta_star"]["value"] is None
    assert law["law"]["b"] < 17  # ln 100 / ln(1.2/0.9); 76 in the run that showed the fault
    assert results["decision"]["paper"]["verdict"] == "not distinguishable"
    assert law["beta_star"]["status"] in ("no rise", "not a rising law", "no dependence")


def test_a_clear_case_keeps_its_beta_star():
    """Seven β, five seeds, damage by a law: the test sees it, and β★ stands."""
    rng = np.random.default_rng(1)
    rows = [
        point("paper", beta, seed, step, 4.0 + (0.5 + 0.4 * beta**1.2 + 0.1 * rng.normal()) * step, 5)
        for beta in np.geomspace(0.1, 10, 7)
        for seed in range(5)
        for step in (0, 2, 4)
    ]
    results = json.loads(to_json(build_results(rows, {}, {"name": "clear"}, primary="augc_standardised")))
    check(results)
    assert results["decision"]["paper"]["damage"] == "rises"
    assert results["summary"]["paper"]["standardised"]["beta_star"]["status"] == "estimate"


@pytest.mark.parametrize(
    ("shape", "betas", "reason"),
    [
        ((3, 1), (1.0,), "there is only one β"),
        ((3, 2), (1.0, 2.0), "there are only two values of β, and a trend needs three"),
        ((1, 3), (1.0, 2.0, 4.0), "Page's L needs two seeds and three values of β (seeds: 1, values of β: 3)"),
    ],
)
def test_where_nothing_can_be_said(shape, betas, reason):
    found = decided({"regret": RNG.normal(size=shape)}, betas)
    assert (found["verdict"], found["verdict_reason"]) == ("cannot be said", reason)
    assert found["choose"]["best"] is not None
    assert found["damage"] is None


def test_seeds_that_lack_a_beta_are_left_out():
    some = records({"regret": RISING}, BETAS)[:-1]
    found = decide({"paper": some})["paper"]
    assert (found["seeds"], found["n_seeds"]) == ([0, 1, 2], 3)
    assert found["truth_by_beta"][0]["n_seeds"] == 4


# --- which β, and how far the truth moves -----------------------------------------------------------------------------

TRUTH = np.array([0.60, 0.61, 0.55, 0.40, 0.20]) + 0.01 * NOISE


def test_the_beta_that_cannot_be_told_from_the_best():
    found = decided({"regret": RISING}, end=TRUTH)
    assert found["choose"]["betas"] in ([0.3, 0.1], [0.1, 0.3])
    assert found["choose"]["lead"] == pytest.approx(100 * abs(np.diff(TRUTH.mean(axis=0)[:2])[0]))
    behind = {row["beta"]: row for row in found["choose"]["by_beta"]}
    assert behind[10.0]["behind"] == pytest.approx(100 * (TRUTH.mean(axis=0).max() - TRUTH[:, 4].mean()))
    assert behind[10.0]["low"] > 30
    width = found["truth_range"]
    assert width["value"] == pytest.approx(100 * np.ptp(TRUTH.mean(axis=0)))
    assert width["lowest"] == 10.0
    assert width["interval"]["low"] < width["value"] < width["interval"]["high"]


def test_two_seeds_leave_the_choice_open():
    found = decided({"regret": RISING[:2]}, end=TRUTH[:2])["choose"]
    assert found["betas"] == list(BETAS)
    assert found["reason"] == "cannot be said: it takes 3 seeds that have every β, there are 2"


def test_a_score_is_no_percentage():
    found = decided({"regret": RISING}, end=TRUTH * 4 - 1)
    assert found["truth_unit"] == "score"
    assert found["truth_by_beta"][0]["mean"] == pytest.approx((TRUTH * 4 - 1)[:, 0].mean())


# --- secondary --------------------------------------------------------------------------------------------------------


def test_measures_that_go_the_other_way_are_listed():
    found = decided({"regret": RISING, "augc_paper": -RISING, "augc_common": RISING, "end_change_lenient": RISING})
    assert [(d["measure"], d["damage"], d["primary"], d["clear"]) for d in found["disagreements"]] == [
        ("augc_paper", "falls", "rises", True),
        ("end_change_lenient", "falls", "rises", True),
    ]
    assert {row["measure"] for row in found["directions"]} == {
        "regret",
        "augc_paper",
        "augc_common",
        "end_change_lenient",
    }


def test_a_beta_of_zero_has_a_sign_but_no_slope():
    found = decided({"regret": RISING, "augc_paper": -RISING}, (0.0, *BETAS[1:]))
    assert found["verdict"] == "rose"
    assert np.isnan(found["effect"]["slope"]["mean"])
    assert found["directions"][0]["reason"] == "a change per tenfold β needs β > 0"
    assert [d["measure"] for d in found["disagreements"]] == ["augc_paper"]


def test_the_power_note():
    found = decided({"regret": NOISE}, smallest_effect=1.0)
    note, deviation = (
        found["power"],
        sqrt(((NOISE - NOISE.mean(0) - NOISE.mean(1)[:, None] + NOISE.mean()) ** 2).sum() / 12),
    )
    assert note["residual_sd"] == pytest.approx(deviation)
    assert note["smallest_slope"] == pytest.approx(smallest_rise(4, BETAS) * deviation / log10(100))
    assert 0 < note["power_for_smallest_effect"] < 1


@pytest.mark.parametrize(
    ("smallest", "word"),
    [(20.0, "too small to matter"), (1.0, "large enough to matter"), (8.0, "cannot be said"), (None, None)],
)
def test_whether_an_effect_matters(smallest, word):
    assert decided({"regret": RISING}, smallest_effect=smallest)["effect"]["relevance"] == word


# --- single answers: problems as a second source of chance ------------------------------------------------------------


def answered(problem_slopes: Any, seed_sd: float, rng: Any, n_seeds: int = 4) -> tuple[Any, dict[Any, Any]]:
    """Scores of 40 problems that change by `problem_slopes` [P] per step of β, plus noise; end changes and answers."""
    n = len(problem_slopes)
    tables, answers = np.zeros((n_seeds, len(BETAS))), {}
    for seed in range(n_seeds):
        for i, beta in enumerate(BETAS):
            end = 0.5 + problem_slopes * i + rng.normal(0, 0.02, n) + rng.normal(0, seed_sd)
            answers["paper", beta, seed] = grid(np.stack([np.full(n, 0.5), end]))
            tables[seed, i] = 100 * (end - 0.5).mean()
    return tables, answers


def test_problems_widen_the_interval_of_the_effect_and_of_the_truth():
    rng = np.random.default_rng(3)
    slopes = rng.normal(0, 0.1, 40)
    table, answers = answered(slopes, 0.001, rng)
    alone = decided({"end_change": table}, primary="end_change", end=0.5 + table / 100)
    both = decided({"end_change": table}, primary="end_change", end=0.5 + table / 100, answers=answers)
    # 0.1 per step of half a decade is 20 points per tenfold β and problem; over 40 problems 20/√40 = 3.2.
    assert both["effect"]["problems"]["standard_error"] == pytest.approx(
        100 * 2 * slopes.std(ddof=1) / sqrt(40), rel=0.05
    )
    width = [
        one["effect"]["slope"]["interval"]["high"] - one["effect"]["slope"]["interval"]["low"] for one in (alone, both)
    ]
    assert width[1] > 5 * width[0]
    assert both["truth_by_beta"][4]["n_problems"] == 40
    assert alone["effect"]["problems"]["reason"] == "problems are not resampled: single answers are not known"
    # The seeds agree that these 40 problems got better or worse; another 40 might not.
    assert both["verdict"] == alone["verdict"] != "not distinguishable"
    assert both["test"]["p_other_problems"] > 0.05 > both["test"]["p_corrected"]
    assert len(both["choose"]["betas"]) > len(alone["choose"]["betas"])


def test_p_over_other_problems_keeps_its_level_and_pages_alone_does_not():
    """The end change has no trend over all problems there are; those drawn for a run have."""
    rng, found = np.random.default_rng(4), []
    for _ in range(120):
        table, answers = answered(rng.normal(0, 0.05, 20), 0.01, rng, 3)
        found.append(decided({"end_change": table}, primary="end_change", answers=answers)["test"])
    share = {name: np.mean([test[name] <= 0.05 for test in found]) for name in ("p_corrected", "p_other_problems")}
    assert share["p_corrected"] > 0.3
    assert share["p_other_problems"] <= 0.05 + 3 * sqrt(0.05 * 0.95 / 120)


def test_contributions_of_problems_add_up_to_the_measures():
    truth = 100 * np.array([[1, 0, 0, 1], [1, 1, 1, 0], [0, 0, 1, 0]], dtype=float)
    steps = np.array([0, 10, 20])
    given = {name: function(truth, steps) for name, function in CONTRIBUTIONS.items()}
    assert given["truth"].mean() == 25
    assert given["end_change"].mean() == pytest.approx(-25)
    # Problems 0 and 2 are best at step 10 (both right); on 1 and 3 that is 50 against 0 at the end. Problems 1 and 3
    # are best at 0 (first of a tie); on 0 and 2: 50 against 50. Mean of 50 and 0.
    assert given["regret"].mean() == 25
    # Means 50, 75, 25: below the start only at the end; trapezoid of 0, 0, 25 over 20 steps: 125/20.
    assert given["points_lost"].mean() == pytest.approx(6.25)


def test_answers_to_only_some_problems_are_matched_by_name():
    rng = np.random.default_rng(5)
    table, answers = answered(rng.normal(0, 0.1, 40), 0.001, rng)
    short = answers["paper", 1.0, 2]
    answers["paper", 1.0, 2] = short._replace(problems=short.problems[:30], strict=short.strict[:, :30])
    assert (
        decided({"end_change": table}, primary="end_change", answers=answers)["effect"]["problems"]["n_problems"] == 30
    )
    del answers["paper", 1.0, 2]
    assert (
        decided({"end_change": table}, primary="end_change", answers=answers)["effect"]["problems"]["n_problems"] == 0
    )


def test_one_run_alone_has_an_interval_over_problems():
    end = np.array([1.0] * 30 + [0.0] * 10)
    found = decided(
        {"regret": np.array([[2.0]])}, (1.0,), end=[[0.75]], answers={("paper", 1.0, 0): grid(np.stack([end, end]))}
    )["truth_by_beta"][0]
    reach = stats.t.ppf(0.975, 39) * 100 * end.std(ddof=1) / sqrt(40)
    assert (found["interval"]["low"], found["interval"]["high"]) == pytest.approx((75 - reach, 75 + reach))
    assert found["interval"]["method"] == "Student's t over problems; one seed"


# --- the record -------------------------------------------------------------------------------------------------------


def test_the_record_of_a_run_holds_a_decision_of_every_variant():
    results = check(build({0.1: 0.0, 1.0: 1.0, 10.0: 2.0}))
    assert list(results["decision"]) == list(results["summary"])
    assert results["decision"]["paper"]["declared"] == "regret"


@pytest.mark.parametrize("beta", [None, 0.5])
def test_one_log_has_a_decision_that_says_nothing_of_beta(beta):
    rows = [point("paper", 1.0, 0, step, 4.0 + step, 5 - step) for step in (0, 2, 4)]
    import pandas as pd

    frame = pd.DataFrame(rows).drop(columns=["variant", "beta", "seed"])
    record = check(dict(betastar.analyze(frame, beta=beta, primary="augc_standardised").record))
    (found,) = record["decision"].values()
    assert found["verdict"] == "cannot be said"
    assert found["verdict_reason"] == "there is only one β"
    assert found["betas"] == [beta]


def test_many_runs_are_decided_quickly():
    import time

    rng = np.random.default_rng(6)
    some = records({"regret": rng.normal(size=(20, 10))}, np.geomspace(0.01, 10, 10).tolist(), rng.random((20, 10)))
    start = time.perf_counter()
    decide({"paper": some})
    assert time.perf_counter() - start < 5  # 200 runs; 0.4 s on an idle core
