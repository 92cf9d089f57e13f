"""Figures that would come out the same are not drawn again; whatever else there is, is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report.records import record

from betastar.report import drawing, drawings
from betastar.report.drawing import Drawn, drawn, print_figures
from betastar.report.drawings import DRAWINGS, read_drawings
from betastar.report.figures import trajectories
from betastar.report.renderer import Renderers


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of the figures that a renderer is asked for."""
    titles: list[str] = []
    ask = Renderers.ask

    def counted(self: Renderers, method: Any, spec: Any, *more: Any) -> Any:
        titles.append(spec["title"]["text"])
        return ask(self, method, spec, *more)

    monkeypatch.setattr(Renderers, "ask", counted)
    return titles


@pytest.fixture(scope="module")
def figures() -> list[Drawn]:
    return [drawn(make(record())) for make in (trajectories.path, trajectories.rewards)]


def pictures(folder: Path) -> dict[str, bytes]:
    """The files whose bytes follow from the specification; a PDF has a new identifier each time."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".svg", ".png")}


def test_what_is_there_stays_and_what_changed_is_drawn(
    tmp_path: Path, figures: list[Drawn], asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(subtitle: str = "run a, 2 seeds", n_beta: int = 3) -> list[str]:
        asked.clear()
        return print_figures(figures, subtitle, n_beta, tmp_path)

    names = draw()
    both = [figure.figure.title for figure in figures]
    assert asked == both
    first = pictures(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names, DRAWINGS}
    assert draw() == names
    assert asked == []
    assert pictures(tmp_path) == first
    draw("run b, 2 seeds")
    assert asked == both
    draw()
    assert pictures(tmp_path) == first
    draw(n_beta=4)  # other colours
    assert asked == both
    monkeypatch.setattr(drawings, "version", lambda package: "0.0.1")
    draw(n_beta=4)
    assert asked == both


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("change", [cut, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_file_that_was_changed_or_lost_is_drawn_again(
    change: Callable[[Path], Any], tmp_path: Path, figures: list[Drawn], asked: list[str]
) -> None:
    print_figures(figures[:1], "run a", 3, tmp_path)
    first = pictures(tmp_path)
    change(tmp_path / "path.pdf")
    print_figures(figures[:1], "run a", 3, tmp_path)
    assert len(asked) == 2
    assert pictures(tmp_path) == first
    assert (tmp_path / "path.pdf").read_bytes().rstrip().endswith(b"%%EOF")
    print_figures(figures[:1], "run a", 3, tmp_path)
    assert len(asked) == 2


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", "{", '{"path": 3}', '{"path": {"of": 1}}', '{"path": {"of": "x", "files": [1]}}', "[" * 100_000],
)
def test_a_list_of_drawings_that_is_none_says_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / DRAWINGS).write_text(text)
    assert read_drawings(tmp_path) == {}


def test_figures_of_several_reports_share_a_folder(tmp_path: Path, figures: list[Drawn], asked: list[str]) -> None:
    """Those of a comparison have its name in front."""
    for prefix in ("", "one-", "", "one-"):
        print_figures(figures[:1], "run a", 3, tmp_path, prefix)
    assert len(asked) == 2
    assert sorted(json.loads((tmp_path / DRAWINGS).read_text())) == ["one-path", "path"]


def test_digests_depend_on_all_that_is_drawn() -> None:
    spec, theme = {"mark": "point"}, {"background": "white"}
    found = {
        drawings.digest_of(spec, theme, 2),
        drawings.digest_of({"mark": "line"}, theme, 2),
        drawings.digest_of(spec, {}, 2),
        drawings.digest_of(spec, theme, 3),
    }
    assert len(found) == 4
    assert drawing.PNG_SCALE == 2
