"""The page as a file: complete, closed to the outside, and saying what a repetition needs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from forked import betastar
from report.records import REWARDS, page_of, record, run_folder
from report.test_headline import one_run

from betastar.errors import BetastarError
from betastar.record.files import flat, read_run, to_json
from betastar.report.card import card, nearest_preset
from betastar.report.folders import write_report
from betastar.report.page import page
from betastar.settings.config import load_config


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(run_folder(tmp_path_factory.mktemp("run"), {"plain": "text"}))


def test_only_the_scripts_and_the_style_of_the_page_are_allowed(html: str) -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    policy = policy.replace("&#39;", "'")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in policy

    def digests(tag: str) -> set[str]:
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        return {f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in texts}

    assert digests("script") == set(rules["script-src"].split())
    assert len(digests("script")) == 3
    assert digests("style") == {rules["style-src"]}


def test_the_page_loads_nothing(html: str) -> None:
    """Outside the JavaScript libraries no address is left, and no attribute that loads one."""
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not re.findall(r"https?://", own)
    assert re.findall(r'\b(?:src|href)="(?!#)([^"]*)"', own) == ["data:,"]
    assert "@import" not in own
    assert "url(" not in own


def test_the_first_screen_has_answer_figure_and_warnings(html: str) -> None:
    first = html[html.index("<main>") : html.index('id="run0-figures"')]
    assert "None of the 15 runs changed enough for a verdict." in first
    assert "Yes: damage rises with β. Standardised AUGC +7.8 gap × steps per tenfold β" in first
    assert "Which β?" in first
    assert "How sure?" in first
    assert "β★" not in first
    assert "True reward and proxy during online adaptation" in first
    for warning in record()["warnings"]:
        assert warning.replace("'", "&#39;") in first
    assert "30 runs, 2 variants, 5 β, 3 seeds, 10 problems at each evaluation" in first


def test_the_first_screen_of_one_run_is_without_beta(tmp_path: Path) -> None:
    numbers = one_run([0.61, 0.64, 0.69, 0.72, 0.71, 0.68, 0.64, 0.59])
    (tmp_path / "results.json").write_text(to_json(numbers))
    html = page_of(tmp_path)
    first = html[html.index("<header>") : html.index('id="run0-figures"')]
    assert "Verdict: hacked." in first
    assert "has fallen by 13 points" in first
    assert "β" not in first


def test_data_come_back_from_the_page(html: str) -> None:
    (text,) = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', html, re.DOTALL)
    data = json.loads(text)
    assert all(panel["width"] == "container" for panel in data["panels"].values())
    assert data["browsers"][0]["texts"] == ["2 + 2 = 4 . #### 4", "2 + 2 = 5 . text"]
    assert len(data["browsers"][0]["rows"]) == 2 * 5 * 3 * 3


def test_several_runs_share_a_page(tmp_path: Path) -> None:
    runs = [read_run(run_folder(tmp_path / name, {"plain": name})) for name in ("a", "b")]
    from report.records import drawn, rewards

    html = page([(run, [drawn(rewards(run.results))]) for run in runs])
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert {"run0-answer", "run1-answer"} <= set(ids)


def test_the_card_has_what_a_repetition_needs(tmp_path: Path) -> None:
    tables = {table.title: table for table in card(read_run(run_folder(tmp_path, {"plain": "text"})))}
    what = dict(row[:2] for row in tables["What was run"].rows)
    assert (what["Python of the run"], what["hardware of the run"], what["seeds"]) == (
        "3.11.7",
        "Linux, 2 cores",
        "0, 1, 2",
    )
    assert tables["Settings that differ from the preset"].rows == [["online.steps", "30", "7"]]
    assert tables["Time per stage"].rows == [["base", "1", "12.5", "2026-01-01T00:00:00Z"]]
    disclosed = [row[0] for row in tables["Appendix F: the four disclosures"].rows if row[0]]
    assert [text[:3] for text in disclosed] == ["(a)", "(b)", "(c)", "(d)"]
    metrics = tables["Appendix F: the ten metrics"].rows
    assert [row[0] for row in metrics] == [str(i) for i in range(1, 11)]


def test_a_setting_that_was_derived_is_no_difference() -> None:
    there = load_config("paper").model_dump(mode="json")
    name, rows = nearest_preset(there, set())
    assert (name, rows) == ("paper", [])
    derived = next(key for key, value in flat(there) if value == "auto")
    changed = json.loads(json.dumps(there))
    section, setting = derived.split(".")
    changed[section][setting] = 5
    assert nearest_preset(changed, set())[1] == [[derived, "auto", "5"]]
    assert nearest_preset(changed, {derived}) == ("paper", [])


def test_a_record_of_an_analysis_is_enough(tmp_path: Path) -> None:
    run_folder(
        tmp_path / "run",
        {},
        {**record(), "rewards": {**REWARDS}, "source": {"files": ["a.csv"], "runs": [], "notes": ["b"]}},
    )
    for name in ("config.yaml", "samples.jsonl", "store/base/0/manifest.json"):
        (tmp_path / "run" / name).unlink()
    done = betastar("report", str(tmp_path / "run"), "--out", str(tmp_path / "elsewhere" / "page.html"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{tmp_path}/elsewhere/page.html", f"{tmp_path}/elsewhere/figures/"]
    html = (tmp_path / "elsewhere" / "page.html").read_text()
    assert "No responses were kept" in html
    assert len(list((tmp_path / "elsewhere" / "figures").glob("[!.]*"))) == 3 * 12
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no results.json; give the folder of a finished `betastar run`"),
        ("{", "results.json is damaged ("),
        ("[]", "results.json is damaged (it is not an object)"),
        (
            '{"schema_version": 4, "betastar": "0", "name": "x", "conditions": [1], "summary": {}, "chain": {}}',
            "results.json: threshold is missing; repeat the run",
        ),
    ],
)
def test_a_folder_without_results_is_one_sentence(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(BetastarError, match=re.escape(message)):
        write_report(tmp_path)


def test_a_mistake_ends_with_exit_code_2(tmp_path: Path) -> None:
    done = betastar("report", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "is not a folder" in done.stderr
    assert len(done.stderr.splitlines()) == 1
