"""JSON Lines: what is read, and the sentence that each fault gives."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betastar.data.sources import read_jsonl
from betastar.errors import BetastarError


def rows_of(tmp_path: Path, content: bytes, name: str = "rows.jsonl") -> list[tuple[int, dict[str, Any]]]:
    path = tmp_path / name
    path.write_bytes(content)
    return list(read_jsonl(path))


def test_blank_lines_are_skipped_and_counted_in_line_numbers(tmp_path: Path) -> None:
    assert rows_of(tmp_path, b'\n{"a": 1}\r\n  \n\n{"a": 2}') == [(2, {"a": 1}), (5, {"a": 2})]


def test_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    assert rows_of(tmp_path, b'\xef\xbb\xbf{"a": 1}\n') == [(1, {"a": 1})]


def test_unicode_line_separators_do_not_end_a_line(tmp_path: Path) -> None:
    text = "one\u2028two\u0085three"
    assert rows_of(tmp_path, json.dumps({"a": text}, ensure_ascii=False).encode()) == [(1, {"a": text})]


def test_gzip_is_unpacked(tmp_path: Path) -> None:
    assert rows_of(tmp_path, gzip.compress(b'{"a": 1}\n{"a": 2}\n'), "rows.jsonl.gz") == [(1, {"a": 1}), (2, {"a": 2})]


def test_path_may_be_text(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": "\\ud83e\\udd86"}')
    assert list(read_jsonl(str(tmp_path / "rows.jsonl"))) == [(1, {"a": "🦆"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "rows.jsonl is empty; it must hold one JSON object on each line."),
        (b"\n  \n", "rows.jsonl is empty; it must hold one JSON object on each line."),
        (b'{"a": 1}\n{"a": ', "rows.jsonl, line 2: not valid JSON (Expecting value, column 7); put one complete JSON"),
        (b'[\n{"a": 1}\n]', "rows.jsonl, line 1: not valid JSON (Expecting value, column 1); put one complete JSON"),
        (b'{"a": 1}\n[1]', "rows.jsonl, line 2: an array instead of a JSON object; put one object such as {...}"),
        (b'"a"', "rows.jsonl, line 1: a string instead of a JSON object"),
        (b"null", "rows.jsonl, line 1: null instead of a JSON object"),
        (b"true", "rows.jsonl, line 1: true or false instead of a JSON object"),
        (b"1.5", "rows.jsonl, line 1: a number instead of a JSON object"),
        (
            b'{"a": 1}\n{"a": "\xff"}',
            "rows.jsonl, line 2: not UTF-8 text (byte 8 of the line); save the file as UTF-8.",
        ),
        (
            '{"a": 1}'.encode("utf-16"),
            "rows.jsonl, line 1: not UTF-8 text (byte 1 of the line); save the file as UTF-8.",
        ),
        (
            b'{"a": "\\ud800"}',
            "rows.jsonl, line 1: an unpaired \\uD800 surrogate escape; fix or remove the line.",
        ),
        (b'{"a": ' + b"9" * 5000 + b"}", "rows.jsonl, line 1: not valid JSON (Exceeds the limit"),
        (b"[" * 100_000, "rows.jsonl, line 1: not valid JSON (maximum recursion depth"),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else "",
)
def test_faults_name_file_line_and_remedy(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(BetastarError) as error:
        rows_of(tmp_path, content)
    assert str(error.value).startswith(f"{tmp_path}/{message}")
    assert "; " in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(BetastarError, match=r"none\.jsonl does not exist; check the path"):
        next(read_jsonl(tmp_path / "none.jsonl"))
    with pytest.raises(BetastarError, match=r"is a folder; name the JSON Lines file inside it\.$"):
        next(read_jsonl(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(BetastarError, match=r"cannot be read \(Not a directory\); check the path"):
        next(read_jsonl(tmp_path / "file" / "rows.jsonl"))


def test_broken_gzip(tmp_path: Path) -> None:
    packed = gzip.compress(b'{"a": 1}\n')
    for content in (b'{"a": 1}\n', packed[:-9], packed[:12] + b"\xff\xff\xff\xff" + packed[16:]):
        with pytest.raises(BetastarError, match=r"rows\.jsonl\.gz, after line \d: broken gzip data \(.*\); compress"):
            rows_of(tmp_path, content, "rows.jsonl.gz")


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.booleans()), min_size=1))
def test_what_json_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.getbasetemp() / "written.jsonl"
    for ascii_only in (True, False):
        path.write_text("".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows), encoding="utf-8")
        assert [row for _, row in read_jsonl(path)] == rows
