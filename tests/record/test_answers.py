"""The table of answers: a round trip, what is missing, and its shape by step, problem and answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from betastar.errors import BetastarError
from betastar.record.answers import COLUMNS, answer_rows, complete, grids, no_answers, read_answers, write_answers


def table() -> pd.DataFrame:
    """One condition, two steps, problems 7 and 9 with two answers each; the checkpoint evaluated twice."""
    rows = [
        {"step": step, "replicate": again, "problem": problem, "answer": answer, "proxy": value, "strict": value > 2}
        for (step, again), values in {
            (0, 0): ((0, 1), (2, 3)),
            (0, 1): ((4, 5), (6, 7)),
            (5, 0): ((8, 9), (10, 11)),
        }.items()
        for problem, pair in zip((7, 9), values, strict=True)
        for answer, value in enumerate(pair)
    ]
    return pd.DataFrame(rows).assign(variant="paper", beta=0.1, seed=0)


def test_round_trip(tmp_path: Path) -> None:
    shuffled = table().sample(frac=1, random_state=0)
    write_answers(tmp_path / "answers.parquet", shuffled)
    back = read_answers(tmp_path / "answers.parquet")
    pd.testing.assert_frame_equal(back, complete(shuffled))
    assert list(back) == [column.name for column in COLUMNS]
    assert np.isnan(back["lenient"].to_numpy()).all()


def test_grid() -> None:
    (key, grid), *others = grids(complete(table().sample(frac=1, random_state=1))).items()
    assert key == ("paper", 0.1, 0)
    assert not others
    assert grid.steps.tolist() == [0, 5]
    assert grid.problems == ["7", "9"]
    assert grid.proxy.tolist() == [[[0, 1], [2, 3]], [[8, 9], [10, 11]]]
    assert grid.strict[0].tolist() == [[0, 0], [0, 1]]
    assert np.isnan(grid.lenient).all()
    assert grid.again is not None
    assert grid.again[0].tolist() == [[4, 5], [6, 7]]


def test_a_problem_with_fewer_answers_leaves_nan() -> None:
    fewer = table().query("not (step == 5 and problem == 9 and answer == 1)")
    (grid,) = grids(complete(fewer)).values()
    assert np.isnan(grid.proxy).sum() == 1
    assert np.isnan(grid.proxy[1, 1, 1])


def test_faults_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "not.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(BetastarError, match=r"not\.parquet: not a readable Parquet file"):
        read_answers(tmp_path / "not.parquet")
    table().drop(columns="strict").to_parquet(tmp_path / "less.parquet")
    with pytest.raises(BetastarError, match="lacks the column strict; give"):
        read_answers(tmp_path / "less.parquet")


def test_parts_of_a_condition_become_rows_of_it() -> None:
    parts = [
        {"step": 0, "replicate": 1, "problem": ["7", "9"], "proxy": [0.5, 1.5], "strict": [1, 0]},
        {"step": 6, "problem": ["7"], "proxy": [2.5], "strict": [1]},
    ]
    rows = answer_rows(parts, beta=0.1, seed=3, variant="paper")
    assert list(rows) == list(no_answers()) == [column.name for column in COLUMNS]
    assert rows["step"].tolist() == [0, 0, 6]
    assert rows["replicate"].tolist() == [1, 1, 0]
    assert rows["proxy"].tolist() == [0.5, 1.5, 2.5]
    assert set(rows["variant"]) == {"paper"}
    assert len(no_answers()) == 0
