"""Units of work: the same for every engine, listed, made one by one in any process, refused with a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from experiment.small import TINY, Listener, a_worker, all_done, same_results, small

from betastar import api
from betastar.errors import BetastarError
from betastar.experiment import pipeline
from betastar.experiment.conditions import Condition
from betastar.experiment.stages import probe
from betastar.experiment.store import BusyError, Store
from betastar.experiment.work import (
    OPENING,
    REFERENCE,
    Unit,
    Work,
    in_groups,
    needs_of,
    planned_units,
    read_settings,
    share_of,
    work_of,
    write_settings,
)
from betastar.experiment.worker import Worker

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.thorough
def test_units_made_one_by_one_are_the_run(local: Path, tmp_path: Path) -> None:
    """A worker that takes units as they come makes each part once, and `run` finds everything: the same bytes."""
    config = small()
    with a_worker(config, tmp_path) as worker:
        assert worker.ready(2) == [OPENING]
        done = all_done(worker, 2)
        assert done[0] == OPENING
        assert done[1] == REFERENCE
        parts = [key for unit in done for key in unit.keys]
        # 2 seeds' ensembles; 4 checkpoints, their probes, answers and curves; 2 variants online; the networks of both
        assert len(parts) == len(set(parts)) == 2 + 4 * 4 + 8 + 12
        assert {len(unit.keys) for unit in done[2:] if unit.stage != "rewards"} == {2}
    listener = Listener()
    pipeline.run(config, tmp_path, listener)
    assert {f"{stage}: reused" for stage in ("base", "rewards", "offline", "probe", "online", "plasticity")} <= set(
        listener.said
    )
    assert same_results(tmp_path, local)


def condition(seed: int) -> Condition:
    return Condition(1.0, seed)


def declared(at_once: int | None = None) -> list[Work[Condition]]:
    """Two stages of five parts, the second of which needs the part of the same seed of the first."""

    def build(*args: object) -> None:
        raise AssertionError

    first = Work("offline", {condition(i): f"off{i}" for i in range(5)}, build, at_once)
    second = Work("probe", {condition(i): f"pro{i}" for i in range(5)}, build, at_once, lambda c: [f"off{c.seed}"])
    return [first, second]


def test_groups_share_a_stage_equally_and_depend_on_nothing_else() -> None:
    assert in_groups("abcde", 2) == [["a", "b"], ["c", "d"], ["e"]]
    assert in_groups("abc", None) == [["a", "b", "c"]]
    assert in_groups("", None) == []
    assert [share_of(5, 2, None), share_of(5, 2, 2), share_of(5, 16, 2), share_of(140, 16, 5)] == [3, 2, 1, 5]
    units = planned_units(declared(), 2)
    assert units == [
        Unit("offline", ("off0", "off1", "off2")),
        Unit("offline", ("off3", "off4")),
        Unit("probe", ("pro0", "pro1", "pro2")),
        Unit("probe", ("pro3", "pro4")),
    ]
    assert planned_units(declared(), 2, {"off0", "off4", "pro0"}) == [
        Unit("offline", ("off1", "off2", "off3")),
        Unit("probe", ("pro1", "pro2", "pro3")),
        Unit("probe", ("pro4",)),
    ]
    assert [len(unit.keys) for unit in planned_units(declared(2), 1)] == [2, 2, 1, 2, 2, 1]
    needs = needs_of(declared())
    assert needs["pro3"] == ["off3"]
    assert needs["off3"] == []


def test_strange_stages_and_keys_are_refused() -> None:
    works = declared()
    assert work_of(works, Unit("probe", ("pro1", "pro0")))[1] == [condition(1), condition(0)]
    with pytest.raises(BetastarError, match=r"^online: no stage of this run that can be made now; choose one of"):
        work_of(works, Unit("online", ("x",)))
    with pytest.raises(BetastarError, match=r"^probe: off1 is not a part of it; `betastar work RUN` lists"):
        work_of(works, Unit("probe", ("pro1", "off1")))
    other_bank = Work("probe", {condition(9): "pro9"}, works[1].build)
    with pytest.raises(BetastarError, match=r"^probe: these keys belong to banks with different settings"):
        work_of([*works, other_bank], Unit("probe", ("pro1", "pro9")))


def test_the_shares_of_a_stage_are_all_of_it_whatever_is_finished(tmp_path: Path) -> None:
    config = small()
    with a_worker(config, tmp_path) as worker:
        with pytest.raises(BetastarError, match="has not been made; make the opening first"):
            worker.share("offline", 0, 3)
        worker.do(OPENING)
        with pytest.raises(BetastarError, match=r"^offline: no stage .* choose one of opening, reference, rewards\.$"):
            worker.share("offline", 0, 3)
        worker.do(REFERENCE)
        assert len(worker.share("plasticity", 0, 1)) == 6
        shares = [worker.share("offline", place, 3) for place in range(3)]
        assert [[len(unit.keys) for unit in share] for share in shares] == [[2], [2], []]
        first = shares[0][0]
        worker.do(first)
        assert [worker.share("offline", place, 3) for place in range(3)] == shares
        assert first not in worker.ready(3)
        made = {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "offline").rglob("*")}
        worker.do(first)  # again: nothing is made
        assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "offline").rglob("*")}
        with pytest.raises(BetastarError, match=r"^offline: [0-9a-f]{16} has not been made; `betastar work RUN` lists"):
            worker.do(worker.share("probe", 1, 2)[0])  # its checkpoints are those of the second share


def test_a_stage_that_is_switched_off_has_no_shares(tmp_path: Path) -> None:
    with a_worker(small("evaluation.best_of=0"), tmp_path) as worker:
        worker.do(OPENING)
        worker.do(REFERENCE)
        assert worker.share("best_of_n", 0, 4) == []
        with pytest.raises(BetastarError, match=r"^best_of: no stage of this run that can be made now"):
            worker.share("best_of", 0, 4)


def test_of_two_workers_at_the_same_parts_the_second_is_told(tmp_path: Path) -> None:
    with Store(tmp_path, shared=True) as one, Store(tmp_path, shared=True) as other:
        with one.write("offline", "a" * 16, {"k": "part"}) as folder:
            (folder / "value.txt").write_text("first")
            with (
                pytest.raises(BusyError, match=r"^offline a{16}: another worker is making these parts; wait for it"),
                other.write("offline", "a" * 16, {"k": "part"}),
            ):
                pass
        assert other.finished("offline") == {"k"}
        with other.write("offline", "a" * 16, {"k": "part"}) as folder:
            (folder / "value.txt").write_text("second")
        assert (one.part("offline", "k").parent / "value.txt").read_text() == "first"
        with pytest.raises(BetastarError, match=r"^offline: nothing has not been made"):
            one.part("offline", "nothing")
    assert [path.name for path in (tmp_path / "store" / "offline").iterdir()] == ["a" * 16]


def test_the_driver_leaves_what_a_living_worker_writes(tmp_path: Path) -> None:
    """A worker's temporary folder names its host and process. The driver clears those of processes that are gone."""
    with Store(tmp_path, shared=True) as worker, worker.write("offline", "a" * 16) as folder:
        dead = folder.with_name(folder.name.rpartition("-")[0] + "-4194303.tmp")  # a number that no process has
        dead.mkdir()
        mine = folder.rename(folder.with_name(folder.name.rpartition("-")[0] + "-1.tmp"))  # as of a process that lives
        with Store(tmp_path):
            assert mine.is_dir()
            assert not dead.exists()
        mine.rename(folder)


def test_a_run_of_another_version_or_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BetastarError, match=r"no run has been begun here; begin one with `betastar work RUN --source"):
        api.work(tmp_path)
    write_settings(tmp_path, small())
    assert read_settings(tmp_path) == small()
    monkeypatch.setattr("betastar.experiment.work.__version__", "9.9")
    with pytest.raises(BetastarError, match=r"the run in .* is of betastar .*, and this machine has 9\.9; install"):
        read_settings(tmp_path)


def test_a_machine_with_other_files_is_told_so(tmp_path: Path) -> None:
    """Another base model gives other keys: nothing that was made before is taken for it."""
    with a_worker(small(), tmp_path) as worker:
        worker.do(OPENING)
    other = small("base.training.steps=11")
    with a_worker(other, tmp_path) as worker, pytest.raises(BetastarError, match="give every machine the same model"):
        worker.do(REFERENCE)
    assert isinstance(worker, Worker)


def test_a_diverged_checkpoint_is_the_same_sentence_for_a_worker_and_for_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy without finite probabilities has no entropy: its probe is written without it."""
    write = probe.write_json

    def without_entropy(path: Path, record: dict[str, Any]) -> None:
        write(path, {**record, "start": {k: v for k, v in record["start"].items() if k != "policy_entropy"}})

    monkeypatch.setattr(probe, "write_json", without_entropy)
    with a_worker(small(*TINY), tmp_path) as worker, pytest.raises(BetastarError) as mine:
        all_done(worker, 2)
    with pytest.raises(BetastarError) as alone:
        pipeline.run(small(*TINY), tmp_path)
    assert str(mine.value) == str(alone.value)
    assert str(alone.value) == (
        "offline: the checkpoint of beta-0.1-seed-0 has diverged: its policy gives no finite probabilities; lower "
        "offline.learning_rate, or take this β out of the grid."
    )
