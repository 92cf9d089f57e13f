"""The page about the world that can be computed shows what its example prints and draws today."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from scripts import script

ROOT = Path(__file__).resolve().parents[1]
PAGE, FIGURE = ROOT / "docs" / "study" / "exact.md", ROOT / "docs" / "images" / "exact_policy.svg"
UPDATE = bool(os.environ.get("UPDATE_DOCS"))  # writes what should be there instead of comparing


@pytest.fixture(scope="module")
def example() -> Any:
    return script("examples/exact_policy.py")


@pytest.mark.slow
def test_the_page_has_what_the_example_prints_and_draws(example: Any, tmp_path: Path) -> None:
    rows = example.regrets()
    table = example.table(rows)
    header = list(table.columns)
    lines = [header, ["---"] * 3 + ["---:"] * (len(header) - 3), *([str(v) for v in row] for row in table.to_numpy())]
    printed = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    there = re.compile(r"(<!-- output: exact_policy -->\n).*?(<!-- end -->)", re.DOTALL)
    wanted = there.sub(lambda match: f"{match[1]}{printed}\n{match[2]}", PAGE.read_text(encoding="utf-8"))
    example.figure(rows).save(str(tmp_path / "map.svg"))
    made = (tmp_path / "map.svg").read_text(encoding="utf-8")
    if UPDATE:
        PAGE.write_text(wanted, encoding="utf-8")
        FIGURE.write_text(made, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == wanted
    points = re.compile(r'aria-label="([^"]*regret[^"]*)"')
    assert points.findall(FIGURE.read_text(encoding="utf-8")) == points.findall(made)
    assert len(points.findall(made)) >= 180


def test_no_exploitable_error_no_regret_and_the_claims_of_the_page(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On three of the worlds: the five sentences of the page."""
    monkeypatch.setattr(example, "SEEDS", range(3))
    monkeypatch.setattr(example, "ERRORS", (0.3, 4.0))
    means = example.regrets().pivot_table("regret", ["coupling", "pairs", "error"], "beta")
    assert means.to_numpy()[means.index.get_level_values("error") == 0.3].max() < 0.3
    fixed, coupled = (
        {pairs: means.loc[(name, pairs, 4.0)].to_numpy() for pairs in ("cover nonsense", "never show nonsense")}
        for name in example.COUPLINGS
    )
    for curve in fixed.values():
        assert curve.max() > 2.5 * curve[0]
        assert curve.max() > curve[-1] + 1
    assert max(curve[-1] for curve in coupled.values()) < 0.1
    assert fixed["never show nonsense"][0] > 2 * fixed["cover nonsense"][0]
