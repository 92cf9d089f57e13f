"""The page about a clear case shows what the example prints and draws today."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from report.test_headline import clear

from betastar.report.plots import Plots
from betastar.report.terminal import show

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "howto" / "clear_case.md"
FIGURES = {"end_truth": "one column", "augc": "two columns"}
UPDATE = bool(os.environ.get("UPDATE_DOCS"))  # writes what should be there instead of comparing


def test_the_page_has_what_the_example_prints(capsys: pytest.CaptureFixture[str]) -> None:
    show(clear(), None)
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.strip().splitlines())
    printed = printed.partition("\nWarning: ")[0].strip()
    text = PAGE.read_text(encoding="utf-8")
    there = re.compile(r"(<!-- output: clear_case -->\n).*?(<!-- end -->)", re.DOTALL)
    wanted = there.sub(lambda match: f"{match[1]}```\n{printed}\n```\n{match[2]}", text)
    if UPDATE:
        PAGE.write_text(wanted, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == wanted


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.thorough
def test_the_figures_of_the_page_show_these_data(name: str, tmp_path: Path) -> None:
    """Compared by their words and the values of their dots, not by bytes, which depend on the version of Vega."""
    place = DOCS / "images" / f"clear_case_{name}.svg"
    getattr(Plots(clear()), name)(FIGURES[name]).save(str(tmp_path / "figure.svg"))
    made = (tmp_path / "figure.svg").read_text(encoding="utf-8")
    if UPDATE:
        place.write_text(made, encoding="utf-8")

    def content(svg: str) -> tuple[list[str], list[str]]:
        return re.findall(r"<text[^>]*>([^<]*)</text>", svg), re.findall(r'aria-label="([^"]*; seed: [^"]*)"', svg)

    assert content(place.read_text(encoding="utf-8")) == content(made)
    assert len(content(made)[1]) % 35 == 0
