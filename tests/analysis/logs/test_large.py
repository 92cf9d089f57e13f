"""Large logs: the fast reader gives what the careful one does, and long series leave results.json without a loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import betastar
from betastar.analysis import conditions, results
from betastar.analysis.logs import tables
from betastar.analysis.logs.cells import numbers
from betastar.analysis.logs.collect import collect, read_file
from betastar.errors import BetastarError
from betastar.maths.statistics import seed_resamples
from betastar.record import series

ROWS = [
    {"step": 0, "reward": 1, "data": {"acc": 0.5}, "note": None, "a.b": "x", "inside": {"deep": {"kl": 0.25}}},
    {"step": 1, "reward": float("nan"), "data": {"acc": 0.25}, "text": "naïve", "messages": [{"role": "user"}]},
    {"step": 2, "reward": 2.5, "inside": {"deep": {"kl": 1}}, "huge": 10**20},
]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as large."""
    monkeypatch.setattr(tables, "LARGE", 0)
    for module in (series, conditions, results):
        monkeypatch.setattr(module, "MOST_IN_JSON", 10)


def lines(path: Path, rows: list[Any], end: str = "\n") -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + end)
    return path


def test_both_readers_of_json_lines_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lines(tmp_path / "a.jsonl", ROWS)
    (careful,) = read_file(path)
    monkeypatch.setattr(tables, "LARGE", 0)
    monkeypatch.setattr(tables, "_json_lines", lambda *_: pytest.fail("Arrow should have read this"))
    (fast,) = read_file(path)
    assert sorted(fast.rows) == sorted(careful.rows)
    assert {"acc", "a.b", "inside/deep/kl"} <= set(fast.rows)
    for name in careful.rows:
        assert numbers(fast.rows[name]).values == pytest.approx(numbers(careful.rows[name]).values, nan_ok=True), name
    assert fast.rows["text"].tolist()[1] == careful.rows["text"].tolist()[1] == "naïve"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"step": 0, "reward": 1, "reward": 2}\n{"step": 1}\n', r"the name 'reward' appears twice in a row"),
        ('{"step": 0}\nnothing\n{"step": 1}\n', "line 2: not a JSON object"),
        ('{"step": 0}\n[1]\n', "line 2: not a JSON object"),
    ],
)
def test_what_arrow_refuses_the_careful_reader_names(tmp_path: Path, small: None, text: str, said: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(BetastarError, match=said):
        read_file(tmp_path / "a.jsonl")


def test_mixed_types_and_an_unfinished_line_are_still_read(tmp_path: Path, small: None) -> None:
    (tmp_path / "a.jsonl").write_text('{"step": 0, "reward": "1,5"}\n{"step": 1, "reward": 2}\n{"step": 2, "rew')
    (log,) = read_file(tmp_path / "a.jsonl")
    assert log.rows["step"].tolist() == [0, 1]
    assert log.note == "line 3 is incomplete and skipped"


def runs(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    found = []
    for seed in (0, 1):
        table = pd.DataFrame({"step": range(12), "reward": rng.normal(size=12).cumsum(), "reward_std": 1.0, "n": 64})
        table["accuracy"] = rng.integers(0, 65, 12) / 64
        found.append(folder / f"beta-0.1-seed-{seed}.csv")
        table.to_csv(found[-1], index=False)
    return found


@pytest.mark.thorough
def test_series_in_a_table_are_the_series_in_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = runs(tmp_path)
    whole = betastar.analyze(paths, out=tmp_path / "whole")
    for module in (series, conditions, results):
        monkeypatch.setattr(module, "MOST_IN_JSON", 10)
    parted = betastar.analyze(paths, out=tmp_path / "parted")
    record = json.loads((tmp_path / "parted" / "results.json").read_text())
    assert record["points"] == {"file": "points.parquet", "rows": 24}
    assert all("series" not in condition for condition in record["conditions"])
    assert not (tmp_path / "parted" / "metrics.jsonl").exists()
    for found in (parted, betastar.load(tmp_path / "parted"), betastar.analyze(paths)):
        pd.testing.assert_frame_equal(found.points, whole.points)
        pd.testing.assert_frame_equal(found.conditions, whole.conditions)
    assert json.loads(parted.json) == record
    # Read again as a log, it gives the same points.
    again = betastar.analyze(tmp_path / "parted")
    assert again.points["gap_standardised"].tolist() == whole.points["gap_standardised"].tolist()
    # A small analysis in the same folder leaves no table of the large one behind.
    monkeypatch.undo()
    betastar.analyze(paths, out=tmp_path / "parted")
    assert not (tmp_path / "parted" / "points.parquet").exists()


@pytest.mark.parametrize("damage", ["gone", "torn", "other"])
@pytest.mark.thorough
def test_a_table_that_does_not_belong_to_its_record_is_refused(tmp_path: Path, small: None, damage: str) -> None:
    betastar.analyze(runs(tmp_path), out=tmp_path / "out")
    table = tmp_path / "out" / "points.parquet"
    if damage == "gone":
        table.unlink()
        (tmp_path / "out" / "metrics.jsonl").write_text("")
    elif damage == "torn":
        table.write_bytes(table.read_bytes()[:100])
    else:
        pd.read_parquet(table).iloc[:-1].to_parquet(table)
    with pytest.raises(BetastarError, match=r"points\.parquet: (cannot be read|does not belong to the record)"):
        betastar.load(tmp_path / "out")


def test_counts_of_resampled_seeds() -> None:
    drawn = seed_resamples(40, np.random.default_rng(0), 200)
    assert drawn.counts.shape == drawn.draws.shape
    assert (drawn.counts[3] == [(drawn.draws[3] == seed).sum() for seed in range(40)]).all()


def test_a_long_column_of_prompts_is_no_number_and_a_long_one_of_numbers_is() -> None:
    prose = pd.Series([f"What is {i} plus {i}?" for i in range(20_000)])
    assert np.isnan(numbers(prose).values).all()
    assert numbers(pd.Series([f"{i},5" for i in range(20_000)])).values[7] == 7.5
    assert numbers(pd.Series(["True", "False"] * 10_000)).values[:2].tolist() == [1, 0]


def test_the_names_of_collected_files(tmp_path: Path) -> None:
    assert collect(runs(tmp_path)).files[0].endswith("beta-0.1-seed-0.csv")


@pytest.mark.parametrize("steps", [3, 1])
def test_more_runs_than_the_limit_are_refused_until_it_is_raised(tmp_path: Path, steps: int) -> None:
    """A column taken for the seed, or a table of finished runs: neither is computed for hours unasked."""
    runs = [
        {"beta": 0.1 * (i + 1), "step": step, "reward": i + step, "accuracy": 0.5 + step / 10}
        for i in range(6)
        for step in range(steps)
    ]
    table = pd.DataFrame(runs)
    with pytest.raises(BetastarError) as error:
        betastar.analyze(table, max_runs=5)
    assert str(error.value) == (
        "frame: 6 runs are more than the limit of 5; check that beta=… and seed=… are what tells runs apart, analyse a "
        'part of them, or raise the limit with max_runs="6".'
    )
    assert len(betastar.analyze(table, max_runs=6).conditions) == 6
    for i, rows in table.groupby("beta"):
        rows.assign(step=range(len(rows))).to_json(tmp_path / f"beta-{i}.jsonl", orient="records", lines=True)
    with pytest.raises(BetastarError, match=r"^the logs: 6 runs are more than the limit of 5; check"):
        betastar.analyze(tmp_path, max_runs=5)
    with pytest.raises(BetastarError, match=r"^max_runs=0: not a whole number of at least 1; give one\.$"):
        betastar.analyze(table, max_runs=0)


def test_fifty_thousand_seeds_are_refused_at_once() -> None:
    table = pd.DataFrame({"seed": np.repeat(np.arange(50_000), 2), "step": np.tile([0, 1], 50_000)})
    with pytest.raises(BetastarError, match=r"^frame: 50000 runs are more than the limit of 2000; .*max_runs"):
        betastar.analyze(table.assign(beta=0.1, reward=1.0 * table["step"], accuracy=0.5))
