"""Rewards against √KL: planted dependence on distance and on β, worked by hand; what is undefined; speed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from analysis.records import faults, uncounted, unexplained
from analysis.test_results import point

from betastar.analysis.distance import distance
from betastar.analysis.results import build_results
from betastar.maths.trend import page_trend
from betastar.record.files import to_json
from betastar.report.words import distance_conclusions

BETAS, SEEDS = (0.1, 1.0, 10.0), (0, 1, 2)
NAN = float("nan")


def run(beta: float, seed: int, root: np.ndarray, truth: np.ndarray, **series: Any) -> dict[str, Any]:
    """A condition whose √KL from the checkpoint is `root`; `truth` as a share of right answers."""
    found = {"kl": root**2, "true_strict": truth, "proxy": root, **series}
    steps = {"step": list(range(root.size))}
    return {
        "variant": "a",
        "beta": beta,
        "seed": seed,
        "series": {**steps, **{name: np.asarray(values).tolist() for name, values in found.items()}},
    }


def grid(
    truth: Callable[[float, int, np.ndarray], np.ndarray],
    farthest: Callable[[float], float] = lambda _: 2.0,
    **more: Any,
) -> list[dict[str, Any]]:
    """Conditions that go from 0 to `farthest(β)` in 21 steps; `truth(β, seed, d)`."""
    found = []
    for seed in SEEDS:
        for beta in BETAS:
            root = np.linspace(0, farthest(beta), 21)
            series = {name: of(beta, seed, root) for name, of in more.items()}
            found.append(run(beta, seed, root, truth(beta, seed, root), **series))
    return found


def test_what_distance_alone_explains_is_no_effect_of_beta() -> None:
    # Truth falls by 5 pp per √nat whatever β; tenfold β goes 1 √nat less far: 4, 3, 2.
    found = distance(grid(lambda b, s, d: 0.6 + 0.01 * s - 0.05 * d, lambda b: 3 - np.log10(b)))
    matched = found["matched"]["from_checkpoint"]
    assert (matched["low"], matched["high"], matched["limited_by"]["beta"]) == (0, pytest.approx(2), 10)
    assert matched["reached"]["mean"] == pytest.approx(-1)
    truth = matched["truth"]
    assert truth["matched"]["mean"] == pytest.approx(0, abs=1e-9)
    assert truth["at_end"]["mean"] == truth["explained"]["mean"] == pytest.approx(5)
    # At 0.4, 0.8, …, 2 the mean fall is 5·1.2 pp, the same at every β.
    assert [row["distance"] for row in matched["rows"]] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2])
    assert [row["truth"]["mean"] for row in matched["by_beta"]] == pytest.approx([-6] * 3)


def test_an_effect_of_beta_at_equal_distance_is_found() -> None:
    # Per √nat, truth falls by 4, 3 and 2 pp ± a seed's tenth: +1 pp per tenfold β and √nat. All go equally far.
    found = distance(grid(lambda b, s, d: 0.9 - (3 - np.log10(b)) * (1 + 0.1 * s) * d / 100))
    matched = found["matched"]["from_checkpoint"]
    assert [row["truth"]["mean"] for row in matched["rows"]] == pytest.approx(
        [1.1 * d for d in (0.4, 0.8, 1.2, 1.6, 2)]
    )
    assert matched["truth"]["matched"]["mean"] == pytest.approx(1.1 * 1.2)
    # Seeds 1, 1.1, 1.2 times 1.2: t interval of their mean.
    reach = 4.302653 * 0.12 / 3**0.5
    interval = matched["truth"]["matched"]["interval"]
    assert (interval["low"], interval["high"]) == pytest.approx((1.32 - reach, 1.32 + reach), rel=1e-6)
    # The proxy is √KL itself: no β in it.
    assert matched["proxy"]["matched"]["mean"] == pytest.approx(0, abs=1e-12)
    assert matched["reached"]["mean"] == pytest.approx(0, abs=1e-12)


def test_the_forms_of_each_beta_are_those_planted() -> None:
    # 6·d − 1.5·d² pp with the maximum at 2 for β = 1, a line for the others, in noise of half a pp.
    rng = np.random.default_rng(0)

    def truth(beta: float, seed: int, d: np.ndarray) -> np.ndarray:
        curve = 6 * d - 1.5 * d**2 if beta == 1 else -5 * d
        return 0.5 + (curve + 0.5 * rng.normal(size=d.size)) / 100

    rows = distance(grid(truth, lambda _: 4.0))["by_beta"]
    assert [row["beta"] for row in rows] == list(BETAS)
    fit = rows[1]["from_checkpoint"]["truth"]
    assert (fit["verdict"], fit["turns"], fit["n"], fit["n_seeds"]) == ("quadratic", True, 63, 3)
    assert fit["quadratic"]["peak"]["distance"] == pytest.approx(2, abs=0.1)
    assert fit["quadratic"]["peak"]["interval"]["low"] < 2 < fit["quadratic"]["peak"]["interval"]["high"]
    assert rows[0]["from_checkpoint"]["truth"]["line"]["alpha"] == pytest.approx(-5, abs=0.3)
    assert rows[0]["from_checkpoint"]["truth"]["turns"] is False
    assert rows[0]["from_base"]["truth"]["reason"] == "KL from the base is not logged"


def test_ranges_that_do_not_overlap_are_not_compared() -> None:
    # From the base, β = 0.1 starts at 3 and goes to 5; β = 10 starts at 1 and goes to 2.
    def base(beta: float, seed: int, d: np.ndarray) -> np.ndarray:
        start = {0.1: 3.0, 1.0: 2.0, 10.0: 1.0}[beta]
        return (start + d * (1.0 if beta < 1 else 0.5)) ** 2

    found = distance(grid(lambda b, s, d: 0.5 - 0.01 * d, kl_base=base))
    matched = found["matched"]["from_base"]
    assert matched["reason"] == (
        "the ranges of √KL do not overlap: β = 0.1 starts at 3, and β = 10 gets no farther than 2"
    )
    assert matched["rows"] == []
    assert matched["truth"]["matched"]["reason"] == matched["reason"]
    assert found["matched"]["from_checkpoint"]["reason"] is None


def test_from_the_base_levels_are_compared() -> None:
    # All start 1 √nat from the base; accuracy there is 0.5 + 0.1·log10 β: +10 pp per tenfold β at any distance.
    found = distance(grid(lambda b, s, d: 0.5 + 0.1 * np.log10(b) - 0.01 * d, kl_base=lambda b, s, d: (1 + d) ** 2))
    matched = found["matched"]
    assert (matched["from_base"]["low"], matched["from_base"]["high"]) == (1, 3)
    assert matched["from_base"]["truth"]["matched"]["mean"] == pytest.approx(10)
    assert matched["from_checkpoint"]["truth"]["matched"]["mean"] == pytest.approx(0, abs=1e-9)


def conservative(outcome: Callable[[float, int], float], **more: Any) -> list[dict[str, Any]]:
    """Checkpoints 3, 2 and 1 √nats from the base, a little different by seed; the outcome `regret` of each."""
    base = lambda b, s, d: (2 - np.log10(b) * (1 + 0.1 * s) + d) ** 2  # noqa: E731
    records = grid(lambda b, s, d: 0.5 - 0.1 * d, kl_base=base, **more)
    return [{**r, "regret": outcome(r["beta"], r["seed"])} for r in records]


def test_measured_conservatism_stands_in_for_beta() -> None:
    # Regret is 4 times the distance from the base, plus a level of the seed.
    records = conservative(lambda b, s: 4 * (2 - np.log10(b) * (1 + 0.1 * s)) + s)
    found = distance(records)["conservatism"]
    # 2 − log10 β·(1, 1.1, 1.2): at β = 0.1 3, 3.1, 3.2; at 10 1, 0.9, 0.8.
    assert [row["distance"]["mean"] for row in found["by_beta"]] == pytest.approx([3.1, 2, 0.9])
    assert found["with_beta"]["mean"] == -1
    regret, change = found["outcomes"]
    assert (regret["outcome"], change["outcome"]) == ("regret", "end_change")
    assert regret["spearman"]["mean"] == 1
    assert regret["slope"]["mean"] == pytest.approx(4)
    # In the order of the distance every seed rises: of 6³ orders one is as large.
    assert regret["page"]["L"] == page_trend([[1, 2, 3]] * 3).L
    assert regret["page"]["p_greater"] == pytest.approx(6**-3)
    # Truth changes by −20 pp everywhere.
    assert np.isnan(change["spearman"]["mean"])
    assert change["slope"]["mean"] == pytest.approx(0, abs=1e-12)


def test_an_outcome_that_is_not_there_says_so() -> None:
    records = grid(lambda b, s, d: 0.5 - 0.1 * d, kl_base=lambda b, s, d: (2 - np.log10(b) + d) ** 2)
    found = distance(records)["conservatism"]["outcomes"]
    assert found[0]["spearman"]["reason"] == "there is no regret in these records"
    assert [entry["outcome"] for entry in distance(records, primary="end_change")["conservatism"]["outcomes"]] == [
        "end_change"
    ]
    tied = grid(lambda b, s, d: 0.5 - 0.01 * np.log10(b) * d, kl_base=lambda b, s, d: 1 + d)
    (change,) = distance(tied, primary="end_change")["conservatism"]["outcomes"]
    assert change["page"]["reason"].startswith("two checkpoints of a seed are equally far from the base")
    assert np.isnan(change["slope"]["mean"])


def test_what_was_not_logged_is_undefined_and_explained() -> None:
    none = grid(lambda b, s, d: 0.5 - 0.1 * d, kl=lambda b, s, d: np.full(d.size, NAN))
    one = [r for r in none if r["beta"] == 1]
    score = grid(lambda b, s, d: -1 - d, lambda b: 2.0)
    zero = [{**r, "beta": 0.0 if r["beta"] == 0.1 else r["beta"]} for r in score]
    for records in (none, one, score, zero, [score[0]], [score[0], score[4]]):
        found = json.loads(to_json({"distance": distance(records)}))
        assert unexplained(found) == []
        assert uncounted(found) == []
    assert distance(none)["matched"]["from_checkpoint"]["reason"] == "KL from the checkpoint is not logged"
    assert distance(one)["conservatism"]["reason"] == "KL from the base is not logged"
    assert distance([score[0]])["matched"]["from_checkpoint"]["reason"] == "there is only one β"
    assert distance(score)["unit"] == "true reward"
    free = distance(zero)["matched"]["from_checkpoint"]
    assert free["truth"]["matched"]["reason"] == "a change per tenfold β needs β > 0"
    assert free["by_beta"][0]["truth"]["mean"] == pytest.approx(-1.2)
    apart = distance([score[0], score[4]])["matched"]["from_checkpoint"]
    assert apart["reason"] == "no seed has a KL from the checkpoint at every β"


def test_uncertain_distances_are_counted() -> None:
    # The second point is below 0 and has no k3; the third is within two errors of 0 and has one.
    records = grid(
        lambda b, s, d: 0.5 - 0.1 * d,
        kl=lambda b, s, d: np.where(np.arange(d.size) == 1, -0.1, np.where(np.arange(d.size) == 2, 0.01, d**2)),
        kl_error=lambda b, s, d: np.full(d.size, 0.02) * (d > 0),
        kl_k3=lambda b, s, d: np.where(np.arange(d.size) == 2, 0.04, NAN),
    )
    forms = distance(records)["by_beta"][0]["from_checkpoint"]
    assert (forms["n_points"], forms["n_k3"], forms["n_clamped"]) == (63, 3, 3)


def test_the_record_of_a_run_has_it_and_keeps_to_the_schema() -> None:
    rows = [
        {**point("paper", beta, seed, step, 4.0 + step, 5 - step // 3), "kl": step * (1 + seed / 10) / beta}
        for beta in BETAS
        for seed in SEEDS
        for step in range(8)
    ]
    record = json.loads(to_json(build_results(rows, {}, {"name": "made up"})))
    assert faults(record) == []
    assert unexplained(record) == []
    assert uncounted(record) == []
    found = record["distance"]["paper"]
    assert found["matched"]["from_checkpoint"]["limited_by"] == {"beta": 10, "seed": 0}
    # √(7·1/10)
    assert found["matched"]["from_checkpoint"]["high"] == pytest.approx(0.7**0.5)


def test_two_hundred_runs_of_a_thousand_points_take_seconds() -> None:
    rng = np.random.default_rng(1)
    records = []
    for seed in range(20):
        for beta in np.geomspace(0.1, 10, 10):
            root = np.abs(np.cumsum(rng.normal(0.01, 0.05, 1000)))
            truth = rng.binomial(200, 0.5, 1000) / 200
            records.append(run(float(beta), seed, root, truth, kl_base=(1 + root) ** 2))
    start = time.process_time()
    distance(records)
    assert time.process_time() - start < 15


def damaged(areas: Callable[[float, int], float], regret: Callable[[float, int], float]) -> list[dict[str, Any]]:
    """Checkpoints at equal log distances that β does not order evenly: β = 0.1, 1, 10, 100 are 2, 1.9, 1 and 0.5 √nats
    from the base. `areas(d, seed)` and `regret(d, seed)`."""
    far = {0.1: 2.0, 1.0: 1.9, 10.0: 1.0, 100.0: 0.5}
    steps = np.zeros(3)
    return [
        {
            **run(beta, seed, steps, steps + 0.5, kl_base=steps + (d + 0.001 * seed) ** 2),
            "augc_standardised": areas(d, seed),
            "augc_paper": float("nan"),
            "regret": regret(d, seed),
        }
        for beta, d in far.items()
        for seed in (0, 1, 2, 3)
    ]


def test_the_law_over_the_measured_distance_is_the_planted_one() -> None:
    # AUGC = 4 + 2·d^−1.5 ± a seed's level: 4.71, 4.76, 6, 9.66. 1.5 times that of the farthest, 7.06: (2/3.06)^(2/3).
    rng = np.random.default_rng(0)
    records = damaged(lambda d, s: 4 + 2 * d**-1.5 + rng.normal(0, 0.02), lambda d, s: 10 - 4 * d + 0.1 * s)
    laws = distance(records)["conservatism"]["laws"]
    found, star = laws["standardised"], laws["standardised"]["star"]
    assert (found["a"], found["b"], found["c"]) == pytest.approx((2, 1.5, 4), rel=0.05)
    assert star["status"] == "estimate"
    assert star["value"] == pytest.approx((2 / (1.5 * (4 + 2 * 2**-1.5) - 4)) ** (2 / 3), rel=0.02)
    assert star["interval"]["low"] < star["value"] < star["interval"]["high"]
    assert found["aicc"] < found["aicc_beta"]  # β orders the checkpoints, but not at these distances
    assert laws["paper"]["reason"] == "AUGC is undefined in 16 of 16 conditions"
    (sentence, _) = distance_conclusions(distance(records))
    assert "below d★ = 0.7" in sentence
    assert "distance beats β by" in sentence


def test_no_distance_is_named_where_the_primary_outcome_does_not_get_worse() -> None:
    rng = np.random.default_rng(0)
    records = damaged(lambda d, s: 4 + 2 * d**-1.5 + rng.normal(0, 0.02), lambda d, s: float(rng.normal()))
    star = distance(records)["conservatism"]["laws"]["standardised"]["star"]
    assert star["status"] == "no rise"
    assert star["reason"].startswith("no d★: regret does not get worse as checkpoints stay nearer to the base")
    change = distance(records, primary="end_change")["conservatism"]["laws"]["standardised"]["star"]
    assert change["reason"].startswith("no d★: end_change does not get worse as")  # it is 0 everywhere
    falls = damaged(lambda d, s: 10 * d + rng.normal(0, 0.02), lambda d, s: 10 - 4 * d + 0.1 * s)
    star = distance(falls)["conservatism"]["laws"]["standardised"]["star"]
    assert star["reason"] == "no d★: AUGC changes with the distance in these data, but no power law beats a constant"
