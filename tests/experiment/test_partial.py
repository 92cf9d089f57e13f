"""Unfinished work survives regrouping: each condition goes on from its own step, with its own rows and tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from experiment.small import SMALL

from betastar.experiment import partial, pipeline
from betastar.experiment.stages import online
from betastar.experiment.store import Store
from betastar.experiment.work import in_groups
from betastar.settings.config import load_config


def save(store: Store, artefact: str, keys: str, step: int) -> None:
    """A checkpoint of parts `keys`, whose values are made of their letters."""
    partial.begin(store, "offline", artefact, {key: f"part-{key}" for key in keys})
    work = store.checkpoint("offline", artefact)
    work.append("training", [{"step": s, "loss": [ord(key) + s / 10 for key in keys]} for s in range(1, step + 1)])
    work.append("metrics", [{"condition": f"part-{key}", "step": s} for s in range(1, step + 1) for key in keys])
    for key in keys:
        way = work.folder / "on_the_way" / f"part-{key}" / "1"
        way.mkdir(parents=True)
        (way / "adapter").write_text(key)
    values = torch.tensor([[ord(key)] * 3 for key in keys])
    work.save(step, {"weight.0": values, "step.0": torch.tensor(float(step))})


def test_a_group_goes_on_from_the_checkpoints_of_its_parts(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        save(store, "1" * 16, "abc", 2)
        save(store, "2" * 16, "de", 2)
        save(store, "3" * 16, "fg", 5)
        assert partial.steps_done(store, "offline") == dict.fromkeys("abcde", 2) | dict.fromkeys("fg", 5)
        partial.begin(store, "offline", "4" * 16, {key: f"part-{key}" for key in "cd"})
        work = store.checkpoint("offline", "4" * 16)
        found = work.load()
        assert found is not None
        assert found[0] == 2
        assert found[1]["weight.0"].tolist() == [[ord("c")] * 3, [ord("d")] * 3]
        assert found[1]["step.0"].item() == 2
        assert work.log("training") == [{"step": s, "loss": [ord("c") + s / 10, ord("d") + s / 10]} for s in (1, 2)]
        rows = sorted((row["condition"], row["step"]) for row in work.log("metrics"))
        assert rows == [(f"part-{key}", s) for key in "cd" for s in (1, 2)]
        assert sorted(path.name for path in (work.folder / "on_the_way").iterdir()) == ["part-c", "part-d"]

        partial.begin(store, "offline", "5" * 16, {key: f"part-{key}" for key in "ef"})  # not equally far
        assert store.checkpoint("offline", "5" * 16).load() is None
        partial.begin(store, "offline", "6" * 16, {key: f"part-{key}" for key in "ex"})  # one is new
        assert store.checkpoint("offline", "6" * 16).load() is None

        with store.write("offline", "7" * 16, {key: f"part-{key}" for key in "abc"}) as folder:
            for key in "abc":
                (folder / f"part-{key}").mkdir()
        partial.end(store, "offline")
        left = {path.name for path in (tmp_path / "store" / "partial").iterdir()}
        assert not [name for name in left if "1111" in name]
        assert [name for name in left if "2222" in name]


def test_parts_that_are_not_equally_far_are_not_grouped() -> None:
    steps = {"c": 5, "d": 5, "e": 5, "f": 2}
    assert in_groups("abcdefg", 2, lambda key: steps.get(key, 0)) == [["a", "b"], ["g"], ["c", "d"], ["e"], ["f"]]


@pytest.mark.thorough
@pytest.mark.usefixtures("undrawn")
def test_a_run_stopped_in_the_middle_goes_on_in_other_groups(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within the online phase with banks of two and continued with banks of one: no step is made again, and
    each condition ends as in an unbroken run, to the rounding of other groups."""
    real, steps = online._step, []

    def stop_in_step(ctx, bank, settings, step):
        if len(steps) == 2:
            raise KeyboardInterrupt
        steps.append((step, len(bank.conditions)))
        return real(ctx, bank, settings, step)

    monkeypatch.setattr(online, "_step", stop_in_step)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(load_config("micro", SMALL), tmp_path)
    assert steps == [(1, 2), (2, 2)]
    again: list[tuple[str, int]] = []

    def counted(ctx, bank, settings, step):
        again.extend((str(condition), step) for condition in bank.conditions)
        return real(ctx, bank, settings, step)

    monkeypatch.setattr(online, "_step", counted)
    mine = pipeline.run(load_config("micro", [*SMALL, "online.conditions_at_once=1"]), tmp_path)
    assert len(again) == len(set(again)) == 8 * 3 - 4
    assert not list((tmp_path / "store" / "partial").glob("*"))
    for one, other in zip(
        mine["conditions"], json.loads((local / "results.json").read_text())["conditions"], strict=True
    ):
        assert one["series"]["step"] == other["series"]["step"]
        assert one["proxy"]["end"] == pytest.approx(other["proxy"]["end"], abs=5e-2)
