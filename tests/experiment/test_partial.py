"""Unfinished work survives regrouping: each condition goes on from its own step, with its own rows and tensors."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from experiment.small import SMALL, TINY, a_worker, all_done, same_results, small

from betastar.experiment import partial, pipeline
from betastar.experiment.place import Place
from betastar.experiment.stages import online
from betastar.experiment.store import Store
from betastar.experiment.work import in_groups
from betastar.settings.config import load_config


def save(store: Store, artefact: str, keys: str, step: int) -> None:
    """A checkpoint of parts `keys`, whose values are made of their letters."""
    partial.begin(store, "offline", artefact, {key: f"part-{key}" for key in keys})
    work = store.checkpoint("offline", artefact)
    found = work.load()
    new = range(1 + (found[0] if found else 0), step + 1)
    work.append("training", [{"step": s, "loss": [ord(key) + s / 10 for key in keys]} for s in new])
    work.append("metrics", [{"condition": f"part-{key}", "step": s} for s in new for key in keys])
    for way in (work.folder / "on_the_way" / f"part-{key}" / str(s) for key in keys for s in new):
        way.mkdir(parents=True)
        (way / "adapter").write_text(way.parent.name)
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


def machine(folder: Path, uri: str, writer: str, said: list[str] | None = None) -> Store:
    say = (said if said is not None else []).append
    return Store(folder, say, 0, shared=True, place=Place(uri, writer, say, 0.001), upload_seconds=0)


def upload(store: Store, artefact: str, keys: str, step: int) -> None:
    """Save, as training does, and wait for the upload."""
    with partial.uploaded(store, "offline", artefact, {key: f"part-{key}" for key in keys}):
        save(store, artefact, keys, step)


@pytest.mark.parametrize("uri", ["memory://unfinished", "file://{}/shared"])
def test_what_a_lost_machine_had_uploaded_is_continued_on_another(tmp_path: Path, uri: str) -> None:
    uri = uri.format(tmp_path)
    with machine(tmp_path / "one", uri, "one-1") as one:
        upload(one, "1" * 16, "ab", 1)
        upload(one, "1" * 16, "ab", 2)  # in place of the first
        assert not list((one.folder / "store" / "partial").glob(".*.tmp"))
    shutil.rmtree(tmp_path / "one")
    with machine(tmp_path / "two", uri, "two-2") as two:
        assert partial.steps_done(two, "offline") == {"a": 2, "b": 2}
        assert partial.steps_done(two, "online") == {}
        for artefact, keys in (("1" * 16, "ab"), ("2" * 16, "b")):  # the same group, and another one
            partial.begin(two, "offline", artefact, {key: f"part-{key}" for key in keys})
            found = two.checkpoint("offline", artefact).load()
            assert found is not None
            assert found[0] == 2
            assert found[1]["weight.0"].tolist() == [[ord(key)] * 3 for key in keys]
            rows = two.checkpoint("offline", artefact).log("training")
            assert rows == [{"step": s, "loss": [ord(key) + s / 10 for key in keys]} for s in (1, 2)]
            way = two.checkpoint("offline", artefact).folder / "on_the_way"
            assert sorted(str(p.relative_to(way)) for p in way.glob("*/*/*")) == [
                f"part-{key}/{step}/adapter" for key in keys for step in (1, 2)
            ]
        save(two, "1" * 16, "ab", 3)  # here it is further than there
        partial.begin(two, "offline", "1" * 16, {key: f"part-{key}" for key in "ab"})
        assert partial.steps_done(two, "offline") == {"a": 3, "b": 3}
        with two.write("offline", "7" * 16, {key: f"part-{key}" for key in "ab"}) as folder:
            for key in "ab":
                (folder / f"part-{key}").mkdir()
        partial.end(two, "offline")
        assert partial.steps_done(two, "offline") == {}
        assert two.remote is not None
        assert two.remote.folders("store/partial") == []


def test_an_upload_that_fails_is_said_and_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with machine(tmp_path / "one", f"file://{tmp_path}/shared", "one-1", said) as one:
        assert one.remote is not None

        def refuse(*args: object) -> None:
            raise PermissionError("Access Denied")

        monkeypatch.setattr(one.remote.fs, "put_file", refuse)
        upload(one, "1" * 16, "ab", 2)
        assert len([line for line in said if "unfinished work could not be uploaded" in line]) == 1
        assert partial.steps_done(one, "offline") == {"a": 2, "b": 2}
        assert not one.remote.manifest("store/partial/offline-" + "1" * 16)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.thorough
def test_a_machine_lost_with_its_disk_costs_only_the_steps_since_the_last_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first machine stops before its second step online; the next one, with an empty disk, makes that step and no
    other again, and ends with the bytes of an unbroken run."""
    settings = (*TINY, "online.conditions_at_once=2", "compute.engine.upload_seconds=0")
    config = small(*settings)
    real, steps = online._step, []

    def stop_in_step(ctx, bank, settings, step):
        if step == 2 and not steps.count("stopped"):
            ctx.store.checkpoint("online", bank_key(tmp_path / "one")).wait()
            steps.append("stopped")
            raise KeyboardInterrupt
        steps.append(step)
        return real(ctx, bank, settings, step)

    monkeypatch.setattr(online, "_step", stop_in_step)
    uri = f"file://{tmp_path / 'shared'}"
    with (
        pytest.raises(KeyboardInterrupt),
        a_worker(config, tmp_path / "one", at=Place(uri, "one-1")) as worker,
    ):
        all_done(worker, 1)
    ends = time.monotonic() + 20
    while not Place(uri, "x-1").folders("store/partial") and time.monotonic() < ends:
        time.sleep(0.05)
    shutil.rmtree(tmp_path / "one")
    with a_worker(config, tmp_path / "two", at=Place(uri, "two-2")) as worker:
        all_done(worker, 1)
    assert steps == [1, "stopped", 2]
    pipeline.run(small(*settings, f"compute.engine.store={uri}"), tmp_path / "three")
    pipeline.run(config, tmp_path / "unbroken")
    assert same_results(tmp_path / "three", tmp_path / "unbroken")


def bank_key(folder: Path) -> str:
    """The artefact that is being made online."""
    (found,) = folder.glob("store/partial/online-*")
    return found.name.removeprefix("online-")


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
