"""Numbers and texts as spreadsheets, trackers and trainers write them."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from betastar.analysis.logs.cells import numbers, with_points
from betastar.analysis.logs.text import bare_suffix, read_bytes, read_text
from betastar.errors import BetastarError

NAN = float("nan")


@pytest.mark.parametrize(
    ("cells", "values", "how"),
    [
        ([1, 2.5, None], [1, 2.5, NAN], None),
        (["1.5", " 2 ", "nan", ""], [1.5, 2, NAN, NAN], None),
        (["0", "1,000", "12,345.5"], [0, 1000, 12345.5], "thousands separated by commas"),
        (["0", "0,265", "1,5"], [0, 0.265, 1.5], "decimal commas"),
        (["58 %", "61.5%", None], [0.58, 0.615, NAN], "percent signs, divided by 100"),
        (["58,5 %", "61,5 %"], [0.585, 0.615], "percent signs, divided by 100"),
        (["0/438", "10/438", "20/438"], [0, 10, 20], "a count and its total"),
        (["np.float64(0.3)", "np.int64(-2)", "0.5"], [0.3, -2, 0.5], "NumPy numbers"),
        (["True", "false", "TRUE"], [1, 0, 1], "truth values"),
        ([True, False], [1, 0], None),
        (["a", "b"], [NAN, NAN], None),
        (["1", "two"], [1, NAN], None),
        ([float("inf"), 3.0], [NAN, 3], None),
        (["2026-11-26", "2026-11-27"], [NAN, NAN], None),
    ],
)
def test_numbers(cells: list[Any], values: list[float], how: str | None) -> None:
    found = numbers(pd.Series(cells))
    np.testing.assert_array_equal(found.values, values)
    assert found.how == how


def test_dates_are_no_numbers() -> None:
    assert np.isnan(numbers(pd.to_datetime(pd.Series(["2026-11-26", "2026-11-27"]))).values).all()


def test_the_rows_of_a_filtered_table_keep_their_places() -> None:
    column = pd.Series(["1,000", "x", "2,000", None], index=[7, 3, 9, 1])
    assert np.isnan(numbers(column).values).all()
    np.testing.assert_array_equal(numbers(column.drop(3)).values, [1000, 2000, NAN])


def test_decimal_commas_where_the_separator_is_another() -> None:
    # With commas between cells "58,595" is thousands; between semicolons it is a decimal.
    assert with_points(pd.Series(["58,595", "61,483"])).tolist() == ["58.595", "61.483"]
    assert with_points(pd.Series(["a,b", "c"])).tolist() == ["a,b", "c"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = "Schritt;Prüfung\n1;2\n" * 3
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    assert read_text(tmp_path / "a.csv") == text


def test_packed_files(tmp_path: Path) -> None:
    text = b'{"step": 1}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text))
    (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(text))
    (tmp_path / "a.jsonl.zst").write_bytes(pa.compress(text, codec="zstd", asbytes=True))
    for suffix in ("gz", "bz2", "zst"):
        path = tmp_path / f"a.jsonl.{suffix}"
        assert bare_suffix(path.name) == ".jsonl"
        assert read_bytes(path) == text


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    for name, said in (("pipe.jsonl", "not a regular file"), ("cut.jsonl.gz", "cannot be read")):
        with pytest.raises(BetastarError, match=said):
            read_bytes(tmp_path / name)
    with pytest.raises(BetastarError, match="not a regular file"):
        read_bytes(Path("/dev/zero"))


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blank.jsonl.gz").write_bytes(gzip.compress(b" " * 2_000_000))
    with pytest.raises(BetastarError, match=r"blank\.jsonl\.gz: holds more than 0\.001 GB; give a part of it"):
        read_bytes(tmp_path / "blank.jsonl.gz", most=1_000_000)
