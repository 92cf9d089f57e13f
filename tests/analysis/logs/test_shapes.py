"""Files of every shape that tools write: JSON of any kind, long tables, consoles, a row per response."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from betastar.analysis.logs.assemble import Assembled, assemble
from betastar.analysis.logs.collect import collect
from betastar.analysis.logs.log import Options
from betastar.analysis.logs.responses import step_in
from betastar.errors import BetastarError
from betastar.record.responses import Grade

STEPS = [0, 10, 20]
ROWS = [{"step": s, "reward": s / 10, "accuracy": 0.5 - s / 100} for s in STEPS]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


def read(*paths: Path, **options: Any) -> Assembled:
    return assemble(collect(paths).logs, Options(**options))


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "value",
    [
        ROWS,
        COLUMNS,
        {"seed": 3, "history": ROWS},
        {"log_history": ROWS, "global_step": 20},
        {str(row["step"]): {k: v for k, v in row.items() if k != "step"} for row in ROWS},
        "".join(json.dumps(row) + "\n" for row in ROWS),
        [{"step": row["step"], "metrics": {k: row[k] for k in ("reward", "accuracy")}} for row in ROWS],
    ],
)
def test_json_of_every_shape(tmp_path: Path, value: Any) -> None:
    found = read(write(tmp_path / "run.json", value)).frame
    assert found["step"].tolist() == STEPS
    assert found["proxy"].tolist() == COLUMNS["reward"]
    assert found["true_strict"].tolist() == COLUMNS["accuracy"]


@pytest.mark.parametrize("value", [3, [], [1, 2], {"a": 1}, {"a": {"b": 2}}, "[" * 100_000])
def test_json_without_a_table_is_said(tmp_path: Path, value: Any) -> None:
    with pytest.raises(BetastarError, match=r"run\.json"):
        read(write(tmp_path / "run.json", value))


def test_lists_in_a_folder_are_logs_and_settings_are_not(tmp_path: Path) -> None:
    write(tmp_path / "beta-0.1.json", ROWS)
    write(tmp_path / "config.json", {"lr": 1})
    assert [run["beta"] for run in read(tmp_path).runs] == [0.1]


def test_a_long_table_is_a_run_for_each_of_its_runs(tmp_path: Path) -> None:
    rows = [
        {
            "run_id": f"{beta}{seed}",
            "run_name": f"grpo-b{beta}-s{seed}",
            "key": key,
            "value": row[key],
            "step": row["step"],
        }
        for beta in ("0.05", "0.5")
        for seed in (1, 2)
        for row in ROWS
        for key in ("reward", "accuracy")
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "history.csv", index=False)
    found = read(tmp_path / "history.csv")
    assert [(run["beta"], run["seed"], run["points"]) for run in found.runs] == [
        (0.05, 1, 3), (0.05, 2, 3), (0.5, 1, 3), (0.5, 2, 3),
    ]  # fmt: skip


def test_epochs_are_the_axis_where_no_step_is_logged(tmp_path: Path) -> None:
    rows = [{"epoch": row["step"] / 100, "reward": row["reward"], "accuracy": row["accuracy"]} for row in ROWS]
    found = read(write(tmp_path / "run.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert found.frame["step"].tolist() == [0, 100, 200]
    assert "no column counts steps, so steps are thousandths of an epoch (epoch)" in found.notes


@pytest.mark.parametrize(
    "name", ["current_steps", "system/step", "training_step", "progress/step", "trainer/global_step"]
)
def test_names_of_steps(tmp_path: Path, name: str) -> None:
    rows = [{name: row["step"], "reward": row["reward"], "accuracy": row["accuracy"]} for row in ROWS]
    assert read(write(tmp_path / "run.json", rows)).frame["step"].tolist() == STEPS


NEMO = """========================= Step {step}/20 =========================
▶ Preparing batch...
📊 Training Results:
  • Loss: 0.0121
  • Avg Reward: {reward}
📈 Validation Results:
  • Accuracy: {accuracy}
"""


def test_a_console_that_lists_metrics_below_their_step(tmp_path: Path) -> None:
    found = read(write(tmp_path / "run.log", "".join(NEMO.format(**row) for row in ROWS))).frame
    assert found[["step", "proxy", "true_strict"]].to_numpy().tolist() == [[0, 0, 0.5], [10, 1, 0.4], [20, 2, 0.3]]


@pytest.mark.parametrize("blocks", [False, True])
def test_dictionaries_between_progress_bars_have_their_steps(tmp_path: Path, blocks: bool) -> None:
    """A bar is drawn again for each dictionary; in a log where output was held back they come in blocks."""

    def bar(n: int, total: int = 30) -> str:
        return f"\r  7%|█   | {n}/{total} [00:26<7:22:33, 26.58s/it]"

    said = [str({"loss": 0.1, "reward": n / 10, "rewards/accuracy": 0.5 - n / 100}) for n in (10, 20, 30)]
    settings = "weights: {'test': 0.4}\n" + bar(4, 4) + "\n"
    drawn = [bar(n) + (bar(n) if n % 10 == 0 else "") for n in range(1, 31)]
    if blocks:
        text = settings + "".join(drawn[:25]) + "\n" + "\n".join(said[:2]) + "\n" + "".join(drawn[25:]) + "\n" + said[2]
    else:
        text = settings + "".join(
            d + (f"\n{said[(i // 10)]}\n" if (i + 1) % 10 == 0 else "") for i, d in enumerate(drawn)
        )
    found = read(write(tmp_path / "run.log", text)).frame
    assert found["step"].tolist() == [10, 20, 30]
    assert found["proxy"].tolist() == [1, 2, 3]


# A row per response.


def responses(steps: list[int], n: int = 4, answers: int = 2) -> pd.DataFrame:
    """At each step, `answers` to each of `n` problems; the proxy is step + problem + answer, right where even."""
    rows = [
        {"step": s, "prompt": f"What is {p} + 1?", "completion": f"It is {a}, of course.", "rm_score": s + p + a,
         "correct": (s + p + a) % 2 == 0}
        for s in steps for p in range(n) for a in range(answers)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_responses_become_means_and_never_the_last_one(tmp_path: Path) -> None:
    table = responses([0, 10, 20]).sample(frac=1, random_state=0)
    table.to_parquet(tmp_path / "completions.parquet")
    found = read(tmp_path / "completions.parquet")
    means: Any = table.groupby("step")
    assert found.frame["proxy"].tolist() == means["rm_score"].mean().tolist()
    assert found.frame["true_strict"].tolist() == means["correct"].mean().tolist()
    assert found.frame["proxy_std"].tolist() == pytest.approx(means["rm_score"].std().tolist())
    assert found.frame["n"].tolist() == [8, 8, 8]
    assert "rows are single responses, 8 at each of 3 steps; points are their means" in found.notes
    assert found.answers is not None
    assert len(found.answers) == len(table)
    assert found.answers.groupby(["step", "problem"]).size().tolist() == [2] * 12
    assert set(found.answers["answer"]) == {0, 1}


@pytest.mark.parametrize("by", ["file", "label"])
def test_checkpoints_in_files_of_their_own_are_one_run(tmp_path: Path, by: str) -> None:
    table = responses([0, 500]).rename(columns={"step": "at"})
    for step, name in ((0, "base"), (500, "step-500")):
        part = table[table["at"] == step].drop(columns="at")
        if by == "label":
            part = part.assign(label=name)
        file = f"samples-{name}.jsonl" if by == "file" else f"samples{step + 7}.jsonl"
        part.to_json(tmp_path / file, orient="records", lines=True)
    (run,) = (found := read(*sorted(tmp_path.iterdir()))).runs
    assert run["points"] == 2
    assert found.frame["step"].tolist() == [0, 500]
    assert found.frame["proxy"].tolist() == [2, 502]


NAMES = {
    "base": 0,
    "sft": 0,
    "step-500": 500,
    "checkpoint-40": 40,
    "global_step_120": 120,
    "iter=7": 7,
    "runs/a/rollouts/35.jsonl": 35,
    "step_00010.parquet": 10,
    "policy-final": None,
    "7B-model": None,
}


@pytest.mark.parametrize(("name", "step"), NAMES.items())
def test_steps_in_names(name: str, step: int | None) -> None:
    assert step_in(name) == step


def test_texts_are_graded_anew(tmp_path: Path) -> None:
    table = responses([0, 10]).assign(gold="1")
    table.to_parquet(tmp_path / "completions.parquet")

    def grade(text: str, gold: str) -> Grade:
        return Grade(f"It is {gold}," in text, True, True)

    found = read(tmp_path / "completions.parquet", grade=grade)
    assert found.frame["true_strict"].tolist() == [0.5, 0.5]
    assert found.frame["true_lenient"].tolist() == [1, 1]
    table.drop(columns="gold").to_parquet(tmp_path / "completions.parquet")
    with pytest.raises(BetastarError, match="has no gold answers to grade; name their column gold"):
        read(tmp_path / "completions.parquet", grade=grade)


def test_rows_of_a_step_without_texts_are_averaged(tmp_path: Path) -> None:
    rows = [{**row, "reward": row["reward"] + d} for row in ROWS for d in (-1, 0, 4)]
    found = read(write(tmp_path / "run.json", rows))
    np.testing.assert_allclose(found.frame["proxy"], [1, 2, 3])
    assert any("3 steps have several rows, which were averaged" in note for note in found.notes)


# What is no reward.


def test_equal_columns_are_one(tmp_path: Path) -> None:
    rows = [{**row, "mean_reward": row["reward"], "reward_mean": row["reward"]} for row in ROWS]
    found = read(write(tmp_path / "run.json", rows))
    assert found.runs[0]["columns"]["proxy"] == "reward"
    assert any("mean_reward and reward are equal wherever both are logged" in note for note in found.notes)
    with pytest.raises(BetastarError, match=r"reward, mean_reward could each be the proxy reward; name it with proxy="):
        read(write(tmp_path / "run.json", [{**row, "mean_reward": -row["reward"]} for row in ROWS]))


@pytest.mark.parametrize(
    "name", ["judge/latency_p50", "reward_time", "judge/calls", "rm_tokens", "reward/num", "gpu_rm_memory"]
)
def test_costs_and_counts_are_no_reward(tmp_path: Path, name: str) -> None:
    rows = [{"step": row["step"], name: row["reward"], "accuracy": row["accuracy"]} for row in ROWS]
    with pytest.raises(BetastarError, match="no column is recognised as the proxy reward"):
        read(write(tmp_path / "run.json", rows))


def test_trainers_on_pairs_and_on_texts_are_named(tmp_path: Path) -> None:
    pairs = [{**row, "rewards/chosen": 1, "rewards/accuracies": 0.5} for row in ROWS]
    with pytest.raises(BetastarError, match="comes from a trainer on preference pairs"):
        read(write(tmp_path / "run.json", pairs))
    factory = [{"current_steps": row["step"], "loss": 1, "accuracy": row["accuracy"]} for row in ROWS]
    with pytest.raises(BetastarError, match=r"a loss and an accuracy but no reward.*not a true reward"):
        read(write(tmp_path / "run.json", factory))
    texts = [{"step": row["step"], "loss": 1, "token_acc": row["accuracy"]} for row in ROWS]
    with pytest.raises(BetastarError, match="comes from supervised fine-tuning"):
        read(write(tmp_path / "run.json", texts))


def test_a_column_of_nan_is_named(tmp_path: Path) -> None:
    rows = [{**row, "accuracy": None} for row in ROWS]
    with pytest.raises(
        BetastarError, match="accuracy, the true reward by its name, is not a number in any of its rows"
    ):
        read(write(tmp_path / "run.json", rows))


@pytest.mark.parametrize(("high", "share"), [(0.9, 0.9), (1.07, 1.07), (5, 5), (72, 0.72)])
def test_a_score_above_1_is_no_percentage(tmp_path: Path, high: float, share: float) -> None:
    rows = [{**row, "accuracy": high - i / 10} for i, row in enumerate(ROWS)]
    assert read(write(tmp_path / "run.json", rows)).frame["true_strict"].tolist()[0] == pytest.approx(share)
