"""Online adaptation: properties of Eq. 8-10 on the smallest real runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment.test_pipeline import TINY
from experiment.test_real_models import files as real_files
from experiment.test_real_models import settings
from torch import Tensor

from betastar.errors import BetastarError
from betastar.experiment import pipeline
from betastar.experiment.stages import online
from betastar.models.logprobs import response_logprobs
from betastar.models.optimise import StackedOptimiser
from betastar.settings.config import Config, load_config

files = real_files  # a Qwen3 model, problems and pairs on disk
pytestmark = pytest.mark.usefixtures("undrawn")

VARIANTS = "variants={free: {kl: {coupling: fixed, kappa: 0}}, paper: {kl: {coupling: paper}}}"


def micro(*more: str) -> Config:
    return load_config("micro", [*TINY, VARIANTS, "variants.fixed=null", *more])


def bfloat16(files: Path, *more: str) -> Config:
    return load_config(
        "files",
        settings(
            files,
            "base.dtype=bfloat16",
            "online={steps: 3, batch_size: 4, learning_rate: 0.01}",
            VARIANTS,
            "variants.fixed=null",
            *more,
        ),
    )


@pytest.fixture(scope="module")
def prepared(files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run directories whose stages before online are done, to be copied."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("float32", "bfloat16")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.report, "run", lambda ctx, results: None)
        pipeline.run(micro("online.steps=1"), folders["float32"])
        pipeline.run(bfloat16(files, "online.steps=1"), folders["bfloat16"])
    for folder in folders.values():
        shutil.rmtree(folder / "store" / "online")
        (folder / "results.json").unlink()
    return folders


@pytest.fixture(params=["float32"])
def folder(prepared: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the run directory of this precision."""
    return shutil.copytree(prepared[request.param], tmp_path / "run", symlinks=True)


def rows(folder: Path, condition: str) -> list[dict[str, Any]]:
    """A condition's training log."""
    (path,) = (folder / "store" / "online").glob(f"*/{condition}/training.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


class Recorder:
    """The gradients of every online update, all weights of a condition in one row: `steps` of `[C, n]`."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.steps: list[Tensor] = []
        steps = self.steps

        class Recording(StackedOptimiser):
            def step(self, schedule: float) -> Tensor:
                steps.append(torch.cat([w.grad.flatten(1) for w in self.weights if w.grad is not None], dim=1).clone())
                return super().step(schedule)

        patch.setattr(online, "StackedOptimiser", Recording)


@pytest.mark.parametrize("folder", ["float32", "bfloat16"], indirect=True)
@pytest.mark.parametrize("halved", [False, True], ids=["whole", "halved"])
def test_the_first_step_is_the_policy_gradients(
    files: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, halved: bool
) -> None:
    """At the checkpoint d = 0, so κ·d² has no gradient. With κ = β/ε, though, it would have that of the rounding of d,
    wherever the policy's pass is cut into other pieces than the reference's."""
    recorder, failed = Recorder(monkeypatch), []

    def runs_out_once(model: Any, batch: Any, temperature: float) -> Tensor:
        if halved and not failed and torch.is_grad_enabled():
            failed.append(batch.tokens.numel())
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return response_logprobs(model, batch, temperature)

    monkeypatch.setattr(online, "response_logprobs", runs_out_once)
    in_float32 = "float32" in request.node.name.replace("bfloat16", "")
    pipeline.run(micro("online.steps=1") if in_float32 else bfloat16(files, "online.steps=1"), folder)
    assert len(failed) == halved
    free, paper = recorder.steps[0].chunk(2)
    assert len(free) == len(paper) > 1
    assert (torch.cosine_similarity(free, paper, dim=1) > 0.999).all()


def test_in_float32_only_the_first_step_goes_without_penalty(folder: Path) -> None:
    pipeline.run(micro(), folder)
    log = rows(folder, "paper-beta-1-seed-0")
    assert [row["kappa"] == 0 for row in log] == [True, False, False, False]
    (point,) = (folder / "store" / "probe").glob("*/beta-1-seed-0/point.json")
    assert 0 <= json.loads(point.read_text())["log_ratio_noise"] < 1e-4
    assert all(row["kappa"] == 0 for row in rows(folder, "free-beta-1-seed-0"))


@pytest.mark.parametrize("folder", ["bfloat16"], indirect=True)
def test_in_bfloat16_there_is_no_penalty_on_rounding_noise_and_the_log_says_so(files: Path, folder: Path) -> None:
    """At so small a learning rate hardly a weight changes in the base's precision: every log-ratio is noise."""

    class Lines(pipeline.Reporter):
        said: list[str] = []  # noqa: RUF012

        def say(self, text: str) -> None:
            self.said.append(text)

    pipeline.run(bfloat16(files, "online.learning_rate=1e-7"), folder, Lines())
    logs = list((folder / "store" / "online").glob("*/paper-*/training.jsonl"))
    assert len(logs) == 3
    for path in logs:
        log = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row["kappa"] for row in log] == [0, 0, 0]
    (line,) = [line for line in Lines.said if "Eq. 10" in line]
    assert "no penalty at 6 of 9 updates" in line


@pytest.mark.parametrize("temperature", [1.0, 1.5])
@pytest.mark.thorough
def test_the_policy_that_is_sampled_is_the_one_that_learns(
    folder: Path, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    """At another temperature than 1 responses come from the tempered policy, and so do the log-probabilities of the
    loss: were they those of the policy at 1, the gradient would be biased (tests/maths/test_objectives.py)."""
    taken: list[float] = []

    def noted(model: Any, batch: Any, at: float) -> Tensor:
        taken.append(at)
        return response_logprobs(model, batch, at)

    monkeypatch.setattr(online, "response_logprobs", noted)
    pipeline.run(micro(f"online.temperature={temperature}", "online.steps=2"), folder)
    assert set(taken) == {temperature}
    # The log-ratio of the first step is zero to rounding: policy and reference are taken at the same temperature.
    assert rows(folder, "paper-beta-1-seed-0")[0]["mean_abs_log_ratio"] < 1e-3


def test_a_gradient_that_is_not_finite_ends_the_run_and_leaves_nothing_after_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = online.online_loss, [0]

    def spoilt(*args: Any) -> Tensor:
        calls[0] += 1
        return whole(*args) * (float("nan") if calls[0] > 2 else 1.0)

    monkeypatch.setattr(online, "online_loss", spoilt)
    with pytest.raises(BetastarError, match=r"^online, step 3 of 4: the training of paper-beta-0\.1-seed-0 and 7 more"):
        pipeline.run(micro(), folder)
    (log,) = (folder / "store" / "partial").glob("online-*/training.jsonl")
    assert {json.loads(line)["step"] for line in log.read_text().splitlines()} == {1, 2}
    assert not (folder / "results.json").exists()
    assert not list((folder / "store" / "online").glob("*"))


@pytest.mark.thorough
def test_smaller_offline_banks_give_the_same_checkpoints(folder: Path) -> None:
    """`offline.conditions_at_once` is about memory alone: the same keys, and adapters equal to rounding."""
    from safetensors.torch import load_file

    def checkpoints(banks: int) -> dict[str, dict[str, Tensor]]:
        (stage,) = (folder / "store").glob("offline")
        assert len(list(stage.iterdir())) == banks
        return {p.parents[1].name: load_file(p) for p in stage.glob("*/*/adapter/adapter_model.safetensors")}

    whole = checkpoints(1)
    shutil.rmtree(folder / "store" / "offline")
    pipeline.run(micro("offline.conditions_at_once=3", "online.steps=1"), folder)
    parts = checkpoints(2)
    assert whole.keys() == parts.keys()
    assert len(whole) == 4
    for name, tensors in whole.items():
        for key, tensor in tensors.items():
            torch.testing.assert_close(tensor, parts[name][key], rtol=1e-3, atol=1e-4)
