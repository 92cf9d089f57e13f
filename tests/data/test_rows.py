"""Malformed rows: counted, shown, and refused above the share that the user allows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betastar.data.sources import BadRow, Malformed, MissingColumn, Row, Rows, usable_rows
from betastar.errors import BetastarError


def given_rows(rows: Iterable[Any]) -> Rows:
    numbered = list(enumerate(rows, start=1))
    return Rows("set", "row", "", lambda: iter(numbered))


def number(row: Row) -> int | None:
    """The number of a row; negative ones are not wanted."""
    if "n" not in row:
        raise MissingColumn("n", row, "some.setting")
    if not isinstance(row["n"], int):
        raise BadRow("n is no number; write one")
    return row["n"] if row["n"] >= 0 else None


ROWS = [{"n": 0}, {"n": "x"}, {"n": -1}, {"n": 3}, BadRow("no object; write one"), {"m": 1}, {"n": 6}, {"n": "y"}]
FIRST = (
    "set, row 2: n is no number; write one",
    "set, row 5: no object; write one",
    "set, row 6: no column `n` (columns: m); correct some.setting",
)


def test_malformed_rows_below_the_share_are_left_out_and_the_first_three_kept() -> None:
    found = usable_rows(given_rows(ROWS), number, max_bad_share=0.5)  # 4 of 8 are malformed: not more than half
    assert found == ([0, 3, 6], 8, Malformed(4, 8, FIRST))
    assert str(found.malformed) == f"4 of 8 rows are malformed and skipped: {' | '.join(FIRST)}"
    assert found.malformed.record() == {"malformed_dropped": 4, "malformed_examples": list(FIRST)}


def test_more_than_the_share_is_refused_with_share_first_fault_and_remedy() -> None:
    with pytest.raises(BetastarError) as error:
        usable_rows(given_rows(ROWS), number, max_bad_share=0.49)
    assert str(error.value) == (
        "set, row 2: n is no number; write one, or raise data.max_bad_share from 0.49 to skip malformed rows (4 of 8, "
        "50 %, also row 5 and row 6)."
    )
    with pytest.raises(BetastarError, match=r"data.max_bad_share from 0 .* \(1 of 61, 1\.64 %\)\.$"):
        usable_rows(given_rows([{"n": 1}] * 60 + [{"n": "x"}]), number, max_bad_share=0)


def test_a_column_that_no_row_has_is_a_wrong_setting_and_no_share_excuses_it() -> None:
    with pytest.raises(BetastarError) as error:
        usable_rows(given_rows([{"a": 1, "b": 2}] * 3), number, max_bad_share=0.99)
    assert str(error.value) == "set: no column `n` (columns: a, b); correct some.setting."
    # One fault of another kind among them, and it is a share again.
    with pytest.raises(BetastarError, match=r"^set, row 1: no column `n`.* \(2 of 2, 100 %, also row 2\)\.$"):
        usable_rows(given_rows([{"a": 1}, {"n": "x"}]), number, max_bad_share=0.99)


def test_the_limit_counts_usable_rows_and_ends_the_reading() -> None:
    assert usable_rows(given_rows(ROWS), number, 0.5, limit=2) == ([0, 3], 4, Malformed(1, 4, FIRST[:1]))
    assert usable_rows(given_rows(ROWS), number, 0, limit=1) == ([0], 1, Malformed(0, 1))  # before the first fault


def test_no_rows() -> None:
    with pytest.raises(BetastarError, match=r"^set: the dataset is empty; give one with rows\.$"):
        usable_rows(given_rows([]), number, 0)


@given(st.lists(st.sampled_from([{"n": 1}, {"n": -1}, {"n": "x"}])), st.floats(0, 0.99))
def test_every_row_is_used_unwanted_or_malformed(rows: list[Row], share: float) -> None:
    bad = sum(row["n"] == "x" for row in rows)
    if not rows or bad > share * len(rows):
        with pytest.raises(BetastarError):
            usable_rows(given_rows(rows), number, share)
    else:
        found = usable_rows(given_rows(rows), number, share)
        assert (found.n_rows, found.malformed.n, found.malformed.of) == (len(rows), bad, len(rows))
        assert len(found.items) == sum(row["n"] == 1 for row in rows)


def test_two_counts_add_up() -> None:
    assert Malformed(2, 10, ("a", "b")).together(Malformed(4, 5, ("c", "d"))) == Malformed(6, 15, ("a", "b", "c"))
