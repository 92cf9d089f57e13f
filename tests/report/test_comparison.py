"""Several runs on one page: what it says, what lies beside it, and one sentence for each mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from forked import betastar
from report.records import BETAS, HOSTILE, record, results, run_folder, unprinted

from betastar.analysis.compare import Subject
from betastar.errors import BetastarError
from betastar.report.comparison import outcome_rows, setting_rows, verdicts
from betastar.report.figures.between_runs import comparison_figures
from betastar.report.folders import named, write_comparison
from betastar.report.points import beside


def two_runs(folder: Path) -> tuple[Path, Path]:
    """A run, and one whose proxy rises half as fast again, of the same seeds; the second has one variant less."""
    numbers = results(lambda beta: 1.5 * beta**0.5, ("fixed",), root_seed=0)
    return run_folder(folder / "a", HOSTILE, {**record(), "root_seed": 0}), run_folder(folder / "b", HOSTILE, numbers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    a, b = two_runs(place)
    config = b / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["online"]["learning_rate"] = 0.003
    config.write_text(yaml.safe_dump(settings))
    write_comparison([str(a), f"faster={b}"], place / "out" / "comparison.html")
    return place / "out"


def test_numbers_figures_and_page_lie_beside_each_other(folder: Path) -> None:
    numbers = json.loads((folder / "comparison.json").read_text())
    assert [run["name"] for run in numbers["runs"]] == ["a", "faster"]
    assert numbers["settings"] == [
        {"setting": "online.learning_rate", "values": {"a": 0.002, "faster": 0.003}},
    ]
    names = {path.name for path in (folder / "figures").glob("[!.]*")}
    figures = ("rewards", "truth", "damage", "differences")
    assert names == {f"comparison-{figure}.{kind}" for figure in figures for kind in ("svg", "pdf", "png")}
    html = (folder / "comparison.html").read_text()
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert {"comparison-answer", "run0-answer", "run1-answer"} <= set(ids)
    links = set(re.findall(r'href="#([^"]+)"', html))
    assert links <= set(ids)
    assert len(html.encode()) < 8_000_000


def test_the_page_and_the_terminal_say_the_difference_and_its_uncertainty(folder: Path) -> None:
    numbers = json.loads((folder / "comparison.json").read_text())
    (verdict,) = verdicts(numbers)
    assert verdict.heading == "faster minus a, variant fixed"
    # Per step the proxy rises by √β·(1 + seed/10) sd/2 more; over four steps half of that is 2·√β·(1 + seed/10) more
    # gap × steps: 2, 2.2 and 2.4 times the mean of √β.
    mean = 2.2 * sum(beta**0.5 for beta in BETAS) / len(BETAS)
    (augc,) = (limit for limit in verdict.limits if limit.startswith("AUGC is "))
    assert augc.startswith(f"AUGC is higher: +{mean:.1f} gap × steps (95 % interval ")
    assert augc.endswith("mean over the 5 shared values of β, paired within 3 seeds.")
    # Both end with three right answers of ten.
    assert (
        verdict.sentence
        == "The truth at the end is the same in every seed at the shared values of β, paired within 3 seeds."
    )
    assert setting_rows(numbers)[1] == [
        ["variants", "paper, fixed", "fixed"],
        ["online.learning_rate", "0.002", "0.003"],
    ]
    assert verdict.limits[0].startswith("Regret is the same in every seed")
    columns, rows = outcome_rows(numbers, "fixed")
    assert columns == ["β", "a", "faster", "faster − a, paired"]
    assert [row[0] for row in rows] == ["0.1", "0.5", "1", "5", "20", "per tenfold β"]
    assert rows[0][1:3] == ["0.3", "0.3"]  # the truth at the end: three right answers of ten
    assert outcome_rows(numbers, "paper")[0] == ["β", "a"]
    html = (folder / "comparison.html").read_text()
    assert verdict.sentence in html
    assert "Variant paper exists only in a." in html


@pytest.mark.thorough
def test_a_beta_has_one_colour_in_all_runs(tmp_path: Path) -> None:
    """The β of the second run lie between those of the first: each chart has the same colours in the same order."""
    a = run_folder(tmp_path / "a", {}, {**record(), "root_seed": 0})
    numbers = json.loads(json.dumps(record()))
    for row in numbers["conditions"]:
        row["beta"] *= 2
    for summary in numbers["summary"].values():
        summary["betas"] = [2 * beta for beta in summary["betas"]]
        for row in summary["by_beta"]:
            row["beta"] *= 2
    for pair in numbers["differences"]:
        for row in pair["by_beta"]:
            row["beta"] *= 2
    for decision in numbers["decision"].values():
        decision["betas"] = [2 * beta for beta in decision["betas"]]
        decision["choose"] |= {"best": 2 * decision["choose"]["best"], "betas": decision["betas"]}
    b = run_folder(tmp_path / "b", {}, {**numbers, "root_seed": 0})
    with unprinted():
        write_comparison([str(a), str(b)], tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    (text,) = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', html, re.DOTALL)
    panels = json.dumps(json.loads(text)["panels"], ensure_ascii=False)
    domains = set(re.findall(r'"field": "beta", "scale": \{"domain": (\[[^\]]*\])', panels))
    assert domains == {'["0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "40"]'}
    legends = re.findall(r'data-beta="([^"]+)" aria-pressed="true"><span class="swatch beta-(\d)"', html)
    assert len(set(legends)) == len({beta for beta, _ in legends}) == 9
    numbers = json.loads((tmp_path / "page.json").read_text())
    assert numbers["differences"][0]["betas"] == [1.0]  # 2 · 0.5
    assert numbers["differences"][0]["other_betas"] == {"b": [0.2, 2.0, 10.0, 40.0], "a": [0.1, 0.5, 5.0, 20.0]}


def test_charts_keep_to_the_schema_of_vega_lite(folder: Path) -> None:
    """In use they are not checked, for that takes seconds."""
    records = beside([record(), results(variants=("fixed",))])
    subjects = [Subject(name, numbers, {}) for name, numbers in zip("ab", records, strict=True)]
    compared = json.loads((folder / "comparison.json").read_text())
    compared = json.loads(json.dumps(compared).replace("faster", "b"))
    for figure in comparison_figures(subjects, compared):
        assert figure.rows
        for panel in (panel for row in figure.rows for panel in row):
            panel.chart.to_dict(validate=True)


def test_names_are_those_of_the_folders_made_unique(tmp_path: Path) -> None:
    places = [tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "z"]
    for place in places:
        place.mkdir(parents=True)
    assert list(named([str(place) for place in places])) == ["x/run", "y/run", "z"]
    assert list(named([f"first={places[0]}", str(places[1])])) == ["first", "run"]
    strange = tmp_path / "lr=3"
    strange.mkdir()
    assert named([str(strange), f"{'z'}={places[2]}"]) == {"lr=3": strange, "z": places[2]}


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["a"], "a comparison needs two runs"),
        (["a", "./a"], "a is named twice; a run minus itself is 0"),
        (["n=a", "n=b"], "two runs are called n"),
        (["a", "=b"], "=b: write NAME=FOLDER"),
        (["a", "empty"], "empty has no results.json"),
        (["a", "old"], "old/results.json has schema version 1, written by betastar 0.1.0, and this betastar reads 4"),
        (["a", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path: Path, places: list[str], message: str) -> None:
    run_folder(tmp_path / "a", {})
    run_folder(tmp_path / "b", {})
    run_folder(tmp_path / "old", {}, {**record(), "schema_version": 1})
    (tmp_path / "empty").mkdir()
    done = betastar("compare", *places, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "comparison.html").exists()


@pytest.mark.parametrize("out", ["results.html", "page.json", "."])
def test_no_record_is_replaced(tmp_path: Path, out: str) -> None:
    with pytest.raises(BetastarError, match=r"^out="):
        write_comparison(["a", "b"], tmp_path / out)


def test_the_command_prints_the_table_and_the_files(tmp_path: Path) -> None:
    two_runs(tmp_path)
    done = betastar("compare", "a", "[b]=b", "--out", "both.html", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "[b] − a, paired" in done.stdout
    assert "[b] minus a, variant fixed: The truth at the end is the same in every seed" in done.stdout
    assert "Open both.html; numbers are in both.json, figures in figures/both-*" in done.stdout
    assert (tmp_path / "both.html").is_file()


def test_the_truth_leads_a_comparison_in_points() -> None:
    """One more right answer of ten at the end, in every seed but one, that has two more: +10, +10 and +20 points."""
    numbers = {"variant": "fixed", "run": "b", "minus": "a", "method": "paired", "reason": None, "cautions": []}
    interval = {"low": -0.01, "high": 0.277, "reason": None}
    truth = {"mean": 0.4 / 3, "standard_error": 0.033, "interval": interval, "n": 3, "reason": None}
    undefined = {"mean": None, "standard_error": None, "interval": {"low": None, "high": None}, "n": 3, "reason": "x"}
    entry = {
        **numbers,
        "betas": [0.1, 1.0],
        "other_betas": {},
        "over_beta": {"true_end": truth, "regret": undefined, "augc_standardised": undefined},
        "slope_per_tenfold_beta": {"regret": undefined, "augc_standardised": undefined},
    }
    (found,) = verdicts({"differences": [entry], "runs": [{"truth_unit": "pp"}]})
    assert found.sentence == (
        "The truth at the end is not detectably different: +13 points (95 % interval −1 to 28), mean over the 2 shared "
        "values of β, paired within 3 seeds."
    )
    (found,) = verdicts({"differences": [entry], "runs": [{"truth_unit": "score"}]})
    assert "+0.13 (95 % interval −0.01 to 0.28)" in found.sentence
