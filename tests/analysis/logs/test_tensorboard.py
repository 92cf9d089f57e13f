"""Event files as TensorBoard's writers write them, against TensorBoard's own reader."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from betastar.analysis.logs.events import PATTERN, read_events

pytest.importorskip("tensorboard")


def written(folder: Path, values: list[tuple[str, float, int]], **how: Any) -> list[Path]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), filename_suffix=f".{len(list(folder.glob(PATTERN)))}") as writer:
        writer.add_text("note", "words are passed over", 0)
        for tag, value, step in values:
            writer.add_scalar(tag, value, step, **how)
    return sorted(folder.glob(PATTERN))


def test_every_scalar_is_what_tensorboards_reader_reads(trained: dict[str, Any]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = trained["grpo"].folder.rglob(PATTERN)
    rows = read_events([path], "grpo").rows
    reference = EventAccumulator(str(path.parent), size_guidance={"scalars": 0}).Reload()
    tags = reference.Tags()["scalars"]
    assert {"train/reward", "eval/rewards/correct/mean", "eval/entropy"} <= set(tags)
    assert set(rows.columns) == {"step", *tags}
    for tag in tags:
        mine = rows[["step", tag]].dropna()
        assert [(e.step, e.value) for e in reference.Scalars(tag)] == list(mine.itertuples(index=False, name=None))


def test_it_agrees_with_the_trainers_own_history(trained: dict[str, Any]) -> None:
    folder, history = trained["grpo"]
    rows = read_events(list(folder.rglob(PATTERN)), "grpo").rows
    logged = {entry["step"]: entry["eval_rewards/distinct/mean"] for entry in history if "eval_reward" in entry}
    read = rows.set_index("step")["eval/rewards/distinct/mean"].dropna()
    assert list(read.index) == list(logged) == [0, 2, 4]
    assert np.allclose(read, list(logged.values()), rtol=1e-6)  # events hold 32-bit floats


@pytest.mark.parametrize("how", [{}, {"new_style": True}, {"new_style": True, "double_precision": True}])
def test_every_way_to_write_a_scalar(tmp_path: Path, how: dict[str, bool]) -> None:
    paths = written(tmp_path, [("a", 0.1, 0), ("b/c", -3.5, 0), ("a", 1e30, 2**40), ("a", float("inf"), 3)], **how)
    rows = read_events(paths, "x").rows
    exact = (lambda v: v) if how.get("double_precision") else lambda v: float(np.float32(v))
    assert rows["step"].tolist() == [0, 2**40, 3]
    assert rows["a"].tolist() == [exact(0.1), exact(1e30), float("inf")]
    assert rows["b/c"].dropna().tolist() == [-3.5]


def test_a_resumed_run_has_several_files_and_a_step_logged_twice_has_two_rows(tmp_path: Path) -> None:
    written(tmp_path, [("a", 1.0, 0), ("a", 2.0, 1), ("a", 3.0, 2)])
    paths = written(tmp_path, [("a", 5.0, 2), ("a", 6.0, 3), ("a", 7.0, 3)])
    assert len(paths) == 2
    rows = read_events(paths[::-1], "x").rows
    assert rows.to_numpy().tolist() == [[0, 1], [1, 2], [2, 3], [2, 5], [3, 6], [3, 7]]


def test_a_file_that_is_still_being_written_gives_what_is_whole(tmp_path: Path) -> None:
    (path,) = written(tmp_path, [("a", float(step), step) for step in range(5)])
    whole = path.read_bytes()
    assert read_events([path], "x").note is None
    path.write_bytes(whole[:-3])
    log = read_events([path], "x")
    assert log.rows["a"].tolist() == [0, 1, 2, 3]
    assert log.note is not None
    assert "truncated" in log.note


def test_a_damaged_length_ends_the_reading(tmp_path: Path) -> None:
    (path,) = written(tmp_path, [("a", float(step), step) for step in range(5)])
    data = path.read_bytes()
    starts, place = [], 0
    while place < len(data):  # a record: length (8 bytes), its check (4), data, check (4)
        starts.append(place)
        place += 16 + struct.unpack_from("<Q", data, place)[0]
    for offset in range(12):  # any byte of the last record's length, or of its check
        damaged = bytearray(data)
        damaged[starts[-1] + offset] ^= 1
        path.write_bytes(damaged)
        log = read_events([path], "x")
        assert log.rows["a"].tolist() == [0, 1, 2, 3]
        assert log.note is not None
