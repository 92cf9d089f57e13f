"""The file: what a kill leaves, what a resume keeps, what an earlier run loses (nothing)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from betastar import Monitor, load
from betastar.errors import BetastarError
from betastar.monitor.rows import append, begin, resume
from betastar.report.folders import write_report


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_rows_are_appended_and_undefined_numbers_are_null(tmp_path: Path) -> None:
    path = tmp_path / "new" / "goodhart.jsonl"
    append(path, {"step": 0, "kl": float("nan"), "nested": {"x": [np.float64(1.5), float("inf")]}})
    append(path, {"step": 5, "text": "ä\n"})
    assert path.read_text() == '{"step": 0, "kl": null, "nested": {"x": [1.5, null]}}\n{"step": 5, "text": "ä\\n"}\n'


def test_a_resume_keeps_what_was_before_and_drops_what_will_come_again(tmp_path: Path) -> None:
    path = tmp_path / "goodhart.jsonl"
    for step in (0, 5, 10, 15):
        append(path, {"step": step})
    assert resume(path, 10) == [{"step": 0}, {"step": 5}, {"step": 10}]
    assert steps(path) == [0, 5, 10]
    before = path.stat().st_ino
    assert len(resume(path, 12)) == 3
    assert path.stat().st_ino == before, "nothing to drop, nothing rewritten"
    assert resume(tmp_path / "none.jsonl", 3) == []


def test_every_place_at_which_a_kill_may_cut_the_file(tmp_path: Path) -> None:
    path = tmp_path / "goodhart.jsonl"
    append(path, {"step": 0, "proxy": 1.25})
    append(path, {"step": 5, "proxy": 2.5})
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert resume(path, 5) == [{"step": 0, "proxy": 1.25}]
        append(path, {"step": 5, "proxy": 2.5})
        assert path.read_bytes() == whole


def test_a_run_that_starts_anew_sets_an_earlier_one_aside(tmp_path: Path) -> None:
    path = tmp_path / "goodhart.jsonl"
    begin(path)
    for step in (0, 1, 2):
        append(path, {"step": step})
        begin(path)
        assert not path.exists()
    assert [steps(tmp_path / f"goodhart.jsonl.{i}") for i in (1, 2, 3)] == [[0], [1], [2]]


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(
        BetastarError, match=r"goodhart\.jsonl: cannot be written \(.*\); fix that, or give .* another path"
    ):
        append(tmp_path / "taken" / "goodhart.jsonl", {"step": 0})


@pytest.mark.parametrize("line", [b"{broken\n", b"[1]\n", b'{"loss": 1}\n'])
def test_another_file_is_not_overwritten(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "goodhart.jsonl"
    path.write_bytes(line + b'{"step": 1}\n')
    with pytest.raises(BetastarError, match=r"goodhart.jsonl, line 1: not written by a GoodhartMonitor; rename"):
        resume(path, 1)
    assert path.read_bytes().startswith(line)


def test_the_report_of_a_run_that_was_never_closed_names_what_reads_it(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path / "run", evaluations=3)
    for step in (0, 5):
        monitor.record(step, None, [True, False] * 4, [0.1 * i + step for i in range(8)])
    with pytest.raises(BetastarError, match=r"never closed, so there is no record yet; `betastar analyze .*/run`"):
        write_report(tmp_path / "run")
    assert len(load(tmp_path / "run").points) == 2
