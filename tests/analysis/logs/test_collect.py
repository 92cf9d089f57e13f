"""Which files in a folder are runs, and what is passed over."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from analysis.test_results import point

from betastar.analysis.logs.collect import collect
from betastar.analysis.results import build_results
from betastar.errors import BetastarError
from betastar.record.files import to_json

TABLE = pd.DataFrame({"step": [0, 1], "reward": [1.0, 2.0], "acc": [0.5, 0.4]})


def seen(*paths: Path) -> list[tuple[str, str]]:
    collected = collect(paths)
    return [(Path(log.name).name, log.kind) for log in collected.logs]


def run_directory(folder: Path, **more: Any) -> None:
    folder.mkdir(parents=True)
    TABLE.to_json(folder / "metrics.jsonl", orient="records", lines=True)
    rows = [point("paper", 1.0, 0, step, 4.0, 5) for step in (0, 2)]
    (folder / "results.json").write_text(to_json(build_results(rows, {}, {"name": "x", **more})))


def test_a_trainers_output_counts_once_and_by_its_longest_history(trained: dict[str, Any]) -> None:
    """The GRPO run has checkpoints with states, and TensorBoard events of the same numbers."""
    folder = trained["grpo"].folder
    assert list(folder.rglob("*tfevents*"))
    collected = collect([folder.parent])
    assert [(Path(log.name).name, log.kind) for log in collected.logs] == [
        ("grpo-beta-0.04-seed-1", "Transformers/TRL trainer state"),
        ("rloo-beta-0.04-seed-1", "Transformers/TRL trainer state"),
    ]
    assert [Path(file).parent.name for file in collected.files] == ["checkpoint-4", "checkpoint-4"]
    # The files themselves, and a checkpoint alone, can be named.
    state = folder / "checkpoint-2" / "trainer_state.json"
    assert seen(state, folder / "checkpoint-2", folder / "runs") == [
        ("trainer_state.json", "Transformers/TRL trainer state"),
        ("checkpoint-2", "Transformers/TRL trainer state"),
        (next((folder / "runs").iterdir()).name, "TensorBoard events"),
    ]


def test_every_kind_in_one_folder(tmp_path: Path, trained: dict[str, Any]) -> None:
    TABLE.to_csv(tmp_path / "a.csv", index=False)
    TABLE.to_csv(tmp_path / "b.tsv", index=False, sep="\t")
    TABLE.to_json(tmp_path / "c.jsonl", orient="records", lines=True)
    TABLE.to_parquet(tmp_path / "d.parquet")
    (tmp_path / "e.log").write_text("step:0 - critic/score/mean:1.0\n")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / ".hidden").mkdir()
    TABLE.to_csv(tmp_path / ".hidden" / "no.csv", index=False)
    run_directory(tmp_path / "ours")
    shutil.copytree(next((trained["grpo"].folder / "runs").iterdir()), tmp_path / "zboard")
    assert seen(tmp_path) == [
        ("a.csv", "CSV table"),
        ("b.tsv", "CSV table"),
        ("c.jsonl", "JSON Lines"),
        ("d.parquet", "Parquet table"),
        ("e.log", "verl console log"),
        ("ours", "betastar run"),
        ("zboard", "TensorBoard events"),
    ]


def test_an_earlier_analysis_is_not_read_again_unless_named(tmp_path: Path) -> None:
    run_directory(tmp_path / "run")
    run_directory(tmp_path / "analysis", source={"files": ["run"], "runs": [], "notes": []})
    assert seen(tmp_path) == [("run", "betastar run")]
    assert seen(tmp_path / "analysis") == [("analysis", "betastar run")]


def test_a_link_to_a_folder_above_is_no_endless_tree(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "a.csv", index=False)
    os.symlink(tmp_path, tmp_path / "loop")
    assert seen(tmp_path) == [("a.csv", "CSV table")]


def test_the_charts_of_one_weights_and_biases_run_are_one_log(tmp_path: Path) -> None:
    for metric, values in (("reward", (1.0, 2.0)), ("acc", (0.5, 0.4))):
        pd.DataFrame({"Step": [0, 1], **{f"{run} - {metric}": values for run in ("beta-1", "beta-2")}}).to_csv(
            tmp_path / f"wandb_{metric}.csv", index=False
        )
    collected = collect([tmp_path])
    assert [log.name for log in collected.logs] == ["beta-1", "beta-2"]
    assert list(collected.logs[0].rows.columns) == ["Step", "acc", "reward"]
    assert len(collected.logs[0].rows) == 4


def test_in_a_folder_the_unreadable_is_passed_over_and_a_named_file_is_an_error(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "notes.txt").write_text("to do\n")
    (tmp_path / "none.jsonl").write_text("")
    collected = collect([tmp_path])
    assert [log.name for log in collected.logs] == [(tmp_path / "a.csv").as_posix()]
    assert len(collected.notes) == 2
    assert "none.jsonl: it has no rows" in collected.notes[0]
    assert "notes.txt: no line is a verl step" in collected.notes[1]
    with pytest.raises(BetastarError, match=r"notes\.txt: no line is"):
        collect([tmp_path / "notes.txt"])
    for i in range(9):
        (tmp_path / f"more{i}.txt").write_text("to do\n")
    assert collect([tmp_path]).notes[-1] == "… and 6 more of this kind"


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(BetastarError, match="missing does not exist; check the path"):
        collect([tmp_path / "missing"])
    (tmp_path / "weights.bin").write_bytes(b"0")
    with pytest.raises(BetastarError, match="no training log found; give a file or folder in a supported format"):
        collect([tmp_path])
    (tmp_path / "a.txt").write_text("x\n")
    with pytest.raises(BetastarError, match=r"nothing could be read: skipped .*a\.txt"):
        collect([tmp_path])
    (tmp_path / "results.json").write_text("{")
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(BetastarError, match=r"results\.json is damaged"):
        collect([tmp_path])
