"""The documentation site builds without a warning, and its generated pages hold what they are generated from."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer
from pydantic import Field
from scripts import script

import betastar as bs
from betastar.cli import app
from betastar.report.plots import Plots
from betastar.settings.config import Config, key_paths
from betastar.settings.phases import Online

pytest.importorskip("mkdocs", reason="the site is built with pip install 'betastar[docs]'")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return script("docs/hooks.py")


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "-f", str(source / "mkdocs.yml"), "-d", str(target)]
    return subprocess.run(command, capture_output=True, text=True, cwd=source, timeout=120)  # --quiet would hide faults


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def text_of(page: Path) -> str:
    return re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))


def test_every_page_is_in_the_menu_and_on_the_site(site: Path) -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs")
        assert f": {name}\n" in menu
        assert (site / name.with_suffix("") / "index.html").exists() or name.name == "index.md"


def test_settings_commands_functions_and_changes_are_there(site: Path) -> None:
    settings = text_of(site / "reference" / "settings" / "index.html")
    for path in sorted(set(key_paths(Config))):
        if not path.startswith(("reward_base.", "reward_adapter.")):  # said to be those of base and adapter
            assert re.search(rf"(?<![\w.]){re.escape(path)}(?![\w.])", settings), path
    commands = text_of(site / "reference" / "commands" / "index.html")
    for command in typer.main.get_command(app).commands.values():  # pyright: ignore[reportAttributeAccessIssue]
        assert f"$ betastar {command.name}" in commands
        for parameter in command.params:
            assert all(option in commands for option in parameter.opts if option.startswith("--"))
    assert "report.html, which works offline, and figures/" in commands  # the list of commands has whole sentences
    first = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("- "))
    assert max(first[2:].split("`")[::2], key=len)[:30].strip() in text_of(
        site / "reference" / "changelog" / "index.html"
    )


def test_everything_that_the_package_offers_has_an_entry(site: Path) -> None:
    page = (site / "reference" / "api" / "index.html").read_text(encoding="utf-8")
    plots = [name for name in vars(Plots) if not name.startswith("_")]
    assert len(plots) > 5
    names = [f"betastar.{name}" for name in bs.__all__ if name != "stats"]
    names += [f"betastar.stats.{name}" for name in bs.stats.__all__]
    names += [f"betastar.report.plots.Plots.{name}" for name in plots]
    parts = vars(bs.Results).keys() - bs.Results.__dataclass_fields__.keys()  # fields are in the text of the class
    names += [f"betastar.Results.{name}" for name in parts if not name.startswith("_")]
    for name in names:
        assert f'id="{name}"' in page, name
    text = text_of(site / "reference" / "api" / "index.html")
    for part in ("until: the last step", "(?P&lt;beta&gt;…)", "overrides: Mapping[str, Any]"):
        assert part in text, part


def test_a_long_name_in_a_table_breaks_between_its_words(site: Path) -> None:
    page = (site / "reference" / "settings" / "index.html").read_text(encoding="utf-8")
    assert "<code>compute.<wbr>memory_<wbr>gb</code>" in page


def test_a_link_out_of_the_docs_leads_to_the_code_host(site: Path) -> None:
    page = (site / "monitor" / "index.html").read_text()
    assert 'href="https://github.com/betastar-project/betastar/blob/main/README.md#reading-the-result"' in page


def test_a_setting_that_is_added_appears(hooks: ModuleType) -> None:
    class Longer(Online):
        patience: int | None = Field(default=None, gt=2, description="steps without a rise | before it stops")

    class Larger(Config):
        online: Longer = Field(default_factory=Longer, description="online adaptation")  # pyright: ignore[reportIncompatibleVariableOverride]
        color: bool = Field(description="whether it is drawn in color")

    page = hooks.settings_page(Larger)
    row = "| `online.patience` | whole number or empty, > 2 | empty | steps without a rise \\| before it stops |"
    assert row in page.splitlines()
    assert "| `color` | `true` or `false` | required | whether it is drawn in color |" in page.splitlines()
    assert "patience" not in hooks.settings_page(Config)


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    """A site of two pages with the settings of ours, less what generates pages."""
    settings, rest = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")
    menu = "\nnav:\n  - Home: index.md\n  - Data: data.md\n"
    (tmp_path / "mkdocs.yml").write_text(f"{settings}{menu}\nvalidation:{rest.split('validation:')[1]}")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "site.css", tmp_path / "docs")
    (tmp_path / "docs" / "data.md").write_text("# Data\n\n## A part\n")
    page = tmp_path / "docs" / "index.md"
    page.write_text("# Home\n\n[data](data.md#a-part)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    page.write_text("# Home\n\n[gone](gone.md) and [no such part](data.md#no-such-part)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert "'gone.md'" in done.stderr
    assert "no-such-part" in done.stderr
