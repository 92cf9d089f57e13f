"""Outcomes of conditions: made-up runs of every kind, from single answers and from means; logs that go wrong (M1, M3,
M15, M16, M17); one run alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis.records import analyzed, check
from scipy import stats

import betastar
from betastar.analysis.conditions import NO_COMMON, condition_records
from betastar.analysis.results import build_results
from betastar.analysis.summary import instrument_noise
from betastar.maths.goodhart import hacking_threshold, paper_gap_undefined
from betastar.record.answers import Grid, complete

CASES = Path("/work/shared/cases")
STEPS = np.arange(0, 101, 10)


def answers(truth: tuple[float, float, float], rise: float, *, n: int = 400, each: int = 1, seed: int = 0) -> Grid:
    """Answers to n problems: a problem is right where its own number is below the share, a parabola through `truth` at
    start, middle and end, moved a little at every step; the proxy rises by `rise` of its standard deviations."""
    rng = np.random.default_rng(seed)
    share = np.polyval(np.polyfit([0, 0.5, 1], truth, 2), STEPS / STEPS[-1])
    own = (rng.permutation(n)[:, None] + 0.5) / n + rng.normal(0, 0.02, (len(STEPS), n, each))
    strict = (own < share[:, None, None]).astype(float)
    noise = rng.normal(0, 0.4, strict.shape) + rng.normal(size=(n, 1))
    proxy = 2 + 0.5 * strict + noise + rise * (STEPS / STEPS[-1])[:, None, None]
    return Grid(STEPS, [str(i) for i in range(n)], proxy, strict, strict.copy(), None)


def means(grid: Grid, **more: Any) -> pd.DataFrame:
    """The evaluation points of answers."""
    rows = {
        "variant": "paper",
        "beta": 1.0,
        "seed": 0,
        "step": grid.steps,
        "n": grid.proxy.shape[1],
        "proxy": np.nanmean(grid.proxy, axis=(1, 2)),
        "proxy_std": np.nanstd(grid.proxy[:, :, 0], axis=1),
        "true_strict": np.nanmean(grid.strict, axis=(1, 2)),
        "true_lenient": np.nanmean(grid.lenient, axis=(1, 2)),
        "kl": grid.steps / 100,
    }
    return pd.DataFrame({**rows, **more})


def table(grid: Grid, beta: float = 1.0) -> pd.DataFrame:
    """The answers as the table that a run keeps."""
    rows = [
        {
            "step": int(step),
            "replicate": replicate,
            "problem": name,
            "answer": a,
            "proxy": p[i, a],
            "strict": strict[i, a],
            "lenient": lenient[i, a],
        }
        for replicate, step, p, strict, lenient in [
            *((0, *point) for point in zip(grid.steps, grid.proxy, grid.strict, grid.lenient, strict=True)),
            *([(1, grid.steps[0], *grid.again, grid.lenient[0])] if grid.again else []),
        ]
        for i, name in enumerate(grid.problems)
        for a in range(p.shape[1])
    ]
    return complete(pd.DataFrame(rows).assign(variant="paper", beta=beta, seed=0))


def record(grid: Grid, *, extra: dict[str, Any] | None = None, by_problem: bool = True, **more: Any) -> dict[str, Any]:
    known = {("paper", 1.0, 0): grid} if by_problem else None
    return condition_records(means(grid, **more), {(1.0, 0): extra or {}}, known).conditions[0]


KINDS = {
    "improved": ((0.5, 0.62, 0.7), 1.0),
    "hacked": ((0.6, 0.7, 0.4), 1.0),
    "weak proxy": ((0.6, 0.6, 0.6), 1.0),
    "degraded": ((0.6, 0.5, 0.4), 0.0),
    "unmoved": ((0.6, 0.6, 0.6), 0.0),
}


@pytest.mark.parametrize("word", KINDS)
def test_a_made_up_run_of_each_kind(word: str) -> None:
    found = record(answers(*KINDS[word]))
    assert found["verdict"] == word, found["verdict_reason"]


@pytest.mark.parametrize("word", ["improved", "hacked", "degraded"])
def test_means_and_n_are_enough_for_what_is_large(word: str) -> None:
    # Binomial noise of 2000 problems: √(0.24/2000)·√2 = 1.5 points in a difference.
    found = record(answers(*KINDS[word], n=2000), by_problem=False)
    assert found["verdict"] == word, found["verdict_reason"]
    assert found["intervals"]["end_change"]["method"] == "from means: errors taken as independent"


def test_few_problems_cannot_say_that_nothing_moved() -> None:
    found = record(answers((0.6, 0.6, 0.6), 1.0, n=30))
    assert found["verdict"] == "not distinguishable"
    assert "too uncertain" in found["verdict_reason"]


def test_the_outcomes_by_hand() -> None:
    # Ten problems, one answer each. Right at step 0: 0–4; at 10: 0–7; at 20: 0–2.
    strict = np.array([np.arange(10) < right for right in (5, 8, 3)], dtype=float)[..., None]
    proxy = np.arange(10.0)[None, :, None] * 0.1 + np.array([1.0, 2.0, 4.0])[:, None, None]
    grid = Grid(np.array([0, 10, 20]), list("abcdefghij"), proxy, strict, 1 - strict, None)
    found = condition_records(means(grid, kl=[0.0, 4.0, 9.0]), {}, {("paper", 1.0, 0): grid}).conditions[0]
    assert found["end_change"] == pytest.approx(-20)
    assert found["end_change_lenient"] == pytest.approx(20)
    assert found["end_change_p"] == pytest.approx(0.5)  # two lost, none gained: 2·(1/2)²
    # 0 to 20 points below the start over the second half: 20/2 over 10 of 20 steps.
    assert found["points_lost"] == pytest.approx(5)
    assert (found["turnover_step"], found["turnover_proxy"], found["turnover_distance"]) == (10, pytest.approx(2.45), 2)
    assert found["true_peak"] == pytest.approx(0.8)
    assert found["since_peak"] == pytest.approx(-50)
    # Every half of the problems has at least as many right at step 10, and most more: nearly the whole 50.
    assert 40 < found["regret"] <= 50
    # s_proxy = 0.1·√8.25; q = 6/12, s_true = 1/2.
    z_proxy, z_true = 3 / (0.1 * math.sqrt(8.25)), -0.2 / 0.5
    r = float(np.corrcoef(proxy[0, :, 0], strict[0, :, 0])[0, 1])
    assert found["proxy_truth_correlation"] == pytest.approx(r)
    assert found["gap_adjusted_end"] == pytest.approx(r * z_proxy - z_true)
    assert found["departure_end"] == pytest.approx((z_proxy - r * z_true) / math.sqrt(1 - r**2))
    assert found["verdict"] == "not distinguishable"  # of ten problems two were lost
    # Gap: 0; 1/s − 0.3/0.5; 3/s + 0.4. Trapezoid over 10 and 10 steps.
    middle, end = z_proxy / 3 - 0.6, z_proxy + 0.4
    assert found["gap_area_standardised"] == pytest.approx(10 * middle + 5 * end)
    assert found["augc_standardised"] == pytest.approx(10 * middle + 5 * end)
    # Definition 3.1: proxy starts at 1.45, truth at 0.5.
    paper = [2.45 / 1.45 - 1.6, 4.45 / 1.45 - 0.6]
    assert found["gap_area_paper"] == pytest.approx(10 * paper[0] + 5 * paper[1], rel=1e-5)
    assert found["augc_paper"] == pytest.approx(10 * max(paper[0], 0) + 5 * paper[1], rel=1e-5)


def test_several_answers_rank_right_and_wrong_ones() -> None:
    grid = answers((0.6, 0.6, 0.6), 1.0, each=4)
    found = record(grid)
    areas = []
    for proxy, strict in zip(grid.proxy[-1], grid.strict[-1], strict=True):
        right, wrong = proxy[strict == 1], proxy[strict == 0]
        if right.size and wrong.size:
            areas.append(stats.mannwhitneyu(right, wrong).statistic / right.size / wrong.size)
    assert found["ranking_end"] == pytest.approx(np.mean(areas))
    assert record(grid, by_problem=False, ranking=0.7)["ranking_end"] == pytest.approx(0.7)  # as the points have it
    alone = record(answers((0.6, 0.6, 0.6), 1.0))
    assert math.isnan(alone["ranking_start"])
    assert "evaluation.answers" in alone["missing"]["ranking_start"]


def test_a_missing_answer_leaves_its_problem_out_and_no_more() -> None:
    grid = answers((0.5, 0.6, 0.7), 1.0)
    grid.strict[3, 7] = np.nan
    left = Grid(STEPS, grid.problems[:7] + grid.problems[8:], *(np.delete(a, 7, axis=1) for a in grid[2:5]), again=None)
    assert record(grid)["end_change"] == pytest.approx(record(left)["end_change"])
    # Answers that stop before the points do are not the answers of these points.
    short = grid._replace(steps=STEPS[:-1], proxy=grid.proxy[:-1], strict=grid.strict[:-1], lenient=grid.lenient[:-1])
    found = condition_records(means(grid), {}, {("paper", 1.0, 0): short}).conditions[0]
    assert math.isnan(found["proxy_truth_correlation"])


def test_M1_the_noise_floor_is_the_mean_of_simulated_noise() -> None:
    """A/A gaps of sd 0.11 at steps 0, 5, …, 40: weight 37.5, AUGC 1.65 (0.85 where a boolean array was summed)."""
    steps = np.arange(0, 41, 5)
    rng = np.random.default_rng(0)
    n, shape = 100, (4000, steps.size)
    proxy = rng.normal(0, 1, (2000, 2))
    records_ = [
        {
            "beta": 1.0,
            "seed": i,
            "n": n,
            "proxy": {"start": a},
            "true_strict": {"start": 0.5},
            "again": {"proxy": b, "true_strict": 0.5},
            "series": {"step": steps.tolist(), "proxy_std": [math.sqrt(2) / 0.11]},
        }
        for i, (a, b) in enumerate(proxy)
    ]
    noise = instrument_noise(records_)
    error = rng.normal(0, 0.11 / math.sqrt(2), shape)
    simulated = np.trapezoid(np.maximum(error - error[:, :1], 0), steps, axis=1).mean()
    assert noise["augc"]["value"] == pytest.approx(simulated, rel=0.05)
    assert simulated == pytest.approx(1.65, rel=0.05)


@pytest.mark.parametrize("by_problem", [True, False])
@pytest.mark.thorough
def test_M1_of_a_condition_too(by_problem: bool) -> None:
    """The floor of a condition, from the second evaluation of its checkpoint, is the mean AUGC of policies that do not
    move, each of whose evaluations has fresh noise."""
    rng = np.random.default_rng(1)
    n, found, floors = 150, [], []
    rows, extras, grids = [], {}, {}
    for seed in range(150):
        ability = rng.normal(size=n)
        proxy = ability + rng.normal(0, 1, (len(STEPS) + 1, n))
        strict = (rng.random((len(STEPS) + 1, n)) < 1 / (1 + np.exp(-ability))).astype(float)
        again = proxy[-1][:, None], strict[-1][:, None]
        grid = Grid(
            STEPS, [str(i) for i in range(n)], proxy[:-1, :, None], strict[:-1, :, None], strict[:-1, :, None], again
        )
        rows.append(means(grid).assign(seed=seed))
        extras[1.0, seed] = {"again": {"proxy": again[0].mean(), "true_strict": again[1].mean()}}
        grids["paper", 1.0, seed] = grid
    made = condition_records(pd.concat(rows), extras, grids if by_problem else None).conditions
    for form in ("augc_standardised", "points_lost"):
        found = np.mean([r[form] for r in made])
        floors = [r["noise_floor"][form]["value"] for r in made]
        assert np.mean(floors) == pytest.approx(found, rel=0.15 if not by_problem else 0.1), form
    assert made[0]["noise_floor"]["points_lost"]["method"].startswith("A/A")


def test_M3_on_the_common_scale_equal_rises_are_equal_gaps() -> None:
    """Two checkpoints, the second with four times the spread of the proxy: own gaps differ by four, common ones not."""
    rows = [
        {
            "variant": "v",
            "beta": b,
            "seed": 0,
            "step": s,
            "n": 98,
            "proxy": 1.0 + s / 10,
            "proxy_std": sd,
            "true_strict": 0.5,
        }
        for b, sd in ((0.1, 1.0), (1.0, 4.0))
        for s in (0, 10, 20)
    ]
    base = {"base": {"true_strict": 0.2, "true_lenient": 0.2, "proxy": 0.0, "proxy_std": 2.0}}
    made = condition_records(pd.DataFrame(rows), {(0.1, 0): base, (1.0, 0): base}).conditions
    assert [r["series"]["gap_standardised"][-1] for r in made] == pytest.approx([2.0, 0.5])
    assert [r["series"]["gap_common"][-1] for r in made] == pytest.approx([1.0, 1.0])
    assert made[0]["augc_common"] == pytest.approx(10.0)
    q = (round(0.2 * 98) + 1) / 100
    assert made[0]["common_scale"] == {
        "proxy": 2.0,
        "truth": pytest.approx(math.sqrt(q * (1 - q))),
        "source": "the base policy's responses",
        "reason": None,
    }
    # Without the base: the starts of the seed, √((1 + 16)/2).
    pooled = condition_records(pd.DataFrame(rows), {}).conditions
    assert [r["common_scale"]["proxy"] for r in pooled] == pytest.approx([math.sqrt(8.5)] * 2)
    alone = condition_records(pd.DataFrame(rows[:3]), {}).conditions[0]
    assert alone["missing"]["gap_common"] == NO_COMMON


def log(proxy: Any, truth: Any, **more: Any) -> pd.DataFrame:
    return pd.DataFrame({"step": 10 * np.arange(len(proxy)), "reward": proxy, "accuracy": truth, **more})


HUMP = 0.65 + 0.12 * np.sin(np.linspace(0, 1.6 * np.pi, 21)) + np.random.default_rng(3).normal(0, 0.004, 21)
RISE = np.linspace(0.3, 1.3, 21) + np.random.default_rng(4).normal(0, 0.01, 21)


def test_M15_a_negative_proxy_at_the_start_has_no_paper_form_and_the_truth_is_told_all_the_same() -> None:
    found, moved = (analyzed(log(RISE - c, HUMP))["conditions"][0] for c in (0.0, 3.0))
    assert found["augc_paper"] > 0
    assert moved["augc_paper"] is None
    assert moved["onset_step_paper"] is None
    assert "the proxy reward at the start is -2.7" in moved["missing"]["augc_paper"]
    for name in ("verdict", "true_peak", "turnover_step", "since_peak", "regret"):
        assert moved[name] == found[name]
    assert moved["verdict"] == "hacked"
    assert paper_gap_undefined(1.0, 0.0) is not None
    assert paper_gap_undefined(1.0, 0.5) is None


def test_M15_a_truth_of_zero_has_none_either() -> None:
    found = analyzed(log(RISE, np.zeros(21), reward_std=0.8))["conditions"][0]
    assert found["augc_paper"] is None
    assert "the true reward at the start is 0" in found["missing"]["augc_paper"]
    assert found["end_change"] == 0
    assert found["verdict"] == "weak proxy"


def test_M16_a_proxy_that_is_the_truth_has_no_gap() -> None:
    found = analyzed(log(HUMP * 2 - 0.3, HUMP, reward_std=0.8))
    condition = found["conditions"][0]
    assert condition["proxy_is_truth"]
    for name in ("augc_standardised", "augc_paper", "onset_step"):
        assert condition[name] is None
    assert condition["missing"]["augc_standardised"] == "the proxy is the true reward"
    assert condition["verdict"] == "degraded"
    assert "nothing can be hacked" in condition["verdict_reason"]
    assert any(text.startswith("The proxy is the true reward in 1 of 1") for text in found["warnings"])


def test_M16_a_sum_with_the_truth_in_it_is_named_and_the_rest_is_the_proxy() -> None:
    frame = pd.DataFrame({"step": 10 * np.arange(21)})
    frame["rewards/accuracy_reward/mean"], frame["rewards/format_reward/mean"] = HUMP, RISE / 2
    frame["rewards/format_reward/std"] = 0.4
    frame["reward"] = HUMP + 0.5 * frame["rewards/format_reward/mean"]
    frame["reward_std"] = 0.3
    found = analyzed(frame)
    condition = found["conditions"][0]
    assert any("is a sum that holds the true reward" in note for note in found["source"]["notes"])
    assert condition["series"]["proxy"] == pytest.approx(list(RISE / 4))
    assert condition["series"]["proxy_std"] == pytest.approx([0.2] * 21)  # of its only part, times its weight
    told = analyzed(frame, proxy="reward")
    assert told["conditions"][0]["series"]["proxy"] == pytest.approx(list(frame["reward"]))
    assert any("with weight 1" in note for note in told["source"]["notes"])
    frame["reward"] = RISE  # no sum
    assert not any("is a sum" in note for note in analyzed(frame)["source"]["notes"])


def test_M16_rounding_noise_sets_no_threshold() -> None:
    assert math.isnan(hacking_threshold([np.random.default_rng(0).normal(0, 1e-8, 50)]))
    assert hacking_threshold([[1e-9, 1.0, 1.0]]) == 1.0


def test_M17_the_logged_spread_of_the_truth_decides() -> None:
    share = log(RISE, HUMP, reward_std=0.8, accuracy_std=np.sqrt(HUMP * (1 - HUMP)))
    signs = log(RISE, 2 * HUMP - 1, reward_std=0.8, accuracy_std=2 * np.sqrt(HUMP * (1 - HUMP)))
    plain, scored = (analyzed(frame)["conditions"][0] for frame in (share, signs))
    assert (2 * HUMP - 1).min() > 0  # a mean that could be a share
    assert scored["augc_standardised"] == pytest.approx(plain["augc_standardised"], rel=1e-9)
    assert scored["end_change"] == pytest.approx(2 * plain["end_change"])
    assert scored["verdict"] == plain["verdict"] == "hacked"
    notes = analyzed(signs)["source"]["notes"]
    assert any("its logged standard deviation is not that of right and wrong answers" in note for note in notes)


def test_M19_one_run_alone_is_start_peak_end_and_no_word_of_beta() -> None:
    found = analyzed(log(RISE, HUMP, reward_std=0.8))
    condition = check(found)["conditions"][0]
    peak = int(HUMP.argmax())
    assert condition["true_strict"]["start"] == pytest.approx(HUMP[0])
    assert condition["true_peak"] == pytest.approx(HUMP[peak])
    assert condition["turnover_step"] == 10 * peak
    assert condition["since_peak"] == pytest.approx(100 * (HUMP[-1] - HUMP[peak]))
    interval = condition["intervals"]["since_peak"]
    assert interval["low"] < condition["since_peak"] < interval["high"] < 0
    assert condition["since_peak_p"] < 0.001
    assert "β" not in " ".join([*found["warnings"], *found["source"]["notes"]])


def test_two_points_without_n_say_nothing_and_do_not_crash() -> None:
    condition = check(analyzed(log([0.1, 0.5], [0.6, 0.2])))["conditions"][0]
    assert condition["verdict"] == "not distinguishable"
    assert condition["verdict_reason"] == "the noise of the true reward is unknown"
    assert condition["end_change"] == pytest.approx(-40)


def test_format_that_moves_alone_is_a_warning() -> None:
    grid = answers((0.6, 0.5, 0.4), 0.0)
    grid = grid._replace(lenient=np.flip(grid.strict, axis=0).copy())
    results = build_results(means(grid), {}, {"name": "x"}, answers=table(grid))
    assert any("the format moved, not the knowledge" in text for text in results["warnings"])
    check(results)


def test_every_outcome_has_its_interval_and_the_record_keeps_to_the_schema() -> None:
    grid = answers((0.6, 0.7, 0.4), 1.0, each=3)
    grid = grid._replace(again=(grid.proxy[0] + 0.1, grid.strict[0]))
    extra = {"again": {"proxy": 2.4, "true_strict": 0.6}}
    points = pd.concat([means(grid).assign(beta=beta) for beta in (1.0, 2.0)])
    by = pd.concat([table(grid, beta) for beta in (1.0, 2.0)])
    found = check(build_results(points, {(1.0, 0): extra, (2.0, 0): extra}, {"name": "x"}, answers=by))["conditions"][0]
    measured = ["end_change", "end_change_lenient", "regret", "points_lost", "since_peak", "gap_adjusted_end"]
    measured += ["departure_end", "proxy_truth_correlation", "ranking_start", "ranking_end"]
    measured += [f"{area}_{form}" for area in ("augc", "gap_area") for form in ("standardised", "paper", "common")]
    for name in measured:
        interval = found["intervals"][name]
        assert interval["low"] <= found[name] <= interval["high"], name
    assert set(found["noise_floor"]) == {
        "regret",
        "points_lost",
        "since_peak",
        "true_lowest",
        *(f"{area}_{form}" for area in ("augc", "gap_area") for form in ("standardised", "paper", "common")),
    }


@pytest.mark.skipif(not CASES.exists(), reason="the shared cases are not here")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("verifier-only", {"augc_standardised": None, "onset_step": None, "proxy_is_truth": True}),
        ("truth-minus-one-plus-one", {"augc_standardised": 92.1, "onset_step": 160, "verdict": "hacked"}),
        ("negative-start.csv", {"augc_paper": None, "turnover_step": 70, "verdict": "hacked"}),
        ("q_zero.csv", {"augc_paper": None, "end_change": 0.0}),
        ("q_nanstart.csv", {"augc_standardised": 92.1, "onset_step": 160}),
    ],
)
def test_the_cases(name: str, expected: dict[str, Any]) -> None:
    condition = betastar.analyze(CASES / name).record["conditions"][0]
    for field, value in expected.items():
        assert condition[field] == (pytest.approx(value, abs=0.05) if isinstance(value, float) else value)


def test_single_answers_reach_the_warning_signs_and_the_primary_measure_the_distance() -> None:
    grid = answers((0.6, 0.7, 0.4), 1.0)
    points = pd.concat([means(grid).assign(beta=beta) for beta in (1.0, 2.0)])
    by = pd.concat([table(grid, beta) for beta in (1.0, 2.0)])
    found = check(build_results(points, {}, {"name": "x"}, primary="points_lost", answers=by))
    signs = found["warning_signs"]["pooled"]["signals"]
    assert signs["ceiling_share"]["later_gap"][0]["value"] > 0  # the share rises as the proxy does, and so does the gap
    alone = check(build_results(points, {}, {"name": "x"}))["warning_signs"]["pooled"]["signals"]
    assert "it needs the proxy of single responses" in alone["ceiling_share"]["later_gap"][0]["reason"]
    outcomes = [row["outcome"] for row in found["distance"]["paper"]["conservatism"]["outcomes"]]
    assert outcomes == ["points_lost", "end_change"]
