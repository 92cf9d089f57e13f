"""The sweep on a Ray cluster: one actor per GPU, which keeps its models; through Ray travel only keys and places.

The driver plans units of work, hands each free worker one, and gives a unit whose worker is lost to another one. It
does so itself, and does not let Ray try a lost call again: Ray would wait for the same actor, for ever if its node is
gone. Everything is kept in the store, so what a killed driver has done by then is found by the next.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from betastar import __version__
from betastar.disk import content_key
from betastar.errors import BetastarError, InternalError
from betastar.experiment.making import NotMadeError
from betastar.experiment.ray_worker import RayWorker
from betastar.experiment.schedule import Patience, Schedule
from betastar.experiment.store import Store
from betastar.experiment.work import OPENING, REFERENCE, Unit, work_of, write_settings
from betastar.experiment.worker import Worker
from betastar.progress import STAGES, Reporter, WorkerState
from betastar.settings.config import Config, needs_deriving

LOOK = 2.0  # seconds between looks at what workers do
START = 300.0  # seconds for the first worker to start
LOST = (ray.exceptions.RayActorError, ray.exceptions.NodeDiedError, ray.exceptions.WorkerCrashedError)


@dataclass
class _Hand:
    """An actor as the driver sees it: its call that is under way, and of which unit."""

    name: str
    actor: Any
    call: Any = None
    unit: Unit | None = None
    began: float = 0.0
    failed: int = 0  # how often it died before it answered
    now: dict[str, Any] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether it has answered since it was started, or started again."""
        return self.call is None or self.unit is not None


class Cluster:
    """Workers of a Ray cluster for the run in `store`. Use as a context manager: at its end, however it ends, no worker
    is left.

    Raises BetastarError if the cluster cannot be reached, if it does not have the devices, or if a worker does not have
    this version of betastar or does not see the run directory.
    """

    def __init__(self, config: Config, store: Store, reporter: Reporter):
        self.config, self.store, self.reporter = config, store, reporter
        self._mine = False  # whether the cluster was started here
        self.hands: list[_Hand] = []
        self.memory_gb = 0.0
        self._stage = ""  # that the reporter was told of last
        self._downloads = ThreadPoolExecutor(1, "download")
        self._patience = Patience(config.compute.engine.worker_wait, reporter.say, _resources)

    def __enter__(self) -> Cluster:
        engine = self.config.compute.engine
        if (engine.store or "").startswith("memory:"):
            raise BetastarError(
                "memory:// is seen by one process only",
                where="compute.engine.store",
                remedy="give s3://, gs:// or file://, or leave it empty for a shared run directory",
            )
        self._connect(engine.address, engine.workers)
        try:
            self._start(*self._wanted())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for hand in self.hands:
            with suppress(Exception):
                ray.kill(hand.actor)
        self._downloads.shutdown(wait=True, cancel_futures=True)
        if self._mine:
            ray.shutdown()

    def _connect(self, address: str | None, workers: int | None) -> None:
        _check_reachable(address)
        if ray.is_initialized():
            return
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        try:
            if address is None:
                cpus = max(os.cpu_count() or 1, (workers or 1) * (self.config.compute.threads or 1))
                ray.init(num_cpus=cpus, include_dashboard=False, **quiet)
            else:
                ray.init(address=address, **quiet)
        except Exception as error:
            first = str(error).strip().split("\n")[0].rstrip(".")
            raise BetastarError(
                f"no Ray cluster answers at {address or 'this machine'} ({first})",
                where="compute.engine.address",
                remedy="start one with `ray start --head`, give HOST:PORT of its head, or leave the address empty to "
                "start one on this machine",
            ) from None
        self._mine = True

    def _wanted(self) -> tuple[int, int]:
        """How many workers, and how many GPUs each has. Raises BetastarError for what the cluster does not have."""
        device, asked = self.config.compute.device, self.config.compute.engine.workers
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if ":" in device:
            raise BetastarError(
                f"{device} names one GPU of one machine", where="compute.device", remedy="choose cuda or auto with Ray"
            )
        if device == "cuda" and gpus == 0:
            raise BetastarError(
                "no node of the Ray cluster has a GPU", where="compute.device", remedy="choose cpu or auto, or add one"
            )
        if device in ("cpu", "mps") or gpus == 0:
            nodes = sum(node["Alive"] for node in ray.nodes())
            return asked or nodes, 0
        if asked is not None and asked > gpus:
            raise BetastarError(
                f"{asked} workers need a GPU each, and the Ray cluster has {gpus}",
                where="compute.engine.workers",
                remedy=f"take at most {gpus}",
            )
        return asked or gpus, 1

    def _start(self, workers: int, gpus: int) -> None:
        engine, compute = self.config.compute.engine, self.config.compute
        folder = self.store.folder.resolve()
        if engine.store is not None:
            folder = Path(engine.cache or Path(tempfile.gettempdir()) / f"betastar-{content_key(engine.store)}")
        threads = compute.threads or 1
        options = {
            "num_gpus": gpus,
            "num_cpus": 1 if gpus else threads,
            "max_restarts": -1,
            "max_task_retries": 0,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "10000"}},
        }
        remote: Any = ray.remote
        kind = remote(concurrency_groups={"look": 1})(RayWorker)
        kind = kind.options(**options)
        device = "cpu" if not gpus and compute.device != "mps" else compute.device
        arguments = (str(folder), engine.store, device)
        self.hands = [_Hand(f"worker {i}", kind.remote(*arguments)) for i in range(workers)]
        greetings = {hand.actor.hello.remote(): hand for hand in self.hands}
        first, _ = ray.wait(list(greetings), num_returns=1, timeout=START)
        if not first:
            raise BetastarError(
                f"no worker started within {START:.0f} s; the cluster has {_resources()}",
                where="compute.engine",
                remedy="free some of them or lower compute.engine.workers and compute.threads",
            )
        there, _ = ray.wait(list(greetings), num_returns=len(greetings), timeout=LOOK)
        for call in dict.fromkeys([*first, *there]):
            self._check(_answer(call))
        for call, hand in greetings.items():  # those that start later are greeted then
            if call not in there and call not in first:
                hand.call = call

    def make(self, schedule: Schedule) -> None:
        """Hand out units until all that is known is made. Raises BetastarError for the first mistake or fault, or if no
        worker comes back, and InternalError when a unit has lost too many workers."""
        while schedule.waiting or schedule.busy:
            for hand in self.hands:
                if hand.call is None and (unit := schedule.next()) is not None:
                    hand.unit, hand.began, hand.now = unit, time.monotonic(), {"stage": unit.stage}
                    hand.call = hand.actor.do.remote(unit.stage, list(unit.keys))
            ended, _ = ray.wait([hand.call for hand in self.hands if hand.call is not None], timeout=LOOK)
            changed = False
            for hand in list(self.hands):
                if hand.call in ended:
                    changed |= self._ended(hand, schedule)
            self._patience.look(any(hand.alive for hand in self.hands))
            if not ended:
                self._look()
            self._tell(schedule)
            if changed:
                return

    def _ended(self, hand: _Hand, schedule: Schedule) -> bool:
        """A call of an actor has ended, well or not; whether a unit was finished by it."""
        call, unit = hand.call, hand.unit
        hand.call = hand.unit = None
        try:
            found: Any = ray.get(call)
        except LOST as error:
            first = str(error).strip().split("\n")[0]
            if unit is None:
                self._greet_again(hand, first)
                return False
            self.reporter.say(f"{hand.name} was lost while making {unit.stage} ({first}); another one makes it.")
            schedule.lost(unit)
            hand.call = hand.actor.hello.remote()  # answered when Ray has started it again, perhaps elsewhere
            return False
        if unit is None:  # it has just started
            hand.failed = 0
            self._check(found)
            return False
        self._look([hand])
        hand.now = {}
        if found["end"] == "done":
            schedule.done(unit, found["seconds"])
            if self.store.remote is not None and unit.keys:
                self._downloads.submit(self._download, unit)
            return True
        if found["end"] == "busy":  # by a worker that Ray gave up, but that still works
            schedule.put_back(unit)
            time.sleep(LOOK)
            return False
        if found["end"] == "fault":
            raise InternalError(found["what"], where=f"{hand.name}, {unit.stage}\n{found['trace']}")
        kind = InternalError if found["exit_code"] == InternalError.exit_code else BetastarError
        mistake = kind(found["what"], where=found["where"], remedy=found["remedy"])
        if found["end"] == "memory":
            schedule.too_large(unit, mistake)
            self.reporter.say(f"out of memory with {len(unit.keys)} conditions at once; continuing with half as many.")
            return False
        raise mistake

    def _greet_again(self, hand: _Hand, reason: str) -> None:
        """A worker has died before it did anything: try a few times, then go on without it. Raises InternalError if it
        was the last."""
        hand.failed += 1
        if hand.failed <= self.config.compute.engine.lost_workers:
            hand.call = hand.actor.hello.remote()
            return
        self.hands = [other for other in self.hands if other is not hand]
        self.reporter.say(f"{hand.name} cannot be started again ({reason}); going on without it.")
        if not self.hands:
            raise InternalError(
                f"no worker is left; the last one ended with {reason}",
                where="compute.engine",
                remedy="look into Ray's logs, then run the same again: finished work is kept",
            )

    def _download(self, unit: Unit) -> None:
        """Fetch what was made, for those who watch; what cannot be fetched now is fetched at the end."""
        with suppress(BetastarError):
            self.store.find(unit.stage, unit.artefact)

    def _look(self, hands: Sequence[_Hand] | None = None) -> None:
        """Ask actors how far they are, without waiting for one that does not answer."""
        looks = {hand.actor.look.remote(): hand for hand in hands or self.hands if hands or hand.unit is not None}
        if not looks:
            return
        answered, _ = ray.wait(list(looks), num_returns=len(looks), timeout=LOOK)
        for call in answered:
            with suppress(*LOST):
                now: Any = ray.get(call)
                for line in now.pop("lines"):
                    self.reporter.say(f"{looks[call].name}: {line}")
                looks[call].now = now

    def _tell(self, schedule: Schedule) -> None:
        """How far the sweep is, in parts, and what each worker does."""
        counts = schedule.counts()
        states = [
            WorkerState(hand.name, hand.unit.stage, hand.now.get("done", 0), hand.now.get("total", 0),
                        hand.now.get("unit", ""), hand.now.get("note", ""))
            for hand in self.hands if hand.unit is not None
        ]  # fmt: skip
        self.reporter.workers(states)
        left = {stage: count for stage, count in counts.items() if count[0] < count[1]}
        if not left:
            return
        (stage, (made, parts)), *others = left.items()
        if stage != self._stage:  # the first that is not finished; later ones may have begun
            self._stage = stage
            self.reporter.stage(stage, STAGES.index(stage) + 1, len(STAGES))
        note = ", ".join(f"{other} {count[0]}/{count[1]}" for other, count in others if count[0])
        self.reporter.progress(made, parts, "parts", note)

    def _check(self, found: Mapping[str, Any]) -> None:
        check_worker(found, self.store.folder)
        memory = found["memory_gb"]
        self.memory_gb = min(self.memory_gb or memory, memory)


def check_worker(found: Mapping[str, Any], folder: Path) -> None:
    """Raises BetastarError if a worker's greeting says that it cannot work on the run in `folder`."""
    if found["betastar"] != __version__:
        raise BetastarError(
            f"the worker on {found['host']} has betastar {found['betastar']}, and this process {__version__}",
            where="compute.engine",
            remedy=f"install betastar {__version__} on every node",
        )
    if not found["sees"]:
        raise BetastarError(
            f"the worker on {found['host']} does not see {folder.resolve()}",
            where="compute.engine",
            remedy="give a run directory on a shared disk with --out, or a common store with --store s3://BUCKET/PATH",
        )


def _resources() -> str:
    there = ray.available_resources()
    return f"{there.get('CPU', 0):g} free CPUs and {there.get('GPU', 0):g} free GPUs"


def _answer(call: Any) -> dict[str, Any]:
    """What a greeting says. Raises BetastarError for a worker that cannot even be made."""
    try:
        found: Any = ray.get(call)
        return found
    except Exception as error:
        text = str(error)
        missing = "No module named" in text or "ModuleNotFoundError" in text
        lines = [line.strip() for line in text.strip().split("\n") if line.strip()]
        raise BetastarError(
            f"a worker cannot start ({(next((x for x in lines if 'No module named' in x), lines[0]))})",
            where="compute.engine",
            remedy=f"install betastar {__version__} on every node" if missing else "look into Ray's logs",
        ) from None


def _check_reachable(address: str | None) -> None:
    """Raises BetastarError if nobody listens at HOST:PORT: Ray itself would try for many minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        if address not in (None, "auto", "local"):
            raise BetastarError(
                f"{address} is not the address of a Ray cluster",
                where="compute.engine.address",
                remedy="write auto, HOST:PORT or ray://HOST:PORT",
            )
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise BetastarError(
            f"no Ray cluster answers at {address} ({str(error) or type(error).__name__})",
            where="compute.engine.address",
            remedy="start one with `ray start --head`, give HOST:PORT of its head, or leave the address empty to start "
            "one on this machine",
        ) from None


def distribute(config: Config, store: Store, reporter: Reporter) -> Config:
    """Make the whole sweep of a run on its cluster: afterwards the store has every part. Returns the settings that hold
    for all workers: with the memory of the smallest device where batch sizes follow from it.

    Raises BetastarError as `Cluster` does, for a mistake that a worker meets, and InternalError for a fault.
    """
    with Cluster(config, store, reporter) as cluster:
        if needs_deriving(config) and config.compute.memory_gb is None:
            compute = config.compute.model_copy(update={"memory_gb": cluster.memory_gb})
            config = config.model_copy(update={"compute": compute})
        write_settings(store.folder, config, store.remote)
        if store.remote is not None:
            store.upload_all()
        mine = Worker(config, store, Reporter())  # it plans, and makes nothing
        engine = config.compute.engine
        schedule = Schedule(len(cluster.hands) * engine.units_per_worker, engine.lost_workers)
        asked: set[str] = set()
        told: set[Unit] = set()
        while True:
            first = _next_step(mine, schedule)
            _tell_places(mine, schedule, store, reporter, told)
            if first is not None and first.stage not in asked:
                asked.add(first.stage)
                schedule.add(first)
            if not schedule.waiting and not schedule.busy:
                if first is not None:
                    raise BetastarError(
                        "made by a worker, but not as this machine would make it",
                        where=first.stage,
                        remedy="give every machine the same model and data files (a shared folder, or a model of the "
                        "hub with its revision)",
                    )
                return config
            cluster.make(schedule)


def _next_step(mine: Worker, schedule: Schedule) -> Unit | None:
    """Plan what is known by now; returns what has to be made before more is known."""
    try:
        works = mine.works()
    except NotMadeError:
        return OPENING
    schedule.plan(works, mine.finished(), mine.steps())
    return None if mine.knows_all else REFERENCE


def _tell_places(mine: Worker, schedule: Schedule, store: Store, reporter: Reporter, told: set[Unit]) -> None:
    """Say where the results of units will be that nobody has heard of yet."""
    new = [unit for unit in [*schedule.waiting, *schedule.busy] if unit.keys and unit not in told]
    for unit in new:
        work, conditions = work_of(mine.works(), unit)
        folder = store.place(unit.stage, unit.artefact)
        names = [name for condition in conditions for name in work.logged(condition)]
        reporter.places(unit.stage, {name: folder / name for name in names}, names)
    told |= set(new)
