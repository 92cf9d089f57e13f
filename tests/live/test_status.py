"""`status.json`: what it says of a run, and that a run does not depend on it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from betastar.errors import BetastarError
from betastar.live.status import FILE, Status, StatusFile, followed, is_alive, read_status
from betastar.progress import STAGES, Reporter
from betastar.settings.config import load_config


def status_of(folder: Path) -> Status:
    status = read_status(folder)
    assert status is not None
    return status


def test_it_names_stages_progress_places_and_this_process(tmp_path: Path) -> None:
    file = StatusFile(tmp_path, "mine", "betastar run micro")
    file.stage("base", 1, 9)
    file.stage("offline", 6, 9)
    folders = {f"beta-{beta}-seed-0": tmp_path / "store/offline/abc" / f"beta-{beta}-seed-0" for beta in (1, 2)}
    file.places("offline", folders, ["beta-2-seed-0"])
    file.progress(2, 8, "steps", "loss 0.5")
    file.progress(8, 8, "steps", "loss 0.4")
    status = status_of(tmp_path)
    assert (status.name, status.state, status.command) == ("mine", "running", "betastar run micro")
    assert [stage.name for stage in status.stages] == list(STAGES)
    assert is_alive(status) is True
    base, offline, online = (status.stage(name) for name in ("base", "offline", "online"))
    assert base.began is not None
    assert base.ended is not None
    assert (offline.done, offline.total, offline.unit, offline.note) == (8, 8, "steps", "loss 0.4")
    assert offline.first_done == 2
    assert offline.folders["beta-2-seed-0"] == "store/offline/abc/beta-2-seed-0"  # also where the folder is moved to
    assert offline.missing == ["beta-2-seed-0"]
    assert online.began is None


def test_progress_is_written_at_most_once_a_second_but_always_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StatusFile(tmp_path, "mine")
    file.stage("base", 1, 9)
    writes: list[object] = []
    monkeypatch.setattr(file, "_write", lambda: writes.append(file.status.stage("base").done))
    for step in range(1, 1001):
        file.progress(step, 1000, "steps")
    assert writes[-1] == 1000
    assert len(writes) < 10


def test_a_full_disk_does_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    file = StatusFile(tmp_path, "mine")
    file.stage("base", 1, 9)
    file.progress(1, 1, "steps")
    file.end("finished")
    assert read_status(tmp_path) is None


def test_half_a_file_or_another_program_s_is_no_status(tmp_path: Path) -> None:
    for text in ("", '{"name": "mi', '{"state": "baking"}', "[]"):
        (tmp_path / FILE).write_text(text)
        assert read_status(tmp_path) is None


def test_a_process_that_ended_is_not_alive_and_another_machine_cannot_be_asked(tmp_path: Path) -> None:
    StatusFile(tmp_path, "mine")
    status = status_of(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert is_alive(status.model_copy(update={"pid": ended.pid})) is False
    assert is_alive(status.model_copy(update={"host": "elsewhere"})) is None
    # This process's number, but it began another day: the number was given away again.
    assert is_alive(status.model_copy(update={"pid": os.getpid(), "process_began": 1.0})) is False


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (None, "finished", ""),
        (KeyboardInterrupt(), "stopped", ""),
        (BetastarError("pairs.jsonl: no such file.\nAnd more."), "failed", "pairs.jsonl: no such file."),
        (RuntimeError("boom"), "failed", "RuntimeError: boom"),
    ],
)
def test_how_a_run_ends_is_how_its_block_ends(
    tmp_path: Path, error: BaseException | None, state: str, message: str
) -> None:
    def work() -> None:
        with followed(load_config("micro"), tmp_path, Reporter()) as reporter:
            reporter.stage("base", 1, 9)
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    status = status_of(tmp_path)
    assert (status.state, status.message) == (state, message)
    assert (status.stage("base").ended is None) == (error is not None)
