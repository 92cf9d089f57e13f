"""What is published: the source distribution and the wheel hold what they need, and the wheel works where it lands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from experiment.test_pipeline import TINY

import betastar

pytest.importorskip("build", reason="distributions are built with pip install 'betastar[test]'")
ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WRITTEN = ("build", "dist", "site", "runs", "analysis")  # folders that tools and trials leave in the checkout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel built from it. A copy is built, as a build writes into its source."""
    source = tmp_path_factory.mktemp("source") / "betastar"
    skipped = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
    shutil.copytree(
        ROOT, source, ignore=lambda at, names: {*skipped(at, names), *(WRITTEN if Path(at) == ROOT else ())}
    )
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(source / "dist"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,), (wheel,) = (source / "dist").glob("*.tar.gz"), (source / "dist").glob("*.whl")
    return archive, wheel


def clean_environment() -> dict[str, str]:
    """Without the variables by which the package would be found in the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.mark.thorough
def test_the_wheel_holds_the_package_with_its_data_and_licence(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (wheel.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    package = ROOT / "src" / "betastar"
    ours = {p.relative_to(package.parent).as_posix() for p in package.rglob("*") if p.is_file()}
    ours = {name for name in ours if "__pycache__" not in name}
    assert {"betastar/py.typed", "betastar/presets/micro.yaml", "betastar/presets/tasks/gsm8k.yaml"} <= ours
    assert {"betastar/report/templates/page.html", "betastar/presets/models/Qwen3-14B.json"} <= ours
    rest = {name.partition(".dist-info/")[2] for name in names - ours}
    assert ours <= names
    assert rest == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
    assert f"Version: {betastar.__version__}\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "Project-URL: Repository, https://github.com/betastar-project/betastar\n" in metadata


def test_the_source_distribution_holds_what_the_tests_and_the_site_need(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "Makefile", "constraints.txt", "mkdocs.yml"}
    expected |= {"docs/index.md", "docs/hooks.py", "docs/images/report.png", "tests/conftest.py", "benchmarks/micro.py"}
    expected |= {"docs/site.css", "examples/micro_run.ipynb"}
    assert expected <= names
    assert not [name for name in names if "__pycache__" in name]


@pytest.fixture(scope="module")
def installed(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment into which the wheel is installed. Its dependencies, gigabytes, are those of the
    environment that runs the tests, looked for after its own."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    done = subprocess.run([*command, str(distributions[1])], capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 0, done.stdout + done.stderr
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def from_elsewhere(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=clean_environment(), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_installed_command_runs_from_another_directory(installed: Path, tmp_path: Path) -> None:
    betastar_ = str(installed / "betastar")
    where = from_elsewhere([str(installed / "python"), "-c", "import betastar; print(betastar.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    assert from_elsewhere([betastar_, "--version"], tmp_path) == f"betastar {betastar.__version__}\n"
    assert "\nfiles " in from_elsewhere([betastar_, "presets"], tmp_path)


@pytest.mark.slow
def test_the_installed_command_runs_the_experiment(installed: Path, tmp_path: Path) -> None:
    """With the wheel's own preset and templates: the micro world, short."""
    settings = [part for text in (*TINY, "seeds=[0]") for part in ("--set", text)]
    printed = from_elsewhere([str(installed / "betastar"), "run", "micro", *settings], tmp_path)
    assert "Open runs/micro/report.html" in printed
    assert "</html>" in (tmp_path / "runs" / "micro" / "report.html").read_text()


def test_extras_are_pinned() -> None:
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    for extra in ("docs", "test"):
        for requirement in PROJECT["optional-dependencies"][extra]:
            assert re.split(r"[\[>=]", requirement)[0].lower() in pinned, requirement


def test_urls_are_those_of_the_citation() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["urls"]["Repository"] == citation["repository-code"]
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text().split("nav:")[0])["repo_url"] == citation["repository-code"]
    ours = [url for name, url in PROJECT["urls"].items() if name != "Paper"]
    assert all(url.startswith(citation["repository-code"]) for url in ours)


def test_the_workflow_makes_targets_that_exist() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step["run"].split() for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    assert ["make", "test"] in steps
    makefile = (ROOT / "Makefile").read_text()
    assert all(program == "make" and f"\n{target}: " in makefile for program, target in steps)


def test_the_hooks_before_a_commit_use_the_ruff_of_the_tests() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert f"ruff=={repository['rev'].removeprefix('v')}\n" in (ROOT / "constraints.txt").read_text()
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff-check", "ruff-format"]
