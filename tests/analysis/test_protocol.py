"""Appendix F's ten metrics and four disclosures, with every number worked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis.records import analyzed, check, resolve
from analysis.test_analyze import grid
from analysis.test_results import build, point

from betastar.analysis.analyze import analyze_paths
from betastar.analysis.logs.log import Options
from betastar.analysis.results import build_results
from betastar.record.files import to_json

METRICS = [
    "gap_series",
    "augc",
    "checkpoint_entropy",
    "entropy_collapse",
    "ood_distance",
    "diversity",
    "spearman",
    "uq_gap_correlation",
    "law",
    "beta_star",
]
DISCLOSURES = ["beta_derivation", "hacking_threshold", "evaluation_seeds", "logging_policy"]
COVERAGE = {"pairs": 90, "unique_prompts": 80}

MICRO: dict[str, Any] = {
    "name": "mine",
    "root_seed": 7,
    "prompt_split": "train",
    "grid": {"method": "percentiles", "percentiles": [20, 50, 80], "values": []},
    "evaluation": {"every": 2, "problems": 10, "temperature": 1.0, "samples": 4},
    "problems": {"train": 50, "test": 40, "evaluated": 10, "probe": 7},
    "preferences": {"kind": "micro", "prompts": 100, "request_share": 0.3, "max_new_tokens": 40},
    "data": {"coverage": COVERAGE, "splits": {"train": 72, "validation": 9, "test": 9}},
}

LENGTHS = {"mean": 8.0, "p5": 4.0, "p50": 8.0, "p95": 12.0}
WHOLE: dict[str, Any] = {  # as a file must be
    **MICRO,
    "data": {
        "coverage": {
            **COVERAGE,
            "unique_prompts": 90,
            "duplicate_pairs": 0,
            "ties_dropped": 0,
            "malformed_dropped": 0,
            "malformed_examples": [],
            "tokens": dict.fromkeys(("prompt", "chosen", "rejected"), LENGTHS),
            "chosen_minus_rejected_tokens": LENGTHS,
            "vocabulary": {"seen": 50, "size": 100, "share": 0.5},
        },
        "lengths": {
            "prompt": 12,
            "response": 12,
            "share_prompts_truncated": 0.0,
            "share_responses_truncated": 0.0,
        },
        "splits": {"train": 72, "validation": 9, "test": 9},
    },
}


def ours(context: dict[str, Any], steps: tuple[int, ...] = (0, 2, 4), seeds: tuple[int, ...] = (0, 1, 2)) -> dict:
    """β 0.1, 1, 10; the proxy rises by 0.1, 1, 10 times (1 + seed) per step; truth, distance and û as in `point`."""
    rows = [
        {
            **point("paper", beta, seed, step, 4.0 + (1 + seed) * beta * step, 5),
            "ood_distance": 0.1 + beta / 100 + step,
            "diversity": 0.4 - beta / 100,
        }
        for beta in (0.1, 1.0, 10.0)
        for seed in seeds
        for step in steps
    ]
    return build_results(pd.DataFrame(rows), {}, context, primary="augc_standardised")


def protocol(results: dict[str, Any]) -> Any:
    return results["protocol"]


def test_metrics_and_disclosures_stand_in_the_papers_order() -> None:
    found = protocol(ours(MICRO))
    assert found["source"] == "arXiv:2606.30627, Appendix F"
    assert list(found["metrics"]) == METRICS
    assert [metric["number"] for metric in found["metrics"].values()] == list(range(1, 11))
    assert list(found["disclosures"]) == DISCLOSURES
    assert [part["letter"] for part in found["disclosures"].values()] == ["a", "b", "c", "d"]


def test_the_gap_series_are_named_not_copied_and_their_points_counted() -> None:
    results = ours(MICRO)
    rows = protocol(results)["metrics"]["gap_series"]["rows"]
    assert len(rows) == 9
    row = rows[4]
    assert (row["variant"], row["beta"], row["seed"]) == ("paper", 1.0, 1)
    # Proxy 4, 8, 12 with standard deviation 2; the truth stays.
    assert resolve(results, row["standardised"]) == [0, 2, 4]
    assert resolve(results, row["step"]) == [0, 2, 4]
    # 8/4 − 1 = 1 and 12/4 − 1 = 2.
    assert resolve(results, row["paper"]) == pytest.approx([0, 1, 2], abs=1e-5)
    # Two points after the start, of at least ⌈4/50⌉ = 1.
    assert (row["steps"], row["points"], row["points_required"], row["enough"]) == (4, 2, 1, True)


@pytest.mark.parametrize(
    ("steps", "required", "enough"),
    [
        ((0, 50), 1, True),
        ((0, 51), 2, False),
        ((0, 25, 51), 2, True),
        ((0, 100, 400, 500), 10, False),
        ((0,), 1, False),
    ],
)
def test_the_points_that_are_asked_for(steps: tuple[int, ...], required: int, enough: bool) -> None:
    row = protocol(ours(MICRO, steps))["metrics"]["gap_series"]["rows"][0]
    assert (row["points_required"], row["enough"]) == (required, enough)


def test_augc_entropy_distance_and_diversity_by_hand() -> None:
    found = protocol(ours(MICRO))["metrics"]
    augc = found["augc"]["rows"][1]
    # β = 1: gaps 0, s, 2s with s = 1 + seed, area over 0, 2, 4: s + 3s = 4, 8, 12. Mean 8, standard error 4/√3.
    assert augc["standardised"]["mean"] == pytest.approx(8)
    assert augc["standardised"]["standard_error"] == pytest.approx(4 / np.sqrt(3))
    assert (augc["standardised"]["n"], augc["enough_seeds"]) == (3, True)
    # The paper's gaps: half of that, as the start is 4 and the standard deviation 2.
    assert augc["paper"]["mean"] == pytest.approx(4, abs=1e-4)
    assert found["checkpoint_entropy"]["rows"][0]["checkpoint"]["mean"] == 1.0  # 1 − t/20 at t = 0
    assert found["entropy_collapse"]["rows"][0]["collapse"]["mean"] == pytest.approx(0.2)  # and at t = 4
    distance = found["ood_distance"]["rows"][2]
    # 0.1 + 10/100 + t: 0.2 at the checkpoint, 2.2 in the mean over t = 0, 2, 4.
    assert distance["checkpoint"]["mean"] == pytest.approx(0.2)
    assert distance["online"]["mean"] == pytest.approx(2.2)
    assert found["diversity"]["rows"][2]["checkpoint"]["mean"] == pytest.approx(0.3)


def test_correlations_law_and_beta_star_by_hand() -> None:
    results = ours(MICRO)
    found = protocol(results)["metrics"]
    (rho,) = found["spearman"]["rows"]
    # Three β in order: ρ = 1, one of 3! orders, and its reverse.
    assert rho["standardised"]["rho"] == rho["paper"]["rho"] == 1
    assert rho["standardised"]["p_two_sided"] == pytest.approx(1 / 3)
    assert (rho["standardised"]["n"], rho["standardised"]["n_seeds"]) == (3, 3)
    # û = 0.5 + t/10 and the gap both rise in straight lines.
    assert found["uq_gap_correlation"]["rows"][0]["standardised"]["mean"] == pytest.approx(1)
    assert found["uq_gap_correlation"]["rows"][0]["paper"]["mean"] == pytest.approx(1)
    (law,) = found["law"]["rows"]
    # Mean AUGC 8·β, exactly: a = 8, b = 1, c = 0. R² is less than 1, since seeds differ: 4, 8, 12 times β.
    assert [law["standardised"][name] for name in "abc"] == pytest.approx([8, 1, 0], abs=1e-3)
    # Residual (4β)² twice per β against 8β·{½, 1, 1½} about the mean of all nine, 29.6.
    values = np.outer([4, 8, 12], [0.1, 1, 10])
    expected = 1 - ((values - 8 * np.array([0.1, 1, 10])) ** 2).sum() / ((values - values.mean()) ** 2).sum()
    assert law["standardised"]["r_squared"] == pytest.approx(expected)
    assert (law["standardised"]["n"], law["standardised"]["n_beta"]) == (9, 3)
    (star,) = found["beta_star"]["rows"]
    assert star["standardised"] == results["summary"]["paper"]["standardised"]["beta_star"]
    # 8·β passes 1.5·0.8 at 0.15; of 1 000 points from 0.01 to 20, the first beyond is at 0.01 + 8·19.99/999.
    first = 0.01 + 7 * 19.99 / 999
    assert star["standardised"]["value"] == pytest.approx(first)
    assert star["standardised"]["augc"]["value"] == pytest.approx(8 * first, rel=1e-3)
    assert star["standardised"]["augc"]["n_seeds"] == 3


def test_numbers_are_those_of_the_summary() -> None:
    results = check(build({0.1: 0.0, 1.0: 1.0, 10.0: 2.0}))
    found, rows = protocol(results)["metrics"], results["summary"]["paper"]["by_beta"]
    for i, row in enumerate(rows):
        assert found["augc"]["rows"][i]["standardised"] == row["augc_standardised"]
        assert found["augc"]["rows"][i]["paper"] == row["augc_paper"]
        assert found["checkpoint_entropy"]["rows"][i]["checkpoint"] == row["policy_entropy_start"]
        assert found["uq_gap_correlation"]["rows"][i]["paper"] == row["uq_gap_correlation_paper"]


def test_two_seeds_are_too_few() -> None:
    rows = protocol(ours(MICRO, seeds=(0, 1)))["metrics"]["augc"]["rows"]
    assert [(row["standardised"]["n"], row["enough_seeds"]) for row in rows] == [(2, False)] * 3


def test_disclosures_of_a_run_in_the_micro_world() -> None:
    results = ours(MICRO)
    found = protocol(results)["disclosures"]
    derivation = found["beta_derivation"]
    assert (derivation["method"], derivation["n_pairs"], derivation["reason"]) == ("percentiles", 72, None)
    assert derivation["betas"] == [0.1, 1, 10]
    assert resolve(results, derivation["settings"])["percentiles"] == [20, 50, 80]
    assert "Eq. 6 and 7" in derivation["formula"]
    # Positive gaps: of 9 conditions at t = 2 and 4.
    threshold = found["hacking_threshold"]
    assert (threshold["percentile"], threshold["standardised"]["n_positive"]) == (75, 18)
    # (1 + seed)·β·{1, 2}: β = 10 gives 10, 20, 30, 20, 40, 60, the other twelve are below. Place 0.75·17 = 12.75 in
    # order: the last of the twelve is at 11, so three quarters of the way from 10 (at 12) to 20 (at 13): 17.5.
    assert threshold["standardised"]["tau"] == pytest.approx(17.5)
    seeds = found["evaluation_seeds"]
    assert (seeds["root_seed"], seeds["seeds"], seeds["n_problems"], seeds["n_probe_prompts"]) == (7, [0, 1, 2], 10, 7)
    assert (seeds["temperature"], seeds["adapted_on"], seeds["start_evaluated_twice"]) == (1.0, "train", False)
    assert seeds["reason"] is None
    logging = found["logging_policy"]
    assert "base policy" in logging["written_by"]
    assert resolve(results, logging["coverage"]) == COVERAGE
    assert logging["reason"] is None


def test_disclosures_of_a_run_on_a_dataset_with_a_list_of_betas() -> None:
    context = {
        **MICRO,
        "grid": {"method": "list", "percentiles": [20, 50, 80], "values": [0.1, 1, 10]},
        "preferences": {"kind": "dataset", "source": {"dataset": "pairs.jsonl"}},
    }
    found = protocol(ours(context))["disclosures"]
    assert found["beta_derivation"]["n_pairs"] is None
    assert found["beta_derivation"]["reason"] == "these values of β are not derived from preference pairs"
    logging = found["logging_policy"]
    assert logging["written_by"] is logging["rated_by"] is None
    assert logging["settings"] == "/preferences"
    assert logging["reason"].startswith("only the dataset's own documentation says which models wrote")


def test_what_logs_do_not_tell_is_null_with_a_reason() -> None:
    record = check(analyzed(grid()))
    found = record["protocol"]["disclosures"]
    assert found["beta_derivation"]["method"] is found["beta_derivation"]["settings"] is None
    assert found["beta_derivation"]["betas"] == [0.5, 1, 2]
    assert found["hacking_threshold"]["standardised"]["n_positive"] == 12
    assert found["evaluation_seeds"]["seeds"] == [0, 1]
    assert found["evaluation_seeds"]["temperature"] is found["logging_policy"]["coverage"] is None
    for name in ("beta_derivation", "evaluation_seeds", "logging_policy"):
        assert found[name]["reason"].endswith("the runs were trained elsewhere and their logs do not record it")
    entropy = record["protocol"]["metrics"]["checkpoint_entropy"]["rows"][0]["checkpoint"]
    assert (entropy["mean"], entropy["n"]) == (None, 2)
    assert entropy["reason"] == "undefined in 2 of 2 seeds: not logged"


def test_a_gap_that_is_undefined_has_no_pointer_but_a_reason() -> None:
    row = protocol(analyzed(grid().drop(columns="reward_std")))["metrics"]["gap_series"]["rows"][0]
    assert row["standardised"] is None
    assert row["paper"] == "/conditions/0/series/gap_paper"
    assert row["reason"] == "the standard deviation of the proxy rewards at the start is not given"


def test_runs_of_ours_that_are_analysed_together_say_where_their_settings_are(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        results = ours(WHOLE)
        (tmp_path / name / "results.json").write_text(to_json(results))
        rows = [point("paper", beta, 0, step, 4.0 + beta * step, 5) for beta in (0.1, 1.0) for step in (0, 2)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = protocol(analyze_paths([tmp_path / "a", tmp_path / "b"], Options()).results)["disclosures"]
    assert found["beta_derivation"]["reason"].endswith("see the record of each")
    alone = protocol(analyze_paths([tmp_path / "a"], Options()).results)["disclosures"]
    assert alone["beta_derivation"]["n_pairs"] == 72
    assert alone["evaluation_seeds"]["temperature"] == 1.0


def test_an_unknown_beta_is_null_in_every_row_and_said_once() -> None:
    frame = grid()[lambda f: f["beta"] == 2.0].drop(columns="beta")
    found = check(analyzed(frame))["protocol"]
    assert found["missing"] == {"beta": "no column, name or option gives its β"}
    for name in ("gap_series", "augc", "diversity", "uq_gap_correlation"):
        assert {row["beta"] for row in found["metrics"][name]["rows"]} == {None}
    assert found["disclosures"]["beta_derivation"]["betas"] == []
