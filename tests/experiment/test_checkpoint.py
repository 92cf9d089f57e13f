"""Checkpoints: what is loaded is exactly what one save covered, wherever the process was killed."""

from __future__ import annotations

import errno
import multiprocessing
import time
from pathlib import Path
from threading import Event

import pytest
import torch

from betastar.experiment import store as store_module
from betastar.experiment.store import Checkpoint, Store
from betastar.randomness import numpy_generator

KEY = "0123456789abcdef"


def rows(*steps: int) -> list[dict[str, int]]:
    return [{"step": step} for step in steps]


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c")
    assert checkpoint.load() is None
    weights = torch.arange(6.0).view(2, 3)
    tensors = {"w": weights.T, "half": weights.bfloat16(), "count": torch.tensor(7), "grad": weights.requires_grad_()}
    checkpoint.append("metrics", [{"proxy": float("nan"), "text": "β★\n\u2028"}])
    checkpoint.save(3, tensors)

    saved = Checkpoint(tmp_path / "c").load()
    assert saved is not None
    step, loaded = saved
    assert step == 3
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor.detach())
        assert loaded[name].dtype == tensor.dtype
    assert checkpoint.log("metrics")[0]["text"] == "β★\n\u2028"


def test_logs_are_cut_back_to_the_last_save(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.append("training", rows(1, 2))
    checkpoint.save(2, {"x": torch.tensor(2)})
    checkpoint.append("training", rows(3))
    checkpoint.append("samples", rows(3))
    with (tmp_path / "training.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "torn')  # a row that a kill cut in two

    again = Checkpoint(tmp_path)
    saved = again.load()
    assert saved is not None
    assert saved[0] == 2
    assert again.log("training") == rows(1, 2)
    assert again.log("samples") == []
    again.append("training", rows(3))
    assert again.log("training") == rows(1, 2, 3)
    assert again.log("never written") == []


def test_only_the_last_state_is_kept(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    for step in (1, 2, 2):
        checkpoint.save(step, {"x": torch.tensor(step)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.json", "state-2.safetensors"]


def test_logs_without_a_save_are_dropped_in_silence(tmp_path: Path) -> None:
    said: list[str] = []
    checkpoint = Checkpoint(tmp_path / "c", said.append)
    checkpoint.append("training", rows(1))
    assert checkpoint.load() is None
    assert (checkpoint.log("training"), said) == ([], [])


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("state-2.safetensors", lambda p: p.write_bytes(p.read_bytes()[:-1] + b"!"), "state-2.safetensors has changed"),
        ("state-2.safetensors", lambda p: p.write_bytes(b""), "state-2.safetensors has changed"),
        ("state-2.safetensors", lambda p: p.unlink(), "state-2.safetensors: No such file or directory"),
        ("checkpoint.json", lambda p: p.write_bytes(b""), "checkpoint.json has changed"),
        ("checkpoint.json", lambda p: p.write_text("[1]"), "checkpoint.json has changed"),
        ("checkpoint.json", lambda p: p.write_text("{}"), "checkpoint.json has changed"),
        (
            "checkpoint.json",
            lambda p: p.write_text(p.read_text().replace('"step": 2', '"step": 3')),
            "checkpoint.json has changed",
        ),
        ("training.jsonl", lambda p: p.write_text('{"step": 1}\n'), "training.jsonl has changed"),
        ("training.jsonl", lambda p: p.write_text('{"step": 1}\n{"step": 9}\n'), "training.jsonl has changed"),
        ("training.jsonl", lambda p: p.unlink(), "training.jsonl: No such file or directory"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_stage_starts_again(tmp_path: Path, name, damage, reason) -> None:
    said: list[str] = []
    checkpoint = Checkpoint(tmp_path / "c", said.append)
    checkpoint.append("training", rows(1, 2))
    checkpoint.save(2, {"x": torch.tensor(2)})
    damage(tmp_path / "c" / name)
    assert checkpoint.load() is None
    assert said == [f"{tmp_path / 'c'}: damaged checkpoint ({reason}); restarting this stage."]
    assert checkpoint.load() is None  # and silently so: it is gone
    assert (checkpoint.log("training"), len(said)) == ([], 1)


def test_a_finished_artefact_needs_no_checkpoint(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        checkpoint, other = store.checkpoint("online", KEY), store.checkpoint("online", "f" * 16)
        for each in (checkpoint, other):
            each.save(1, {"x": torch.tensor(1)})
        with pytest.raises(RuntimeError), store.write("online", KEY):
            raise RuntimeError("killed before the end")
        assert checkpoint.load()
        with store.write("online", KEY) as folder:
            (folder / "metrics.jsonl").write_text("")
        assert checkpoint.load() is None
        assert other.load()


@pytest.mark.parametrize(("copying", "expected"), [(0.0, [10, 20, 30, 40, 50]), (2.0, [10, 52])])
def test_saves_come_by_time_and_cost_at_most_a_twentieth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copying: float, expected: list[int]
) -> None:
    """A save every 10 s, with a step a second. After a copy of 2 s, done at 12 s, the next is due 20 · 2 s later."""
    clock, saved = [0.0], []
    monkeypatch.setattr(store_module.time, "monotonic", lambda: clock[0])
    checkpoint = Checkpoint(tmp_path, seconds=10)
    monkeypatch.setattr(checkpoint, "start_save", lambda step, tensors: saved.append(step))

    def tensors() -> dict[str, torch.Tensor]:
        clock[0] += copying
        return {}

    for step in range(1, 56):
        clock[0] = max(clock[0], step)
        checkpoint.save_if_due(step, tensors)
    assert saved == expected


def test_a_save_covers_what_was_logged_when_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread writes while training goes on: rows and weights that come meanwhile belong to the next save."""
    checkpoint, weights = Checkpoint(tmp_path), torch.zeros(1000)
    written, release = Event(), Event()
    write = checkpoint._write

    def slow(*args) -> None:
        written.set()
        release.wait(10)
        write(*args)

    monkeypatch.setattr(checkpoint, "_write", slow)
    checkpoint.append("training", rows(1))
    checkpoint.start_save(1, {"w": weights})
    assert written.wait(10)
    weights += 1
    checkpoint.append("training", rows(2))
    release.set()
    checkpoint.wait()
    saved = Checkpoint(tmp_path).load()
    assert saved is not None
    assert (saved[0], float(saved[1]["w"].sum())) == (1, 0.0)
    assert Checkpoint(tmp_path).log("training") == rows(1)


def test_a_failed_write_is_an_error_of_the_next_save_and_of_the_stores_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(tmp_path, checkpoint_seconds=0).__enter__()
    checkpoint = store.checkpoint("online", KEY)
    monkeypatch.setattr(checkpoint, "_write", full)
    checkpoint.save_if_due(1, dict)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save_if_due(2, dict)
    checkpoint.start_save(3, {})
    with pytest.raises(OSError, match="No space left"):
        store.__exit__()
    with Store(tmp_path):  # and the lock is free
        pass


def _go_on(folder: Path) -> None:
    """A stage: two log rows a step, a save every step while the one before is still written, until killed."""
    checkpoint = Checkpoint(folder, seconds=0)
    saved = checkpoint.load()
    step = saved[0] if saved else 0
    while True:
        step += 1
        checkpoint.append("training", [{"step": step, "row": row, "text": "x" * 3000} for row in range(2)])
        checkpoint.save_if_due(step, lambda: {"value": torch.full((20_000,), step)})  # noqa: B023


def test_killed_at_any_point_a_checkpoint_is_consistent_and_can_be_gone_on_from(tmp_path: Path) -> None:
    said: list[str] = []
    rng, reached = numpy_generator(0, "kill delays"), 0
    # Forked rather than started afresh: importing torch would take longer than all the rest.
    fork = multiprocessing.get_context("fork")
    for _ in range(12):
        process = fork.Process(target=_go_on, args=(tmp_path,))
        process.start()
        time.sleep(rng.uniform(0.02, 0.15))
        assert process.is_alive()
        process.kill()
        process.join()

        checkpoint = Checkpoint(tmp_path, said.append)
        saved = checkpoint.load()
        assert said == []
        if saved is None:  # killed before the first save
            assert reached == 0
            continue
        step, tensors = saved
        assert step >= reached  # nothing that was saved is lost
        assert (tensors["value"] == step).all()
        expected = [(s, row) for s in range(1, step + 1) for row in range(2)]
        assert [(row["step"], row["row"]) for row in checkpoint.log("training")] == expected
        reached = step
    assert reached > 5
