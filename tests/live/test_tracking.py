"""Trackers get every number once: TensorBoard read back by its own reader, the others through accelerate's classes."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import accelerate.tracking
import pytest
from experiment.test_files import SMALL, write_files
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from betastar.errors import BetastarError
from betastar.experiment import pipeline
from betastar.live.view import look
from betastar.progress import Reporter
from betastar.settings.config import Config, load_config

# Six online steps and no checkpoint before the last: what is interrupted at the third begins again at the first.
SETTINGS = (*SMALL, "online.steps=6", "evaluation.every=2", "seeds=[0]", "variants.fixed=null")


class Listener(Reporter):
    def __init__(self, stop_at: int | None = None) -> None:
        self.said: list[str] = []
        self.name, self.stop_at = "", stop_at

    def say(self, text: str) -> None:
        self.said.append(text)

    def stage(self, name: str, place: int, of: int) -> None:
        self.name = name

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        if self.name == "online" and done == self.stop_at:
            raise KeyboardInterrupt


def config(data: Path, *more: str) -> Config:
    return load_config("files", [*SETTINGS, *write_files(data), *more])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def resumed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with TensorBoard that was interrupted in its online stage and continued."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(config(data, "tracking.to=[tensorboard]"), folder, Listener(stop_at=3), "betastar run files")
    view = look(folder)
    assert view.phase == "stopped"
    assert view.status.command == "betastar run files"
    assert [series.steps for series in view.series] == [[0, 2]] * 3
    pipeline.run(config(data, "tracking.to=[tensorboard]"), folder)
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def conditions(run: Path) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Each online condition's folder below a tracker's run, and its evaluation points in metrics.jsonl."""
    points = rows(run / "metrics.jsonl")
    for beta in sorted({row["beta"] for row in points}):
        yield Path(f"paper/beta-{beta:g}/seed-0"), [row for row in points if row["beta"] == beta]


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Values by tag and step; asserts that no step of a tag is there twice."""
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    read.Reload()
    tags = {tag: read.Scalars(tag) for tag in read.Tags()["scalars"]}
    for tag, events in tags.items():
        assert max(Counter(event.step for event in events).values()) == 1, tag
    return {tag: {event.step: event.value for event in events} for tag, events in tags.items()}


@pytest.mark.thorough
def test_tensorboard_holds_the_numbers_of_metrics_jsonl_once_each_after_a_resume(resumed: Path) -> None:
    (board,) = (resumed / "tracking" / "tensorboard").iterdir()
    results = json.loads((resumed / "results.json").read_text())
    gaps = {c["beta"]: c["series"]["gap_standardised"] for c in results["conditions"]}
    seen = 0
    for condition, points in conditions(resumed):
        read = scalars(board / condition)
        for name in ("proxy", "true_strict", "kl", "disagreement", "policy_entropy"):
            expected = {point["step"]: pytest.approx(point[name], rel=1e-6) for point in points}
            assert read[f"evaluation/{name}"] == expected
        assert read["evaluation/members_1"] == {p["step"]: pytest.approx(p["members"][1], rel=1e-6) for p in points}
        expected = dict(zip([0, 2, 4, 6], gaps[points[0]["beta"]], strict=True))
        assert read["evaluation/gap_standardised"] == pytest.approx(expected, rel=1e-5)
        log = rows(
            next((resumed / "store" / "online").glob(f"*/paper-beta-{points[0]['beta']:g}-seed-0/training.jsonl"))
        )
        assert read["online/kappa"] == {row["step"]: pytest.approx(row["kappa"], rel=1e-6) for row in log}
        assert sorted(read["online/proxy"]) == [1, 2, 3, 4, 5, 6]
        seen += 1
    assert seen == 3
    for member in ("seed-0-member-0", "seed-0-member-1", "seed-0-member-2", "seed-0-judge"):
        log = rows(next((resumed / "store" / "rewards").glob(f"*/{member}/training.jsonl")))
        expected = {row["step"]: pytest.approx(row["loss"], rel=1e-6) for row in log}
        assert scalars(board / "rewards" / member)["rewards/loss"] == expected
    log = rows(next((resumed / "store" / "offline").glob("*/beta-1-seed-0/training.jsonl")))
    read = scalars(board / "offline" / "beta-1" / "seed-0")
    assert read["offline/loss"] == {row["step"]: pytest.approx(row["loss"], rel=1e-6) for row in log}


class Fake(accelerate.tracking.GeneralTracker):
    """Records what a tracker is told; raises at the `fail_at`-th call of log."""

    name = "fake"
    requires_logging_directory = False
    opened: ClassVar[list[Fake]] = []
    fail_at: ClassVar[int | None] = None

    class info:
        run_id = "run-of-mlflow"

    def __init__(self, *place: Any, **options: Any):
        super().__init__()
        self.place, self.options = place, options
        self.logged: list[tuple[dict[str, float], int | None]] = []
        self.axes: dict[str, str | None] = {}
        self.settings: dict[str, Any] | None = None
        self.finished = False
        Fake.opened.append(self)

    @property
    def tracker(self) -> Fake:
        return self

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes[name] = step_metric

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        if len(self.logged) + 1 == Fake.fail_at:
            raise ConnectionError("the server\nis away")
        self.logged.append((values, step))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    for name in ("WandBTracker", "MLflowTracker", "TrackioTracker"):
        monkeypatch.setattr(accelerate.tracking, name, Fake)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in ("wandb", "mlflow", "trackio") or found(name))
    monkeypatch.setattr(Fake, "opened", [])
    monkeypatch.setattr(Fake, "fail_at", None)
    return Fake


def copy(run: Path, to: Path) -> Path:
    """The finished run as if no tracker had followed it."""
    shutil.copytree(run, to, symlinks=True)
    shutil.rmtree(to / "tracking")
    (to / "tracking.json").unlink()
    return to


def by_step(logged: list[tuple[dict[str, float], int | None]]) -> dict[tuple[str, int | None], float]:
    """Values by metric and step; asserts that none was sent twice."""
    found: dict[tuple[str, int | None], float] = {}
    for values, step in logged:
        assert not {(name, step) for name in values} & found.keys()
        found |= {(name, step): value for name, value in values.items()}
    return found


@pytest.mark.thorough
def test_a_finished_run_is_sent_whole_by_names_and_makes_nothing_again(
    resumed: Path, data: Path, tmp_path: Path, fake: type[Fake]
) -> None:
    run, listener = copy(resumed, tmp_path / "run"), Listener()
    before = (run / "results.json").read_bytes()
    pipeline.run(config(data, "tracking={to: [mlflow, wandb, trackio], project: goodhart}"), run, listener)
    assert {f"{stage}: reused" for stage in pipeline.STAGES if stage != "offline_curve"} <= set(listener.said)
    assert "offline_curve: off (offline.evaluate_every)" in listener.said
    assert (run / "results.json").read_bytes() == before
    mlflow, wandb, trackio = fake.opened
    assert mlflow.finished
    assert (mlflow.place, wandb.place, trackio.place) == (("goodhart",),) * 3
    assert wandb.options["resume"] == trackio.options["resume"] == "allow"
    assert wandb.options["id"] == mlflow.options["run_name"]
    assert mlflow.settings is not None
    assert mlflow.settings["online.steps"] == "6"
    assert mlflow.logged == trackio.logged
    values = by_step(mlflow.logged)
    for condition, points in conditions(run):
        for point in points:
            for name in ("proxy", "true_strict", "kl"):
                assert values[f"evaluation/{name}/{condition}", point["step"]] == point[name]
    assert ("rewards/loss/seed-0-judge", 1) in values
    assert ("offline/norm/beta-1/seed-0", 1) in values
    # W&B's own step only grows; each section has an axis.
    assert wandb.axes["evaluation/*"] == "evaluation/step"
    assert {step for _, step in wandb.logged} == {None}
    axes: dict[str, list[float]] = {}
    for sent, _ in wandb.logged:
        (axis,) = (name for name in sent if name.endswith("/step"))
        axes.setdefault(axis, []).append(sent.pop(axis))
        assert all(name.startswith(axis.removesuffix("step")) for name in sent)
    assert axes["evaluation/step"] == [0, 2, 4, 6]
    pipeline.run(config(data, "tracking={to: [mlflow], project: goodhart}"), run)
    again = fake.opened[-1]
    assert (again.logged, again.settings, again.options["run_id"]) == ([], None, "run-of-mlflow")


def test_a_tracker_that_fails_is_named_once_and_gets_the_rest_from_the_next_run(
    resumed: Path, data: Path, tmp_path: Path, fake: type[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, listener = copy(resumed, tmp_path / "run"), Listener()
    monkeypatch.setattr(fake, "fail_at", 4)
    results = pipeline.run(config(data, "tracking.to=[trackio]"), run, listener)
    assert len(results["conditions"]) == 3
    assert [text for text in listener.said if "track" in text] == [
        "tracking: trackio failed (the server); the run continues without it; run the same command again to send "
        "what is missing."
    ]
    monkeypatch.setattr(fake, "fail_at", None)
    pipeline.run(config(data, "tracking.to=[trackio, mlflow]"), run)
    failed, after, other = fake.opened
    assert len(failed.logged) == 3
    assert by_step(failed.logged + after.logged) == by_step(other.logged)  # nothing twice, nothing missing


def test_other_settings_are_another_run_of_the_tracker(data: Path, tmp_path: Path, fake: type[Fake]) -> None:
    from betastar.live.trackers import Tracking

    names = []
    for more in ((), ("online.learning_rate=0.5",), ("compute.threads=2",), ("tracking.project=x",)):
        settings = config(data, "tracking.to=[trackio]", *more)
        tracking = Tracking(settings, tmp_path, lambda text: None)
        tracking.memory.mark("trackio", [])
        names.append(tracking.memory.name)
    assert names[0] == names[2] == names[3] != names[1]


def test_a_missing_package_is_one_sentence_before_anything_is_made(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BetastarError) as error:
        pipeline.run(config(data, "tracking.to=[wandb, tensorboard]"), tmp_path)
    assert str(error.value) == (
        "tracking.to: wandb and tensorboard cannot be imported; pip install wandb tensorboard, or remove "
        "it from tracking.to."
    )
    assert not list((tmp_path / "store").rglob("manifest.json"))


def test_no_tracker_is_the_default_and_a_repeated_or_unknown_one_is_refused(data: Path) -> None:
    assert config(data).tracking.to == ()
    with pytest.raises(
        BetastarError, match=r"tracking\.to=\[wandb, wandb\]: lists the same tracker twice; list each once"
    ):
        config(data, "tracking.to=[wandb, wandb]")
    with pytest.raises(BetastarError, match=r"tracking\.to\.0: input should be 'tensorboard', 'wandb'"):
        config(data, "tracking.to=[tensorbord]")


def test_names_that_mlflow_accepts() -> None:
    from betastar.live.trackers import Logged, metric_name

    row: Mapping[str, float] = {"proxy": 1.0}
    assert metric_name(Logged("online", "paper/beta-1e+06/seed-0", 3, dict(row)), "proxy") == (
        "online/proxy/paper/beta-1e06/seed-0"
    )
