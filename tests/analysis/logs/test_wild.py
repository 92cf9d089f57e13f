"""Logs that other people's tools wrote, kept beside the repository; skipped where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from betastar.analysis.logs.assemble import Assembled, assemble
from betastar.analysis.logs.collect import collect
from betastar.analysis.logs.log import Options
from betastar.analysis.logs.truth import chosen_truth
from betastar.errors import BetastarError
from betastar.maths.answers import within_problem_auroc
from betastar.record.answers import complete, grids

LOGS = Path(__file__).resolve().parents[4] / "shared" / "logs"
pytestmark = pytest.mark.skipif(not LOGS.is_dir(), reason=f"the public logs are not there ({LOGS.name}/)")


def read(*names: str, **options: Any) -> Assembled:
    return assemble(collect([LOGS / name for name in names]).logs, Options(**options))


def columns(found: Assembled) -> tuple[str, str | None]:
    (read,) = {(run["columns"]["proxy"], run["columns"].get("true")) for run in found.runs}
    return read


def test_a_score_that_turns_over() -> None:
    found: Any = read("turnover.csv").frame
    best = found["true_strict"].to_numpy().argmax()
    assert found["step"][best] == 60
    assert np.sqrt(found["kl"][best]) == pytest.approx(1.64, abs=0.005)
    assert found["true_strict"].max() - found["true_strict"].iloc[-1] == pytest.approx(0.31, abs=0.005)


def test_single_responses_of_two_checkpoints() -> None:
    found = read("responses-base.jsonl", "responses-step-500.jsonl")
    assert columns(found) == ("rm_logit", "pred_ok")
    assert found.frame["step"].tolist() == [0, 500]
    assert found.frame["true_strict"].tolist() == [0.3175, 0.35]
    assert found.answers is not None
    (grid,) = grids(complete(found.answers.assign(beta=1.0))).values()
    auroc = [np.nanmean(within_problem_auroc(grid.proxy[i], grid.strict[i])) for i in (0, 1)]
    assert auroc == pytest.approx([0.787, 0.578], abs=0.005)


def test_rows_of_a_step_are_never_the_last_one() -> None:
    found = read("rollouts-one-row-per-response.jsonl").frame
    assert found["n"].tolist() == [128] * len(found)
    assert found["true_strict"].isna().tolist() == [True] * len(found)  # `ref_reward` is no truth unless it is named
    named = read("rollouts-one-row-per-response.jsonl", columns={"true": "ref_reward"}).frame
    assert named["true_strict"].notna().tolist() == [True] * len(named)


@pytest.mark.parametrize(
    ("name", "proxy", "true"),
    [
        ("grpo-learned-rm.jsonl", "reward_mean", "gold_acc"),
        ("trl-callback-duplicated-names.jsonl", "reward", "accuracy"),
        ("roll-judge-and-checker.jsonl", "reward/selected_mean", "reward/hard_pass_rate"),
    ],
)
def test_columns_are_found_without_a_flag(name: str, proxy: str, true: str) -> None:
    assert columns(read(name)) == (proxy, true)


def test_two_flags_name_what_names_do_not_tell() -> None:
    found = read("tinker", columns={"proxy": "reward/g", "true": "reward/f"})
    assert len(found.runs) == 4
    assert len(read("judge-overcredits.jsonl", columns={"proxy": "judge_asr", "true": "scorer_asr"}).runs) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("llamafactory-dpo-trainer_log.jsonl", "a loss and an accuracy but no reward"),
        ("ms-swift-step-as-text.jsonl", "comes from supervised fine-tuning"),
    ],
)
def test_what_is_no_online_training_is_named(name: str, said: str) -> None:
    with pytest.raises(BetastarError, match=said):
        read(name)


@pytest.mark.parametrize(
    "name", ["trl-console-no-truth.log", "trl-grpo-one-reward", "trajectories", "trl-console-7B.log"]
)
def test_without_a_truth_the_rest_is_read(name: str) -> None:
    found = read(name)
    assert not found.frame["proxy"].isna().to_numpy().any()
    assert any("nothing can be said about hacking" in note for note in found.notes)


def test_steps_of_a_console_are_those_of_its_progress_bar() -> None:
    assert read("trl-console-7B.log").frame["step"].tolist() == list(range(10, 141, 10))
    truth = chosen_truth(f"{LOGS / 'truth-measured-elsewhere.json'}:R1")
    assert set(truth.rows["n"]) == {164}
    assert truth.rows["value"].iloc[0] == pytest.approx(98 / 164)
