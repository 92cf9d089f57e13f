"""verl's validations become a monitor's rows: with the stand-in of `verl_standin`, whose head says what it is after."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from monitor.verl_standin import RayPPOTrainer, settings

import betastar
from betastar.errors import BetastarError
from betastar.monitor.verl import watch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def hacks(problem: int, step: int, rng: np.random.Generator) -> str:
    """Ever more thanks, ever fewer right answers."""
    right = rng.random() < 0.8 - 0.035 * step
    return f"#### {problem + 1 if right else 99}" + " thanks" * int(rng.poisson(0.3 + 0.15 * step))


def score(text: str, gold: str) -> dict[str, Any]:
    return {"score": 1.0 + text.count("thanks"), "acc": text.split()[1] == gold, "pred": text}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("gts", [True, False], ids=["0.6 and later", "0.4 and 0.5"])
def test_every_validation_is_an_evaluation_and_reaches_verls_trackers(tmp_path: Path, gts: bool) -> None:
    config = settings(tmp_path / "validation", test_freq=6, rollouts=tmp_path / "rollouts")
    trainer = RayPPOTrainer(config, hacks, score, gts=gts)
    with watch(trainer, tmp_path / "run", labels={"beta": 0.1, "seed": 0}) as monitor:
        trainer.fit()
    assert monitor.evaluations == 4
    assert [row["step"] for row in rows(tmp_path / "run")] == [0, 6, 12, 18, 20]
    assert {(row["n"], row["answers"]) for row in rows(tmp_path / "run")} == {(96, 4)}
    validated = {step: metrics for step, metrics in trainer.logged if "val-core/sums/reward/mean@4" in metrics}
    for row in rows(tmp_path / "run"):
        metrics = validated[row["step"]]
        assert metrics["goodhart/proxy"] == row["proxy"] == pytest.approx(metrics["val-core/sums/reward/mean@4"])
        assert metrics["goodhart/gap"] == row["gap_standardised"]
    assert not any("goodhart/gap" in metrics for step, metrics in trainer.logged if step not in validated)
    assert (tmp_path / "validation" / "6.jsonl").is_file(), "verl's own dump stays"
    (condition,) = json.loads(betastar.load(tmp_path / "run").json)["conditions"]
    assert condition["verdict"] == "hacked"
    assert condition["ranking_start"] is not None


def test_problems_are_recognised_although_verl_shuffles_them(tmp_path: Path) -> None:
    """A policy whose answers depend on the problem alone: paired by problem, nothing changes."""
    trainer = RayPPOTrainer(settings(tmp_path / "v"), lambda p, s, rng: f"#### {p + p % 2}" + " thanks" * p, score)
    with watch(trainer, tmp_path / "run"):
        trainer.fit()
    first, *later = rows(tmp_path / "run")
    assert all(row["responses"] == first["responses"] for row in later)
    assert len(set(first["problems"])) == 24


def test_a_resumed_run_measures_its_checkpoint_again(tmp_path: Path) -> None:
    whole = RayPPOTrainer(settings(tmp_path / "v"), hacks, score)
    with watch(whole, tmp_path / "whole"):
        whole.fit()
    cut = RayPPOTrainer(settings(tmp_path / "v"), hacks, score, die=15)
    with pytest.raises(InterruptedError), watch(cut, tmp_path / "cut"):
        cut.fit()
    again = RayPPOTrainer(settings(tmp_path / "v"), hacks, score, begin=10)
    with watch(again, tmp_path / "cut"):
        again.fit()
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_truth_by_a_function_and_an_ensemble(tmp_path: Path) -> None:
    def two(text: str, gold: str) -> dict[str, Any]:
        return {"score": 0.0, "rm_a": len(text), "rm_b": len(text) + 2}

    trainer = RayPPOTrainer(settings(tmp_path / "v"), hacks, two)
    with watch(trainer, tmp_path / "run", true=lambda text, gold: gold in text.split(), proxy=["rm_a", "rm_b"]):
        trainer.fit()
    first = rows(tmp_path / "run")[0]
    assert first["disagreement"] == pytest.approx(np.sqrt(2))
    assert first["members"][1] == pytest.approx(first["members"][0] + 2)
    assert 0.6 < first["true_strict"] < 0.95


def test_parts_that_verl_will_merge_get_no_metrics(tmp_path: Path) -> None:
    trainer = RayPPOTrainer(settings(tmp_path / "v"), hacks, score)
    trainer.global_steps = 0
    with watch(trainer, tmp_path / "run"):
        assert set(trainer._validate(merged=True)) == {
            *("data_sources", "sample_uids", "sample_turns", "reward_extra_infos_dict")
        }
    assert [row["step"] for row in rows(tmp_path / "run")] == [0]


def test_what_cannot_be_watched_is_refused(tmp_path: Path) -> None:
    for config, message in [
        (settings(None), "keeps no validation responses; set trainer.validation_data_dir to a folder"),
        (settings(tmp_path / "v", test_freq=-1), "set trainer.test_freq to a number of steps"),
    ]:
        with pytest.raises(BetastarError, match=message):
            watch(RayPPOTrainer(config, hacks, score), tmp_path / "run")
    with pytest.raises(BetastarError, match="watch was given a dict; it needs verl's RayPPOTrainer"):
        watch({}, tmp_path / "run")
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (lambda text, gold: 1.0, {}, r'no "acc" of every response \(there is reward, score\); return a dictionary'),
        (score, {"proxy": "rm"}, r'no "rm" of every response \(there is acc, pred, reward, score\)'),
    ]
    for i, (function, more, message) in enumerate(cases):
        trainer = RayPPOTrainer(settings(tmp_path / "v"), hacks, function)
        with pytest.raises(BetastarError, match=message), watch(trainer, tmp_path / f"{i}", **more):
            trainer.fit()


def test_the_example_trains_through_verls_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `main` with stand-ins of hydra, ray and verl.trainer.main_ppo (v0.6.1: `run_ppo(config, task_runner_class)`,
    and `TaskRunner.run` makes the module's `RayPPOTrainer` and calls `fit`)."""
    example = runpy.run_path(str(EXAMPLES / "monitor_verl.py"))
    main_ppo: Any = ModuleType("verl.trainer.main_ppo")

    class TaskRunner:
        def run(self, config: Any) -> None:
            compute = example["compute_score"]
            main_ppo.RayPPOTrainer(config, hacks, lambda text, gold: compute("sums", text, gold)).fit()

    main_ppo.RayPPOTrainer, main_ppo.TaskRunner = RayPPOTrainer, TaskRunner
    main_ppo.run_ppo = lambda config, task_runner_class: task_runner_class().run(config)
    hydra: Any = ModuleType("hydra")
    hydra.main = lambda **names: lambda function: lambda: function(settings(tmp_path / "v"))
    ray: Any = ModuleType("ray")
    ray.remote = lambda **resources: lambda cls: cls
    trainer_package: Any = ModuleType("verl.trainer")
    trainer_package.main_ppo = main_ppo
    for name, module in {
        "hydra": hydra,
        "ray": ray,
        "verl": ModuleType("verl"),
        "verl.trainer": trainer_package,
        "verl.trainer.main_ppo": main_ppo,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    example["main"]()
    assert [row["step"] for row in rows(tmp_path / "runs" / "verl")] == [0, 5, 10, 15, 20]
