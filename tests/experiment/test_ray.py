"""The sweep on Ray: the same results as in one process, whoever dies meanwhile; one sentence for what cannot work."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from experiment.small import SMALL, TINY, Listener, same_results, small
from forked import Command

from betastar.errors import BetastarError, InternalError
from betastar.experiment import pipeline
from betastar.experiment import schedule as schedules
from betastar.experiment.schedule import Patience, Schedule
from betastar.experiment.work import OPENING, Unit, Work
from betastar.progress import WorkerState
from betastar.settings.config import load_config

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.usefixtures("undrawn")

from betastar.experiment import ray_engine  # noqa: E402
from betastar.experiment.ray_worker import RayWorker  # noqa: E402

ON_RAY = ("compute.engine.kind=ray", "compute.engine.workers=2", "compute.engine.units_per_worker=1")


class Counting(RayWorker):
    """Writes down every unit that it finishes. With a file `die-in-STAGE` in the run directory it removes the file and
    dies in the middle of a unit of that stage."""

    def do(self, stage: str, keys: Any) -> dict[str, Any]:
        deadly = self._folder / f"die-in-{stage}"
        if deadly.exists():
            deadly.unlink()
            os._exit(1)
        found = super().do(stage, keys)
        if found["end"] == "done":
            with (self._folder / "made.txt").open("a") as file:
                file.write(" ".join([stage, *keys]) + "\n")
        return found


def made(folder: Path) -> list[str]:
    """Every part and stage that workers have made, once for each time."""
    lines = [line.split() for line in (folder / "made.txt").read_text().splitlines()]
    return [word for stage, *keys in lines for word in (keys or [stage])]


PARTS = 2 + 4 * 4 + 8 + 12  # ensembles; checkpoints, probes, answers, curves; online; the networks of both

TINY_PARTS = 1 + 1 + 1 + 2  # the ensemble, the checkpoint, its probe; online


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two CPUs on this machine, to which every run of this module that gives no address connects. It starts
    no workers before they are asked for."""
    only = {"prestart_worker_first_driver": False, "enable_worker_prestart": False}
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False, _system_config=only)
    yield
    ray.shutdown()


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(ray_engine, "RayWorker", Counting)


class Watcher(Listener):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def workers(self, states: Any) -> None:
        assert all(isinstance(state, WorkerState) for state in states)
        self.seen |= {state.name for state in states}


@pytest.mark.usefixtures("cluster", "counting")
@pytest.mark.thorough
def test_two_workers_give_the_bytes_of_one_process_though_one_of_them_dies(tmp_path: Path) -> None:
    """The same groups, so the same results, and no part is made twice; a lost worker's unit goes to another."""
    local, shared = tmp_path / "local", tmp_path / "shared"
    pipeline.run(small(*TINY), local)
    shared.mkdir()
    (shared / "die-in-rewards").touch()
    watcher = Watcher()
    pipeline.run(small(*TINY, *ON_RAY), shared, watcher)
    assert same_results(shared, local)
    assert not (shared / "die-in-rewards").exists()
    assert [line for line in watcher.said if "was lost while making rewards" in line]
    parts = made(shared)
    assert len(parts) == len(set(parts)) == TINY_PARTS + 2
    assert watcher.seen == {"worker 0", "worker 1"}
    assert {f"{stage}: reused" for stage in ("reference", "rewards", "online")} <= set(watcher.said)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster", "counting")
def test_every_stage_in_banks_of_two_gives_the_bytes_of_one_process(local: Path, tmp_path: Path) -> None:
    (tmp_path / "die-in-online").touch()
    pipeline.run(small(*ON_RAY), tmp_path)
    assert same_results(tmp_path, local)
    parts = made(tmp_path)
    assert len(parts) == len(set(parts)) == PARTS + 2


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_other_groups_give_the_same_to_rounding(local: Path, tmp_path: Path) -> None:
    wide = [setting for setting in SMALL if "at_once" not in setting]
    results = pipeline.run(load_config("micro", [*wide, *ON_RAY, "compute.engine.workers=1"]), tmp_path)
    before = json.loads((local / "results.json").read_text())["conditions"]
    for mine, other in zip(results["conditions"], before, strict=True):
        assert mine["proxy"]["start"] == pytest.approx(other["proxy"]["start"], abs=2e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_mistake_ends_the_run_with_its_sentence_and_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(BetastarError, match=r"has diverged .*; lower rewards\.learning_rate or rewards\.clip\.$"):
        pipeline.run(small(*ON_RAY, "rewards.learning_rate=1e12", "rewards.clip=1e12", "adapter.alpha=1e12"), tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("counting")
def test_a_node_that_goes_away_in_the_middle_costs_only_its_own_unit(local: Path, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    ray.shutdown()
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()

    def remove() -> None:
        ends = time.monotonic() + 120
        while "offline" not in ((tmp_path / "made.txt").read_text() if (tmp_path / "made.txt").exists() else ""):
            if time.monotonic() > ends:
                return
            time.sleep(0.1)
        nodes.remove_node(other, allow_graceful=False)

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        pipeline.run(small(*ON_RAY, f"compute.engine.address={nodes.address}"), tmp_path)
        remover.join()
        assert same_results(tmp_path, local)
        parts = made(tmp_path)
        assert len(parts) == len(set(parts)) == PARTS + 2
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("counting")
def test_when_every_node_is_gone_the_run_ends_with_a_sentence_and_can_be_continued(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    ray.shutdown()
    monkeypatch.setattr(schedules, "ALONE", 1.0)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    other = nodes.add_node(num_cpus=2)
    nodes.wait_for_nodes()

    class Remover(Listener):
        def workers(self, states: Any) -> None:
            nonlocal other
            if other is not None and any(state.stage == "rewards" for state in states):
                nodes.remove_node(other, allow_graceful=False)
                other = None

    listener = Remover()
    try:
        settings = (f"compute.engine.address={nodes.address}", "compute.engine.worker_wait=5")
        with pytest.raises(BetastarError, match=r"no worker has been alive for 5 s; the cluster has 0 free CPUs"):
            pipeline.run(small(*ON_RAY, *settings), tmp_path, listener)
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert len([line for line in listener.said if "no worker has been alive for 1 s" in line]) == 1
    pipeline.run(small(), tmp_path, listener)  # finished work is found
    assert {"base: reused", "preferences: reused"} <= set(listener.said)
    assert same_results(tmp_path, local)


@pytest.mark.slow
def test_a_killed_driver_goes_on_where_it_was(local: Path, tmp_path: Path) -> None:
    ray.shutdown()
    settings = [part for override in (*SMALL, ON_RAY[2]) for part in ("--set", override)]

    def begin() -> Command:
        return Command("run", "micro", "--engine", "ray", "--workers", "2", "--out", tmp_path, *settings, drawn=False)

    first, ends = begin(), time.monotonic() + 200
    while not list(tmp_path.glob("store/offline/[0-9a-f]*/manifest.json")):
        assert time.monotonic() < ends
        time.sleep(0.1)
    assert first.process.pid is not None
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.join()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("store/*/[0-9a-f]*/manifest.json")}
    done = begin().done()
    assert done.returncode == 0, done.stderr
    assert same_results(tmp_path, local)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_ctrl_c_stops_and_says_how_to_go_on(tmp_path: Path) -> None:
    ray.shutdown()
    settings = [part for override in SMALL for part in ("--set", override)]
    run = Command("run", "micro", "--engine", "ray", "--workers", "2", "--out", tmp_path, *settings, drawn=False)
    run.interrupt("worker 0: opening")
    done = run.done()
    assert done.returncode == 130
    assert "Stopped. Finished work is kept; continue with: betastar run micro --engine ray" in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_share_a_store_and_no_run_directory(local: Path, tmp_path: Path) -> None:
    store = f"file://{tmp_path / 'shared'}"
    where = (f"compute.engine.store={store}", f"compute.engine.cache={tmp_path / 'cache'}")
    pipeline.run(small(*ON_RAY, *where), tmp_path / "run")
    assert same_results(tmp_path / "run", local)
    pipeline.run(small(where[0]), tmp_path / "elsewhere")  # another machine, without Ray, finds all of it
    assert same_results(tmp_path / "elsewhere", local)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("compute.engine.address=127.0.0.1:9", r"no Ray cluster answers at 127.0.0.1:9 \(.*refused\); start one with"),
        ("compute.engine.address=nonsense", "nonsense is not the address of a Ray cluster; write auto, HOST:PORT"),
        ("compute.engine.store=memory://x", "memory:// is seen by one process only; give s3://"),
    ],
)
def test_what_cannot_be_reached_is_one_sentence_and_writes_nothing(tmp_path: Path, setting: str, sentence: str) -> None:
    with pytest.raises(BetastarError, match=sentence):
        pipeline.run(small(*ON_RAY, setting), tmp_path)
    assert not list(tmp_path.glob("store/*/[0-9a-f]*"))


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("compute.device=cuda", "compute.device: no node of the Ray cluster has a GPU; choose cpu or auto"),
        ("compute.device=cuda:1", "compute.device: cuda:1 names one GPU of one machine; choose cuda or auto with Ray"),
    ],
)
def test_a_device_that_no_worker_has_is_one_sentence(tmp_path: Path, setting: str, sentence: str) -> None:
    with pytest.raises(BetastarError, match=sentence):
        pipeline.run(small(*ON_RAY, setting), tmp_path)


class Old(RayWorker):
    def hello(self) -> dict[str, Any]:
        return {**super().hello(), "betastar": "0.0.1"}


class Blind(RayWorker):
    def hello(self) -> dict[str, Any]:
        return {**super().hello(), "sees": False}


class Bare(RayWorker):
    def __init__(self, folder: str, uri: str | None, device: str):
        raise ModuleNotFoundError("No module named 'betastar'")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Old, r"has betastar 0\.0\.1, and this process .*; install betastar .* on every node"),
        (Blind, r"does not see .*; give a run directory on a shared disk"),
        (Bare, r"a worker cannot start \(.*No module named 'betastar'.*\); install betastar"),
    ],
)
def test_a_worker_that_cannot_serve_is_one_sentence(tmp_path: Path, monkeypatch, kind: type, sentence: str) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(ray_engine, "RayWorker", kind)
    with pytest.raises(BetastarError, match=sentence):
        pipeline.run(small(*ON_RAY), tmp_path)
    assert not list(tmp_path.glob("store/*/[0-9a-f]*"))


@pytest.mark.parametrize(
    ("greeting", "sentence"),
    [
        (
            {"betastar": "0.0.1"},
            r"^compute\.engine: the worker on there has betastar 0\.0\.1, .*; install",
        ),
        (
            {"sees": False},
            r"^compute\.engine: the worker on there does not see .*; give a run directory on a shared disk",
        ),
    ],
)
def test_a_greeting_of_a_worker_that_cannot_serve_is_one_sentence(
    tmp_path: Path, greeting: dict[str, Any], sentence: str
) -> None:
    good = {**RayWorker(str(tmp_path), None, "cpu").hello(), "host": "there", "sees": True}
    ray_engine.check_worker(good, tmp_path)
    with pytest.raises(BetastarError, match=sentence):
        ray_engine.check_worker({**good, **greeting}, tmp_path)


def test_without_the_package_one_sentence_names_the_command(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "betastar.experiment.ray_engine")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BetastarError) as error:
        pipeline.run(small(*ON_RAY), tmp_path)
    assert str(error.value) == "compute.engine.kind: ray is not installed; pip install 'betastar[ray]'."


def works(n: int) -> list[Work[int]]:
    def build(*args: object) -> None:
        raise AssertionError

    first = Work("offline", {i: f"off{i}" for i in range(n)}, build)
    second = Work("probe", {i: f"pro{i}" for i in range(n)}, build, needs=lambda i: [f"off{i}"])
    return [first, second, Work("best_of_n", {i: f"bes{i}" for i in range(n)}, build, needs=lambda i: [f"off{i}"])]


def test_the_schedule_hands_out_what_is_ready_and_what_others_wait_for_first() -> None:
    schedule = Schedule(2)
    schedule.plan(works(4), set())
    first, second = schedule.next(), schedule.next()
    assert (first, second) == (Unit("offline", ("off0", "off1")), Unit("offline", ("off2", "off3")))
    assert schedule.next() is None  # everything else needs one of them: no barrier, but no start without its inputs
    assert first is not None
    assert second is not None
    schedule.done(first, 10)
    assert schedule.next() == Unit("probe", ("pro0", "pro1"))
    assert schedule.next() == Unit("best_of_n", ("bes0", "bes1"))
    schedule.lost(second)
    assert schedule.next() == second
    assert schedule.counts() == {"offline": (2, 4), "probe": (0, 4), "best_of_n": (0, 4)}
    schedule.plan(works(4), {"off0"})  # nothing new
    assert len(schedule.waiting) + len(schedule.busy) == 5


def test_memory_that_runs_out_halves_a_unit_down_to_one_part() -> None:
    schedule, error = Schedule(1), BetastarError("out of memory", where="offline", remedy="take a smaller model")
    schedule.plan(works(3)[:1], set())
    unit = schedule.next()
    assert unit is not None
    schedule.too_large(unit, error)
    assert schedule.waiting == [Unit("offline", ("off0", "off1")), Unit("offline", ("off2",))]
    small_one = schedule.waiting[1]
    schedule.waiting, schedule.busy = [], [small_one]
    with pytest.raises(BetastarError, match="out of memory"):
        schedule.too_large(small_one, error)


def test_a_unit_that_loses_every_worker_ends_the_run() -> None:
    schedule = Schedule(1, lost_workers=2)
    schedule.add(OPENING)
    for _ in range(2):
        assert schedule.next() == OPENING
        schedule.lost(OPENING)
    assert schedule.next() == OPENING
    with pytest.raises(InternalError, match=r"^opening: 3 workers were lost while making it; look for the reason in"):
        schedule.lost(OPENING)


def test_units_much_longer_than_an_hour_are_halved_once_that_is_known() -> None:
    schedule = Schedule(1)
    schedule.plan([works(8)[0]], set())
    first = schedule.next()
    assert first is not None
    assert len(first.keys) == 8  # nothing is known yet
    schedule.done(first, 8 * 3000)
    schedule.plan([Work("offline", {i: f"new{i}" for i in range(8)}, works(1)[0].build)], set())
    assert [len(unit.keys) for unit in iter(schedule.next, None)] == [1] * 8  # two of 3000 s are more than 1.5 h


def test_a_driver_without_workers_says_so_once_and_gives_up_at_its_limit() -> None:
    said: list[str] = []
    clock = [0.0]
    patience = Patience(300, said.append, lambda: "0 free CPUs and 0 free GPUs", lambda: clock[0])

    def look(at: float, alive: bool) -> None:
        clock[0] = at
        patience.look(alive)

    look(0, alive=True)
    look(10, alive=False)
    look(69, alive=False)
    assert said == []
    look(70, alive=False)
    look(90, alive=False)
    assert said == [
        "no worker has been alive for 60 s; the cluster has 0 free CPUs and 0 free GPUs. Waiting for one, up to 300 s "
        "(compute.engine.worker_wait)."
    ]
    look(100, alive=True)
    assert said[1:] == ["a worker is back; the run continues."]
    look(110, alive=False)
    look(409, alive=False)  # counted anew
    with pytest.raises(BetastarError) as error:
        look(410, alive=False)
    assert str(error.value) == (
        "compute.engine: no worker has been alive for 300 s; the cluster has 0 free CPUs and 0 free GPUs; add nodes to "
        "the Ray cluster, or raise compute.engine.worker_wait, then run the same again: finished work is kept."
    )
