"""The whole experiment at a size at which a test can run it several times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from betastar.experiment.place import Place
from betastar.experiment.store import Store
from betastar.experiment.work import Unit, write_settings
from betastar.experiment.worker import Worker
from betastar.progress import Reporter
from betastar.settings.config import Config, load_config

SMALL = (
    "base.training.steps=10",
    "base.training.batch_size=16",
    "base.geometry.hidden_size=32",
    "base.geometry.heads=2",
    "base.geometry.key_value_heads=2",
    "base.geometry.intermediate_size=64",
    "preferences.prompts=100",
    "rewards.batch_size=16",
    "offline.batch_size=16",
    "offline.evaluate_every=4",
    "online.steps=3",
    "online.batch_size=4",
    "evaluation.every=2",
    "evaluation.problems=4",
    "evaluation.best_of=2",
    "evaluation.plasticity=4",
    "evaluation.answers=1",
    "task.test_problems=20",
    "seeds=[0, 1]",
    "grid={method: list, values: [0.1, 1.0]}",
    "lengths.generated=8",
    "compute.threads=1",
    "compute.checkpoint_seconds=0",
    # Banks of two, whoever builds them: with two workers every stage has the same groups as in this process.
    "rewards.seeds_at_once=1",
    "offline.conditions_at_once=2",
    "online.conditions_at_once=2",
)
# One checkpoint and two variants online, in banks of one: what workers do takes less time than their start.
TINY = (
    "seeds=[0]",
    "grid.values=[0.1]",
    "rewards.members=2",
    "task.largest=6",
    "evaluation.best_of=0",
    "evaluation.plasticity=0",
    "offline.evaluate_every=null",
    "online.steps=2",
    "offline.conditions_at_once=1",
    "online.conditions_at_once=1",
)
RESULTS = ("results.json", "metrics.jsonl", "samples.jsonl")


class Listener(Reporter):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def small(*overrides: str) -> Config:
    return load_config("micro", [*SMALL, *overrides])


@contextmanager
def a_worker(
    config: Config, folder: Path, reporter: Reporter | None = None, at: Place | None = None
) -> Iterator[Worker]:
    """A worker of the run in a folder, which need not have been begun."""
    write_settings(folder, config, at)
    with Store.of(config.compute, folder, (reporter or Reporter()).say, at, shared=True) as store:
        yield Worker(config, store, reporter or Reporter())


def all_done(worker: Worker, workers: int) -> list[Unit]:
    """The units that one worker makes when it takes them as they come, until nothing is left."""
    done = []
    while ready := worker.ready(workers):
        worker.do(ready[0])
        done.append(ready[0])
    return done


def same_results(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in RESULTS)
