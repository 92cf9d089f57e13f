"""A run that dies at any of its file operations, alone or with the machine, ends with the same bytes when it is started
again, leaves nothing behind, and makes nothing twice that was finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from crashes import KINDS, Moment, Tree, dies_at, laid_out, live, record
from experiment.small import SMALL, Listener

from betastar.experiment import pipeline
from betastar.experiment.stages import task
from betastar.settings.config import load_config

TINIEST = (
    *SMALL,
    "base.training.steps=1",
    "base.geometry.hidden_size=16",
    "base.geometry.intermediate_size=16",
    "preferences.prompts=30",
    "rewards.members=2",
    "online.steps=2",
    "online.batch_size=2",
    "evaluation.every=1",
    "evaluation.problems=2",
    "evaluation.best_of=0",
    "evaluation.plasticity=0",
    "task.test_problems=4",
    "seeds=[0]",
    "variants={paper: null}",
    "lengths.generated=4",
)
PUBLISHED = ("results.json", "metrics.jsonl", "samples.jsonl", "answers.parquet", "config.yaml", "adapters/")
BY_THE_CLOCK = ("manifest.json", "status.json")
"""What holds times: all else that a run leaves is the same every time."""


class Tiniest:
    """The run, always in the same folder, whose path is in some of its files."""

    def __init__(self, folder: Path):
        self.folder, self.listener = folder, Listener()
        self.run()
        self.undisturbed = results_of(live(folder))

    def run(self) -> None:
        pipeline.run(load_config("micro", TINIEST), self.folder, self.listener)

    def emptied(self) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return self.folder

    def recorded(self, wanted: Callable[[int], bool] = lambda number: True) -> list[Moment]:
        """The moments of an undisturbed run at which it may die."""
        return record(self.run, self.emptied(), wanted)

    def faults_after(self, moment: Moment) -> list[str]:
        """What is wrong once the run has been finished from there."""
        shutil.rmtree(self.folder)
        laid_out(moment.tree, self.folder)
        self.listener.said.clear()
        self.run()
        return self.faults(moment.tree)

    def faults(self, began: Tree) -> list[str]:
        found = live(self.folder)
        results = results_of(found)
        faults = [f"differs: {name}" for name, content in self.undisturbed.items() if results.get(name) != content]
        faults += [f"left behind: {name}" for name in found.keys() - self.undisturbed.keys() if is_left_over(name)]
        faults += [line for line in self.listener.said if "damaged" in line]
        for stage in {name.split("/")[1] for name in began if is_finished_artefact(name)} - {"results"}:
            if f"{stage}: reused" not in self.listener.said:
                faults.append(f"made again: {stage}")
        return faults


class Counting(Listener):
    """Remembers the last that was reported of each stage, by its unit."""

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        self.last: dict[tuple[str, str], tuple[int, int]] = {}

    def stage(self, name: str, place: int, of: int) -> None:
        self.name = name

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self.last[self.name, unit] = done, total


def results_of(tree: Tree) -> Tree:
    """What is published, and the tensors and rows of every artefact."""
    return {
        name: content
        for name, content in tree.items()
        if content is not None and name.startswith((*PUBLISHED, "store/")) and not name.endswith(BY_THE_CLOCK)
    }


def is_left_over(name: str) -> bool:
    return ".tmp" in name or "/partial/" in name or ".damaged" in name


def is_finished_artefact(name: str) -> bool:
    place = name.split("/")
    return len(place) == 4 and place[3] == "manifest.json" and place[2][0] in "0123456789abcdef"


@pytest.fixture(scope="module")
def tiniest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiniest]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.report, "run", lambda ctx, results: None)
        patch.setattr(task, "MICRO_TRAIN_PROBLEMS", 8)
        yield Tiniest(tmp_path_factory.mktemp("tiniest") / "run")


def spread(moments: Sequence[Moment], n: int) -> list[Moment]:
    """So many moments of each kind, from the first to the last."""
    chosen = []
    for place, kind in enumerate(KINDS):
        mine = [moment for moment in moments if moment.kind == kind]
        assert len(mine) >= n, kind
        chosen += [mine[(2 * i + 1) * len(mine) // (2 * n) + place % 2] for i in range(n)]
    return chosen


def test_dead_at_any_operation_with_or_without_the_machine(tiniest: Tiniest) -> None:
    moments = tiniest.recorded(lambda number: number % 16 == 3)
    for moment in spread(moments, 3):
        assert not tiniest.faults_after(moment), (moment.number, moment.operation, moment.kind)


def test_every_stage_that_reads_pairs_says_how_far_it_is(tiniest: Tiniest) -> None:
    """The base reads all pairs once; members and policies read the held-out ones."""
    listener, folder = Counting(), tiniest.emptied()
    pipeline.run(load_config("micro", TINIEST), folder, listener)
    splits = json.loads((folder / "results.json").read_text())["data"]["splits"]
    assert listener.last["reference", "pairs"] == (sum(splits.values()), sum(splits.values()))
    assert listener.last["rewards", "responses"] == (2 * splits["test"], 2 * splits["test"])
    assert listener.last["offline", "pairs"] == (2 * splits["test"], 2 * splits["test"])  # two policies


@pytest.mark.thorough
def test_dead_again_and_again(tiniest: Tiniest) -> None:
    """Each process dies a little later than the one before: some within a stage, some within the repair."""
    folder, died = tiniest.emptied(), 0
    while dies_at(tiniest.run, folder, 25 + 23 * died):
        died += 1
    assert died >= 6
    tiniest.listener.said.clear()
    tiniest.run()
    assert not tiniest.faults(live(folder))


def test_what_is_finished_outlives_the_machine(tiniest: Tiniest) -> None:
    """When a run has ended, power may be cut: everything that it made is there, but for what has no bearing on it."""
    moments = tiniest.recorded(lambda number: False)
    after = next(moment for moment in reversed(moments) if moment.kind == "power")
    results, record = results_of(after.tree), after.tree["results.json"]
    lost = [name for name, content in tiniest.undisturbed.items() if results.get(name) != content]
    assert all(name.startswith("adapters/") for name in lost), lost  # links, which the next run makes anew
    assert isinstance(record, bytes)
    assert json.loads(record)["schema_version"] == 4


@pytest.mark.slow
def test_dead_at_every_operation(tiniest: Tiniest) -> None:
    """Some 1 100 different folders, about a second of processor time each. With -s it says how far it is."""
    moments, faulty = tiniest.recorded(), {}
    for done, moment in enumerate(moments):
        if faults := tiniest.faults_after(moment):
            faulty[moment[:3]] = faults
        if done % 100 == 0:
            print(f"{done}/{len(moments)}, {len(faulty)} with a fault", flush=True)
    tried = {kind: sum(moment.kind == kind for moment in moments) for kind in KINDS}
    print(f"{len(moments)} deaths ({tried}), {len(faulty)} with a fault")
    assert sum(tried.values()) >= 300
    assert faulty == {}
