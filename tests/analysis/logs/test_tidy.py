"""Rows to evaluation points, every trouble of real logs with its numbers worked by hand."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from betastar.analysis.logs.assemble import evaluation_points, numeric
from betastar.errors import BetastarError

NAN = float("nan")
COLUMNS = {"proxy": "p", "true_strict": "t"}


def points(rows: Any, steps: tuple[str, ...] = ("step",), columns: dict[str, str] = COLUMNS, **how: Any) -> Any:
    return evaluation_points(numeric(pd.DataFrame(rows))[0], columns, steps, "run", **how)


def triples(found: Any) -> list[tuple[float, float, float]]:
    return list(found.table[["step", "proxy", "true_strict"]].itertuples(index=False, name=None))


def test_text_and_infinities_are_no_numbers() -> None:
    rows = pd.DataFrame(
        {
            "a": ["1.5", "nan", "two"],
            "b": [1, float("inf"), 3],
            "c": ["x", "y", "z"],
            "d": [True, False, True],
            "e": [NAN] * 3,
        }
    )
    found, _ = numeric(rows)
    assert list(found) == ["a", "b", "d"]
    np.testing.assert_array_equal(found["d"], [1, 0, 1])
    np.testing.assert_array_equal(found["a"], [1.5, NAN, NAN])
    np.testing.assert_array_equal(found["b"], [1, NAN, 3])


def test_clean_rows_come_through_as_they_are() -> None:
    found = points({"step": [0, 10, 20], "p": [1.0, 2.0, 3.0], "t": [0.5, 0.4, 0.3]})
    assert triples(found) == [(0, 1, 0.5), (10, 2, 0.4), (20, 3, 0.3)]
    assert found.notes == []


def test_unsorted_steps() -> None:
    found = points({"step": [20, 0, 10], "p": [3.0, 1.0, 2.0], "t": [0.3, 0.5, 0.4]})
    assert triples(found) == [(0, 1, 0.5), (10, 2, 0.4), (20, 3, 0.3)]
    assert found.notes == ["steps are out of order or repeat after a resume; they were sorted"]


def test_a_resume_writes_steps_again_and_the_last_counts() -> None:
    # Killed after step 3, resumed from a checkpoint at 1: steps 2 and 3 are there twice, once with a lost true reward.
    found = points(
        {
            "step": [0, 1, 2, 3, 2, 3, 4],
            "p": [1.0, 2.0, 3.0, 4.0, 30.0, 40.0, 50.0],
            "t": [0.5, 0.5, 0.4, 0.4, 0.3, NAN, 0.1],
        }
    )
    # Step 3 keeps the true reward 0.4 that was written first, for none was written after it.
    assert triples(found) == [(0, 1, 0.5), (1, 2, 0.5), (2, 30, 0.3), (3, 40, 0.4), (4, 50, 0.1)]
    assert any("2 values were written twice for the same step; the last one counts" in n for n in found.notes)


def test_nan_rows_are_left_out_and_counted() -> None:
    found = points({"step": [0, 1, 2, 3, 4], "p": [1.0, 2.0, NAN, 4.0, 5.0], "t": [0.5, NAN, 0.4, 0.3, 0.2]})
    assert triples(found) == [(0, 1, 0.5), (3, 4, 0.3), (4, 5, 0.2)]
    assert found.notes == ["2 steps have only one of the two rewards and are skipped"]


def test_a_proxy_of_every_step_is_averaged_between_evaluations() -> None:
    found = points(
        {"step": [0, 1, 2, 3, 4, 5], "p": [1.0, 2.0, 4.0, 6.0, 8.0, 99.0], "t": [0.5, NAN, 0.4, NAN, 0.2, NAN]}
    )
    # (0, 2]: (2 + 4)/2 = 3. (2, 4]: (6 + 8)/2 = 7. Step 5 is after the last evaluation.
    assert triples(found) == [(0, 1, 0.5), (2, 3, 0.4), (4, 7, 0.2)]
    assert found.notes == [
        "the proxy is logged at 6 steps and the true reward at 3; at each of the latter, the proxy is its mean "
        "since the previous one"
    ]


def test_an_evaluation_before_training_takes_the_first_batch_which_the_same_policy_answered() -> None:
    found = points({"step": [0, 1, 2, 3, 4], "p": [NAN, 2.0, 4.0, 6.0, 8.0], "t": [0.5, NAN, 0.4, NAN, NAN]})
    assert triples(found) == [(0, 2, 0.5), (2, 3, 0.4)]
    # Nothing before the second evaluation: nothing is put in its place.
    p = [NAN, NAN, 4.0, 6.0, 8.0, 9.0, 9.0, 9.0]
    t = [0.5, NAN, 0.4, NAN, 0.3, NAN, NAN, NAN]
    found = points({"step": range(8), "p": p, "t": t})
    assert triples(found) == [(2, 4, 0.4), (4, 7, 0.3)]
    assert found.notes[-1] == "1 of them have nothing to average and are skipped"


def test_a_true_reward_of_every_step_is_averaged_where_the_proxy_is_rarer() -> None:
    found = points({"step": [0, 1, 2, 3, 4], "p": [1.0, NAN, NAN, NAN, 5.0], "t": [0.5, 0.4, 0.3, 0.2, 0.1]})
    # (0, 4]: (0.4 + 0.3 + 0.2 + 0.1)/4 = 0.25.
    assert triples(found) == [(0, 1, 0.5), (4, 5, pytest.approx(0.25))]
    assert found.notes[0].startswith("the true reward is logged at 5 steps and the proxy at 2")


def test_other_quantities_follow_the_same_rule() -> None:
    rows = {
        "step": [0, 1, 2, 3, 4],
        "p": [1.0, NAN, 2.0, NAN, 3.0],
        "t": [0.5, NAN, 0.4, NAN, 0.3],
        "kl": [NAN, 1.0, NAN, NAN, 3.0],
        "length": [10.0, 20.0, 30.0, 40.0, 50.0],
    }
    table = points(rows, columns={**COLUMNS, "kl": "kl", "response_tokens": "length"}).table
    # kl has 2 values for 3 points: as it stands. length has 5: not twice as many, as it stands.
    np.testing.assert_array_equal(table["kl"], [NAN, NAN, 3.0])
    np.testing.assert_array_equal(table["response_tokens"], [10, 30, 50])


def test_steps_in_two_columns_or_in_none() -> None:
    rows = {
        "train/global_step": [1, NAN, 2, NAN],
        "eval/global_step": [NAN, 1, NAN, 2],
        "p": [1.0, NAN, 2.0, NAN],
        "t": [NAN, 0.5, NAN, 0.4],
    }
    assert triples(points(rows, ("train/global_step", "eval/global_step"))) == [(1, 1, 0.5), (2, 2, 0.4)]
    found = points({"p": [1.0, 2.0], "t": [0.5, 0.4]}, ())
    assert triples(found) == [(1, 1, 0.5), (2, 2, 0.4)]
    assert found.notes == ['no column counts steps, so rows are numbered from 1 (step="COLUMN" names a column)']


def test_rows_without_a_step_and_steps_past_the_last_that_counts() -> None:
    rows = {"step": [0, NAN, 10, 20], "p": [1.0, 9.0, 2.0, 3.0], "t": [0.5, 0.9, 0.4, 0.3]}
    found = points(rows, until=10)
    assert triples(found) == [(0, 1, 0.5), (10, 2, 0.4)]
    assert found.notes == ["1 rows without a step are skipped"]


def test_what_cannot_be_analysed_is_said() -> None:
    with pytest.raises(BetastarError, match="run: a gap needs two points with both rewards, but there is 1"):
        points({"step": [0], "p": [1.0], "t": [0.5]})
    with pytest.raises(BetastarError, match="there are 0"):
        points({"step": [0, 1], "p": [1.0, NAN], "t": [NAN, 0.5]})
    with pytest.raises(BetastarError, match="run: epoch is not a whole number in every row; name the step with step="):
        points({"epoch": [0.5, 1.0], "p": [1.0, 2.0], "t": [0.5, 0.4]}, ("epoch",))


def _last_means(rows: list[tuple[int, float]]) -> dict[int, float]:
    """Rows of a step in succession are averaged, and a later such group overwrites an earlier one."""
    groups = [(step, [value for _, value in group]) for step, group in groupby(rows, key=lambda row: row[0])]
    return {step: sum(values) / len(values) for step, values in groups}


VALUES = st.one_of(st.just(NAN), st.floats(-10, 10))
ROWS = st.lists(st.tuples(st.integers(0, 12), VALUES, VALUES), min_size=1, max_size=40)


@given(ROWS)
def test_it_agrees_with_a_plain_loop(rows: list[tuple[int, float, float]]) -> None:
    proxy, true = (_last_means([(row[0], row[i]) for row in rows if row[i] == row[i]]) for i in (1, 2))
    rare, dense = (proxy, true) if len(proxy) < len(true) else (true, proxy)
    grid, expected = sorted(rare), []
    for i, step in enumerate(grid):
        inside = [dense[step]] if step in dense else []
        if len(dense) >= 2 * len(rare):
            inside = [dense[s] for s in dense if (i == 0 or s > grid[i - 1]) and s <= step]
            if i == 0 and not inside and len(grid) > 1:
                inside = [dense[s] for s in sorted(dense) if s < grid[1]][:1]
        if inside:
            pair = (rare[step], sum(inside) / len(inside))
            expected.append((step, *(pytest.approx(value) for value in (pair if rare is proxy else pair[::-1]))))
    if proxy and true and len(expected) > 1:
        assert triples(points(pd.DataFrame(rows, columns=["step", "p", "t"]))) == expected


@given(st.lists(st.tuples(VALUES, VALUES), min_size=3, max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter_where_no_step_repeats(
    values: list[tuple[float, float]], random: Any
) -> None:
    rows = [(i, *pair) for i, pair in enumerate(values)]
    shuffled = random.sample(rows, len(rows))
    results = []
    for order in (rows, shuffled):
        try:
            results.append(triples(points(pd.DataFrame(order, columns=["step", "p", "t"]))))
        except (BetastarError, KeyError) as error:
            results.append(str(error))
    assert results[0] == results[1]
