"""Every path, link, command and setting that the documentation names exists and is accepted."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from forked import betastar

from betastar.cli import app
from betastar.settings.config import load_config, preset_names

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
WRITTEN_BY_A_RUN = ("results.json", "samples.jsonl", "metrics.jsonl", "config.yaml", "manifest.json")


def code_blocks(page: Path, language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for name, text in blocks if name == language]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    for link in links:
        if not link.startswith("https://"):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_backticks_exist(page: Path) -> None:
    for path in re.findall(r"`((?:src|tests|docs|benchmarks)/[\w./*-]+)`", page.read_text()):
        assert list(ROOT.glob(path)), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_in_backticks_exist(page: Path) -> None:
    """`models/bank.py` is a file of the package, `betastar.stats.page_trend` a name in it."""
    text = page.read_text()
    for path in re.findall(r"`((?:\w+/)+\w+\.py)`", text):
        assert list(ROOT.glob(path)) or (ROOT / "src" / "betastar" / path).exists(), path
    for module, name in re.findall(
        r"`betastar\.((?:\w+\.)*)(?!(?:tasks|objectives)`)(\w+)\b", text
    ):  # a group of entry points
        home = importlib.import_module(f"betastar.{module}".rstrip("."))
        assert hasattr(home, name) or importlib.util.find_spec(f"{home.__name__}.{name}"), f"betastar.{module}{name}"


def commands(page: Path) -> list[list[str]]:
    """The words of the lines in code blocks that call betastar or make."""
    lines = "\n".join(code_blocks(page, "")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(("betastar ", "make "))]


def test_commands_are_accepted() -> None:
    program: Any = typer.main.get_command(app)
    makefile = (ROOT / "Makefile").read_text()
    found = [words for page in PAGES for words in commands(page)]
    assert len(found) > 20
    for tool, name, *rest in found:
        if tool == "make":
            assert re.search(rf"^{name}:", makefile, re.MULTILINE), name
        elif not name.startswith("--") and "--help" not in rest:
            parsed = program.commands[name].make_context(name, rest).params  # refuses unknown options
            if parsed.get("source") in preset_names():
                load_config(parsed["source"], parsed["overrides"] or [])


def test_the_betastar_command_is_found_where_the_readme_calls_it() -> None:
    page = (ROOT / "README.md").read_text()
    demo, first = page.index("\nmake demo\n"), page.index("\nbetastar --version\n")
    assert next(words for words in commands(ROOT / "README.md") if words[0] == "betastar") == ["betastar", "--version"]
    assert "`. .venv/bin/activate` puts the `betastar`" in page[demo:first]
    assert "\n. .venv/bin/activate\n" in page[demo:first]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"`\.\[(\w+)\]`", page)
    assert set(named) == {"gpu", "math", "trackers"} <= extras.keys()


def test_example_configurations_are_accepted(tmp_path: Path) -> None:
    """Whole ones, which begin from a preset; the others show a part."""
    blocks = [(page, block) for page in PAGES for block in code_blocks(page, "yaml") if block.startswith("preset:")]
    assert len(blocks) >= 3
    for page, block in blocks:
        (tmp_path / "mine.yaml").write_text(block)
        assert load_config(str(tmp_path / "mine.yaml")).name == yaml.safe_load(block)["name"], page


@pytest.mark.thorough
def test_the_table_of_the_tutorial_on_logs_is_analysed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its CSV, its command and its Python, as written."""
    page = ROOT / "docs" / "tutorials" / "own_logs.md"
    (table,), (python,) = code_blocks(page, "csv"), code_blocks(page, "python")
    (tmp_path / "sweep.csv").write_text(table)
    (arguments,) = [words[1:] for words in commands(page) if "sweep.csv" in words]
    done = betastar(*arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "analysis/report.html" in done.stdout
    assert (tmp_path / "analysis" / "report.html").is_file()
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(python, names)
    assert len(names["results"].conditions) == 2


def test_results_page_names_every_field_of_a_condition() -> None:
    """The page speaks of `augc_*` and the like; every field of a record is one of its names."""
    import pandas as pd
    from analysis.test_results import point

    from betastar.analysis.results import build_results

    page = (ROOT / "docs" / "results.md").read_text()
    names = set(re.findall(r"`([\w.*]+)`", page))
    rows = [point("paper", 1.0, 0, step, 4.0, 5) for step in (0, 2)]
    record = build_results(pd.DataFrame(rows), {}, {})["conditions"][0]
    for field in record:
        assert any(re.fullmatch(name.replace("*", r"\w+"), field) for name in names), field


def test_the_changelog_and_the_package_agree_on_the_version() -> None:
    import betastar

    assert f'version = "{betastar.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"version: {betastar.__version__}" in (ROOT / "CITATION.cff").read_text()
