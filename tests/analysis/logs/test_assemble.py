"""Logs to one table: what is guessed is said, what is told wins, and numbers are worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from betastar.analysis.logs.assemble import assemble
from betastar.analysis.logs.log import Log, Options
from betastar.errors import BetastarError

ROWS = {"step": [0, 10], "reward": [1.0, 2.0], "reward_std": [0.5, 0.6], "acc": [0.5, 0.25], "kl": [0.0, 0.125]}


def log(name: str = "beta-0.5-seed-1", record: Any = None, **columns: Any) -> Log:
    return Log(name, pd.DataFrame({**ROWS, **columns}), "CSV table", record)


def test_the_table_and_everything_that_was_guessed() -> None:
    found = assemble([log()], Options())
    assert found.frame.to_dict("list") == {
        "variant": ["logged"] * 2,
        "beta": [0.5] * 2,
        "seed": [1] * 2,
        "step": [0, 10],
        "proxy": [1, 2],
        "true_strict": [0.5, 0.25],
        "proxy_std": [0.5, 0.6],
        "kl": [0, 0.125],
    }
    assert found.notes == [
        'proxy = reward (guessed; proxy="COLUMN" changes it)',
        'true = acc (guessed; true="COLUMN" changes it)',
        'proxy_std = reward_std (guessed; columns={"NAME": "COLUMN"} changes one)',
        'kl is taken for nats per response, since nothing tells who wrote it (kl_per="response" or kl_per="token" '
        "changes it)",
        "the number of responses behind each true reward is not logged, and assumed large (set it with n=…)",
    ]
    assert found.runs == [
        {
            "name": "beta-0.5-seed-1",
            "kind": "CSV table",
            "variant": "logged",
            "beta": 0.5,
            "seed": 1,
            "points": 2,
            "columns": {"proxy": "reward", "true": "acc", "proxy_std": "reward_std", "kl": "kl"},
        }
    ]


def test_what_is_told_is_no_guess() -> None:
    told = {"proxy": "kl", "true": "acc", "step": "step", "proxy_std": "0.25", "uncertainty": "reward_std"}
    found = assemble([log()], Options(columns=told, beta=2.0, seed=7.0, n=8))
    assert found.frame["proxy"].tolist() == [0, 0.125]
    assert found.frame["proxy_std"].tolist() == [0.25, 0.25]
    assert found.frame["disagreement"].tolist() == [0.5, 0.6]
    assert found.frame[["beta", "seed", "n"]].drop_duplicates().to_numpy().tolist() == [[2, 7, 8]]
    assert found.notes == []


def test_percent_is_told_from_shares_over_all_runs_together() -> None:
    # The second run alone could be shares; with the first it is percent.
    logs = [log("beta-1", acc=[50.0, 25.0]), log("beta-2", acc=[1.0, 0.5])]
    found = assemble(logs, Options())
    assert found.frame["true_strict"].tolist() == [0.5, 0.25, 0.01, 0.005]
    assert 'true rewards go up to 50: read as percentages and divided by 100 (else true_unit="score")' in found.notes
    told = assemble(logs, Options(true_unit="score"))
    assert told.frame["true_strict"].tolist() == [50, 25, 1, 0.5]
    assert not any("percent" in note for note in told.notes)
    assert assemble([log(acc=[1.0, 0.5])], Options(true_unit="percent")).frame["true_strict"].tolist() == [0.01, 0.005]


def test_a_score_keeps_its_standard_deviation_and_a_share_has_its_own() -> None:
    score = assemble([log(acc=[-1.0, 2.0], acc_std=[3.0, 3.0])], Options())
    assert score.frame["true_std"].tolist() == [3, 3]
    said = 'true rewards go from -1 to 2: read as scores, not as shares of right answers (else true_unit="percent")'
    assert said in score.notes
    assert np.isnan(assemble([log(acc=[-1.0, 2.0])], Options()).frame["true_std"].to_numpy()).all()
    assert "true_std" not in assemble([log(acc_std=[0.5, 0.45])], Options()).frame
    # Of rewards of −1 and +1 with a mean inside [0, 1]: no share of right answers has that standard deviation.
    assert assemble([log(acc_std=[0.87, 0.97])], Options()).frame["true_std"].tolist() == [0.87, 0.97]
    assert "true_std" not in assemble([log(acc_std=[3.0, 3.0])], Options(true_unit="share")).frame
    # A column of that very name, as our monitor writes for partial credit, or one that is told, says: a score.
    partial = log(true_std=[3.0, 3.0])
    assert assemble([partial], Options()).frame["true_std"].tolist() == [3, 3]
    assert assemble([log()], Options(columns={"true_std": "0.25"})).frame["true_std"].tolist() == [0.25, 0.25]
    assert "true_std" not in assemble([partial], Options(true_unit="share")).frame
    with pytest.raises(BetastarError, match="true rewards go from -1 to 2, so they are not shares; use true_unit="):
        assemble([log(acc=[-1.0, 2.0])], Options(true_unit="share"))


def test_a_start_after_step_0_and_a_missing_spread_are_said() -> None:
    rows = pd.DataFrame({"step": [5, 10], "reward": [1.0, 2.0], "acc": [0.5, 0.25]})
    notes = assemble([Log("a", rows, "CSV table"), log("b", step=[8, 10])], Options()).notes
    assert "the earliest point, step 5 to 8, is used as the start, because no step 0 is logged" in notes
    alone = assemble([Log("a", rows, "CSV table")], Options()).notes
    assert (
        "the standard deviation of proxy rewards is not logged, so there is no standardised gap (set it with "
        'columns={"proxy_std": "COLUMN"}, or a number in place of the column)'
    ) in alone


def test_unknown_seeds_and_betas_are_said() -> None:
    notes = assemble([log("beta-1/a"), log("beta-1/b"), log("c")], Options()).notes
    assert "2 of 3 runs are without a seed; numbered from 0 (set it with seed=… or patterns=…)" in notes
    assert (
        "1 of 3 runs is without a known β, so the dependence of damage on β is unknown there (set it with beta=… or "
        "patterns=…)"
    ) in notes
    assert not any("β" in note for note in assemble([log("c")], Options()).notes)  # of one run, β is no question


def test_runs_with_different_columns_are_each_guessed() -> None:
    other = Log("beta-2-seed-1", pd.DataFrame({"step": [0, 1], "proxy": [1.0, 2.0], "true": [0.5, 0.4]}), "CSV table")
    notes = assemble([log(), other], Options()).notes
    assert 'proxy = reward (guessed in 1 of 2 runs; proxy="COLUMN" changes it)' in notes
    assert 'true = acc (guessed in 1 of 2 runs; true="COLUMN" changes it)' in notes
    assert not any(" = proxy" in note or " = true" in note for note in notes)  # a field's own name is no guess


def test_equal_sentences_are_said_once() -> None:
    logs = [log(f"beta-{beta}", step=[10, 0]) for beta in (1, 2, 3, 4)]
    sorting = "steps are out of order or repeat after a resume; they were sorted"
    assert f"every run: {sorting}" in assemble(logs, Options()).notes
    assert f"beta-1, beta-2, beta-3 and 1 more: {sorting}" in assemble([*logs, log("beta-5")], Options()).notes


def test_a_log_without_rewards_is_passed_over_where_another_has_them() -> None:
    useless = Log("samples.jsonl", pd.DataFrame({"step": [0, 1], "tokens": [3, 4]}), "JSON Lines")
    found = assemble([useless, log()], Options())
    assert len(found.frame) == 2
    assert found.notes[-1].startswith("skipped samples.jsonl: no column is recognised as the proxy reward")
    with pytest.raises(BetastarError, match=r"samples\.jsonl: no column is recognised .* The same holds for 1 more\."):
        assemble([useless, useless], Options())


def test_without_a_truth_anywhere_points_hold_the_rest() -> None:
    rows = pd.DataFrame({"step": [0, 10, 20], "reward": [1.0, 2.0, 3.0], "kl": [0.0, 0.1, 0.2]})
    blind = Log("blind", rows, "CSV table")
    found = assemble([blind], Options())
    assert found.frame["proxy"].tolist() == [1, 2, 3]
    assert found.frame["kl"].tolist() == [0, 0.1, 0.2]
    assert found.frame["true_strict"].isna().tolist() == [True] * 3
    assert any("nothing can be said about hacking" in note for note in found.notes)
    both = assemble([blind, log()], Options())
    assert len(both.runs) == 1
    assert both.notes[-1] == "skipped blind: no column is recognised as the true reward"


def test_runs_of_ours_keep_what_is_known_of_their_checkpoints() -> None:
    rows = {"variant": ["paper"] * 2, "beta": [0.5] * 2, "seed": [3] * 2}
    records = [
        {"conditions": [{"variant": "paper", "beta": 0.5, "seed": 3, "alignment": {"win_rate": rate}, "augc": 1}]}
        for rate in (0.25, 0.75)
    ]
    alone = assemble([log("x/a", records[0], **rows)], Options())
    assert alone.extras == {("paper", 0.5, 3): {"alignment": {"win_rate": 0.25}}}
    both = assemble([log("x/a", records[0], **rows), log("x/b", records[1], **rows)], Options())
    assert both.extras == {
        ("a: paper", 0.5, 3): {"alignment": {"win_rate": 0.25}},
        ("b: paper", 0.5, 3): {"alignment": {"win_rate": 0.75}},
    }


def test_faulty_options() -> None:
    with pytest.raises(BetastarError, match="'loss' is not a field"):
        assemble([log()], Options(columns={"loss": "reward"}))
    with pytest.raises(BetastarError, match="no numeric column 'rewrad' for proxy; did you mean reward"):
        assemble([log()], Options(columns={"proxy": "rewrad"}))
    with pytest.raises(BetastarError, match="name the group"):
        assemble([log()], Options(patterns=["beta"]))


def test_the_record_of_a_training_with_trl_keeps_to_the_schema(trained: dict[str, Any]) -> None:
    from analysis.records import check

    from betastar.analysis.analyze import analyze_paths

    options = Options(columns={"proxy": "eval_rewards/distinct/mean"}, n=8)
    record = check(analyze_paths([trained["grpo"].folder], options).results)
    assert [(r["beta"], r["seed"], r["n_points"]) for r in record["conditions"]] == [(0.04, 1, 3)]


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_a_training_with_trl(trained: dict[str, Any], name: str) -> None:
    """From what the trainer held in memory: its evaluations at steps 0, 2 and 4."""
    from betastar.analysis.logs.collect import collect

    folder, history = trained[name]
    frame = assemble(collect([folder]).logs, Options(columns={"proxy": "eval_rewards/distinct/mean"})).frame
    evaluated = [entry for entry in history if "eval_reward" in entry]
    for field, column in {
        "step": "step",
        "proxy": "eval_rewards/distinct/mean",
        "proxy_std": "eval_rewards/distinct/std",
        "true_strict": "eval_rewards/correct/mean",
        "response_entropy": "eval_entropy",
        "response_tokens": "eval_completions/mean_length",
        "at_limit": "eval_completions/clipped_ratio",
    }.items():
        assert frame[field].tolist() == [entry[column] for entry in evaluated], field
    # TRL logs a mean over tokens.
    assert frame["kl"].tolist() == [entry["eval_kl"] * entry["eval_completions/mean_length"] for entry in evaluated]
    assert frame[["beta", "seed"]].drop_duplicates().to_numpy().tolist() == [[0.04, 1]]
    # Of training batches instead, where every step has both: one told column of training, and the truth follows.
    frame = assemble(collect([folder]).logs, Options(columns={"proxy": "rewards/distinct/mean"})).frame
    logged = [entry for entry in history if "reward" in entry]
    assert frame["step"].tolist() == [1, 2, 3, 4]
    assert np.array_equal(frame["true_strict"], [entry["rewards/correct/mean"] for entry in logged])
