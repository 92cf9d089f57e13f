"""One entry and one function make a measure: schema, docs, tables, page, frames and logs follow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from analysis.records import check, faults
from analysis.test_results import point
from jsonschema import Draft202012Validator
from report.records import run_folder, unprinted

import betastar
from betastar.analysis.conditions import COMPUTED, Trajectory, Undefined, computes
from betastar.analysis.logs.columns import others
from betastar.analysis.results import build_results
from betastar.record.documentation import with_tables
from betastar.record.entries import REGISTRY
from betastar.record.files import read_results, to_json
from betastar.record.frames import columns, conditions_frame, points_frame, summary_frame
from betastar.record.measures import LEVEL, Measure, Registry
from betastar.record.points import EvaluationPoint
from betastar.record.schema import schema
from betastar.report.folders import write_report
from betastar.report.words import mechanism_columns, mechanism_rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results.md"
SAG = Measure(
    name="truth_sag",
    level="condition",
    meaning="how far the truth fell below its start",
    symbol="sag",
    unit="pp",
    better="lower",
    source="made up",
    low=0,
    high=100,
    over_seeds=True,
    digits=1,
)
WARMTH = Measure(
    name="warmth",
    level="point",
    meaning="how warm the answers are",
    symbol="warmth",
    unit="K",
    kept=LEVEL,
    warns=1,
    warns_because="made up",
)
BETAS, SEEDS, STEPS = (0.1, 1.0, 10.0), (0, 1), (0, 2, 4)


@pytest.fixture
def sag() -> Iterator[None]:
    """A made-up measure of a condition, added in one place."""

    @computes("truth_sag")
    def _sag(run: Trajectory) -> float | Undefined:
        true = run.column("true_strict")
        return 100 * (true[0] - true.min()) if len(true) > 1 else Undefined("a fall needs two points")

    with REGISTRY.with_measures(SAG):
        yield
    del COMPUTED["truth_sag"]


@pytest.fixture
def warmth() -> Iterator[None]:
    """A made-up measure of a point."""
    with REGISTRY.with_measures(WARMTH):
        yield


def record(steps: tuple[int, ...] = STEPS, **more: float) -> dict:
    """Five of ten right at the start and one less at each later point."""
    rows = [
        {**point("paper", beta, seed, step, 4.0 + beta * step, 5 - i), **{name: v * step for name, v in more.items()}}
        for beta in BETAS
        for seed in SEEDS
        for i, step in enumerate(steps)
    ]
    return json.loads(to_json(build_results(rows, {}, {"name": "made up"})))


def test_a_measure_of_a_condition_is_found_everywhere(sag: None, tmp_path: Path) -> None:
    found = record()
    # Five, four, three of ten: 50 - 30 = 20 percentage points.
    assert [c["truth_sag"] for c in found["conditions"]] == [pytest.approx(20)] * 6
    assert found["summary"]["paper"]["by_beta"][0]["truth_sag"]["mean"] == pytest.approx(20)
    check(found)
    made = schema()["$defs"]["Condition"]["properties"]["truth_sag"]
    assert made["description"] == "how far the truth fell below its start (made up)"
    assert faults({**found, "conditions": [{**found["conditions"][0], "truth_sag": 101}]})
    page = with_tables(PAGE.read_text())
    assert "| `truth_sag` | how far the truth fell below its start (made up), pp |" in page
    assert "| `truth_sag` | sag | how far the truth fell below its start | pp | 0 to 100 | lower | made up |  |" in page
    assert mechanism_columns()[-1] == "sag"
    assert mechanism_rows(found["summary"]["paper"])[0][-1] == "20.0 ± 0.0"
    frame = conditions_frame(found)
    assert frame["truth_sag"].tolist() == pytest.approx([20] * 6)
    assert summary_frame(found).query("measure == 'truth_sag'")["mean"].tolist() == pytest.approx([20] * 3)
    assert next(c for c in columns("conditions") if c.name == "truth_sag").unit == "pp"
    folder = run_folder(tmp_path / "run", {}, found)
    assert read_results(folder)["conditions"][0]["truth_sag"] == pytest.approx(20)  # pyright: ignore
    with unprinted():
        page = write_report(folder).read_text()
    assert "<th>sag</th>" in page.replace(' scope="col"', "")


def test_what_its_function_cannot_say_is_null_with_its_reason(sag: None) -> None:
    condition = check(record(steps=(0,)))["conditions"][0]
    assert condition["truth_sag"] is None
    assert condition["missing"]["truth_sag"] == "a fall needs two points"


def test_a_measure_of_a_point_is_found_everywhere(warmth: None) -> None:
    found = check(record(warmth=0.5))
    assert found["conditions"][0]["series"]["warmth"] == [0, 1, 2]
    assert found["conditions"][0]["warmth"] == {"start": 0, "lowest": 0, "highest": 2, "end": 2, "mean": 1}
    assert found["warning_signs"]["pooled"]["signals"]["warmth"]["source"] == "made up"
    assert points_frame(found)["warmth"].tolist() == [0, 1, 2] * 6
    assert conditions_frame(found)["warmth_end"].tolist() == [2] * 6
    assert "| `warmth` | float64 | K | how warm the answers are |" in with_tables(PAGE.read_text())
    assert others()["warmth"] == ("warmth",)
    # A log that has a column of this name is read; one that has none says so.
    log = pd.DataFrame({"step": [0, 1], "reward": [1.0, 2.0], "accuracy": [0.5, 0.4], "warmth": [3.0, 4.0]})
    assert betastar.analyze(log).points["warmth"].tolist() == [3, 4]
    without = betastar.analyze(log.drop(columns="warmth")).record["conditions"][0]
    assert without.get("missing", {})["warmth"] == "not logged"


def test_nothing_of_them_is_left() -> None:
    assert {"truth_sag", "warmth"}.isdisjoint(m.name for m in REGISTRY)
    assert "truth_sag" not in json.dumps(schema())


def test_the_tables_of_the_page_are_current() -> None:
    page = PAGE.read_text()
    assert page.count("<!-- table:") == 12
    assert with_tables(page) == page, "run: make tables"


def test_every_measure_of_a_condition_has_a_function_and_every_entry_a_meaning() -> None:
    assert {m.name for m in REGISTRY.at("condition")} == COMPUTED.keys()
    for measure in REGISTRY:
        assert measure.meaning, measure.name
        assert not measure.meaning.endswith("."), measure.name
        assert measure.low < measure.high, measure.name


def test_paths_of_summaries_lead_to_numbers() -> None:
    condition = record()["conditions"][0]
    for measure in REGISTRY.summaries:
        if measure.value_path[0] != "alignment":  # of a run with checkpoints
            value: Any = condition
            for part in measure.value_path:
                assert part in value, measure.name
                value = value[part]


def test_a_name_is_taken_once() -> None:
    registry = Registry([SAG])
    with pytest.raises(ValueError, match="there is a measure truth_sag of a condition already"):
        registry.add(SAG)
    with pytest.raises(ValueError, match="needs the path"):
        registry.add(Measure(name="x", level="summary", meaning="no path"))


def test_schema_of_the_schema() -> None:
    Draft202012Validator.check_schema(schema())
    Draft202012Validator.check_schema(betastar.schema("comparison"))


def test_a_point_and_its_row() -> None:
    made = EvaluationPoint(step=4, n=10, proxy=1.5, true_strict=0.5, members=(1.0, 2.0), correct_strict=5)
    row = made.row()
    assert row == {"step": 4, "n": 10, "proxy": 1.5, "true_strict": 0.5, "members": [1.0, 2.0], "correct_strict": 5}
    assert EvaluationPoint.of_row({**row, "variant": "paper"}).row() == row
    assert made.row(always=("kl",))["kl"] is None
    for field, value in (("proxy", "high"), ("n", 1.5), ("members", 3), ("proxy", float("inf")), ("proxy", True)):
        with pytest.raises(ValueError, match=field):
            EvaluationPoint.of_row({**row, field: value})
