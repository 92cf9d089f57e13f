"""CSV, Weights & Biases exports, JSON Lines and Parquet; the tables are written by the tools that write them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from betastar.analysis.logs.tables import read_csv, read_json, read_parquet
from betastar.errors import BetastarError

TABLE = pd.DataFrame({"step": [0, 1, 2], "my, reward": [0.5, float("nan"), -1.5], "name": ["a", "b", "c"]})


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_with_any_usual_separator(tmp_path: Path, separator: str, encoding: str) -> None:
    table = TABLE.rename(columns={"my, reward": "reward"})
    table.to_csv(tmp_path / "run.csv", index=False, sep=separator, encoding=encoding)
    (log,) = read_csv(tmp_path / "run.csv", "run")
    pd.testing.assert_frame_equal(log.rows, table)


def test_csv_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n3,4,5\n")
    (tmp_path / "empty.csv").write_bytes(b"")
    for name in ("bad.csv", "empty.csv"):
        with pytest.raises(BetastarError, match=f"{name}: not a readable CSV file"):
            read_csv(tmp_path / name, name)


def test_parquet(tmp_path: Path) -> None:
    TABLE.to_parquet(tmp_path / "run.parquet")
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "run.parquet", "run")[0].rows, TABLE)
    (tmp_path / "bad.parquet").write_text("no parquet")
    with pytest.raises(BetastarError, match=r"bad\.parquet: not a readable Parquet file"):
        read_parquet(tmp_path / "bad.parquet", "bad")


def test_weights_and_biases_export_has_one_log_per_run(tmp_path: Path) -> None:
    """The layout of "Export CSV" of a chart: Step, and for every run METRIC, METRIC__MIN, METRIC__MAX."""
    (tmp_path / "wandb_export.csv").write_text(
        '"Step","beta-0.1 - seed 3 - train/reward","beta-0.1 - seed 3 - train/reward__MIN",'
        '"beta-0.1 - seed 3 - train/reward__MAX","other - train/reward","other - _step"\n'
        '"0","0.5","0.4","0.6","","0"\n"10","1.5","1.4","1.6","2.5","10"\n'
    )
    logs = read_csv(tmp_path / "wandb_export.csv", "wandb_export.csv")
    assert [log.name for log in logs] == ["beta-0.1 - seed 3", "other"]
    assert logs[0].rows.to_dict("list") == {"Step": [0, 10], "train/reward": [0.5, 1.5]}
    assert list(logs[1].rows.columns) == ["Step", "train/reward"]


def test_a_table_with_dashes_in_one_name_is_no_export(tmp_path: Path) -> None:
    pd.DataFrame({"step": [0, 1], "reward": [1, 2], "acc - strict": [0, 1]}).to_csv(tmp_path / "t.csv", index=False)
    (log,) = read_csv(tmp_path / "t.csv", "t")
    assert list(log.rows.columns) == ["step", "reward", "acc - strict"]


def test_json_lines_of_verl(tmp_path: Path) -> None:
    """verl's file logger (verl/utils/tracking.py, `FileLogger`) writes {"step": …, "data": {…}}."""
    path = tmp_path / "gsm8k.jsonl"
    records = [
        {"step": 0, "data": {"val-core/gsm8k/acc/mean@1": 0.5}},
        {"step": 1, "data": {"critic/score/mean": 0.25, "extra": {"deep": 1}}},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + "\n")
    log = read_json(path, "x")[0]
    assert [row.dropna().to_dict() for _, row in log.rows.iterrows()] == [
        {"step": 0, "val-core/gsm8k/acc/mean@1": 0.5},
        {"step": 1, "critic/score/mean": 0.25, "extra/deep": 1},
    ]
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    pd.testing.assert_frame_equal(read_json(tmp_path / "packed.jsonl.gz", "x")[0].rows, log.rows)


def test_json_lines_of_a_killed_run(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text('{"step": 0, "reward": NaN}\n{"step": 1, "reward": 2}\n{"step": 2, "rew')
    log = read_json(path, "x")[0]
    assert log.rows["step"].tolist() == [0, 1]
    assert log.note == "line 3 is incomplete and skipped"


@pytest.mark.parametrize("text", ['{"step": 0}\n[1]\n{"step": 2}\n', "nothing\n", '{"step": 0}\n{"step": 1, "rew\n'])
def test_json_lines_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(BetastarError, match=r"bad\.jsonl, line \d: not a JSON object"):
        read_json(tmp_path / "bad.jsonl", "x")


def test_gzip_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl.gz").write_bytes(b"plain")
    with pytest.raises(BetastarError, match="cannot be read"):
        read_json(tmp_path / "bad.jsonl.gz", "x")
