"""The study's tables: what `examples/study.py` computes from records, by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scripts import script

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def study() -> Any:
    return script("examples/study.py")


def test_holm_by_hand(study: Any) -> None:
    """0.01 · 3, then 0.02 · 2 = 0.04, then 0.03 · 1, which may not be less than the one before."""
    assert study.holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert study.holm([0.9, 0.6]).tolist() == [1.0, 1.0]


def test_slopes_are_per_tenfold_beta_within_seeds(study: Any) -> None:
    """Seed 0 rises by 2 per tenfold, seed 1 by -1 from another level; seed 2 lacks a β."""
    rows = [
        (seed, beta, level + slope * np.log10(beta))
        for seed, level, slope in ((0, 5, 2), (1, -3, -1))
        for beta in (0.1, 1, 10)
    ]
    frame = pd.DataFrame([*rows, (2, 0.1, 7.0)], columns=["seed", "beta", "value"])
    assert study.slopes(frame, "value") == pytest.approx([2, -1])


def test_a_measure_that_no_seed_has_at_every_beta_has_no_slope(study: Any) -> None:
    """As the paper's AUGC where the proxy starts below zero."""
    rows = [(seed, beta, np.nan if beta == 1 else 0.5) for seed in (0, 1) for beta in (0.1, 1)]
    frame = pd.DataFrame(rows, columns=["seed", "beta", "value"])
    assert study.slopes(frame, "value").size == 0
    assert study.slopes(frame.assign(value=np.nan), "value").size == 0
    assert study.signed(study.slopes(frame, "value")) == study.signed(np.array([1.0])) == "–"


def test_means_over_seeds_are_students(study: Any) -> None:
    values = np.array([1.0, 2.0, 4.0, np.nan])
    mean, low, high, p = study.mean_of(values)
    theirs = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(values[:3]))
    assert (mean, low, high) == pytest.approx((7 / 3, *theirs))
    assert p == pytest.approx(stats.ttest_1samp(values[:3], 0)[1])
    assert study.interval(-1.25, -2.0, 0.5) == "−1.2 [−2.0, +0.5]"


def test_a_crossing_lies_between_two_points(study: Any) -> None:
    """√KL 0, 1, 3, 2 and truth 0.8, 0.7, 0.3, 0.5: 2 is first reached halfway from 1 to 3, at 0.5."""
    points = pd.DataFrame({"distance": [0.0, 1.0, 3.0, 2.0], "true_strict": [0.8, 0.7, 0.3, 0.5]})
    assert study.crossing(points, "distance", 2.0) == pytest.approx(0.5)
    assert np.isnan(study.crossing(points, "distance", 3.5))


def lines(rows: list[dict[str, Any]]) -> str:
    return "\n".join("| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows)


@pytest.mark.parametrize(
    ("page", "data", "expected"),
    [
        ("index", "study_micro", {"paper": 70, "fixed": 70, "reward": 70}),
        ("lists", "study_lists", {"paper": 30, "fixed": 30}),
        ("smollm2", "study_smollm2", {"paper": 6, "fixed": 6}),
    ],
)
def test_a_page_has_the_sensitivity_table_of_its_data(study: Any, page: str, data: str, expected: dict) -> None:
    conditions = pd.read_csv(ROOT / f"docs/study/data/{data}_conditions.csv")
    assert conditions.groupby("variant").size().to_dict() == expected
    text = (ROOT / f"docs/study/{page}.md").read_text(encoding="utf-8")
    assert lines(study.sensitivity(SimpleNamespace(conditions=conditions))) in text


@pytest.mark.parametrize(("factor", "name", "count"), [("style", "styles", 24), ("pairs", "pairs", 18)])
def test_the_page_on_a_factor_has_the_regret_of_its_data(study: Any, factor: str, name: str, count: int) -> None:
    conditions = pd.read_csv(ROOT / f"docs/study/data/study_{factor}_conditions.csv")
    page = (ROOT / f"docs/study/{name}.md").read_text(encoding="utf-8")
    cells = conditions.groupby([factor, "variant", "beta"])
    assert len(cells) == count
    for key, cell in cells:
        assert isinstance(key, tuple)
        value, variant, beta = key
        (line,) = (row for row in page.splitlines() if row.startswith(f"| {value:g} | `{variant}` | {beta:.3g} |"))
        assert study.interval(*study.mean_of(cell.regret.to_numpy())[:3]) in line


def test_the_page_has_the_rewards_of_its_data() -> None:
    """Start and end of the truth of every condition's β, of the 21 rows."""
    points = pd.read_csv(ROOT / "docs/study/data/study_micro_points.csv")
    page = (ROOT / "docs/study/index.md").read_text(encoding="utf-8")
    means = points.groupby(["variant", "beta", "step"]).true_strict.mean().unstack()
    assert len(means) == 21
    for (variant, beta), row in means.iterrows():
        assert f"| `{variant}` | {beta:.3g} |" in page
        line = next(text for text in page.splitlines() if text.startswith(f"| `{variant}` | {beta:.3g} |"))
        assert f"| {row[0]:.2f} → {row[30]:.2f} |" in line


def test_the_page_on_settings_has_the_slopes_of_its_data(study: Any) -> None:
    conditions = pd.read_csv(ROOT / "docs/study/data/study_settings_conditions.csv")
    page = (ROOT / "docs/study/settings.md").read_text(encoding="utf-8")
    groups = conditions.groupby(["setting", "variant"])
    assert groups.size().tolist() == [12] * 22
    for key, group in groups:
        assert isinstance(key, tuple)
        setting, _ = key
        (line,) = (row for row in page.splitlines() if row.startswith(f"| {setting} |"))
        assert study.signed(study.slopes(group, "regret")) in line


def test_the_page_on_smollm2_has_the_truth_and_the_regret_of_its_data(study: Any) -> None:
    points = pd.read_csv(ROOT / "docs/study/data/study_smollm2_points.csv")
    conditions = pd.read_csv(ROOT / "docs/study/data/study_smollm2_conditions.csv")
    page = (ROOT / "docs/study/smollm2.md").read_text(encoding="utf-8")
    cells = conditions.groupby(["variant", "beta"])
    assert cells.size().tolist() == [2] * 6
    for key, cell in cells:
        assert isinstance(key, tuple)
        variant, beta = key
        (line,) = (row for row in page.splitlines() if row.startswith(f"| `{variant}` | {beta:.3g} |"))
        mine = points[(points.variant == variant) & (points.beta == beta)].groupby("step")
        truth, tokens = mine.true_strict.mean(), mine.response_tokens.mean()
        assert f"| {truth[0]:.2f} | {truth[5]:.2f} | {truth[10]:.2f} |" in line
        assert f"| {tokens[0]:.1f} | {tokens[10]:.1f} |" in line
        assert study.interval(*study.mean_of(cell.regret.to_numpy())[:3]) in line
        assert f"| {cell.proxy_standardised_rise.mean():.2f} |" in line
        for change in cell[["end_change", "end_change_low", "end_change_high"]].to_numpy():
            assert study.interval(*change, 0) in line
    shares = points.groupby(["variant", "beta", "seed", "step"]).unparsable.mean()
    start, end = (f"{shares['fixed', 0.5, 700, step]:.0%}".replace("%", " %") for step in (0, 10))
    assert f"{start} of the answers name no colour at step 0, {end} at step 10" in " ".join(page.split())
    assert f"at most {shares.xs(701, level='seed').max():.0%}".replace("%", " %") in page
