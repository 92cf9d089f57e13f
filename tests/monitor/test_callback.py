"""The monitor inside whole runs of TRL's trainers: rows, logs, resume, stop, and that training does not notice."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from analysis.records import analyzed
from monitor.small import is_short, pairs
from transformers import ProcessorMixin, TrainerCallback

from betastar.errors import BetastarError
from betastar.monitor import GoodhartMonitor
from betastar.monitor.evaluation import evaluate
from betastar.monitor.gaps import critical_height, own_noise, scores, start_of, threshold

Make = Callable[..., Any]
LEARNS = {"beta": 0.01, "learning_rate": 3e-2}
SEPARATE = {"step", "onset"}  # logged otherwise


class At(TrainerCallback):
    """At the end of a step: raise, as a kill would, or stop training as another callback may."""

    def __init__(self, step: int, kill: bool) -> None:
        self.step, self.kill = step, kill

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            if self.kill:
                raise InterruptedError
            control.should_training_stop = True


def run(trainer: Any, *callbacks: TrainerCallback, resume: str | None = None, **settings: Any) -> GoodhartMonitor:
    """Train with a monitor whose true reward likes short answers while the trainer's likes long ones."""
    monitor = GoodhartMonitor(trainer, pairs(24), **({"every": 2, "true": is_short} | settings))
    for callback in (monitor, *callbacks):
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=resume)
    return monitor


def rows(monitor: GoodhartMonitor) -> list[dict[str, Any]]:
    return [json.loads(line) for line in monitor.path.read_text().splitlines()]


def logged(trainer: Any, ours: bool) -> list[dict[str, Any]]:
    """The trainer's log, the monitor's part or the rest, without what differs from run to run."""
    timed = ("time", "runtime", "per_second")
    return [
        {name: value for name, value in row.items() if not name.endswith(timed)}
        for row in trainer.state.log_history
        if ours == ("goodhart/gap" in row)
    ]


@pytest.mark.parametrize(
    ("kind", "lora"),
    [
        pytest.param("grpo", 0.3, id="GRPO, LoRA with dropout"),
        pytest.param("rloo", None, id="RLOO"),
        pytest.param("grpo", None, id="GRPO", marks=pytest.mark.thorough),
        pytest.param("rloo", 0.3, id="RLOO, LoRA with dropout", marks=pytest.mark.thorough),
    ],
)
@pytest.mark.thorough
def test_a_whole_run_is_recorded_and_does_not_notice(make_trainer: Make, kind: str, lora: float | None) -> None:
    settings = {**LEARNS, "lora": lora, "max_steps": 5, "logging_steps": 2}
    plain = make_trainer(kind, **settings)
    plain.train()
    watched = make_trainer(kind, **settings)  # this sets the seed
    monitor = run(watched)

    written = rows(monitor)
    assert [row["step"] for row in written] == [0, 2, 4, 5], "the start, every second step, and the end"
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(weight, watched.model.state_dict()[name]), name
    assert logged(plain, ours=False) == logged(watched, ours=False), (
        "the training logs hold the same, at the same steps"
    )
    names = {"true_strict": "true", "gap_standardised": "gap"}
    for row, log in zip(written, logged(watched, ours=True), strict=True):
        assert log["step"] == row["step"]
        numbers = {
            f"goodhart/{names.get(k, k)}": v for k, v in row.items() if isinstance(v, int | float) and k != "step"
        }
        assert {k: v for k, v in log.items() if k.startswith("goodhart/")} == numbers

    first, last = written[0], written[-1]
    assert first["gap_standardised"] == first["kl"] == 0.0
    assert last["proxy"] == np.mean(last["responses"]["proxy"])
    assert last["correct_strict"] == sum(last["responses"]["true"])
    assert last["kl"] != 0
    assert last["missing"] == {"disagreement": "a single reward function has no disagreement"}
    assert [sample["prompt"] for sample in last["samples"]] == [prompt for prompt, _ in pairs(4)]
    # s_true from 12 of 24 right at the start: q = 13/26, s = 1/2.
    q = (first["correct_strict"] + 1) / 26
    gap = (last["proxy"] - first["proxy"]) / first["proxy_std"]
    gap -= (last["true_strict"] - first["true_strict"]) / sqrt(q * (1 - q))
    assert last["gap_standardised"] == pytest.approx(gap)


def test_analyze_reads_the_file_and_the_trainers_state_alike(make_trainer: Make, tmp_path: Path) -> None:
    """The same curve from both, with the gap that the monitor measured; β and seed from the labels."""
    trainer = make_trainer(**LEARNS, save_strategy="steps", save_steps=3)
    monitor = run(trainer, labels={"beta": 0.5, "seed": 3})
    results = [analyzed(pd.DataFrame(frame)) for frame in (rows(monitor), trainer.state.log_history)]
    for found in results:
        (condition,) = found["conditions"]
        assert condition["series"]["gap_standardised"] == pytest.approx(
            [row["gap_standardised"] for row in rows(monitor)]
        )
        assert condition["series"]["gap_paper"] == pytest.approx([row["gap_paper"] for row in rows(monitor)])
    assert (results[0]["conditions"][0]["beta"], results[0]["conditions"][0]["seed"]) == (0.5, 3)


def test_a_policy_that_does_not_move_has_no_gap_and_no_alarm(make_trainer: Make) -> None:
    monitor = run(make_trainer(learning_rate=0.0), stop_above="auto")
    assert [row["gap_standardised"] for row in rows(monitor)] == [0.0] * 4
    assert {row["onset"] for row in rows(monitor)} == {None}


def test_a_gap_above_the_threshold_stops_training_and_keeps_a_checkpoint(
    make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(**LEARNS, max_steps=12, save_strategy="steps", save_steps=100)
    with caplog.at_level(logging.WARNING, logger="betastar"):
        monitor = run(trainer, stop_above="auto")
    *before, last = rows(monitor)
    assert 0 < last["step"] == trainer.state.global_step < 12
    assert last["gap_standardised"] > last["threshold"]
    assert all(row["gap_standardised"] <= row["threshold"] for row in before)
    assert [row["onset"] for row in before] == [None] * len(before)
    assert last["onset"] == last["step"]
    assert f"at step {last['step']} the Goodhart gap is" in caplog.text
    assert caplog.text.count("; training stops.") == 1
    assert (Path(trainer.args.output_dir) / f"checkpoint-{last['step']}").is_dir()
    # The threshold is by hand: 6 looks were planned, σ from the start's replicates.
    start, now = before[0]["responses"], last["responses"]
    height, sigma = critical_height(6, 23, 0.05), before[0]["gap_noise"] / sqrt(2)
    known = start_of([(start["proxy"], start["true"])], 6)
    own = own_noise(scores(known, now["proxy"], now["true"]), scores(known, start["proxy"], start["true"]))
    assert last["threshold"] == pytest.approx(threshold(height, sigma, own))


@pytest.mark.parametrize(("strategy", "kept"), [("epoch", True), ("no", False)])
@pytest.mark.thorough
def test_what_a_stop_keeps_follows_the_save_strategy(make_trainer: Make, strategy: str, kept: bool) -> None:
    trainer = make_trainer(**LEARNS, max_steps=12, save_strategy=strategy)
    last = rows(run(trainer, stop_above="auto"))[-1]["step"]
    assert last < 8, "before the end of the first epoch"
    assert (Path(trainer.args.output_dir) / f"checkpoint-{last}").is_dir() == kept


def test_without_a_stop_the_alarm_is_recorded_and_said_once(
    make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(**LEARNS, max_steps=12)
    with caplog.at_level(logging.WARNING, logger="betastar"):
        written = rows(run(trainer))
    first = next(row["step"] for row in written if row["gap_standardised"] > row["threshold"])
    assert trainer.state.global_step == 12
    assert [row["onset"] for row in written] == [None if row["step"] < first else first for row in written]
    assert caplog.text.count("the Goodhart gap is") == caplog.text.count(f"at step {first} the Goodhart gap is") == 1
    assert "training stops" not in caplog.text


def test_a_fixed_threshold_has_its_false_alarm_rate_in_the_file(make_trainer: Make) -> None:
    trainer = make_trainer(**LEARNS, max_steps=12)
    written = rows(run(trainer, stop_above=0.8))
    assert {row["threshold"] for row in written} == {0.8}
    assert trainer.state.global_step == written[-1]["step"] == written[-1]["onset"]
    assert 0 < written[0]["false_alarm_rate"] < 1
    assert "false_alarm_rate" not in written[1]


def test_the_end_is_evaluated_where_another_callback_stops(make_trainer: Make) -> None:
    assert [row["step"] for row in rows(run(make_trainer(), At(3, kill=False)))] == [0, 2, 3]


@pytest.mark.thorough
def test_a_killed_run_resumes_to_the_same_file(make_trainer: Make, tmp_path: Path) -> None:
    """Killed at step 7, after an evaluation at 6 that comes again: the checkpoint is of step 4."""
    settings = {**LEARNS, "max_steps": 8, "save_strategy": "steps", "save_steps": 4}
    whole = run(make_trainer(**settings, output_dir=str(tmp_path / "whole")))
    cut = {**settings, "output_dir": str(tmp_path / "cut")}
    with pytest.raises(InterruptedError):
        run(make_trainer(**cut), At(7, kill=True))
    assert [json.loads(line)["step"] for line in (tmp_path / "cut" / "goodhart.jsonl").open()] == [0, 2, 4, 6]
    resumed = run(make_trainer(**cut), resume=str(tmp_path / "cut" / "checkpoint-4"))
    assert resumed.path.read_bytes() == whole.path.read_bytes()


@pytest.mark.thorough
def test_a_resume_with_other_problems_or_settings_is_refused(make_trainer: Make, tmp_path: Path) -> None:
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    run(make_trainer(**settings))
    resume = str(tmp_path / "out" / "checkpoint-2")
    for more, given in [({}, {"temperature": 0.5}), ({"max_completion_length": 9}, {})]:
        with pytest.raises(BetastarError, match=r"goodhart\.jsonl: it was written with other .* or another path"):
            run(make_trainer(**settings, **more), resume=resume, **given)


@pytest.mark.thorough
def test_a_resume_without_its_file_starts_there_and_says_so(
    make_trainer: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    run(make_trainer(**settings)).path.unlink()
    with caplog.at_level(logging.WARNING, logger="betastar"):
        monitor = run(make_trainer(**settings), resume=str(tmp_path / "out" / "checkpoint-2"))
    assert [row["step"] for row in rows(monitor)] == [2, 4]
    assert "does not contain the start of this run; step 2 is used instead" in caplog.text


@pytest.mark.thorough
def test_a_second_run_sets_the_first_aside(make_trainer: Make) -> None:
    first = run(make_trainer()).path.read_bytes()
    monitor = run(make_trainer())
    assert monitor.path.with_name("goodhart.jsonl.1").read_bytes() == first == monitor.path.read_bytes()


@pytest.mark.thorough
def test_members_of_an_ensemble_give_the_uncertainty(make_trainer: Make) -> None:
    """Scores L and L + 2 of a response of L words: mean L + 1, standard deviation √2, whatever L. A member without a
    score for any response leaves û undefined, with the reason."""

    def words(prompts: list[Any], completions: list[Any]) -> list[float]:
        return [float(len(text.split())) for text in completions]

    def more(prompts: list[Any], completions: list[Any]) -> list[float]:
        return [n + 2 for n in words(prompts, completions)]

    first, *_ = rows(run(make_trainer(), proxy=[words, more]))
    assert first["disagreement"] == pytest.approx(sqrt(2))
    assert first["members"][1] == first["members"][0] + 2 == pytest.approx(first["proxy"] + 1)
    silent = rows(run(make_trainer(), proxy=[words, lambda prompts, completions: [None] * len(prompts)]))[0]
    assert silent["disagreement"] is None
    assert silent["missing"]["disagreement"] == "no response has a score of every member"


@pytest.mark.thorough
def test_several_answers_to_a_problem_rank_and_calibrate(make_trainer: Make) -> None:
    """Three answers to each of 24 problems: one evaluation of the start is enough for a threshold."""
    monitor = run(make_trainer(**LEARNS, max_steps=2), answers=3, replicates=1, stop_above="auto")
    first, last = rows(monitor)
    assert (first["n"], first["answers"]) == (72, 3)
    assert first["again"] == []
    assert first["threshold"] > 0
    proxy, right = (np.array(first["responses"][name]).reshape(24, 3) for name in ("proxy", "true"))
    pairs_of = [(p[r == 1][:, None] - p[r == 0]).ravel() for p, r in zip(proxy, right, strict=True)]
    areas = [np.mean((apart > 0) + 0.5 * (apart == 0)) for apart in pairs_of if apart.size]
    assert first["ranking"] == pytest.approx(np.mean(areas))
    assert len({tuple(answers) for answers in proxy}) > 1
    (condition,) = analyzed(pd.DataFrame(rows(monitor)))["conditions"]
    assert condition["series"]["gap_standardised"] == pytest.approx([0.0, last["gap_standardised"]])


def test_rewards_that_were_right_or_wrong_at_the_start_stay_so(make_trainer: Make) -> None:
    """No response had partial credit at the start, later ones do: rows keep one kind, and analyze the monitor's gap."""
    seen = [0]

    def later_partial(text: str, gold: str) -> float:
        seen[0] += 1
        return float(is_short(text, gold)) if seen[0] <= 24 * 4 else 0.25

    written = rows(run(make_trainer(**LEARNS), true=later_partial))
    assert [row["correct_strict"] is None for row in written] == [False, True, True, True]
    assert not any("true_std" in row for row in written)
    (condition,) = analyzed(pd.DataFrame(written))["conditions"]
    assert condition["series"]["gap_standardised"] == pytest.approx([row["gap_standardised"] for row in written])


@pytest.mark.thorough
def test_false_alarms_with_a_real_model_stay_below_the_stated_rate(make_trainer: Make) -> None:
    """A/A: 80 evaluations of one policy with different noise. A run is 14 answers to each problem drawn from these, 4
    replicates of the start and 10 looks."""
    monitor = GoodhartMonitor(make_trainer(beta=0.0), pairs(32), true=is_short, batch_size=32)
    found = [evaluate(monitor.instrument, replicate) for replicate in range(80)]
    pool = np.array([[one.proxy, one.true] for one in found])
    rng, runs, count = np.random.default_rng(0), 1000, 0
    for _ in range(runs):
        drawn = np.take_along_axis(
            pool, rng.permuted(np.tile(np.arange(80)[:, None, None], (1, 1, 32)), axis=0), axis=0
        )
        start = start_of(list(drawn[:4]), 10)
        first, later = scores(start, *drawn[0]), [scores(start, *rewards) for rewards in drawn[4:14]]
        height = critical_height(10, start.degrees, 0.05)
        possible = [y for y in later if y.mean() - first.mean() > height * start.noise]  # no threshold is lower
        count += any(y.mean() - first.mean() > threshold(height, start.noise, own_noise(y, first)) for y in possible)
    print(f"A/A with a real model: {100 * count / runs:.1f} % of {runs} runs alarm")
    assert 0.01 <= count / runs <= 0.05 + 3 * sqrt(0.05 * 0.95 / runs)


@pytest.mark.thorough
def test_what_cannot_be_calibrated_is_said(make_trainer: Make) -> None:
    constant: dict[str, Any] = {"true": lambda text, gold: True, "proxy": lambda p, c: [1.0] * len(p)}
    cases: list[dict[str, Any]] = [constant, {"replicates": 1}]
    for settings in cases:
        with pytest.raises(BetastarError, match=r"stop_above='auto'.* give a number\.$"):
            run(make_trainer(), stop_above="auto", **settings)
    written = rows(run(make_trainer(), replicates=1))
    assert written[0]["threshold"] is written[0]["onset"] is None
    assert written[0]["missing"]["threshold"] == "the noise of the gap at the start is unknown"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every is 0; give at least 1"),
        ({"stop_above": "car"}, "stop_above is 'car'; give 'auto', a number, or nothing"),
        ({"stop_above": True}, "stop_above is True; give"),
        ({"stop_above": float("nan")}, "stop_above is nan; give"),
        ({"stop_above": np.float32(1)}, r"stop_above is np.float32\(1.0\); give"),
        ({"false_alarm_rate": 0.6}, "false_alarm_rate is 0.6; give a probability up to 0.5"),
        ({"stop_above": "auto", "temperature": 0}, "a temperature above 0; give a number"),
        ({"labels": {"lr": 1}}, "labels has lr; it may have variant, beta and seed"),
        ({"true": lambda text, gold: "yes"}, "The true reward of a response is 'yes'; the function must return"),
    ],
)
def test_mistakes_are_one_sentence(make_trainer: Make, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BetastarError, match=message):
        run(make_trainer(), **settings)


def test_what_is_no_such_trainer_is_refused(make_trainer: Make) -> None:
    with pytest.raises(BetastarError, match="was given a dict; it needs TRL's GRPOTrainer or RLOOTrainer"):
        GoodhartMonitor({}, pairs(4))
    trainer, other = make_trainer(), make_trainer()
    other.add_callback(GoodhartMonitor(trainer, pairs(4)))
    with pytest.raises(BetastarError, match="belongs to another trainer; create one for each"):
        other.train()
    processor = object.__new__(ProcessorMixin)
    tokenizer, trainer.processing_class = trainer.processing_class, processor
    with pytest.raises(BetastarError, match="supports text only, but this trainer has a ProcessorMixin; give"):
        GoodhartMonitor(trainer, pairs(4))
    trainer.processing_class = tokenizer
    trainer.tools = [print]
    with pytest.raises(BetastarError, match="cannot be used with tools"):
        GoodhartMonitor(trainer, pairs(4))
    trainer.tools, trainer.is_fsdp_enabled = None, True
    with pytest.raises(BetastarError, match="splits it"):
        GoodhartMonitor(trainer, pairs(4))
