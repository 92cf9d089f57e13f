"""Tables of finished runs, single checkpoints, and what a KL is counted per."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis.records import check

import betastar
from betastar.analysis.logs.assemble import assemble
from betastar.analysis.logs.log import Log, Options
from betastar.maths.best_of_n import best_of_n_kl

TABLE = pd.DataFrame(
    {"beta": [1.0, 0.3, 0.1, 0.03], "kl": [1.0, 4.0, 9.0, 16.0], "proxy": [1, 2, 3, 4], "gold": [0.2, 0.5, 0.4, 0.3]}
)


def test_a_row_per_beta_is_a_frontier(tmp_path: Path) -> None:
    found = betastar.analyze(TABLE.sample(frac=1, random_state=0).reset_index(drop=True), out=tmp_path)
    record: Any = check(found.record)
    line = record["frontier"]
    assert line["ordered_by"] == "distance"
    assert [row["distance"] for row in line["rows"]] == [1, 2, 3, 4]
    assert [row["truth"] for row in line["rows"]] == [0.2, 0.5, 0.4, 0.3]
    assert (line["best"], line["n"]) == (1, 4)
    assert line["lost"] == pytest.approx(0.2)
    assert line["beyond"] == -1  # from there on, the truth falls as the proxy rises
    assert any("each is taken for a finished run" in note for note in found.notes)
    assert "Frontier of finished runs" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "figures" / "frontier.png").is_file()
    assert "highest at β = 0.3 (√KL 2.00): 0.5" in found.markdown


def test_without_kl_runs_are_ordered_by_the_proxy_and_named() -> None:
    table = TABLE.drop(columns=["kl", "beta"]).assign(run=["a", "b", "c", "d"], step=500)
    record: Any = check(betastar.analyze(table).record)
    assert record["frontier"]["ordered_by"] == "proxy"
    assert [row["variant"] for row in record["frontier"]["rows"]] == ["a", "b", "c", "d"]
    assert record["frontier"]["missing"]["distance"] == "KL is not logged, so runs are ordered by the proxy"


def test_a_log_with_steps_is_no_table_of_finished_runs() -> None:
    log = TABLE.assign(step=[0, 1, 2, 3])  # a coefficient that adapts at every step
    assert "frontier" not in betastar.analyze(log).record
    # Several rows of a run and a β each are its course.
    course = pd.concat([TABLE.assign(step=s) for s in (0, 5)])
    assert "frontier" not in betastar.analyze(course).record


def responses(n: int = 4) -> pd.DataFrame:
    """Two problems with n answers each; the proxy ranks the first rightly, the second by a coin."""
    return pd.DataFrame(
        {
            "problem_id": np.repeat([0, 1], n),
            "response": ["a long enough answer"] * 2 * n,
            "reward": [4.0, 3.0, 2.0, 1.0, 4.0, 3.0, 2.0, 1.0],
            "correct": [1, 1, 0, 0, 0, 1, 1, 0],
        }
    )


def test_one_checkpoint_says_what_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "base.jsonl").write_text(str(responses().to_json(orient="records", lines=True)))
    found = betastar.analyze(tmp_path / "base.jsonl", out=tmp_path / "out")
    record: Any = check(found.record)
    (condition,) = record["conditions"]
    assert condition["n_points"] == 1
    assert condition["true_strict"]["start"] == 0.5
    assert condition["ranking_start"] == pytest.approx((1 + 0.5) / 2)
    assert condition["verdict"] is None
    curve = record["best_of_n"]["by_beta"][0]["curve"]
    assert curve[-1]["best_of"] == 4
    assert curve[-1]["kl"] == pytest.approx(best_of_n_kl(4))
    assert curve[-1]["truth"]["mean"] == 0.5  # right for the first problem, wrong for the second
    assert "75 % of pairs" in found.markdown


KL = {"step": [0, 1], "reward": [1.0, 2.0], "acc": [0.5, 0.4]}


@pytest.mark.parametrize(
    ("columns", "kl", "said"),
    [
        ({"kl": [0.1, 0.2], "completions/mean_length": [100.0, 50.0]}, [10, 10], "in nats per token and was multipl"),
        ({"objective/kl": [10.0, 12.0], "length": [100.0, 50.0]}, [10, 12], "in nats per response"),
        (
            {"actor/kl_loss": [0.1, 0.2], "response_length/mean": [100.0, 50.0]},
            [10, 10],
            "per token and was mult",
        ),
        ({"actor/kl_loss": [0.1, 0.2]}, [0.1, 0.2], "length of responses is not logged, so √KL here is per token too"),
        ({"kl": [0.1, 0.2]}, [0.1, 0.2], "nothing tells who wrote it"),
    ],
)
def test_kl_per_token_is_told_from_kl_per_response(columns: dict[str, Any], kl: list[float], said: str) -> None:
    log = Log("a", pd.DataFrame({**KL, **columns}), "CSV table")
    found = assemble([log], Options())
    assert found.frame["kl"].tolist() == pytest.approx(kl)
    assert any(said in note for note in found.notes)


def test_what_a_kl_is_counted_per_can_be_told() -> None:
    log = Log("a", pd.DataFrame({**KL, "kl": [0.1, 0.2], "length": [100.0, 50.0]}), "CSV table")
    assert assemble([log], Options(kl_per="token")).frame["kl"].tolist() == pytest.approx([10, 10])
    assert assemble([log], Options(kl_per="response")).frame["kl"].tolist() == [0.1, 0.2]
    json.dumps(assemble([log], Options()).runs)
