"""Opening datasets on disk: the same rows from every kind of file, and the sentence that each fault gives."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from betastar.data.sources import READERS, BadRow, Rows, open_rows
from betastar.errors import BetastarError
from betastar.settings.sections import FILE_ENDINGS, DatasetSource

ROWS = [{"question": "1 + 1?", "answer": "#### 2"}, {"question": 'say "a,\nb"', "answer": "ä🦆"}]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_gzip(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], Any]] = {
    ".jsonl": write_jsonl,
    ".jsonl.gz": write_gzip,
    ".json": lambda path, rows: path.write_text(json.dumps(rows)),
    ".csv": lambda path, rows: pd.DataFrame(rows).to_csv(path, index=False),
    ".parquet": lambda path, rows: pd.DataFrame(rows).to_parquet(path),
}


def opened(path: Path, **settings: Any) -> Rows:
    return open_rows(DatasetSource(dataset=str(path), **settings), "task.train")


def refusal(path: Path | str, **settings: Any) -> str:
    with pytest.raises(BetastarError) as error:
        list(open_rows(DatasetSource(dataset=str(path), **settings), "task.train").read())
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("ending", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"Rows.V1{ending}"
    WRITERS[ending](path, ROWS)
    rows = opened(path)
    assert [row for _, row in rows.read()] == ROWS
    assert [row for _, row in rows.read()] == ROWS  # and again
    assert rows.name == str(path)


def test_all_kinds_are_tested_and_known_to_the_settings() -> None:
    assert set(WRITERS) == set(READERS) == set(FILE_ENDINGS)


def test_numbers_are_those_an_editor_shows(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "rows.csv").write_text('a,b\n1,"two\nlines"\n\n3,4\n5\n')
    WRITERS[".parquet"](tmp_path / "rows.parquet", ROWS)
    lines = opened(tmp_path / "rows.csv")
    (_, first), (_, second), (_, fault) = lines.read()
    assert [number for number, _ in lines.read()] == [3, 5, 6]  # the line on which a row ends
    assert (first, second) == ({"a": "1", "b": "two\nlines"}, {"a": "3", "b": "4"})
    assert isinstance(fault, BadRow)
    assert str(fault) == "1 fields under 2 columns; quote fields with commas"
    assert (lines.unit, opened(tmp_path / "rows.jsonl").unit) == ("line", "line")
    assert [number for number, _ in opened(tmp_path / "rows.parquet").read()] == [1, 2]


def test_json_may_be_a_list_or_lines_and_its_rows_meet_the_checks_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('\ufeff {"a": 1}\n\n{"a": 2}\n', encoding="utf-8")
    assert list(opened(path).read()) == [(1, {"a": 1}), (2, {"a": 2})]
    path.write_text('[{"a": 1}, 3, {"a": "\\ud800"}]')
    (_, row), (_, number), (_, half) = opened(path).read()
    assert row == {"a": 1}
    assert str(number) == "a number instead of a JSON object; put objects such as {...} into the list"
    assert str(half).startswith("an unpaired \\uD800 surrogate escape")
    for text in ("3", "[1", '"a"'):
        path.write_text(text)
        assert refusal(path).startswith(f"{path}: not a list of JSON objects (")


def test_messages_come_out_of_parquet_as_out_of_json(tmp_path: Path) -> None:
    rows = [{"chosen": [{"role": "user", "content": "hi"}], "choices": {"text": ["a", "b"], "label": ["A", "B"]}}]
    for ending in (".jsonl", ".parquet"):
        WRITERS[ending](tmp_path / f"rows{ending}", rows)
    assert list(opened(tmp_path / "rows.parquet").read()) == list(opened(tmp_path / "rows.jsonl").read())


def test_csv_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for text in ("", "\n", "a,a\n1,2\n"):
        path.write_text(text)
        assert refusal(path) == f"{path}: the first line must name the columns, each once; correct the file."
    path.write_text('a,b\n1,2\n"3,4\n')
    assert refusal(path).startswith(f"{path}, after line 2: not valid CSV (unexpected end of data)")
    path.write_bytes(b"a,b\n1,\xff\n")
    assert "not UTF-8 text" in refusal(path)
    path.write_text("a\n" + "x" * 200_000 + "\n")  # longer than the csv module's own limit
    assert [len(row["a"]) for _, row in opened(path).read() if isinstance(row, dict)] == [200_000]


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 no such thing PAR1")
    assert refusal(path).startswith(f"{path}, after row 0: not a readable Parquet file (")


def test_what_is_not_there_or_of_another_kind_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert refusal("notes.txt") == (
        "notes.txt: unknown file type; give one of .jsonl, .jsonl.gz, .json, .csv, .parquet in task.train."
    )
    for name in ("none.jsonl", "a/b/c", "./x", "data/none.csv"):
        where = f"(relative paths start at {tmp_path})"
        assert refusal(name) == f"{Path(name)}: no such file; correct task.train {where}."
    monkeypatch.setenv("HOME", str(tmp_path))
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    assert len(list(open_rows(DatasetSource(dataset="~/rows.jsonl"), "task.train").read())) == 2


def test_a_file_has_no_split_and_a_folder_no_revision(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name, split and revision belong to hub datasets; remove them when"):
        DatasetSource(dataset="rows.jsonl", split="test")
    assert refusal(tmp_path, revision="main").endswith("is a folder, which has no revisions; remove revision.")


def test_a_folder_laid_out_like_a_hub_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cloned dataset: configurations and splits come from its README; another split, another content."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "sums"
    (folder / "main").mkdir(parents=True)
    write_jsonl(folder / "main" / "train.jsonl", ROWS)
    write_jsonl(folder / "main" / "test.jsonl", ROWS[:1])
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: train, path: main/train.jsonl}\n"
        "  - {split: test, path: main/test.jsonl}\n---\n"
    )
    train, test = opened(folder, name="main"), opened(folder, name="main", split="test")
    assert [row for _, row in train.read()] == ROWS
    assert [row for _, row in test.read()] == ROWS[:1]
    assert test.name == f"{folder} (main, test)"
    assert refusal(folder, split="dev").endswith("has no split dev; set task.train.split to one of train, test.")
    assert refusal(folder, name="x").endswith("has no configuration x; set task.train.name to one of main.")
    (folder / ".hidden").write_text("not data")
    assert opened(folder, name="main").digest == train.digest
    write_jsonl(folder / "main" / "test.jsonl", ROWS)
    assert opened(folder, name="main").digest != train.digest


def test_the_digest_follows_the_content_not_the_name_or_date(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_jsonl(first, ROWS)
    write_jsonl(second, ROWS)
    os.utime(second, (0, 0))
    assert opened(first).digest == opened(second).digest
    write_jsonl(second, ROWS[::-1])
    assert opened(first).digest != opened(second).digest


plain = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), min_size=1)


@given(st.lists(st.fixed_dictionaries({"a": plain, "b": plain}), min_size=1))
def test_written_rows_are_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]) -> None:
    folder = tmp_path_factory.getbasetemp()
    for ending, write in WRITERS.items():
        path = folder / f"written{ending}"
        write(path, rows)
        assert [row for _, row in opened(path).read()] == rows, ending
