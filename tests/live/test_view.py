"""A run seen from its files: in the making, finished, killed, damaged, about to begin."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from betastar.errors import BetastarError
from betastar.experiment.store import Store
from betastar.live.reading import Tail, named, rows_by_name
from betastar.live.status import FILE, StatusFile, read_status
from betastar.live.view import look
from betastar.progress import STAGES

CONDITIONS = [f"{variant}-beta-{beta}-seed-0" for variant in ("paper", "fixed") for beta in ("0.1", "1e-05")]
START = {"step": 0, "n": 8, "proxy": 1.0, "proxy_std": 2.0, "true_strict": 0.5, "correct_strict": 4}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], half: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + half)


def online_run(run: Path) -> StatusFile:
    """A run in its online stage: probes are done, evaluation points stand in a checkpoint."""
    status = StatusFile(run, "mine", "betastar run micro")
    probes = {}
    for name in {c.split("-", 1)[1] for c in CONDITIONS}:
        probes[name] = run / "store/probe/aa" / name
        probes[name].mkdir(parents=True)
        (probes[name] / "point.json").write_text(json.dumps({"start": START}))
    status.places("probe", probes, list(probes))
    status.stage("online", 8, 9)
    status.places("online", {c: run / "store/online/bb" / c for c in CONDITIONS}, CONDITIONS)
    return status


def points(steps: Iterable[int]) -> list[dict[str, Any]]:
    """Proxy up by a standard deviation of the start (2) at every 5 steps; truth down by 1/8."""
    return [
        {"condition": c, "step": step, "proxy": 1.0 + 2 * step / 5, "true_strict": 0.5 - step / 40}
        for step in steps
        for c in CONDITIONS
    ]


def test_series_come_from_the_checkpoint_while_it_is_made_and_from_the_artefact_after(tmp_path: Path) -> None:
    online_run(tmp_path)
    partial = tmp_path / "store/partial/online-bb/metrics.jsonl"
    write_rows(partial, points([5, 10]), half='{"condition": "paper-beta-0.1-seed-0", "step": 15, "pro')
    view = look(tmp_path)
    assert view.phase == "running"
    assert [str(s.condition.path) for s in view.series] == [
        "paper/beta-1e-05/seed-0",
        "paper/beta-0.1/seed-0",
        "fixed/beta-1e-05/seed-0",
        "fixed/beta-0.1/seed-0",
    ]
    for series in view.series:
        assert series.steps == [0, 5, 10]  # the half line is not there yet
        assert series.proxy == [1.0, 3.0, 5.0]
        assert series.true == [0.5, 0.375, 0.25]
        # z_proxy = 1, 2; z_true = -0.125/√(q(1-q)), q = (4+1)/(8+2) = 0.5: -0.25, -0.5.
        assert series.gap == pytest.approx([0, 1.25, 2.5])
    for condition in CONDITIONS:
        rows = [row for row in points([5, 10]) if row.pop("condition") == condition]
        write_rows(tmp_path / "store/online/bb" / condition / "metrics.jsonl", rows)
    assert look(tmp_path).series == view.series  # the checkpoint is still there for a moment
    shutil.rmtree(partial.parent)
    assert look(tmp_path).series == view.series


def test_losses_are_means_over_conditions_of_one_log_or_of_a_log_each(tmp_path: Path) -> None:
    status = StatusFile(tmp_path, "mine")
    names = ["member-0", "member-1", "judge"]
    status.places("rewards", {n: tmp_path / "store/rewards/cc" / n for n in names}, names)
    partial = tmp_path / "store/partial/rewards-cc"
    rows = [{"step": 1, "loss": [0.1, 0.2, 0.6], "norm": [1, 1, 1]}, {"step": 2, "loss": [0.1, math.nan, 0.3]}]
    write_rows(partial / "training.jsonl", rows, half='{"step": 3')
    assert look(tmp_path).losses["rewards"] == pytest.approx([0.3, 0.2])
    by_name = rows_by_name(tmp_path, "rewards", {n: tmp_path / "store/rewards/cc" / n for n in names}, "training")
    assert by_name["judge"] == [{"step": 1, "loss": 0.6, "norm": 1}, {"step": 2, "loss": 0.3}]
    (partial / "training.jsonl").unlink()  # as TRL leaves it: one member after the other
    write_rows(partial / "member-0" / "training.jsonl", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}])
    write_rows(partial / "member-1" / "training.jsonl", [{"step": 1, "loss": 0.3}])
    assert look(tmp_path).losses["rewards"] == pytest.approx([0.4, 0.4])


def test_a_tail_gives_each_row_once_and_begins_again_where_a_file_was_cut(tmp_path: Path) -> None:
    tail, path = Tail(), tmp_path / "log.jsonl"
    assert tail(path) == []
    write_rows(path, [{"step": 1}, {"step": 2}], half='{"step"')
    assert tail(path) == [{"step": 1}, {"step": 2}]
    assert tail(path) == []
    write_rows(path, [{"step": 1}, {"step": 2}, {"step": 3}])
    assert tail(path) == [{"step": 3}]
    write_rows(path, [{"step": 1}])
    assert tail(path) == [{"step": 1}]
    path.write_bytes(b'not json\n[1]\n{"step": 9}\n')
    assert Tail()(path) == [{"step": 9}]


def test_what_the_name_of_a_condition_says() -> None:
    assert named("a-b.c-beta-1e-05-seed-12") == ("a-b.c", 1e-05, 12)
    assert named("beta-2.14574-seed-0") == ("", 2.14574, 0)
    with pytest.raises(ValueError, match="names no condition"):
        named("member-0")


def test_a_killed_run_is_told_from_a_running_one_and_from_one_elsewhere(tmp_path: Path) -> None:
    online_run(tmp_path)
    status = read_status(tmp_path)
    assert status is not None
    for change, phase in (({"process_began": 1.0}, "killed"), ({"host": "elsewhere"}, "elsewhere"), ({}, "running")):
        (tmp_path / FILE).write_text(status.model_copy(update=change).model_dump_json())
        assert look(tmp_path).phase == phase


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BetastarError, match=r"nowhere: no such folder; give the run directory"):
        look(tmp_path / "nowhere")
    (tmp_path / "results.json").write_text("{}")  # as an analysis leaves it
    with pytest.raises(BetastarError, match=r"not a run directory \(no status\.json, no store\)"):
        look(tmp_path)


def test_a_run_that_is_just_beginning_is_waited_for(tmp_path: Path) -> None:
    with Store(tmp_path):
        assert look(tmp_path).phase == "starting"
        StatusFile(tmp_path, "mine")
        view = look(tmp_path)
        assert (view.phase, view.series) == ("running", [])


def test_without_a_status_the_store_tells_what_it_can(tmp_path: Path) -> None:
    online_run(tmp_path)
    (tmp_path / FILE).unlink()
    (tmp_path / "store/probe/aa/manifest.json").write_text(
        json.dumps({"parts": {"k1": "beta-0.1-seed-0", "k2": "beta-1e-05-seed-0"}})
    )
    partial = tmp_path / "store/partial/online-bb"
    write_rows(partial / "metrics.jsonl", points([5]))
    write_rows(partial / "training.jsonl", [{"condition": c, "step": s} for s in (6, 7) for c in CONDITIONS])
    view = look(tmp_path)
    assert view.phase == "unknown"
    before = STAGES[: STAGES.index("online")]
    assert [s.name for s in view.status.stages if s.ended is not None] == list(before)
    assert view.status.stage("online").done == 7
    assert [series.steps for series in view.series] == [[0, 5]] * 4


def test_a_run_may_change_under_the_eyes(tmp_path: Path) -> None:
    """Logs grow by half lines, are cut, become an artefact and vanish while they are read."""
    online_run(tmp_path)
    over, rounds = threading.Event(), []

    def work() -> None:
        partial, made = tmp_path / "store/partial/online-bb", tmp_path / "store/online/bb"
        while not over.is_set():
            for size in (1, 2, 3):
                write_rows(partial / "metrics.jsonl", points(range(5, 5 * size + 1, 5)), half='{"condition": "pap')
            for condition in CONDITIONS:
                write_rows(made.with_name(".bb.tmp") / condition / "metrics.jsonl", [{**points([5])[0], "step": 5}])
            made.with_name(".bb.tmp").rename(made)
            shutil.rmtree(partial)
            shutil.rmtree(made)
            rounds.append(1)

    writer = threading.Thread(target=work)
    writer.start()
    try:
        for _ in range(200):
            view = look(tmp_path)
            assert view.phase == "running"
            assert all(series.steps in ([0], [0, 5], [0, 5, 10], [0, 5, 10, 15]) for series in view.series)
    finally:
        over.set()
        writer.join()
    assert len(rounds) > 3


def test_looking_leaves_a_run_as_it_is_and_takes_no_lock(tmp_path: Path) -> None:
    online_run(tmp_path)
    write_rows(tmp_path / "store/partial/online-bb/metrics.jsonl", points([5]))
    before = {path: path.stat() for path in tmp_path.rglob("*")}
    (tmp_path / "lock").touch(mode=0o000)
    look(tmp_path)
    (tmp_path / "lock").unlink()
    for path, stat in before.items():
        after = path.stat()
        if path != tmp_path:
            assert (after.st_mtime_ns, after.st_size, after.st_ino) == (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    assert set(before) == set(tmp_path.rglob("*"))


def test_the_checkpoint_of_a_condition_is_found_with_and_without_methods() -> None:
    from betastar.live.reading import checkpoint_of, named

    assert checkpoint_of("my-paper-beta-1-seed-0", ["beta-1-seed-0", "beta-11-seed-0"]) == "beta-1-seed-0"
    assert checkpoint_of("paper-ipo-beta-1-seed-0", ["dpo-beta-1-seed-0", "ipo-beta-1-seed-0"]) == "ipo-beta-1-seed-0"
    assert checkpoint_of("paper-beta-1-seed-0", ["beta-2-seed-0"]) is None
    assert named("ipo-beta-0.5-seed-3") == ("ipo", 0.5, 3)
