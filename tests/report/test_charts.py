"""What charts do with logs that lack something; the numbers behind the lines are worked by hand."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

import betastar
from betastar.analysis.results import to_json
from betastar.report.charts import augc_chart, gap_chart, rewards_chart
from betastar.report.words import damage_rows


def analysed(frame: pd.DataFrame, **how: Any) -> dict[str, Any]:
    return json.loads(to_json(betastar.analyze(frame, **how)))


def points(chart: Any) -> list[dict[str, Any]]:
    """The data of the chart's first panel, nulls as they go into the drawing."""
    spec = chart.to_dict()
    row = spec["vconcat"][0]
    panel = row["hconcat"][0]
    name = next(part["data"]["name"] for part in (panel["layer"][0], panel, row, spec) if "data" in part)
    return spec["datasets"][name]


def test_seeds_on_different_grids_meet_on_straight_lines() -> None:
    rows = [(0, s, 1.0) for s in (0, 1)] + [(10, 0, 3.0), (20, 0, 3.0), (20, 1, 5.0)]
    frame = pd.DataFrame(rows, columns=["step", "seed", "reward"]).assign(acc=0.5, beta=1.0)
    drawn = {row["step"]: row for row in points(rewards_chart(analysed(frame)))}
    # At step 10 seed 0 has 3 and seed 1, between 1 and 5, counts as 3; at 20: mean 4, standard error |5 − 3|/2 = 1.
    assert [drawn[step]["mean"] for step in (0, 10, 20)] == [1, 3, 4]
    assert (drawn[10]["low"], drawn[10]["high"]) == (3, 3)
    assert (drawn[20]["low"], drawn[20]["high"]) == (3, 5)


def test_a_form_of_the_gap_that_is_undefined_everywhere_has_no_panel() -> None:
    frame = pd.DataFrame({"step": [0, 1], "reward": [1.0, 2.0], "acc": [0.5, 0.4], "beta": 1.0})
    both, one = analysed(frame.assign(reward_std=1.0)), analysed(frame)
    for chart in (gap_chart, augc_chart):
        assert len(chart(both).to_dict()["vconcat"]) == 2
        assert len(chart(one).to_dict()["vconcat"]) == 1


def test_an_unknown_beta_has_a_name_on_axes_and_in_tables() -> None:
    frame = pd.DataFrame({"step": [0, 1], "reward": [1.0, 2.0], "acc": [0.5, 0.4], "seed": 0})
    results = analysed(frame)
    text = json.dumps(augc_chart(results).to_dict())
    assert "'unknown'" in text
    assert '"type": "log"' not in text  # there is no place for it on a logarithmic axis
    assert all(row["beta"] is None for row in points(rewards_chart(results)))
    assert damage_rows(results["summary"]["β unknown"])[0][0] == "unknown"
