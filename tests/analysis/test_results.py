"""From evaluation points to the results record, with every number worked by hand."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from betastar.analysis.results import build_results
from betastar.record.files import to_json

BETAS, SEEDS = (0.1, 1.0, 10.0), (0, 1)


def point(variant: str, beta: float, seed: int, step: int, proxy: float, correct: int) -> dict:
    """An evaluation of 10 problems."""
    return {
        "variant": variant,
        "beta": beta,
        "seed": seed,
        "step": step,
        "n": 10,
        "proxy": proxy,
        "proxy_std": 2.0,
        "correct_strict": correct,
        "true_strict": correct / 10,
        "true_lenient": correct / 10,
        "disagreement": 0.5 + step / 10,
        "response_entropy": 1.0,
        "policy_entropy": 1.0 - step / 20,
        "response_tokens": 8.0,
        "at_limit": 0.0,
        "unparsable": 0.0,
        "kl": float(step),
        "ood_distance": 0.1,
        "diversity": 0.4,
    }


def build(rise: dict[float, float]) -> dict:
    """One variant; at steps 0, 2, 4 the proxy rises by 0, rise, 2·rise, and correct answers stay at 5 of 10."""
    rows = [
        point("paper", beta, seed, step, 4.0 + seed + rise[beta] * step / 2, 5)
        for beta in BETAS
        for seed in SEEDS
        for step in (0, 2, 4)
    ]
    return json.loads(to_json(build_results(pd.DataFrame(rows), {}, {"name": "hand"})))


def test_a_condition_by_hand() -> None:
    results = build({0.1: 0.0, 1.0: 1.0, 10.0: 2.0})
    condition = next(c for c in results["conditions"] if c["beta"] == 10.0 and c["seed"] == 0)
    # Proxy 4, 6, 8 with standard deviation 2 at t=0: z = 0, 1, 2. True 0.5 throughout: z = 0.
    assert condition["series"]["gap_standardised"] == [0.0, 1.0, 2.0]
    # Trapezoid over steps 0, 2, 4: (0+1)/2·2 + (1+2)/2·2 = 4.
    assert condition["augc_standardised"] == 4.0
    # Paper's form: proxy/4 - true/0.5 = 0, 0.5, 1, with ε = 2^-23 beside 4 and 0.5; area 2.
    assert condition["augc_paper"] == pytest.approx(2.0, abs=1e-5)
    assert condition["proxy"] == {"start": 4.0, "lowest": 4.0, "highest": 8.0, "end": 8.0}
    assert condition["proxy_standardised_rise"] == 2.0
    assert condition["policy_entropy"] == {"checkpoint": 1.0, "end": 0.8, "collapse": pytest.approx(0.2)}
    assert condition["uq_gap_correlation_standardised"] == pytest.approx(1.0)  # both rise in a straight line
    assert condition["share_gap_positive_standardised"] == pytest.approx(2 / 3)


def test_threshold_and_onset_by_hand() -> None:
    results = build({0.1: 0.0, 1.0: 1.0, 10.0: 2.0})
    # Positive gaps: β=1 gives 0.5, 1 and β=10 gives 1, 2, each for two seeds: 0.5 0.5 1 1 1 1 2 2.
    # 75th percentile at place 0.75·7 = 5.25, between 1 (place 5) and 2 (place 6): 1.25.
    assert results["threshold"]["standardised"] == pytest.approx(1.25)
    onset = {(c["beta"], c["seed"]): c["onset_step"] for c in results["conditions"]}
    assert onset == {(b, s): (4 if b == 10.0 else None) for b in BETAS for s in SEEDS}
    assert results["summary"]["paper"]["by_beta"][2]["onset_steps"] == [4, 4]


def test_summary_over_seeds() -> None:
    results = build({0.1: 0.0, 1.0: 1.0, 10.0: 2.0})
    summary = results["summary"]["paper"]
    assert summary["standardised"]["spearman"]["rho"] == 1.0
    assert summary["standardised"]["spearman"]["p_greater"] == pytest.approx(1 / 6)
    row = summary["by_beta"][1]
    # Proxy at the end: 4 + 2 and 5 + 2; mean 6.5, standard error |7 - 6| / √2 / √2 = 0.5.
    assert row["proxy_end"]["mean"] == pytest.approx(6.5)
    assert row["proxy_end"]["standard_error"] == pytest.approx(0.5)
    assert row["proxy_end"]["n"] == 2


def test_equal_damage_gives_no_beta_star() -> None:
    star = build({0.1: 1.0, 1.0: 1.0, 10.0: 1.0})["summary"]["paper"]["standardised"]["beta_star"]
    assert star["value"] is None
    assert "AUGC does not depend on β in these data" in star["reason"]


def test_true_reward_zero_is_a_warning_and_not_a_blow_up() -> None:
    rows = [point("paper", beta, 0, step, 4.0, correct) for beta in BETAS for step, correct in ((0, 0), (2, 3), (4, 0))]
    results = build_results(pd.DataFrame(rows), {}, {"name": "zero"})
    assert any("exactly 0" in text for text in results["warnings"])
    condition = results["conditions"][0]
    # 0.3 / ε would be the size of the paper's Figure 3 (E3).
    assert condition["series"]["gap_paper"] == pytest.approx([math.nan] * 3, nan_ok=True)
    assert "the true reward at the start is 0" in condition["missing"]["gap_paper"]
    # q = (0 + 1) / (10 + 2), s = √(q(1-q)): the standardised form stays small.
    q = 1 / 12
    assert condition["series"]["gap_standardised"][1] == pytest.approx(-0.3 / math.sqrt(q * (1 - q)))


def test_undefined_is_null_in_strict_json() -> None:
    text = to_json({"a": float("nan"), "b": [float("inf"), -float("inf")], "c": (1, 2.5)})
    assert json.loads(text) == {"a": None, "b": ["inf", "-inf"], "c": [1, 2.5]}


def test_variants_keep_their_order_and_do_not_mix() -> None:
    rows = [
        point(variant, beta, 0, step, 4.0 + rise * step, 5)
        for variant, rise in (("zeta", 1.0), ("alpha", 0.0))
        for beta in BETAS
        for step in (0, 2)
    ]
    results = build_results(pd.DataFrame(rows), {}, {"name": "two"})
    assert list(results["summary"]) == ["zeta", "alpha"]
    assert all(r["augc_standardised"]["mean"] == 0 for r in results["summary"]["alpha"]["by_beta"])
    assert all(r["augc_standardised"]["mean"] > 0 for r in results["summary"]["zeta"]["by_beta"])


def test_a_strength_that_means_the_opposite_is_a_warning() -> None:
    rows = [point(v, beta, 0, step, 4.0, 5) for v in ("dpo", "orpo") for beta in BETAS for step in (0, 2)]
    methods = {
        "dpo": {"objective": "dpo", "closer": "larger", "strength": "β", "variants": ["dpo"]},
        "orpo": {"objective": "orpo", "closer": "smaller", "strength": "λ", "variants": ["orpo"]},
    }
    found = build_results(pd.DataFrame(rows), {}, {"name": "hand", "methods": methods})["warnings"]
    assert [text for text in found if text.startswith("The strength of ")] == [
        "The strength of orpo is λ, and a larger one leads further from the base: where β is said to grow more "
        "conservative, read the opposite for orpo."
    ]


def test_one_cause_is_one_warning_whatever_the_starts() -> None:
    """Two conditions start at different negative proxies, a third at the same as the first."""
    rows = [
        point("a", beta, 0, step, start + step, 5)
        for beta, start in ((0.1, -0.5), (1.0, -0.25), (10.0, -0.5))
        for step in (0, 1, 2)
    ]
    record = build_results(pd.DataFrame(rows), {}, {"name": "hand"})
    (said,) = [text for text in record["warnings"] if "paper-form gap is undefined" in text]
    assert said == (
        "The paper-form gap is undefined in 3 of 3 conditions: Def. 3.1 divides by the start, and the proxy reward "
        "at the start is not positive: it takes a positive one."
    )
