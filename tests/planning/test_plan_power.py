"""What `betastar plan` says of power, with and without a pilot."""

from __future__ import annotations

import json
from math import inf, log10
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysis.test_results import point
from planning.test_plan_command import plan

from betastar.analysis.results import build_results
from betastar.errors import BetastarError
from betastar.maths.power import smallest_rise
from betastar.planning.power import betas_of, plan_power, power_record
from betastar.record.files import to_json
from betastar.settings.config import load_config
from betastar.settings.phases import Grid

AUGC = "analysis.primary=augc_standardised"
GRID = {"method": "geometric", "low": 0.1, "high": 10.0, "n": 3}


def pilot(folder: Path, grid: Any = GRID, seeds: int = 3, **columns: Any) -> Path:
    """A finished run of three β, AUGC from proxies that scatter."""
    rng = np.random.default_rng(0)
    rows = [
        point("paper", beta, seed, step, 4.0 + (2 + rng.normal()) * step, 5) | columns
        for beta in (0.1, 1.0, 10.0)
        for seed in range(seeds)
        for step in (0, 2, 4)
    ]
    given: dict[str, Any] = {"name": "pilot", "root_seed": 0, "variants": {}}
    results = build_results(rows, {}, {**given, **({"grid": grid} if grid else {})})
    folder.mkdir()
    (folder / "results.json").write_text(to_json(results))
    return folder


def settings(*more: str) -> Any:
    return load_config(
        "micro", ["grid={method: geometric, low: 0.1, high: 10, n: 5}", "seeds=[0,1,2,3,4]", AUGC, *more]
    )


def test_without_a_pilot_the_rise_is_in_standard_deviations():
    found = plan_power(settings())
    assert (found.primary, found.n_seeds, found.n_beta) == ("augc_standardised", 5, 5)
    assert found.rise == smallest_rise(5, np.geomspace(0.1, 10, 5))
    assert np.isnan(found.slope)
    assert found.table[found.seeds.index(10)][found.betas.index(7)] == smallest_rise(10, 7)
    record = json.loads(json.dumps(power_record(found), allow_nan=False))
    assert record["slope"] is None
    assert record["rise"] == found.rise


def test_a_pilot_gives_the_unit(tmp_path):
    folder = pilot(tmp_path / "run")
    found = plan_power(settings("analysis.smallest_effect=4"), folder)
    record = json.loads((folder / "results.json").read_text())
    table = np.array([r["augc_standardised"] for r in record["conditions"]]).reshape(3, 3)  # [β, seed]
    left = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
    assert found.pilot is not None
    assert found.pilot.residual_sd == pytest.approx(np.sqrt((left**2).sum() / 4))
    assert found.pilot.degrees_of_freedom == 4
    assert found.slope == pytest.approx(found.rise * found.pilot.residual_sd / log10(100))
    assert found.for_smallest_effect == pytest.approx(
        plan_power(settings("analysis.smallest_effect=4"), folder).for_smallest_effect
    )
    assert json.loads(json.dumps(power_record(found), allow_nan=False))["pilot"]["degrees_of_freedom"] == 4


@pytest.mark.parametrize(
    ("grid", "primary", "seeds", "message"),
    [
        (
            {**GRID, "high": 5.0},
            AUGC,
            3,
            "its β run from 0.1 to 5, those of this plan from 0.1 to 10, and the spread depends on β; give a run over "
            "the same range of β, or plan without --pilot",
        ),
        (
            {"method": "percentiles", "percentiles": [20, 80]},
            AUGC,
            3,
            "its β run from percentile 20 to 80 (Eq. 7), those",
        ),
        (None, AUGC, 3, "its β run over values that its record does not explain"),
        (
            GRID,
            "analysis.primary=points_lost",
            1,
            "points_lost in 3 conditions of variant paper; set analysis.primary to",
        ),
        (GRID, AUGC, 1, "it takes two seeds and two values of β to say how much they scatter; give a pilot"),
    ],
)
def test_a_pilot_that_does_not_fit_is_one_sentence(tmp_path, grid, primary, seeds, message):
    folder = pilot(tmp_path / "run", grid, seeds)
    if primary == AUGC:
        with pytest.raises(BetastarError, match="--pilot") as error:
            plan_power(settings(primary), folder)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
        return
    record = json.loads((folder / "results.json").read_text())
    if "points_lost" in record["conditions"][0]:
        pytest.skip("the record has this measure")
    with pytest.raises(BetastarError) as error:
        plan_power(settings(primary), folder)
    assert message in str(error.value)


def test_a_folder_without_results_is_no_pilot(tmp_path):
    with pytest.raises(BetastarError, match=r"has no results\.json"):
        plan_power(settings(), tmp_path)


def test_the_grids_of_all_methods():
    assert betas_of(Grid(method="list", values=(2.0, 0.5))) == [0.5, 2.0]
    assert betas_of(Grid(method="geometric", low=1, high=4, n=3)) == pytest.approx([1, 2, 4])
    assert betas_of(Grid()) == 3


def test_the_plan_prints_it(tmp_path):
    text = plan("micro", "--set", "seeds=[0,1,2,3,4]", "--set", "grid.percentiles=[10,30,50,70,90]")
    assert "Smallest rise found (sd)" in text
    assert "Power: 5 seeds × 5 β find a rise of regret from the smallest to the largest β with 80 % probability" in text
    assert "--pilot RUN says how much that is." in text
    two = plan("micro", "--set", "seeds=[0]")
    assert "1 seed × 5 β can show no dependence of regret on β at all" in two
    folder = pilot(tmp_path / "run")
    arguments = ["--set", "grid={method: geometric, low: 0.1, high: 10, n: 5}", "--set", AUGC, "--pilot", str(folder)]
    assert f"per tenfold β by {folder}" in plan("micro", *arguments)
    assert smallest_rise(1, 3) == inf
