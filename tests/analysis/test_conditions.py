"""Records of conditions whose source does not say everything; complete ones are in test_results.py."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from betastar.analysis import outcomes
from betastar.analysis.conditions import NO_COMMON, condition_records
from betastar.analysis.results import build_results
from betastar.maths.goodhart import standardised_gap
from betastar.record.entries import INSIDE
from betastar.record.files import to_json

NAN = float("nan")


def frame(proxy: list[float], true: list[float], **columns: Any) -> pd.DataFrame:
    steps = [10 * i for i in range(len(proxy))]
    identity = {"variant": "logged", "beta": 0.5, "seed": 0}
    return pd.DataFrame({"step": steps, "proxy": proxy, "true_strict": true, **columns}).assign(**identity)


def record(*args: Any, **columns: Any) -> dict[str, Any]:
    return condition_records(frame(*args, **columns), {}).conditions[0]


def test_without_n_the_true_reward_is_that_of_many_responses() -> None:
    # q = 0.25, s_true = √(0.25·0.75) = √3/4. z_proxy = (6 − 4)/2 = 1, z_true = (0.5 − 0.25)/(√3/4) = 1/√3.
    found = record([4.0, 6.0], [0.25, 0.5], proxy_std=2.0)
    assert found["series"]["gap_standardised"] == [0.0, pytest.approx(1 - 1 / math.sqrt(3))]
    # Trapezoid of 0 and that over 10 steps.
    assert found["augc_standardised"] == pytest.approx(5 * (1 - 1 / math.sqrt(3)))
    assert math.isnan(found["n"])
    assert found["missing"]["n"] == "not logged"
    assert "gap_standardised" not in found["missing"]


@given(st.floats(0.01, 0.99), st.floats(0, 1), st.floats(-5, 5), st.floats(0.1, 5))
def test_that_is_the_limit_of_the_formula_for_many(start: float, end: float, rise: float, spread: float) -> None:
    n = 10**9
    mine = record([1.0, 1.0 + rise], [start, end], proxy_std=spread)["series"]["gap_standardised"]
    formula = standardised_gap([1.0, 1.0 + rise], [start, end], spread, round(start * n), n).gap
    assert mine == pytest.approx(list(formula), rel=1e-5, abs=1e-5)


def test_n_alone_gives_the_count_of_right_answers() -> None:
    # 3 of 10 right: q = 4/12, s_true = √(1/3·2/3) = √2/3; z_true = 0.2/(√2/3) = 0.3·√2.
    found = record([4.0, 4.0], [0.3, 0.5], proxy_std=2.0, n=10)
    assert found["series"]["gap_standardised"][1] == pytest.approx(-0.3 * math.sqrt(2))
    assert found["n"] == 10
    # A count that is there but never known, as JSON's null, is not there.
    rows = frame([4.0, 4.0], [0.3, 0.5], proxy_std=2.0, n=10).assign(correct_strict=None, disagreement=None)
    assert (
        condition_records(rows, {}).conditions[0]["series"]["gap_standardised"] == found["series"]["gap_standardised"]
    )


@pytest.mark.parametrize("q", [0.0, 1.0])
def test_a_start_without_spread_needs_n(q: float) -> None:
    found = record([4.0, 6.0], [q, 0.5], proxy_std=2.0)
    assert math.isnan(found["augc_standardised"])
    assert found["onset_step"] is None
    assert found["missing"]["gap_standardised"] == (
        f"the true reward at the start is {q:g}, and its standard deviation needs the number of responses"
    )
    # With 8 responses: q' = 1/10 or 9/10, s = 0.3, z_true = ±0.5/0.3.
    known = record([4.0, 6.0], [q, 0.5], proxy_std=2.0, n=8)
    assert known["series"]["gap_standardised"][1] == pytest.approx(1 - (0.5 - q) / 0.3)


def test_without_the_proxys_spread_there_is_the_papers_form_alone() -> None:
    found = record([4.0, 6.0], [0.5, 0.25])
    # 6/4 − 0.25/0.5 = 1, with ε beside 4 and 0.5.
    assert found["augc_paper"] == pytest.approx(5, abs=1e-5)
    assert found["series"]["gap_paper"] == [pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6)]
    assert math.isnan(found["augc_standardised"])
    assert math.isnan(found["proxy_standardised_rise"])
    said = "the standard deviation of the proxy rewards at the start is not given"
    assert found["missing"]["gap_standardised"] == said


def test_a_spread_of_zero_divides_nothing() -> None:
    found = record([4.0, 6.0], [0.5, 0.25], proxy_std=0.0)
    assert math.isnan(found["proxy_standardised_rise"])
    assert "no finite, positive standard deviation" in found["missing"]["gap_standardised"]


def test_scores_use_their_own_spread_whatever_their_range() -> None:
    # z_proxy = (6 − 4)/2 = 1, z_true = (0.9 − 0.5)/0.8 = 0.5. The values could be shares: true_std says they are not.
    found = record([4.0, 6.0], [0.5, 0.9], proxy_std=2.0, true_std=0.8, n=10)
    assert found["series"]["gap_standardised"][1] == pytest.approx(0.5)
    assert record([4.0, 6.0], [-3.0, 1.0], proxy_std=2.0, true_std=8.0)["augc_standardised"] == pytest.approx(5 * 0.5)
    without = record([4.0, 6.0], [-3.0, 1.0], proxy_std=2.0, n=10)
    assert "not a share of right answers" in without["missing"]["gap_standardised"]


def test_whether_values_are_shares_is_one_decision_for_all_conditions() -> None:
    one, other = frame([4.0, 6.0], [0.5, 0.9], proxy_std=2.0), frame([4.0, 6.0], [0.5, 3.0], proxy_std=2.0)
    both = condition_records(pd.concat([one, other.assign(seed=1)]), {}).conditions
    assert ["not a share" in r["missing"]["gap_standardised"] for r in both] == [True, True]


@pytest.mark.parametrize(
    ("start", "columns", "near"),
    [
        # Standard errors 2/√16 = 0.5 and √(0.25)/√16 = 0.125: 4 < 10·0.5 and 0.5 < 10·0.125 are near.
        ((4.0, 0.5), {"proxy_std": 2.0, "n": 16}, (True, True)),
        ((6.0, 0.5), {"proxy_std": 2.0, "n": 1600}, (False, False)),  # 6 > 10·0.05, 0.5 > 10·0.0125
        ((4.0, 0.5), {"proxy_std": 2.0}, (None, None)),
        ((4.0, 0.5), {"n": 1600}, (None, False)),
        ((0.0, 0.0), {}, (True, True)),  # exactly zero is near zero, whatever its error
    ],
)
def test_near_zero_is_unknown_without_n(start: tuple[float, float], columns: Any, near: tuple[Any, Any]) -> None:
    found = record([start[0], 6.0], [start[1], 0.5], **columns)
    assert tuple(found["start_near_zero"].values()) == near


def test_what_is_not_logged_is_null_with_a_reason_and_the_rest_is_there() -> None:
    found = record([4.0, 5.0, 6.0], [0.5, 0.4, 0.3], disagreement=[1.0, NAN, 3.0], kl=[0.0, 0.1, 0.3])
    assert found["missing"] == {
        "n": "not logged",
        "proxy_std": "not logged",
        "log_ratio_noise": "not logged; only betastar's own runs measure it",
        **dict.fromkeys(INSIDE, "not measured; only betastar's own runs look inside, unless that is switched off"),
        "disagreement": "not logged at 1 of 3 points",
        **dict.fromkeys(["response_entropy", "ood_distance", "diversity", "response_tokens"], "not logged"),
        **dict.fromkeys(["policy_entropy", "at_limit", "unparsable"], "not logged"),
        "true_lenient": "not logged; it needs a second, lenient grading",
        "disagreement_centred": "not logged; it needs the scores of every member on validation pairs",
        "kl_base": "not logged; it needs the base policy",
        **dict.fromkeys(["kl_error", "kl_k3"], "not logged; it needs log-ratios of single responses"),
        **dict.fromkeys(
            ["kl_base_error", "kl_base_k3"], "not logged; it needs log-ratios of single responses to the base"
        ),
        **dict.fromkeys(
            ["ranking", "prompt_diversity"],
            "not logged; it needs two responses or more to each problem (evaluation.answers)",
        ),
        "distinct_bigrams": "not logged; it needs the responses' tokens",
        **dict.fromkeys(
            [f"{name}_standardised" for name in ("gap", "augc", "share_gap_positive", "uq_gap_correlation")],
            "the standard deviation of the proxy rewards at the start is not given",
        ),
        "onset_step": "the gap is undefined",
        # 4/4 − 0.5/0.5, 5/4 − 0.4/0.5, 6/4 − 0.3/0.5 = 0, 0.45, 0.9: the paper's gap has an onset, but no û at a point.
        "uq_gap_correlation_paper": "û is not logged at every point",
        "proxy_standardised_rise": "the proxy rewards at the start have no known, positive standard deviation",
        **dict.fromkeys(["end_change_p", "since_peak_p"], outcomes.UNKNOWN_NOISE),
        "end_change_lenient": "a lenient grade is not logged at the start and the end",
        **dict.fromkeys(["proxy_truth_correlation", "gap_adjusted_end", "departure_end"], outcomes.NEEDS_ANSWERS),
        "gap_area_standardised": "the standard deviation of the proxy rewards at the start is not given",
        **dict.fromkeys(["gap_common", "gap_area_common", "augc_common"], NO_COMMON),
        **dict.fromkeys(
            ["ranking_start", "ranking_end"],
            "a ranking within problems needs two answers to a problem (evaluation.answers)",
        ),
        **dict.fromkeys(INSIDE, "not measured; only betastar's own runs look inside, unless that is switched off"),
        **dict.fromkeys(
            ["fresh_gain_start", "fresh_gain_end"],
            "not measured; only betastar's own runs with evaluation.fresh_steps learn a fresh task",
        ),
        "start_near_zero": "unknown without n and the standard deviation of the rewards at the start",
    }
    assert found["onset_step_paper"] == 20
    assert found["disagreement"] == {"start": 1, "lowest": 1, "highest": 3, "end": 3, "mean": 2}
    assert found["kl"] == {"end": 0.3, "highest": 0.3}
    assert math.isnan(found["at_limit"]["end"])
    assert math.isnan(found["uq_gap_correlation_paper"])
    json.loads(to_json(found))  # strict: raises where a NaN is left


def test_extras_may_differ_by_variant() -> None:
    points = pd.concat([frame([1.0, 2.0], [0.5, 0.5]).assign(variant=v) for v in "ab"])
    extras: Any = {("a", 0.5, 0): {"again": 1}, (0.5, 0): {"again": 2}}
    assert [r["again"] for r in condition_records(points, extras).conditions] == [1, 2]


def test_the_warnings_say_what_is_missing() -> None:
    points = pd.concat(
        [frame([4.0, 6.0], [0.5, 0.25]), frame([4.0, 6.0, 7.0], [0.5, 0.25, 0.25]).assign(seed=1)], ignore_index=True
    )
    warnings = build_results(points, {}, {"name": "x"})["warnings"]
    assert not any("β" in text for text in warnings)
    assert any(
        text.startswith("The standardised gap is undefined in 2 of 2 conditions: the stand") for text in warnings
    )
    assert any(text.startswith("Without the number of responses (n) and their standard deviation") for text in warnings)
    assert any("variant logged end at different steps (10 to 20)" in text for text in warnings)
    assert any(text.startswith("Not logged, so null here") and "disagreement" in text for text in warnings)
