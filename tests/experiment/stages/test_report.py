"""The report is the last stage: a fault in it must cost neither the results nor their tables."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from report.records import run_folder

from betastar.errors import BetastarError
from betastar.experiment.context import Context
from betastar.experiment.runtime import Runtime
from betastar.experiment.stages import report
from betastar.experiment.store import Artefact, Store
from betastar.progress import Reporter
from betastar.report import drawing, figures
from betastar.report import folders as report_folder
from betastar.report.figures.trajectories import rewards
from betastar.report.renderer import Renderer
from betastar.settings.config import load_config


class Listener(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def run_stage(folder: Path) -> list[str]:
    """What the stage says about a run directory that has its results."""
    listener = Listener()
    with Store(folder, listener.say) as store:
        config = load_config("micro")
        report.run(Context(config, store, listener, Runtime(config, listener)), Artefact("results", "0", folder, {}))
    return listener.said


def fails(error: Exception) -> Any:
    def write_report(source: Path, target: Path) -> Path:
        (target.parent / "figures").mkdir()
        target.write_text("half of a page")
        raise error

    return write_report


def test_a_fault_in_drawing_is_one_sentence_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_folder(tmp_path, {})
    (tmp_path / "report.html").write_text("of earlier results")
    with monkeypatch.context() as patch:
        patch.setattr(report_folder, "write_report", fails(RuntimeError("no font\nand more")))
        (said,) = run_stage(tmp_path)
    assert said == (
        f"The report could not be drawn (RuntimeError: no font); results.json is complete, and `betastar report "
        f"{tmp_path}` tries again."
    )
    assert not (tmp_path / "report.html").exists()
    assert not list((tmp_path / "store" / "report").iterdir())
    assert (tmp_path / "results.json").is_file()
    # The same again without the fault makes it, of which one figure is enough here.
    monkeypatch.setattr(figures, "all_figures", lambda record: [rewards(record)])
    assert run_stage(tmp_path) == []
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "figures" / "rewards.svg").is_file()
    assert run_stage(tmp_path) == ["report: reused"]


def test_a_renderer_that_dies_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine that draws aborts its process where memory is limited; here it is shot at its first figure."""
    run_folder(tmp_path, {})
    print_figures = drawing.print_figures

    def shot(*given: Any) -> list[str]:
        with drawing.renderers() as draw:
            draw.ask(Renderer.width, {"mark": "point", "data": {"values": []}}).result()
            draw._started[0]._process.send_signal(signal.SIGTRAP)
            return print_figures(*given)

    monkeypatch.setattr(figures, "all_figures", lambda record: [rewards(record)])
    monkeypatch.setattr(drawing, "print_figures", shot)
    (said,) = run_stage(tmp_path)
    assert said == (
        "The report could not be drawn (figures: the renderer died (SIGTRAP), as it does if memory runs out or is "
        "limited; raise the limit (`ulimit -v unlimited`) or free some memory, then draw again); results.json is "
        f"complete, and `betastar report {tmp_path}` tries again."
    )
    monkeypatch.setattr(drawing, "print_figures", print_figures)
    assert run_stage(tmp_path) == []
    assert (tmp_path / "figures" / "rewards.svg").is_file()


def test_a_mistake_that_has_a_sentence_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_folder(tmp_path, {})
    monkeypatch.setattr(report_folder, "write_report", fails(BetastarError("no space left")))
    with pytest.raises(BetastarError, match="no space left"):
        run_stage(tmp_path)


def test_figures_that_only_an_earlier_report_had_go_and_what_a_person_put_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder(tmp_path, {})

    def draws(*names: str) -> Any:
        def write_report(source: Path, target: Path) -> Path:
            (target.parent / "figures").mkdir()
            for name in names:
                (target.parent / "figures" / name).write_text("drawn")
            target.write_text("page")
            return target

        return write_report

    monkeypatch.setattr(report_folder, "write_report", draws("gap.svg", "law.svg", "law.png"))
    run_stage(tmp_path)
    own = {"mine.svg", "gap-edited.png", "notes.html"}
    for name in own:
        (tmp_path / "figures" / name).write_text("mine")
    (tmp_path / "figures" / "law.png").unlink()
    (tmp_path / "figures" / "law.png").symlink_to(tmp_path / "figures" / "mine.svg")
    monkeypatch.setattr(report_folder, "write_report", draws("gap.svg"))
    monkeypatch.setattr(report, "VERSION", report.VERSION + 1)
    run_stage(tmp_path)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {*own, "gap.svg", "law.png"}
