"""Every path, link, command and setting that the documentation names exists and is accepted."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from betastar.config import load_config, preset_names

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
WRITTEN_BY_A_RUN = ("results.json", "samples.jsonl", "metrics.jsonl", "config.yaml", "manifest.json")


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


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


def test_commands_are_accepted() -> None:
    seen = 0
    for page in PAGES:
        for line in "\n".join(code_blocks(page, "")).splitlines():
            words = shlex.split(line, comments=True) if line.startswith(("betastar ", "make ")) else []
            if words[:1] == ["make"]:
                assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
                seen += 1
            elif words[:2] in (["betastar", "run"], ["betastar", "config"]) and words[2] in preset_names():
                overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
                load_config(words[2], overrides)
                seen += 1
    assert seen >= 3


def test_the_example_configuration_is_accepted(tmp_path: Path) -> None:
    (block,) = code_blocks(ROOT / "README.md", "yaml")
    (tmp_path / "mine.yaml").write_text(block)
    assert load_config(str(tmp_path / "mine.yaml")).name == yaml.safe_load(block)["name"]


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
