"""The notebooks in examples/ run from first cell to last, with short settings, and are committed without outputs.

A cell with the tag `settings` holds what a test may change.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from experiment.test_pipeline import TINY
from scripts import script

from betastar.experiment.pipeline import run
from betastar.settings.config import load_config

nbformat = pytest.importorskip("nbformat", reason="notebooks are run with pip install 'betastar[test]'")
nbclient = pytest.importorskip("nbclient", reason="notebooks are run with pip install 'betastar[test]'")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NAMES = ("micro_run", "own_logs", "watch_grpo")
STUDY = "study"  # needs the records of runs, and shows what examples/study.py draws


def read(name: str) -> Any:
    return nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)


def short(name: str) -> str | None:
    """What stands in the place of the cell `settings`."""
    if name == "micro_run":
        overrides = {key: value for key, _, value in (text.partition("=") for text in TINY) if key != "seeds"}
        undrawn = "from betastar.experiment import pipeline\npipeline.report.run = lambda ctx, results: None\n"
        return f"{undrawn}seeds = [0]\noverrides = {overrides!r}"  # tests/experiment draws the report of a run
    return "steps, every = 4, 2" if name == "watch_grpo" else None


def test_the_examples_are_those_that_are_run() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.ipynb")) == sorted((*NAMES, STUDY))


@pytest.mark.parametrize("name", [*NAMES, STUDY])
def test_a_notebook_is_committed_without_outputs(name: str) -> None:
    for cell in read(name).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_shows_charts_and_tables(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    notebook, settings = read(name), short(name)
    tagged = [cell for cell in notebook.cells if "settings" in cell.metadata.get("tags", ())]
    assert len(tagged) == (settings is not None)
    for cell in tagged:
        cell.source = settings
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises where a cell does
    last = {cell.source.split("\n")[-1]: cell for cell in notebook.cells if cell.cell_type == "code"}
    charts = [cell for line, cell in last.items() if line.startswith("results.plot.")]
    frames = [cell for line, cell in last.items() if line.startswith(("results.points", "results.con", "results.sum"))]
    assert charts
    assert frames
    for cell in charts:
        assert any(output.get("data", {}).get("image/svg+xml", "").startswith("<svg") for output in cell.outputs), (
            cell.source
        )
    for cell in frames:
        assert any("<table" in output.get("data", {}).get("text/html", "") for output in cell.outputs), cell.source
    if tagged and name == "micro_run":
        assert "<progress" in str([cell.outputs for line, cell in last.items() if "bs.run(" in line])


RUNS = {
    "micro": "study-micro",
    "lists": "study-lists",
    "smollm2": "study-smollm2",
    "objectives": "study-objectives",
    **{f"style-{weight}": "study-style" for weight in ("0", "0.5", "1", "2")},
    **{f"pairs-{n}": "study-style" for n in (300, 1000, 3400)},
    **{name: name for name in ("algorithms", "mitigations")},
    "choice-preset": "study-micro",
}


@pytest.mark.thorough
@pytest.mark.usefixtures("undrawn")
def test_the_notebook_of_the_study_draws_every_figure_from_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One small run under the names of all."""
    three = "grid={method: list, values: [0.1, 0.5, 1.0]}"  # as many as the primary test needs
    record = run(load_config("micro", [*TINY, three]), tmp_path / "run")
    folders = {}
    for name, own in RUNS.items():
        folders[name] = tmp_path / "runs" / name
        folders[name].mkdir(parents=True)
        (folders[name] / "results.json").write_text(json.dumps({**record, "name": own}))
        shutil.copy(tmp_path / "run/config.yaml", folders[name])
    script("examples/study_archive.py").pack(tmp_path / "study.tar.gz", folders)
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in [str(EXAMPLES), *sys.path] if path))
    notebook = read(STUDY)
    (settings,) = [cell for cell in notebook.cells if "settings" in cell.metadata.get("tags", ())]
    settings.source = 'archive, baselines = "study.tar.gz", {"algorithms": "paper", "mitigations": "paper"}'
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [cell for cell in cells if cell.source.startswith("SVG(")]
    assert len(shown) == 8
    assert all("<svg" in cell.outputs[0]["data"]["image/svg+xml"] for cell in shown)
    tables = [cell for cell in cells if cell.source.startswith("study.")]
    assert len(tables) == 9
    assert all("| --- |" in cell.outputs[0]["text"] for cell in tables)
