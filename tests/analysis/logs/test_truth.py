"""True rewards measured elsewhere: read from tables and from the results of evaluation harnesses, joined by step."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from betastar.analysis.logs.assemble import assemble
from betastar.analysis.logs.log import Log, Options
from betastar.analysis.logs.truth import chosen_truth, join, read_truth
from betastar.errors import BetastarError

STEPS, VALUES = [0, 100, 200], [0.5, 0.6, 0.4]


def log(steps: list[int] | None = None, name: str = "run") -> Log:
    steps = list(range(0, 201, 10)) if steps is None else steps
    return Log(name, pd.DataFrame({"step": steps, "reward": [s / 100 for s in steps]}), "CSV table")


def lm_eval(folder: Path) -> Path:
    """Two tables of lm-evaluation-harness: the strict metric leads, and what a standard error is called is no score."""
    for step, value in zip(STEPS, VALUES, strict=True):
        record = {
            "results": {
                "gsm8k": {
                    "alias": "gsm8k",
                    "exact_match,flexible-extract": value + 0.1,
                    "exact_match,strict-match": value,
                    "exact_match_stderr,strict-match": 0.01,
                }
            },
            "n-samples": {"gsm8k": {"original": 1319, "effective": 200}},
            "config": {"model_args": f"pretrained=out/checkpoint-{step},dtype=bfloat16"},
        }
        place = folder / f"out__checkpoint-{step}" / "results_2026-11-26T10-00-00.json"
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(record))
    return folder


def lighteval(folder: Path) -> Path:
    for step, value in zip(STEPS, VALUES, strict=True):
        metrics = {"qem": value, "qem_stderr": 0.02}
        record = {
            "config_general": {"model_name": f"org/model-step-{step}"},
            "results": {"lighteval|gsm8k|5|0": metrics, "all": metrics},
        }
        (folder / f"results_{step + 7}.json").write_text(json.dumps(record))
    return folder


def inspect_ai(folder: Path) -> Path:
    for step, value in zip(STEPS, VALUES, strict=True):
        record = {
            "eval": {"task": "gsm8k", "model": f"hf/out/checkpoint-{step}"},
            "results": {
                "total_samples": 200,
                "scores": [{"name": "match", "metrics": {"accuracy": {"value": value}, "stderr": {"value": 0.03}}}],
            },
        }
        if step == 100:  # its own format is a zip
            with zipfile.ZipFile(folder / "log.eval", "w") as archive:
                archive.writestr("header.json", json.dumps(record))
        else:
            (folder / f"log{step}.json").write_text(json.dumps(record))
    return folder


def table(folder: Path) -> Path:
    pd.DataFrame({"checkpoint": [f"step-{s}" for s in STEPS], "pass@1": VALUES, "n": 200}).to_csv(folder / "t.csv")
    return folder / "t.csv"


def nested(folder: Path) -> Path:
    record = {str(s): {"pass_at_1": v, "n": 200} for s, v in zip(STEPS, VALUES, strict=True)}
    (folder / "t.json").write_text(json.dumps(record))
    return folder / "t.json"


@pytest.mark.parametrize("write", [lm_eval, lighteval, inspect_ai, table, nested])
def test_every_source_gives_steps_and_scores(tmp_path: Path, write: Any) -> None:
    truth = read_truth(write(tmp_path))
    rows = truth.rows.sort_values("step")
    assert rows["step"].tolist() == STEPS
    assert rows["value"].tolist() == VALUES
    if write is not lighteval:  # which does not say how many problems there were
        assert rows["n"].tolist() == [200] * 3


def test_a_log_without_truth_is_analysed_with_it(tmp_path: Path) -> None:
    found = assemble([log()], Options(truth=read_truth(table(tmp_path))))
    assert found.frame["step"].tolist() == STEPS
    assert found.frame["true_strict"].tolist() == VALUES
    assert found.frame["n"].tolist() == [200] * 3
    # The proxy is logged far more often: its mean since the score before.
    assert found.frame["proxy"].tolist() == pytest.approx([0, 0.55, 1.55])
    assert "the truth is read from t.csv at 3 steps" in found.notes


def test_scores_are_matched_to_the_nearest_step_within_a_distance(tmp_path: Path) -> None:
    truth = read_truth(table(tmp_path))
    found = join(log([0, 96, 148]), truth, ["step"])
    assert found.log.rows["step"].tolist()[-2:] == [0, 96]  # 200 is 52 away, and half the distance of scores is 50
    assert found.notes[1:] == [
        "1 of its steps are not logged and were matched to the nearest one, at most 50 away",
        "its steps 200 have no logged step nearby",
    ]
    assert len(join(log([0, 96, 148]), truth, ["step"], most=2).log.rows) == 4
    with pytest.raises(
        BetastarError, match=r"none of the steps of the truth \(0, 100, 200\) is within 3 of a logged one"
    ):
        join(log([50]), truth, ["step"], most=3)


def test_of_several_runs_the_one_in_the_path_counts(tmp_path: Path) -> None:
    record = {run: {"0": {"acc": v}, "100": {"acc": v + 0.1}} for run, v in (("R1", 0.1), ("R10", 0.5))}
    (tmp_path / "t.json").write_text(json.dumps(record))
    truth = read_truth(tmp_path / "t.json")
    both = assemble([log(name="out/R1/log.csv"), log(name="out/R10/log.csv")], Options(truth=truth))
    assert both.frame["true_strict"].tolist() == pytest.approx([0.1, 0.2, 0.5, 0.6])
    with pytest.raises(BetastarError, match=r'the truth has several runs \(R1, R10\).*name one with truth="FILE:RUN"'):
        assemble([log()], Options(truth=truth))
    one = chosen_truth(f"{tmp_path / 't.json'}:R10")
    assert assemble([log()], Options(truth=one)).frame["true_strict"].tolist() == pytest.approx([0.5, 0.6])
    with pytest.raises(BetastarError, match="has no run R2; its runs: R1, R10"):
        chosen_truth(f"{tmp_path / 't.json'}:R2")


def test_what_cannot_be_the_truth_is_said(tmp_path: Path) -> None:
    with pytest.raises(BetastarError, match="does not exist; check the path"):
        read_truth(tmp_path / "none.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BetastarError, match="holds no results of lm-evaluation-harness"):
        read_truth(tmp_path / "empty")
    pd.DataFrame({"a": [1], "b": [2]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(BetastarError, match=r"has no column of steps \(columns: a, b\)"):
        read_truth(tmp_path / "t.csv")
    pd.DataFrame({"step": [1], "a": [1], "b": [2]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(BetastarError, match='a, b could be the score; name it with true="COLUMN"'):
        read_truth(tmp_path / "t.csv")
    assert read_truth(tmp_path / "t.csv", "b").rows["value"].tolist() == [2]
    tasks = {"results": {"gsm8k": {"acc": 0.1}, "math": {"acc": 0.2}}, "config": {"model_args": "x/checkpoint-5"}}
    (tmp_path / "results.json").write_text(json.dumps(tasks))
    with pytest.raises(BetastarError, match=r"has scores of 2 tasks \(gsm8k, math\); name one"):
        read_truth(tmp_path / "results.json")
    assert read_truth(tmp_path / "results.json", "math").rows["value"].tolist() == [0.2]
