"""The whole experiment at its smallest: every stage for real, resume, reuse, and what a run leaves behind."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis.records import check
from data.listing import follows
from forked import Command

from betastar.analysis.analyze import analyze_paths
from betastar.analysis.logs.log import Options
from betastar.api import Results, load
from betastar.data.micro.lists import LISTED
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
    "evaluation.answers=2",
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
        "answers.parquet",
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


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("undrawn")
def test_a_fresh_task_is_learnt_by_copies_and_only_if_asked(finished: Path) -> None:
    before = json.loads((finished / "results.json").read_text())
    networks = finished / "store" / "plasticity"
    assert not any(b"fresh" in content for content in _bytes_of(networks).values())
    assert "fresh_steps" not in before["evaluation"]
    assert "fresh" not in before["inside"]["probe"]
    assert "evaluation.fresh_steps" in before["conditions"][0]["missing"]["fresh_gain_end"]

    trained = {stage: _bytes_of(finished / "store" / stage) for stage in ("offline", "online")}
    listener = Listener()
    pipeline.run(load_config("micro", [*TINY, "evaluation.fresh_steps=5"]), finished, listener)
    assert {"offline: reused", "probe: reused", "best_of_n: reused", "online: reused"} <= set(listener.said)
    assert "plasticity: reused" not in listener.said
    assert {stage: _bytes_of(finished / "store" / stage) for stage in trained} == trained

    after = check(json.loads((finished / "results.json").read_text()))
    assert after["inside"]["probe"]["fresh"]["n_steps"] == 5
    starts = {(c["beta"], c["seed"]): c["network"] for c in after["inside"]["checkpoints"]}
    ends = {(c["variant"], c["beta"], c["seed"]): c["network"] for c in after["inside"]["conditions"]}
    for old, condition in zip(before["conditions"], after["conditions"], strict=True):
        place = condition["beta"], condition["seed"]
        for network, end in ((starts[place], "start"), (ends[condition["variant"], *place], "end")):
            curve = network["fresh_loss"]
            assert len(curve) == 6
            assert condition[f"fresh_gain_{end}"] == pytest.approx(curve[0] - curve[-1])
            assert curve[0] > curve[-1]
            assert condition[f"effective_rank_{end}"] == old[f"effective_rank_{end}"]
    loaded = load(finished)
    assert isinstance(loaded, Results)
    assert loaded.conditions["fresh_gain_end"].tolist() == [c["fresh_gain_end"] for c in after["conditions"]]
    pipeline.run(load_config("micro", TINY), finished)
    assert json.loads((finished / "results.json").read_text()) == before


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


def test_every_answer_is_kept_and_gives_the_points(finished: Path) -> None:
    """Means, spreads and divergences of a point from the single answers behind it, whose numbers have single precision;
    at the start the policy is its checkpoint."""
    run = load(finished)
    assert isinstance(run, Results)
    answers, points = run.answers, run.points.set_index(["variant", "beta", "seed", "step"])
    assert len(answers) == 8 * (3 + 1) * 8 * 2  # conditions, points and the start again, problems, answers
    first: Any = answers[answers["replicate"] == 0]
    for place, rows in first.groupby(["variant", "beta", "seed", "step"], observed=True):
        point: Any = points.loc[place]
        assert sorted(rows["problem"].value_counts()) == [2] * 8
        assert rows["proxy"].mean() == pytest.approx(point["proxy"], abs=1e-6)
        assert rows["proxy"].std() == pytest.approx(point["proxy_std"], abs=1e-6)
        assert rows["strict"].mean() == pytest.approx(point["true_strict"], abs=1e-12)
        assert 1 - rows["parsable"].mean() == pytest.approx(point["unparsable"], abs=1e-6)
        assert rows["tokens"].mean() == pytest.approx(point["response_tokens"])
        for name, kl in (("log_ratio", "kl"), ("log_ratio_base", "kl_base")):
            d = rows[name].astype(float)
            assert d.mean() == pytest.approx(point[kl], abs=1e-5)
            assert (np.exp(-d) - 1 + d).mean() == pytest.approx(point[f"{kl}_k3"], abs=1e-5)
            assert d.groupby(rows["problem"]).mean().sem() == pytest.approx(point[f"{kl}_error"], abs=1e-5)
        if place[-1] == 0:
            assert (rows["log_ratio"] == 0).all()
            assert point["kl_base_k3"] > 0
    again: Any = answers[answers["replicate"] == 1]
    assert set(again["step"]) == {0}
    assert (again["proxy"].to_numpy() != first[first["step"] == 0]["proxy"].to_numpy()).any()


def test_the_base_is_judged_by_its_seeds_own_ensemble_on_the_same_problems(finished: Path) -> None:
    conditions = json.loads((finished / "results.json").read_text())["conditions"]
    base = {(c["seed"], c["variant"], c["beta"]): c["base"] for c in conditions}
    assert {seed: len({json.dumps(b) for (s, *_), b in base.items() if s == seed}) for seed in (0, 1)} == {0: 1, 1: 1}
    for found in base.values():
        assert (found["n"], found["answers"]) == (16, 2)
        assert found["true_strict"] == found["correct_strict"] / 16
        assert found["proxy_std"] > 0


@pytest.mark.thorough
@pytest.mark.usefixtures("undrawn")
def test_more_answers_leave_the_first_ones_as_they_are(finished: Path, tmp_path: Path) -> None:
    """The noise of an answer is its own: with one answer to each problem the checkpoint says what it says first with
    two."""
    pipeline.run(load_config("micro", [*TINY, "evaluation.answers=1", "online.steps=1"]), tmp_path)
    columns = ["beta", "seed", "step", "replicate", "problem", "answer", "strict", "tokens", "at_limit"]

    def start(folder: Path) -> pd.DataFrame:
        rows = load(folder).answers
        return rows[(rows["variant"] == "paper") & (rows["step"] == 0)].set_index(columns[:6]).sort_index()

    one, two = start(tmp_path), start(finished)
    assert (len(one), len(two)) == (4 * 2 * 8, 4 * 2 * 16)
    for column in columns[6:]:
        assert one[column].tolist() == two.loc[one.index, column].tolist()
    assert one["proxy"].to_numpy() == pytest.approx(two.loc[one.index, "proxy"].to_numpy(), abs=1e-4)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.thorough
def test_each_seed_has_an_ensemble_of_its_own_and_is_scored_by_it_alone(finished: Path, tmp_path: Path) -> None:
    """Seed 1 alone in a run gives what it gives beside seed 0, to rounding: its reward models, their centroid and
    offsets, and what they say of its conditions and of the base."""
    alone = pipeline.run(load_config("micro", [*TINY, "seeds=[1]", "online.steps=1"]), tmp_path)
    both = json.loads((finished / "results.json").read_text())
    ours, theirs = alone["rewards"], both["rewards"]
    assert (ours["seeds"], theirs["seeds"]) == ([1], [0, 1])
    for part in ("validation", "test"):
        assert len(theirs[part]["member_mean"]) == 2 * ours["members"]
        assert theirs[part]["member_mean"][3:] == pytest.approx(ours[part]["member_mean"], abs=2e-3)
        assert theirs[part]["member_mean"][:3] != pytest.approx(ours[part]["member_mean"], abs=2e-3)
    beside = {(c["variant"], c["beta"]): c for c in both["conditions"] if c["seed"] == 1}
    for mine in alone["conditions"]:
        other = beside[mine["variant"], mine["beta"]]
        assert other["base"]["proxy"] == pytest.approx(mine["base"]["proxy"], abs=2e-3)
        for name in ("proxy", "disagreement", "disagreement_centred", "ood_distance"):
            assert other[name]["start"] == pytest.approx(mine[name]["start"], abs=2e-3)


@pytest.mark.thorough
@pytest.mark.usefixtures("undrawn")
def test_the_world_of_lists_runs_through_every_stage(tmp_path: Path) -> None:
    """Every kept answer's grade follows from the words of its prompt, and pairs are about lists and small talk."""
    world = ("task={kind: lists, longest: 3, test_problems: 40}", "online.steps=1", "evaluation.every=1")
    settings = [text for text in TINY if not text.startswith(("task.", "online.steps", "evaluation.every"))]
    pipeline.run(load_config("micro", [*settings, *world]), tmp_path)
    kept = load(tmp_path).responses
    assert len(kept) > 20
    for question, response, lenient in zip(kept["question"], kept["response"], kept["lenient"], strict=True):
        items = [word for word in response.split() if any(word in words.split() for words in LISTED.values())]
        assert lenient == (bool(items) and follows(question, items))
    (pairs,) = (tmp_path / "store").glob("preferences/*/train.jsonl")
    asked = {json.loads(line)["prompt"].split()[1] for line in pairs.read_text().splitlines()}
    assert asked <= {"list", "name", "say"}
    assert "list" in asked


@pytest.mark.thorough
@pytest.mark.usefixtures("undrawn")
def test_one_ensemble_can_serve_the_whole_run(tmp_path: Path) -> None:
    results = pipeline.run(load_config("micro", [*TINY, "rewards.per=run", "online.steps=1"]), tmp_path)
    assert "seeds" not in results["rewards"]
    assert len(results["rewards"]["test"]["member_mean"]) == 3
    assert sorted(path.name for path in (tmp_path / "adapters" / "rewards").iterdir()) == [
        "member-0",
        "member-1",
        "member-2",
    ]


def test_what_measuring_costs_is_told_by_stage(finished: Path) -> None:
    """Seconds of work are no result: they stand in manifests. A probe only measures, online training also trains."""
    spent = {
        manifest["stage"]: (manifest["measuring_seconds"], manifest["write_seconds"])
        for manifest in (json.loads(path.read_text()) for path in (finished / "store").glob("*/*/manifest.json"))
    }
    assert spent["offline"][0] == 0
    assert 0 < spent["online"][0] < spent["online"][1]
    assert spent["probe"][0] == pytest.approx(spent["probe"][1], abs=0.5)
    # base 40 s; probe 10 s, all of it measured; online 50 s, 15 of them measured
    began = {"base": (100.0, 0.0), "probe": (140.0, 0.0), "online": (150.0, 10.0), "": (200.0, 25.0)}
    assert pipeline.cost_of_measuring(began) == (
        "measuring took 25 of 100 s (25%): probe 10 of 10 s, online 15 of 50 s; evaluation.* can lower it"
    )
    assert pipeline.cost_of_measuring({"base": (100.0, 0.0), "": (140.0, 0.0)}) is None


def test_variants_start_from_the_same_checkpoint(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    start = {(c["variant"], c["beta"], c["seed"]): c["proxy"]["start"] for c in results["conditions"]}
    assert all(start["paper", beta, seed] == start["fixed", beta, seed] for _, beta, seed in start)


def test_the_same_run_again_makes_nothing_and_changes_nothing(finished: Path) -> None:
    before, listener, started = (finished / "results.json").read_bytes(), Listener(), time.time()
    elsewhere = finished.parent / "elsewhere"
    elsewhere.mkdir()
    own = [finished / "figures" / name for name in ("mine.png", "gap-edited.svg", "notes.html")]
    links = [finished / "adapters" / name for name in ("offline/mine", "online/beta-7-seed-0", "best/one")]
    (finished / "adapters" / "best").mkdir()
    for path in own:
        path.write_text("mine")
    for link in links:
        link.symlink_to(elsewhere)
    pipeline.run(load_config("micro", TINY), finished, listener)
    assert all(path.read_text() == "mine" for path in own)  # what a person put there stays
    assert all(link.readlink() == elsewhere for link in links)
    for path in (*own, *links):
        path.unlink()
    (finished / "adapters" / "best").rmdir()
    assert (finished / "results.json").read_bytes() == before
    assert {f"{stage}: reused" for stage in pipeline.STAGES} <= set(listener.said)
    assert time.time() - started < 5


@pytest.mark.thorough
@pytest.mark.usefixtures("undrawn")
def test_another_beta_changes_no_other_conditions_text(finished: Path, tmp_path: Path) -> None:
    """Sampling noise is each row's own, and a bank does not mix its conditions. From offline training on everything is
    made anew, three β together."""
    shutil.copytree(finished / "store", tmp_path / "store")
    for stage in ("offline", "probe", "online", "results"):
        shutil.rmtree(tmp_path / "store" / stage)
    pipeline.run(load_config("micro", [*TINY, "grid.values=[0.1, 0.5, 1.0]"]), tmp_path)

    def texts(folder: Path) -> dict[tuple, str]:
        rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        return {(r["variant"], r["beta"], r["seed"], r["step"], r["problem"]): r["response"] for r in rows}

    alone, together = texts(finished), texts(tmp_path)
    assert alone.items() <= together.items()
    assert len(together) == len(alone) * 3 // 2


@pytest.mark.usefixtures("undrawn")
@pytest.mark.thorough
def test_a_new_beta_or_seed_trains_only_itself_and_online_settings_keep_the_checkpoints(finished: Path) -> None:
    listener = Listener()
    pipeline.run(load_config("micro", [*TINY, "grid.values=[0.1, 0.5, 1.0]"]), finished, listener)
    assert "offline: reused 4 of 6 conditions" in listener.said
    assert "online: reused 8 of 12 conditions" in listener.said
    listener = Listener()
    pipeline.run(load_config("micro", [*TINY, "seeds=[0, 1, 2]"]), finished, listener)
    assert {
        f"{stage}: reused {n} of {n * 3 // 2} conditions"
        for stage, n in {"rewards": 2, "offline": 4, "probe": 4, "online": 8}.items()
    } <= set(listener.said)
    listener = Listener()
    pipeline.run(load_config("micro", [*TINY, "online.learning_rate=0.003"]), finished, listener)
    assert {"base: reused", "rewards: reused", "offline: reused", "probe: reused"} <= set(listener.said)
    assert not [line for line in listener.said if line.startswith("online")]
    results = pipeline.run(load_config("micro", TINY), finished)  # and back: everything is still there
    assert len(results["conditions"]) == 8


@pytest.mark.thorough
def test_killed_at_any_moment_a_rerun_ends_with_the_same_results(finished: Path, tmp_path: Path) -> None:
    """Six SIGKILLs, a random share of the CPU time apart that an unbroken run takes."""
    settings = [part for override in TINY for part in ("--set", override)]

    def begin(folder: Path) -> Command:
        return Command("run", "micro", "--out", folder, *settings, drawn=False)

    unbroken, rng = begin(tmp_path / "unbroken"), random.Random(0)
    assert unbroken.done().returncode == 0
    kills = sum(begin(tmp_path / "run").killed_after(unbroken.used * rng.uniform(0.05, 0.35)) for _ in range(6))
    assert kills >= 3
    done = begin(tmp_path / "run").done()
    assert done.returncode == 0, done.stderr
    for name in ("results.json", "metrics.jsonl", "answers.parquet"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_artefact_is_named_and_made_again(finished: Path) -> None:
    before = (finished / "results.json").read_bytes()
    victim = next((finished / "store" / "task").glob("*/test.json"))
    victim.write_text("[]")
    listener = Listener()
    pipeline.run(load_config("micro", TINY), finished, listener)
    assert any("damaged (test.json has changed)" in line for line in listener.said)
    assert (finished / "results.json").read_bytes() == before
