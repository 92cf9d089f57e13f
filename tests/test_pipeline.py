"""The whole experiment at its smallest: every stage for real, resume, reuse, and what a run leaves behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from analysis.records import check

from betastar.analysis.analyze import analyze_paths
from betastar.analysis.logs.log import Options
from betastar.experiment import pipeline
from betastar.progress import Reporter
from betastar.settings.config import load_config

TINY = (
    "base.training.steps=25",
    "base.training.batch_size=32",
    "base.geometry.hidden_size=64",
    "preferences.prompts=160",
    "rewards.batch_size=16",
    "offline.batch_size=16",
    "online.steps=4",
    "online.batch_size=4",
    "evaluation.every=2",
    "evaluation.problems=8",
    "evaluation.best_of=4",
    "evaluation.plasticity=8",
    "offline.evaluate_every=4",
    "task.test_problems=40",
    "seeds=[0, 1]",
    "grid={method: list, values: [0.1, 1.0]}",
    "lengths.generated=12",
    "compute.threads=1",
    "compute.checkpoint_seconds=0",
)


class Listener(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def command(folder: Path, *overrides: str) -> list[str]:
    settings = [part for override in (*TINY, *overrides) for part in ("--set", override)]
    return [sys.executable, "-m", "betastar", "run", "micro", "--out", str(folder), *settings]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    pipeline.run(load_config("micro", TINY), folder)
    return folder


def test_a_run_leaves_what_the_readme_names(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert results["schema_version"] == 4
    assert [(c["variant"], c["beta"], c["seed"]) for c in results["conditions"]] == [
        (variant, beta, seed) for variant in ("paper", "fixed") for beta in (0.1, 1.0) for seed in (0, 1)
    ]
    for condition in results["conditions"]:
        assert {"augc_paper", "augc_standardised", "onset_step"} <= condition.keys()
        for reward in ("proxy", "true_strict", "true_lenient"):
            values = condition[reward]
            series = condition["series"][reward]
            assert values == {"start": series[0], "lowest": min(series), "highest": max(series), "end": series[-1]}
        assert condition["series"]["step"] == [0, 2, 4]
        assert condition["series"]["gap_standardised"][0] == 0
    assert set(results["summary"]) == {"paper", "fixed"}
    metrics = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 8 * 3
    assert all(0 <= row["true_strict"] <= row["true_lenient"] <= 1 for row in metrics)
    for name in (
        "config.yaml",
        "samples.jsonl",
        "report.html",
        "figures/rewards.svg",
        "figures/gap.pdf",
        "figures/augc.png",
    ):
        assert (finished / name).stat().st_size > 100
    adapters = [path.parent.name for path in (finished / "adapters").rglob("adapter_config.json")]
    assert len(list((finished / "adapters" / "online").iterdir())) == 8, adapters


def test_the_record_keeps_to_the_schema_and_its_analysis_says_the_same(finished: Path) -> None:
    record = check(json.loads((finished / "results.json").read_text()))
    found = record["protocol"]["disclosures"]
    assert found["evaluation_seeds"]["n_probe_prompts"] == 7  # ⌈√40⌉
    assert found["evaluation_seeds"]["start_evaluated_twice"]
    assert found["logging_policy"]["coverage"] == "/data/coverage"
    assert record["data"]["splits"]["train"] < record["data"]["coverage"]["pairs"]
    again = check(analyze_paths([finished], Options()).results)
    assert again.pop("source")["runs"]
    assert again == record


def test_best_of_n_is_told_before_any_training(finished: Path) -> None:
    record = json.loads((finished / "results.json").read_text())["best_of_n"]
    assert (record["n_samples"], record["n_problems"]) == (4, 8)
    assert [(c["beta"], c["seed"]) for c in record["checkpoints"]] == [(0.1, 0), (1.0, 0), (0.1, 1), (1.0, 1)]
    for checkpoint in record["checkpoints"]:
        curve = checkpoint["curve"]
        assert [row["best_of"] for row in curve] == [1, 2, 4]
        proxies = [row["proxy"]["mean"] for row in curve]
        assert proxies == sorted(proxies)
        assert curve[0]["truth_change"]["mean"] == 0
        assert proxies[-1] > proxies[0]
    answers = [json.loads(path.read_text()) for path in (finished / "store" / "best_of_n").glob("*/*/answers.json")]
    means = sorted(sum(map(sum, a["proxy"])) / 32 for a in answers)
    assert means == pytest.approx(sorted(c["curve"][0]["proxy"]["mean"] for c in record["checkpoints"]))


def test_the_offline_phase_is_a_curve_that_ends_at_the_checkpoint(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    conditions = {(c["beta"], c["seed"]): c for c in results["conditions"]}
    for checkpoint in results["inside"]["checkpoints"]:
        curve, start = checkpoint["curve"], conditions[checkpoint["beta"], checkpoint["seed"]]
        steps = checkpoint["log"]["step"]
        assert [point["step"] for point in curve] == [0, 4, steps[-1]]
        assert curve[0]["kl_base"] == pytest.approx(0, abs=1e-4)  # a fresh adapter is the base
        assert curve[0]["true_strict"] == start["base"]["true_strict"]
        for name in ("proxy", "true_strict", "true_lenient", "policy_entropy"):
            assert curve[-1][name] == pytest.approx(start["series"][name][0], abs=1e-5)
        assert checkpoint["log"]["chosen_log_ratio"][0] == pytest.approx(0, abs=1e-4)
        assert start["displacement"] == checkpoint["displacement"]["chosen"]["mean"]


def test_networks_are_read_at_both_ends(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    inside = results["inside"]
    starts = {(c["beta"], c["seed"]): c["network"] for c in inside["checkpoints"]}
    ends = {(c["variant"], c["beta"], c["seed"]): c["network"] for c in inside["conditions"]}
    assert inside["probe"]["n_texts"] == 8
    assert inside["probe"]["units_of"] == "feed-forward"
    assert inside["probe"]["n_units"] == 2 * 256
    assert len(starts) == 4
    assert len(ends) == 8
    for condition in results["conditions"]:
        place = condition["beta"], condition["seed"]
        for name in ("effective_rank", "stable_rank", "dormant_share", "update_norm", "gradient_cosine"):
            assert condition[f"{name}_start"] == starts[place][name]
            assert condition[f"{name}_end"] == ends[condition["variant"], *place][name]
        assert condition["update_norm_end"] > condition["update_norm_start"] > 0
        parts = starts[place]["update_norms"]
        assert sum(norm**2 for norm in parts) ** 0.5 == pytest.approx(starts[place]["update_norm"])
        assert len(parts) == len(inside["probe"]["layers"]) == 8
        assert 1 <= condition["stable_rank_start"] <= condition["effective_rank_start"] <= 64


@pytest.mark.usefixtures("undrawn")
def test_what_is_switched_off_is_left_out_with_a_reason_and_trains_nothing_anew(finished: Path) -> None:
    listener = Listener()
    off = ("evaluation.best_of=0", "evaluation.plasticity=0")
    pipeline.run(load_config("micro", [*TINY, *off]), finished, listener)
    assert {"best_of_n: off (evaluation.best_of)", "plasticity: off (evaluation.plasticity)"} <= set(listener.said)
    assert {"offline: reused", "probe: reused", "online: reused"} <= set(listener.said)
    record = check(json.loads((finished / "results.json").read_text()))
    assert "best_of_n" not in record
    assert "probe" not in record["inside"]
    assert record["inside"]["conditions"] == []
    for condition in record["conditions"]:
        assert condition["effective_rank_end"] is None
        assert "unless that is switched off" in condition["missing"]["effective_rank_end"]
        assert condition["displacement"] is not None
    pipeline.run(load_config("micro", TINY), finished)


def test_variants_start_from_the_same_checkpoint(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    start = {(c["variant"], c["beta"], c["seed"]): c["proxy"]["start"] for c in results["conditions"]}
    assert all(start["paper", beta, seed] == start["fixed", beta, seed] for _, beta, seed in start)


def test_the_same_run_again_makes_nothing_and_changes_nothing(finished: Path) -> None:
    before, listener, started = (finished / "results.json").read_bytes(), Listener(), time.time()
    pipeline.run(load_config("micro", TINY), finished, listener)
    assert (finished / "results.json").read_bytes() == before
    assert {f"{stage}: reused" for stage in pipeline.STAGES} <= set(listener.said)
    assert time.time() - started < 5


@pytest.mark.usefixtures("undrawn")
def test_another_beta_changes_no_other_conditions_text(finished: Path, tmp_path: Path) -> None:
    """Sampling noise is each row's own, and a bank does not mix its conditions."""
    pipeline.run(load_config("micro", [*TINY, "grid.values=[0.1, 0.5, 1.0]"]), tmp_path)

    def texts(folder: Path) -> dict[tuple, str]:
        rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        return {(r["variant"], r["beta"], r["seed"], r["step"], r["problem"]): r["response"] for r in rows}

    alone, together = texts(finished), texts(tmp_path)
    assert alone.items() <= together.items()
    assert len(together) == len(alone) * 3 // 2


def test_a_new_beta_trains_only_itself_and_online_settings_keep_the_checkpoints(finished: Path) -> None:
    listener = Listener()
    pipeline.run(load_config("micro", [*TINY, "grid.values=[0.1, 0.5, 1.0]"]), finished, listener)
    assert "offline: reused 4 of 6 conditions" in listener.said
    assert "online: reused 8 of 12 conditions" in listener.said
    listener = Listener()
    pipeline.run(load_config("micro", [*TINY, "online.learning_rate=0.002"]), finished, listener)
    assert {"base: reused", "rewards: reused", "offline: reused", "probe: reused"} <= set(listener.said)
    assert not [line for line in listener.said if line.startswith("online")]
    results = pipeline.run(load_config("micro", TINY), finished)  # and back: everything is still there
    assert len(results["conditions"]) == 8


@pytest.mark.parametrize("attempt", [0, 1])
def test_killed_at_any_moment_a_rerun_ends_with_the_same_results(finished: Path, tmp_path: Path, attempt: int) -> None:
    rng = random.Random(attempt)
    environment = {**os.environ, "GOMP_SPINCOUNT": "1000"}
    kills = 0
    while kills < 4:
        process = subprocess.Popen(
            command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        )
        try:
            process.communicate(timeout=4 + 8 * rng.random())
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results.json").read_bytes() == (finished / "results.json").read_bytes()
    assert (tmp_path / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_a_damaged_artefact_is_named_and_made_again(finished: Path) -> None:
    before = (finished / "results.json").read_bytes()
    victim = next((finished / "store" / "task").glob("*/test.json"))
    victim.write_text("[]")
    listener = Listener()
    pipeline.run(load_config("micro", TINY), finished, listener)
    assert any("damaged (test.json has changed)" in line for line in listener.said)
    assert (finished / "results.json").read_bytes() == before
