"""Offline methods in the bank: methods that share a bank do not meet, and each trains by its own loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment.test_pipeline import TINY

from betastar.experiment import algorithm, pipeline
from betastar.experiment.objective import BatchTerms, ConditionLoss
from betastar.settings.config import Config, load_config
from betastar.settings.phases import Offline

OWN = """
def half(pairs, strength, power=2.0):
    chosen, rejected = pairs.log_ratios
    return (1 - strength * (chosen - rejected)).abs() ** power
"""
METHODS = {
    "dpo": "{}",
    "kto": "{objective: kto, options: {undesirable: 0.5}}",
    "schedule": "{beta_schedule: {slope: 2.0, momentum: 0.5}}",
    "orpo": "{objective: orpo, grid: {method: list, values: [0.5]}}",
    "own": "{objective: OWN, options: {power: 1.5}, grid: {method: list, values: [0.7]}}",
    "far": "{grid: {method: target_kl, values: [2.2], low: 0.002, high: 10, n: 3}}",
}


class OfflineIsDone(Exception):
    pass


def trained(folder: Path, methods: dict[str, str], own: Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """The training logs of all offline conditions, by name."""
    given = "methods={" + ", ".join(f"{name}: {text}" for name, text in methods.items()) + "}"
    config = load_config("micro", [*TINY, given.replace("OWN", f"{own}:half"), *FASTER])

    def stop(*_: Any) -> None:
        raise OfflineIsDone

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithm.probe, "run", stop)
        with pytest.raises(OfflineIsDone):
            pipeline.run(config, folder)
    logs = sorted((folder / "store" / "offline").glob("*/*/training.jsonl"))
    return {path.parent.name: [json.loads(line) for line in path.read_text().splitlines()] for path in logs}


FASTER = ("offline.learning_rate=0.02", "offline.evaluate_every=null", "seeds=[0]")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("together")
    (folder / "own.py").write_text(OWN)
    return trained(folder / "run", METHODS, folder / "own.py")


@pytest.mark.thorough
def test_a_bank_of_several_methods_trains_each_as_it_would_alone(
    together: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    alone = trained(tmp_path / "kto", {"kto": METHODS["kto"]}) | trained(tmp_path / "dpo", {"dpo": "{}"})
    pairs = {name: name for name in alone if name.startswith("kto")}
    pairs |= {name: f"dpo-{name}" for name in alone if name.startswith("beta")}  # DPO alone bears no name
    assert len(pairs) == 4
    for name, other in pairs.items():
        for ours, theirs in zip(together[other], alone[name], strict=True):
            for field in ("loss", "norm", "chosen_log_ratio"):
                assert ours[field] == pytest.approx(theirs[field], rel=2e-3, abs=1e-4), (name, field, ours["step"])


@pytest.mark.thorough
def test_the_first_losses_are_what_equal_policies_give(together: dict[str, list[dict[str, Any]]]) -> None:
    """Before the first step Δ = 0 everywhere: log 2, z₀ = 0 and ½ + ½·½, 1 to any power."""
    first = {name.split("-beta")[0]: rows[0] for name, rows in together.items()}
    assert first["dpo"]["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert first["kto"]["loss"] == pytest.approx(0.75, abs=1e-4)
    assert first["own"]["loss"] == pytest.approx(1.0, abs=1e-4)
    assert first["schedule"]["loss"] == pytest.approx(0.693147, abs=1e-4)


def test_z_of_kto_is_never_negative_and_moves(together: dict[str, list[dict[str, Any]]]) -> None:
    for name, rows in together.items():
        if name.startswith("kto"):
            values = [row["mismatch"] for row in rows]
            assert values[0] == pytest.approx(0, abs=1e-4)
            assert min(values) >= 0
            assert max(values) > 0


def test_beta_of_each_batch_follows_the_published_rule(together: dict[str, list[dict[str, Any]]]) -> None:
    """β₀(1 + a(M̄ − M₀)), M̄ the batch mean of Δw − Δl that the log has, M₀ its running mean with this batch in it."""
    for beta in (0.1, 1.0):
        mean_gap, seen = 0.0, []
        for row in together[f"schedule-beta-{beta:g}-seed-0"]:
            gap = row["chosen_log_ratio"] - row["rejected_log_ratio"]
            mean_gap = 0.5 * mean_gap + 0.5 * gap
            expected = max(beta * (1 + 2.0 * (gap - mean_gap)), 1e-3)
            assert row["strength"] == pytest.approx(expected, rel=1e-3, abs=1e-4)
            seen.append(row["strength"])
        assert max(seen) > min(seen)


def test_a_distance_is_found_by_search(together: dict[str, list[dict[str, Any]]]) -> None:
    """Three strengths tried, and the one between them that was interpolated."""
    strengths = sorted(float(name.split("-")[2]) for name in together if name.startswith("far-"))
    assert len(strengths) in (3, 4)
    assert {0.002, 0.141421, 10.0} <= set(strengths)


def test_the_settings_of_dpo_alone_are_what_they_were() -> None:
    """Finished work from before there were methods keeps its content key."""
    numbers = {"batch_size", "learning_rate", "weight_decay", "clip", "warmup_steps"}
    assert set(Offline().model_dump()) == numbers | {"engine", "epochs", "conditions_at_once", "evaluate_every"}
    assert "methods" not in load_config("micro").model_dump()
    again = Config.model_validate(load_config("micro").model_dump())
    assert again == load_config("micro")


def test_the_running_mean_is_part_of_a_checkpoint() -> None:
    of = [ConditionLoss(Offline.model_validate({"beta_schedule": {}}), 0.1)]
    bank: Any = None
    before, after = (BatchTerms(of, bank, bank, 0, torch.zeros(2, 3)) for _ in range(2))
    before.next_gap = torch.tensor([1.25])
    before.step_taken()
    after.restore({**before.state(), "weight.0": torch.zeros(1)})
    assert after.mean_gap.tolist() == [1.25]
