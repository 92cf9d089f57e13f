"""`Monitor`: any training loop. Its numbers by hand, its order of answers, its files, resumes and refusals."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from math import isnan, nan, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import betastar
from betastar.errors import BetastarError
from betastar.monitor import Monitor
from betastar.monitor.gaps import critical_height, own_noise, scores, start_noise, start_of, threshold
from betastar.record.responses import Grade

# Two problems with two answers each: proxies 0, 2 | 2, 4, right are the second of each.
PROXY, RIGHT, NAMES = [0.0, 2.0, 2.0, 4.0], [False, True, False, True], ["a", "a", "b", "b"]
TEXTS = ["one", "two", "three", "four"]


def start(folder: Path, **settings: Any) -> Monitor:
    arguments: dict[str, Any] = {"evaluations": 3, **settings}
    monitor = Monitor(folder, **arguments)
    monitor.record(0, TEXTS, RIGHT, PROXY, problems=NAMES)
    return monitor


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def noisy(step: int, drift: float, problems: int = 24, answers: int = 3) -> dict[str, Any]:
    """An evaluation drawn by its step alone, in an order of its own; the proxy rises with `drift`, the truth falls."""
    rng = np.random.default_rng(step)
    names = np.repeat(np.arange(problems), answers)
    right = rng.random(names.size) < 0.7 - 0.4 * drift
    proxy = right + rng.normal(size=names.size) + 2 * drift
    order = rng.permutation(names.size)
    texts = [f"answer {i}" for i in order]
    return {"responses": texts, "grades": right[order], "proxy": proxy[order], "problems": names[order]}


def test_the_numbers_of_an_evaluation_are_those_by_hand(tmp_path: Path) -> None:
    monitor = start(tmp_path)
    ratios = [0.1, 0.3, -0.2, 0.2]
    state = monitor.record(
        5,
        TEXTS,
        [True, True, False, False],
        [1.0, 3.0, 3.0, 9.0],
        problems=NAMES,
        log_ratio=ratios,
        tokens=[1, 2, 3, 4],
    )
    point = state.point
    assert (point.step, point.n, point.answers, point.proxy, point.true_strict) == (5, 4, 2, 4.0, 0.5)
    assert point.kl == pytest.approx(0.1)
    assert point.kl_error == pytest.approx(np.std([0.2, 0.0], ddof=1) / sqrt(2))
    assert point.response_tokens == 2.5
    assert isnan(point.ranking), "no problem has a right and a wrong answer"
    assert state.missing["ranking"] == "no problem has both right and wrong answers"
    # s_proxy = sd of 0, 2, 2, 4; the truth did not move: the gap is (4 − 2)/s.
    assert state.gap == pytest.approx(2 / np.std(PROXY, ddof=1))
    # q = (2 + 1)/(4 + 2) = ½, so s_true = ½, and both answers' scores differ by 2/s − 1/(1/2) in each problem.
    apart = 2 / np.std(PROXY, ddof=1) - 2
    sigma = sqrt(apart**2 / 2 / 4)
    assert rows(tmp_path)[0]["gap_noise"] == pytest.approx(sqrt(2) * sigma)
    known = start_of([(PROXY, RIGHT)], 3, 2)
    own = own_noise(scores(known, [1, 3, 3, 9], [1, 1, 0, 0]), scores(known, PROXY, RIGHT), 2)
    assert state.threshold == pytest.approx(threshold(critical_height(3, 1, 0.05), sigma, own))
    assert monitor.step == 5


def test_several_answers_are_as_good_as_repeats() -> None:
    """Answers of one evaluation and single answers of two are the same draws; the mean of two halves the variance."""
    each = np.random.default_rng(0).normal(size=(2, 50))
    together = each.T.reshape(1, 100)
    assert start_noise(together, 2) == pytest.approx(start_noise(each) / sqrt(2))


def test_the_order_of_answers_does_not_matter(tmp_path: Path) -> None:
    for name, order in (("a", [0, 1, 2, 3]), ("b", [2, 0, 3, 1])):
        monitor = start(tmp_path / name)
        given: list[Any] = [[values[i] for i in order] for values in (TEXTS, RIGHT, [5.0, 1.0, 2.0, 3.0], NAMES)]
        monitor.record(1, given[0], given[1], given[2], problems=given[3])
        monitor.close()
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


@pytest.mark.parametrize("kind", ["lists", "arrays", "tensors"])
def test_lists_arrays_and_tensors_are_the_same(tmp_path: Path, kind: str) -> None:
    make: Any = {"lists": list, "arrays": np.array, "tensors": lambda v: torch.tensor(v, requires_grad=False)}[kind]
    monitor = Monitor(tmp_path, evaluations=1)
    state = monitor.record(0, TEXTS, make(RIGHT), make([PROXY, [1.0, 3.0, 3.0, 5.0]]))
    assert state.point.proxy == 2.5
    assert state.point.members == (2.0, 3.0)
    assert state.point.disagreement == pytest.approx(sqrt(0.5)), "members 1 apart: sd 1/√2"
    half = Monitor(tmp_path / "half", evaluations=1).record(0, TEXTS, RIGHT, torch.tensor(PROXY, dtype=torch.bfloat16))
    assert half.point.proxy == 2.0


def test_grades_of_a_grader_and_scores(tmp_path: Path) -> None:
    grades = [Grade(True, True, True), Grade(False, True, True), Grade(False, False, False), Grade(False, True, True)]
    point = Monitor(tmp_path / "a", evaluations=1).record(0, None, grades, PROXY).point
    assert (point.true_strict, point.true_lenient, point.unparsable) == (0.25, 0.75, 0.25)
    point = Monitor(tmp_path / "b", evaluations=1).record(0, None, [0.1, 0.5, 0.6, 0.8], PROXY).point
    assert point.true_std == pytest.approx(np.std([0.1, 0.5, 0.6, 0.8], ddof=1))
    assert point.correct_strict is None


def test_what_has_no_proxy_is_counted_and_left_out(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, evaluations=1)
    monitor.record(0, TEXTS, RIGHT, PROXY)
    row = monitor.record(1, TEXTS, RIGHT, [1.0, None, nan, 3.0]).row
    assert row["unscored"] == 2
    assert row["proxy"] == 2.0
    assert row["responses"]["proxy"] == [1.0, None, None, 3.0]


@pytest.mark.thorough
def test_load_and_analyze_read_it_at_any_time_and_say_the_same(tmp_path: Path) -> None:
    labels = {"variant": "ours", "beta": 0.1, "seed": 3}
    monitor = Monitor(tmp_path / "run", evaluations=4, labels=labels)
    states = [monitor.record(10 * k, **noisy(k, k / 4)) for k in range(5)]
    running = betastar.load(tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()
    verdict = states[-1].verdict
    monitor.close()
    closed = betastar.load(tmp_path / "run")
    analysed = betastar.analyze(tmp_path / "run", out=tmp_path / "analysis")
    for found in (running, closed, analysed):
        (condition,) = json.loads(found.json)["conditions"]
        assert (condition["variant"], condition["beta"], condition["seed"]) == ("ours", 0.1, 3)
        assert (condition["verdict"], condition["verdict_reason"]) == tuple(verdict) == ("hacked", verdict.reason)
        assert condition["series"]["gap_standardised"] == pytest.approx([state.gap for state in states])
        assert condition["ranking_end"] == pytest.approx(states[-1].point.ranking)
    pd.testing.assert_frame_equal(running.answers, closed.answers)
    assert len(closed.answers) == 5 * 24 * 3
    means: Any = closed.answers.groupby("step")["proxy"].mean()
    assert list(means) == pytest.approx([s.point.proxy for s in states])
    assert list(closed.responses["response"][:2]) == [sample["response"] for sample in states[0].row["samples"][:2]]
    with pytest.raises(BetastarError, match="holds the results of a run; name another folder"):
        betastar.analyze(tmp_path / "run", out=tmp_path / "run")


def test_a_sweep_of_monitors_is_one_analysis_over_beta(tmp_path: Path) -> None:
    for beta in (0.1, 1.0):
        with Monitor(tmp_path / f"{beta}", evaluations=2, labels={"beta": beta, "seed": 0}) as monitor:
            for k in range(3):
                monitor.record(k, **noisy(k, beta * k / 4))
    record = betastar.analyze(tmp_path).record
    assert [(c["variant"], c["beta"]) for c in record["conditions"]] == [("logged", 0.1), ("logged", 1.0)]


def test_a_policy_that_stays_does_not_alarm_and_one_that_goes_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = Monitor(tmp_path, evaluations=4)
    states = [monitor.record(k, **noisy(k, 0.0)) for k in range(3)]
    assert not any(state.alarm for state in states)
    with caplog.at_level(logging.WARNING, logger="betastar"):
        states = [monitor.record(k, **noisy(k, 1.0)) for k in (3, 4)]
    assert [state.onset for state in states] == [3, 3]
    assert caplog.text.count("Monitor: at step 3 the Goodhart gap is") == 1
    assert states[0].logs["goodhart/gap"] == states[0].gap > states[0].threshold == states[0].logs["goodhart/threshold"]


@pytest.mark.thorough
def test_a_killed_run_goes_on_to_the_same_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Killed while the row of step 30 was written; the checkpoint is of step 10."""
    script = (
        "import os, sys\nfrom monitor.test_core import Monitor, noisy\n"
        "m = Monitor(sys.argv[1], evaluations=4)\n"
        "for k in range(3): m.record(10 * k, **noisy(k, k / 4))\n"
        "m.path.open('ab').write(b'{\"step\": 30, ')\nos._exit(9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "cut")], env=environment)
    assert done.returncode == 9
    for name, steps in (("whole", range(5)), ("cut", range(2, 5))):
        with caplog.at_level(logging.WARNING, logger="betastar"):
            monitor = Monitor(tmp_path / name, evaluations=4)
            for k in steps:
                monitor.record(10 * k, **noisy(k, k / 4))
        monitor.close()
    files = ["answers.parquet", "lock", "metrics.jsonl", "results.json", "samples.jsonl"]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == files
    for name in files[2:3] + files[4:]:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert "metrics.jsonl: line 4 was left unfinished by a kill and is removed." in caplog.text
    assert "metrics.jsonl: 1 evaluation (step 20) will be measured again; the old lines are removed." in caplog.text


def test_a_run_that_starts_anew_sets_the_earlier_file_aside(tmp_path: Path) -> None:
    for _ in range(2):
        monitor = start(tmp_path)
        monitor.record(1, TEXTS, RIGHT, PROXY, problems=NAMES)
        monitor.close()
    assert (tmp_path / "metrics.jsonl.1").read_bytes() == (tmp_path / "metrics.jsonl").read_bytes()


def test_repeats_of_the_start_calibrate_single_answers(tmp_path: Path) -> None:
    names = list(range(30))
    rng = np.random.default_rng(0)
    drawn = [(rng.random(30) < 0.5, rng.normal(size=30)) for _ in range(3)]
    with Monitor(tmp_path, evaluations=2) as monitor:
        state = monitor.record(0, None, *drawn[0], problems=names)
        assert isnan(state.threshold)
        assert state.missing["threshold"] == "the noise of the gap at the start is unknown"
        for i in (1, 2):
            state = monitor.record(0, None, *drawn[i], problems=names, replicate=i)
        known = start_of([(proxy, right) for right, proxy in drawn], 2)
        assert state.row["gap_noise"] == pytest.approx(sqrt(2) * known.noise)
        assert "threshold" not in state.missing
        later = monitor.record(1, None, *drawn[1], problems=names)
    assert later.threshold >= critical_height(2, 29, 0.05) * known.noise * (1 - 1e-12)
    assert len(rows(tmp_path)) == 2
    again = betastar.load(tmp_path).answers.query("replicate == 1")
    assert again["proxy"].to_list() == pytest.approx(list(drawn[1][1]), rel=1e-6)
    # A process that continues knows the same.
    resumed = Monitor(tmp_path, evaluations=2)
    assert resumed.record(2, None, *drawn[1], problems=names).threshold == pytest.approx(later.threshold)


def test_the_start_of_another_monitor_is_the_reference(tmp_path: Path) -> None:
    start(tmp_path / "first").close()
    monitor = Monitor(tmp_path / "second", evaluations=1, reference=tmp_path / "first", labels={"beta": 2.0})
    state = monitor.record(5, TEXTS, RIGHT, [p + 1 for p in PROXY], problems=NAMES)
    assert state.gap == pytest.approx(1 / np.std(PROXY, ddof=1))
    assert [(row["step"], row["beta"]) for row in rows(tmp_path / "second")] == [(0, 2.0), (5, 2.0)]
    monitor.close()
    again = Monitor(tmp_path / "second", evaluations=1, reference=tmp_path / "first")
    with pytest.raises(BetastarError, match="the start, step 0, is that of the reference; record later steps"):
        again.record(0, TEXTS, RIGHT, PROXY, problems=NAMES)
    with pytest.raises(BetastarError, match="none has no start that a Monitor recorded; give the folder of one"):
        Monitor(tmp_path / "third", evaluations=1, reference=tmp_path / "none")


def test_one_process_writes(tmp_path: Path) -> None:
    monitor = start(tmp_path)
    with pytest.raises(BetastarError, match=r"another monitor writes to this folder; close it, create .* \(rank 0\)"):
        Monitor(tmp_path, evaluations=1)
    monitor.close()
    monitor.close()
    with pytest.raises(BetastarError, match="this monitor is closed; create another"):
        monitor.record(1, TEXTS, RIGHT, PROXY)
    Monitor(tmp_path, evaluations=1).close()


def test_more_evaluations_than_planned_are_said_and_raise_the_threshold(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = start(tmp_path, evaluations=1)
    with caplog.at_level(logging.WARNING, logger="betastar"):
        limits = [monitor.record(k, TEXTS, RIGHT, PROXY, problems=NAMES).threshold for k in (1, 2, 3)]
    assert limits[0] < limits[1] < limits[2]
    assert caplog.text.count("evaluation 2 after the start, but 1 were planned") == 1


def test_your_own_threshold_has_its_false_alarm_rate(tmp_path: Path) -> None:
    monitor = start(tmp_path, threshold=0.5)
    assert monitor.record(1, TEXTS, RIGHT, PROXY, problems=NAMES).threshold == 0.5
    assert 0 < rows(tmp_path)[0]["false_alarm_rate"] < 1


GIVEN: dict[str, Any] = {"responses": TEXTS, "grades": RIGHT, "proxy": PROXY, "problems": NAMES}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 0}, "step 0: step 0 is recorded already; record each step once, in ascending order"),
        ({"step": -1}, "a step is a whole number from 0; give the number of updates"),
        ({"step": 1.5}, "a step is a whole number"),
        ({"step": True}, "a step is a whole number"),
        ({"step": 2**63}, "a step is a whole number"),
        ({"grades": RIGHT[:3]}, "has 3 grades, but 4 numbers in proxy; give one for each"),
        ({"grades": [True, None, True, True]}, "grade 1 is None; give a bool or a finite number for each"),
        ({"grades": [1, 0, 1, "yes"]}, "grades has 'yes'; give numbers"),
        ({"grades": [Grade(True, True, True), 1, 0, 0]}, "some grades are numbers and others betastar grades"),
        ({"grades": [True]}, "has 1 graded responses; give at least 2"),
        ({"proxy": [PROXY, PROXY[:2]]}, "but 2 numbers in proxy"),
        ({"proxy": ["high"] * 4}, "proxy has 'high'; give numbers"),
        ({"responses": TEXTS[:2]}, "has 4 grades, but 2 responses; give one for each"),
        ({"responses": [1, 2, 3, 4]}, "a response is 1; give texts, or None to keep no responses"),
        ({"problems": ["a", "a", "a", "b"]}, "problem 'b' has 1 of the answers and 'a' has 3; answer every"),
        ({"problems": ["a"] * 4}, "all answers are to one problem; give at least 2"),
        ({"problems": ["a", "a", "c", "c"]}, "problem 'c' is not one of the start's 2; evaluate the same problems"),
        ({"tokens": [1]}, "but 1 numbers in tokens"),
        ({"replicate": 1, "step": 3}, "only the start can be repeated"),
        ({"replicate": 3, "step": 0}, "this is repeat 1 of the start, not 3; give replicate=1"),
        (
            {k: [v[0], v[2]] for k, v in GIVEN.items()},
            "has 2 answers, and the start has 4; evaluate the same problems",
        ),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    monitor = start(tmp_path)
    before = monitor.path.read_bytes()
    arguments = {"step": 1, **GIVEN, **change}
    with pytest.raises(BetastarError, match=message):
        monitor.record(**arguments)
    assert monitor.path.read_bytes() == before
    monitor.record(1, **GIVEN)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluations": 0}, "evaluations is 0; give how many are planned"),
        ({"evaluations": 2.5}, "evaluations is 2.5; give"),
        ({"false_alarm_rate": 0.9}, "false_alarm_rate is 0.9; give a probability up to 0.5"),
        ({"threshold": nan}, "threshold is nan; give a number"),
        ({"labels": {"lr": 1}}, "labels has lr; it may have variant, beta and seed"),
        ({"labels": {"beta": "high"}}, "the label beta is 'high'; give a number from 0"),
        ({"labels": {"seed": 0.5}}, "the label seed is 0.5; give a whole number"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    arguments = {"evaluations": 3, **settings}
    with pytest.raises(BetastarError, match=message):
        Monitor(tmp_path, **arguments)


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "proxy": 1.0}\n')
    with pytest.raises(BetastarError, match=r"metrics\.jsonl: not written by a Monitor; give another folder"):
        Monitor(tmp_path, evaluations=1)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 0, "proxy": 1.0}\n'
    (tmp_path / "file").touch()
    with pytest.raises(BetastarError, match=r"file: .* give another"):
        Monitor(tmp_path / "file", evaluations=1)


def test_the_core_loads_no_trainer() -> None:
    script = (
        "import sys, betastar\nm = betastar.Monitor(sys.argv[1], evaluations=1)\n"
        "m.record(0, None, [1, 0], [1.0, 2.0])\nm.record(1, None, [1, 0], [1.0, 3.0])\nm.close()\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"betastar", "numpy"} <= loaded
    assert not loaded & {"torch", "transformers", "trl", "accelerate", "peft"}
