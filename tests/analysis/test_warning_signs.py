"""Warning signs over whole sets of runs: worked by hand, planted truth, and noise."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy import stats
from scripts import script

from betastar.analysis.signals import BASELINES, _run, candidates, warning_signs
from betastar.record.answers import Grid
from betastar.record.files import to_json

EVERY = 5
"""Steps between two evaluation points of the runs below."""


def run(
    seed: int, true: ArrayLike, onset: int | None = None, *, beta: float = 1.0, variant: str = "a", **series: ArrayLike
) -> dict[str, Any]:
    """A record of one condition; `onset` as a place among the points."""
    rewards = np.asarray(true).tolist()
    return {
        "variant": variant,
        "beta": beta,
        "seed": seed,
        "onset_step": None if onset is None else EVERY * onset,
        "series": {
            "step": [EVERY * i for i in range(len(rewards))],
            "true_strict": rewards,
            **{name: np.asarray(values).tolist() for name, values in series.items()},
        },
    }


def signs(records: Sequence[Mapping[str, Any]], **options: Any) -> dict[str, Any]:
    return warning_signs(records, **options)


def pooled(records: Sequence[Mapping[str, Any]], name: str, **options: Any) -> dict[str, Any]:
    return signs(records, **options)["pooled"]["signals"][name]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a record by its path."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{path}/{key}")
    else:
        yield path, value


def planted(rng: np.random.Generator, n_seeds: int, ahead: int, noise: float = 0.0) -> list[dict[str, Any]]:
    """Per seed one run that hacks and one that does not, 16 points each. In the first, truth falls for good and the gap
    opens at a point drawn at random; û jumps by 1 `ahead` points before. Response length is noise."""
    records = []
    for seed in range(n_seeds):
        fall = int(rng.integers(6, 11))
        for beta, place in ((0.1, fall), (1.0, None)):
            t = np.arange(16)
            hacked = np.zeros(16) if place is None else (t >= place).astype(float)
            warned = np.zeros(16) if place is None else (t >= place - ahead).astype(float)
            records.append(
                run(
                    seed,
                    0.6 - 0.3 * hacked,
                    onset=place,
                    beta=beta,
                    gap_standardised=2 * hacked + noise * rng.normal(size=16),
                    disagreement=1 + warned + noise * rng.normal(size=16),
                    response_tokens=rng.normal(size=16),
                    proxy=0.2 * hacked,
                )
            )
    return records


def noise(rng: np.random.Generator, n_seeds: int) -> list[dict[str, Any]]:
    """Per seed three runs of 17 points in which truth is the share right of 64 and every signal is noise by itself."""
    names = [signal.name for signal in candidates()]
    return [
        run(
            seed,
            rng.binomial(64, 0.5, 17) / 64,
            beta=beta,
            gap_standardised=np.cumsum(rng.normal(size=17)),
            proxy=rng.normal(size=17),
            **{name: 2 + rng.random(17) for name in names},  # pyright: ignore[reportArgumentType]
        )
        for seed in range(n_seeds)
        for beta in (0.1, 1.0, 10.0)
    ]


def test_two_runs_by_hand() -> None:
    true = [0.6, 0.6, 0.6, 0.3, 0.3, 0.3]
    records = [
        run(0, true, 3, gap_standardised=[0, 0, 0, 2, 2, 2], disagreement=[1, 1, 3, 3, 3, 2], proxy=[0, 0, 0, 1, 1, 1]),
        run(1, [0.6] * 6, disagreement=[1, 1, 1.5, 1, 1, 1], gap_standardised=[0, 0, 0, 0, 0, 1], proxy=[0.0] * 6),
    ]
    found = pooled(records, "disagreement")
    # Horizon 2, the first four points of each run. Events: points 1 and 2 of run 0, changes 0 and 2. At those steps run
    # 1 has 0 and 0.5: a tie and a win, 1.5 of 2. Over all steps at once, 0 ties with four of six and beats none, and 2
    # beats five and ties with one: 7.5 of 12.
    roc = found["roc"][1]
    assert (roc["horizon"], roc["n_positive"], roc["n_negative"], roc["n_seeds"]) == (2, 2, 6, 2)
    assert roc["area"] == pytest.approx(1.5 / 2)
    assert roc["area_all_steps"] == pytest.approx(7.5 / 12)
    # The proxy's change and accuracy tie at both steps, as the clock does by construction.
    for called in ("clock", "accuracy", "proxy"):
        assert roc[f"minus_{called}"]["value"] == pytest.approx(0.25)
    # Without seed 0 there is no event.
    assert found["verdict"] == "undefined: it depends on a single seed and is undefined without it"
    # Quiet run: largest excursion 0.5. Run 0 leaves that band at point 2, one point (5 steps) before its onset.
    lead = found["lead"]
    assert lead["band"]["width"] == 0.5
    assert (lead["median_points"], lead["median_steps"]) == (1, 5)
    assert (lead["n_onset"], lead["n_seeds"], lead["n_warned"], lead["n_warned_rising"]) == (1, 1, 1, 1)
    # Lag 1, run 0: û 1 1 3 3 3 with gap 0 0 2 2 2: equal ranks, ρ = 1. Run 1: û 1 1 1.5 1 1 with gap 0 0 0 0 1: ranks
    # about their means −½ −½ 2 −½ −½ and −½ −½ −½ −½ 2: ρ = (3·¼ − 2)/5 = −¼. Mean 3/8, too wide an interval for ρ.
    later = found["later_gap"][0]
    assert (later["lag"], later["n_runs"], later["n_seeds"]) == (1, 2, 2)
    assert later["value"] == pytest.approx(3 / 8)
    assert (later["interval"]["low"], later["interval"]["high"]) == (-1, 1)


def test_an_interval_by_hand() -> None:
    # Two runs per seed; with horizon 1, points 0 and 1 count. Truth falls after point 1 in the first. û moves there by
    # +1, −1 and +1: the event beats the three others at 0, loses to them, beats them. Area 6/9.
    rows = [run(s, [0.5, 0.5, 0.4], disagreement=[0, x, 0]) for s, x in enumerate((1, -1, 1))]
    rows += [run(s, [0.5, 0.5, 0.5], beta=2.0, disagreement=[0, 0, 0]) for s in range(3)]
    roc = pooled(rows, "disagreement", horizons=[1, 2])["roc"][0]
    assert roc["area"] == pytest.approx(6 / 9)
    # Without seed 0, 1, 2: areas 2/4, 4/4, 2/4; mean 2/3, squares (1/36 + 4/36 + 1/36) = 1/6, times 2/3: error 1/3.
    reach = stats.t.ppf(0.975, 2) / 3
    assert (roc["interval"]["low"], roc["interval"]["high"]) == (max(0, 2 / 3 - reach), 1)
    assert roc["minus_clock"]["interval"]["low"] == max(-0.5, 6 / 9 - 0.5 - reach)


def test_a_signal_two_points_ahead_is_found_and_noise_is_not() -> None:
    records = planted(np.random.default_rng(1), n_seeds=8, ahead=2)
    led, idle = pooled(records, "disagreement"), pooled(records, "response_tokens")
    # Horizon 2: events are the two points before each fall, with û up. Of the others at that step, the quiet runs and
    # those long before their fall have û down; those that have fallen tie.
    falls = [r["onset_step"] // EVERY for r in records if r["onset_step"] is not None]
    pairs = tied = 0
    for at in (fall - ahead for fall in falls for ahead in (1, 2)):
        pairs += 8 + sum(at not in (other - 1, other - 2) for other in falls)
        tied += sum(at >= other for other in falls)
    assert tied > 0
    assert led["roc"][1]["area"] == pytest.approx(1 - tied / 2 / pairs)
    assert led["verdict"] == "warns"
    assert led["beats_proxy"] == "better than the proxy"
    assert (led["lead"]["median_points"], led["lead"]["median_steps"]) == (2, 2 * EVERY)
    assert led["lead"]["interval_points"]["low"] == led["lead"]["interval_points"]["high"] == 2
    assert led["lead"]["n_warned"] == led["lead"]["n_onset"] == 8
    assert idle["verdict"] == "no better than the clock"
    assert np.isnan(idle["lead"]["median_points"])
    assert idle["lead"]["reason"] == "no alarm in at least half of the seeds with an onset"


def test_the_clock_is_no_warning_though_it_looks_like_one() -> None:
    # Every run falls at a step of its own, late rather than early; û and KL grow with the step in all of them alike.
    rng, records = np.random.default_rng(12), []
    for seed in range(6):
        for beta in (0.1, 1.0, 10.0):
            t, fall = np.arange(20), int(rng.integers(12, 17))
            drift = {name: 0.1 * t + 0.05 * rng.normal(size=20) for name in ("disagreement", "kl", "proxy")}
            record = run(seed, np.where(t >= fall, 0.3, 0.6), beta=beta)
            records.append({**record, "series": {**record["series"], **drift}})
    found = signs(records, horizons=[2])["pooled"]["signals"]
    for name in ("step", "disagreement", "kl"):
        assert found[name]["roc"][0]["area_all_steps"] > 0.7
        assert found[name]["verdict"] == "no better than the clock"
    assert found["step"]["roc"][0]["area"] == 0.5


@pytest.mark.thorough
def test_signals_that_warn_of_nothing_are_seldom_said_to() -> None:
    # As in docs/warning_signs.md, with fewer experiments: 5 % and three standard errors of a share of 20.
    benchmark = script("benchmarks/warning_signs.py")
    for world in benchmark.WORLDS.values():
        found = np.array(list(benchmark.said(world, n_seeds=4, repeats=20).values()))
        warns = found[:, 0] + found[:, 1]
        assert warns.mean() <= 5
        assert warns.max() <= 20
        if world is benchmark.unmoved:  # measured accuracy does fall; it alone explains the signal
            assert found[:, 2].mean() > 30


def test_regression_to_the_mean_is_no_warning() -> None:
    # Truth never moves: measured on 64 problems it goes up and down, and what is high falls. A signal that follows the
    # noise of the very same evaluation "warns" of that, as accuracy itself does.
    rng, records = np.random.default_rng(13), []
    for seed in range(8):
        for beta in (0.1, 1.0, 10.0):
            true = rng.binomial(64, 0.5, 17) / 64
            records.append(run(seed, true, beta=beta, proxy=rng.normal(size=17), kl=true + 0.02 * rng.normal(size=17)))
    found = signs(records, horizons=[2])["pooled"]["signals"]
    assert found["true_strict"]["roc"][0]["area"] > 0.8
    assert found["true_strict"]["verdict"] == "warns"
    assert found["kl"]["roc"][0]["minus_clock"]["verdict"] == "better than the clock"
    assert found["kl"]["verdict"] == "no better than current accuracy"
    assert found["kl"]["roc"][0]["beyond_accuracy"]["verdict"] == "adds nothing to accuracy"


def test_a_sign_with_less_area_than_noisy_accuracy_may_add_to_it() -> None:
    # Half of the runs fall for good, with û up in the two points before. Truth is measured on 200 problems, so a fifth
    # of the falls are noise, which accuracy itself foretells best: its area is the larger one.
    rng, records = np.random.default_rng(14), []
    for seed in range(20):
        for beta in (0.1, 1.0, 10.0, 100.0):
            t, fall = np.arange(17), int(rng.integers(4, 14)) if rng.random() < 0.5 else 99
            true = rng.binomial(200, np.where(t >= fall, 0.3, 0.6)) / 200
            sign = ((t >= fall - 2) & (t < fall)) + 0.3 * rng.normal(size=17)
            records.append(run(seed, true, beta=beta, disagreement=sign, proxy=np.zeros(17)))
    signals = signs(records, horizons=[2])["pooled"]["signals"]
    roc = signals["disagreement"]["roc"][0]
    assert roc["area"] < signals["true_strict"]["roc"][0]["area"]
    assert roc["minus_accuracy"]["verdict"] != "better than accuracy"
    assert signals["disagreement"]["verdict"] == "adds to accuracy"
    assert signals["disagreement"]["beats_proxy"] == "better than the proxy"


def test_leads_and_correlations_survive_noise() -> None:
    found = pooled(planted(np.random.default_rng(2), n_seeds=10, ahead=2, noise=0.1), "disagreement")
    assert found["verdict"] == "warns"
    assert found["lead"]["median_points"] == 2
    # û two points ahead of the gap: the correlation is highest at lag 2.
    values = [entry["value"] for entry in found["later_gap"]]
    assert int(np.argmax(values)) == 1


def test_a_late_signal_has_a_negative_lead_and_no_warning() -> None:
    found = pooled(planted(np.random.default_rng(3), n_seeds=8, ahead=-2), "disagreement")["lead"]
    assert (found["median_points"], found["n_warned"], found["n_never"]) == (-2, 0, 0)


def test_a_falling_signal_is_read_in_both_directions() -> None:
    records = planted(np.random.default_rng(1), n_seeds=8, ahead=2)
    up = pooled(records, "disagreement")
    for record in records:
        series = record["series"]
        series["diversity"] = [-x for x in series["disagreement"]]  # said to fall, and falls
        series["kl"] = series["diversity"]  # said to rise, and falls
    down, against = (pooled(records, name) for name in ("diversity", "kl"))
    assert [r["area"] for r in down["roc"]] == [r["area"] for r in up["roc"]]
    assert [r["area"] for r in against["roc"]] == pytest.approx([1 - r["area"] for r in up["roc"]])
    assert (down["verdict"], against["verdict"]) == ("warns", "warns in the other direction")
    assert (down["lead"]["median_points"], down["lead"]["n_warned_rising"]) == (2, 0)


def test_a_constant_is_at_one_half_and_cannot_correlate() -> None:
    constant = pooled(planted(np.random.default_rng(4), n_seeds=3, ahead=1), "constant")
    assert [r["area"] for r in constant["roc"]] == [0.5] * 5
    assert all((r["interval"]["low"], r["interval"]["high"]) == (0.5, 0.5) for r in constant["roc"])
    assert constant["verdict"] == "no better than the clock"
    assert np.isnan(constant["later_gap"][0]["value"])
    assert constant["later_gap"][0]["reason"].startswith("constant")
    assert constant["lead"]["n_never"] == constant["lead"]["n_onset"] == 3


def test_a_constant_does_not_beat_a_proxy_that_warns_in_the_other_direction() -> None:
    # The proxy rises after every fall, so it is higher at points without one ahead.
    signals = signs(planted(np.random.default_rng(4), n_seeds=6, ahead=1))["pooled"]["signals"]
    assert signals["proxy"]["verdict"] == "warns in the other direction"
    assert signals["constant"]["roc"][1]["minus_proxy"]["verdict"] == "better than the proxy"
    assert signals["constant"]["beats_proxy"] == "no better than the clock"


def test_units_and_the_order_of_records_do_not_matter() -> None:
    records = planted(np.random.default_rng(5), n_seeds=4, ahead=1, noise=0.5)
    first = pooled(records, "disagreement")
    for record in records:
        record["series"]["disagreement"] = [40 * x - 7 for x in record["series"]["disagreement"]]
    again = pooled(records[::-1], "disagreement")
    assert again["lead"].pop("band")["width"] == pytest.approx(40 * first["lead"].pop("band")["width"])
    assert dict(leaves(again)) == pytest.approx(dict(leaves(first)), nan_ok=True)


def test_a_second_variant_of_the_same_seeds_is_not_more_evidence() -> None:
    # All runs of a seed are one block, so copies of everything leave the pooled intervals as they were.
    records = noise(np.random.default_rng(6), n_seeds=4)
    alone = pooled(records, "kl")
    both = signs([*records, *({**r, "variant": "b"} for r in records)])
    twice = both["pooled"]["signals"]["kl"]
    assert both["by_variant"].keys() == {"a", "b"}
    for one, two in zip(alone["roc"], twice["roc"], strict=True):
        assert two["n_positive"] == 2 * one["n_positive"]
        assert two["area"] == pytest.approx(one["area"])
        assert two["interval"] == pytest.approx(one["interval"])


def test_repeated_evaluations_set_the_band_where_every_run_hacks() -> None:
    def hacked(seed: int, **more: Any) -> dict[str, Any]:
        return {**run(seed, [0.6, 0.6, 0.3], 2, disagreement=[1.0, 2.0, 3.0], gap_standardised=[0, 0, 2.0]), **more}

    nothing = pooled([hacked(0), hacked(1)], "disagreement")["lead"]
    assert nothing["reason"] == "no run without onset and no repeated evaluation to set the band"
    # Repeats differ by 0.3 and 0.4: three times √((0.09 + 0.16)/2) = 1.06, left at the onset and not before.
    again = [hacked(0, again={"disagreement": 1.3}), hacked(1, again={"disagreement": 0.6})]
    lead = pooled(again, "disagreement")["lead"]
    assert lead["band"]["width"] == pytest.approx(3 * 0.125**0.5)
    assert (lead["median_points"], lead["n_warned"]) == (0, 0)


def test_what_is_undefined_says_why_and_is_null() -> None:
    true = [0.6, 0.6, 0.5, 0.5, 0.5]
    holed = run(0, true, 2, disagreement=[1, 1, 2, 2, 2], proxy=[0, 1, 1, 1, 1], gap_standardised=[0, 0, 1, 1, 1])
    holed["series"]["disagreement"][1] = None
    found = json.loads(to_json(signs([holed])))["pooled"]["signals"]
    assert found["kl"]["verdict"] == "undefined: these runs have no kl"
    assert found["kl"]["roc"][1]["area"] is None
    assert found["kl"]["lead"]["reason"] == "these runs have no kl"
    # One run has nothing to compare with at the same step. Horizon 2, points 0, 1, 2; point 1 has no û.
    roc = found["disagreement"]["roc"][1]
    assert (roc["area"], roc["n_positive"], roc["n_negative"]) == (None, 1, 1)
    assert roc["verdict"] == "undefined: no step has points of both kinds to compare"
    assert found["proxy_cusum"]["verdict"] == (
        "undefined: these runs have no proxy_cusum; it needs the standard deviation of the proxy at the start"
    )
    # One seed: the area stands, without an interval or a verdict.
    two = [holed, run(0, [0.6] * 5, beta=2.0, disagreement=[1] * 5, proxy=[0] * 5)]
    roc = json.loads(to_json(signs(two)))["pooled"]["signals"]["disagreement"]["roc"][1]
    assert roc["area"] == 0.5
    assert roc["verdict"] == "undefined: an interval over seeds needs two seeds"
    assert found["disagreement"]["roc"][4]["reason"] == "no point has a true reward and 5 more after it"
    steady = json.loads(to_json(signs([run(s, [0.5] * 9, disagreement=list(range(9))) for s in (0, 1)])))
    steady = steady["pooled"]["signals"]["disagreement"]
    assert steady["verdict"] == "undefined: the true reward never falls by 0.05 within 2 points"
    assert steady["beats_proxy"].startswith("undefined: the true reward never falls")
    assert steady["lead"]["reason"] == "no run has an onset"
    falling = [run(s, [0.9, 0.7, 0.5, 0.3, 0.1], disagreement=[0, 1, 2, 3, 4]) for s in (0, 1)]
    assert pooled(falling, "disagreement")["roc"][0]["reason"] == (
        "the true reward falls by 0.05 within 1 point of every point"
    )


def test_records_read_back_from_json_give_the_same() -> None:
    records = planted(np.random.default_rng(10), n_seeds=3, ahead=1, noise=0.3)
    records[0]["series"]["gap_standardised"][3] = float("nan")
    again = json.loads(to_json({"conditions": records}))["conditions"]
    assert to_json(signs(again)) == to_json(signs(records))


def test_points_and_steps_may_differ_between_runs() -> None:
    records = planted(np.random.default_rng(7), n_seeds=4, ahead=1)
    for record in records[:2]:
        record["series"]["step"] = [3 * step for step in record["series"]["step"]]
        record["onset_step"] = record["onset_step"] and 3 * record["onset_step"]
    found = pooled(records, "disagreement")["lead"]
    # Leads of 5, 5, 5 steps and, for seed 0, 15; the middle two are 5.
    assert (found["median_points"], found["median_steps"]) == (1, 5)


def test_the_record_says_what_was_asked() -> None:
    found = signs(noise(np.random.default_rng(8), n_seeds=2))
    assert found["comparisons"] == 14 * 5
    assert found["headline_horizon"] == 2
    assert found["pooled"]["signals"].keys() == {signal.name for signal in (*candidates(), *BASELINES)}
    with pytest.raises(ValueError, match="headline"):
        signs([], horizons=[1, 3])


def false_verdicts(n_seeds: int, repeats: int) -> tuple[float, float]:
    """How often a signal of pure noise warns, and how often it does in the other direction."""
    rng, verdicts = np.random.default_rng(n_seeds), []
    for _ in range(repeats):
        signals = warning_signs(noise(rng, n_seeds), horizons=[2])["pooled"]["signals"]
        verdicts += [signals[signal.name]["verdict"] for signal in candidates() if signal.name != "ceiling_share"]
    better, other = (verdicts.count(words) for words in ("warns", "warns in the other direction"))
    return better / len(verdicts), other / len(verdicts)


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_noise_is_seldom_called_a_warning(n_seeds: int) -> None:
    # At most 2.5 % each way is what the interval promises: 4 of 160 verdicts.
    warns, other = false_verdicts(n_seeds, repeats=15)
    assert warns < 0.03
    assert other < 0.10


def test_answers_give_the_share_at_the_ceiling() -> None:
    # 20 responses: at the start one above the 95th percentile, at the end all.
    records = [run(s, [0.5] * 4, beta=b, disagreement=[0] * 4) for s in (0, 1) for b in (1.0, 2.0)]
    proxy = np.arange(20.0) + np.array([0, 5, 10, 50])[:, None]
    steps = np.array(records[0]["series"]["step"])
    none = np.zeros((4, 20, 1))
    grid = Grid(steps, [str(i) for i in range(20)], proxy[:, :, None], none, none, None)
    answers = {("a", r["beta"], r["seed"]): grid for r in records}
    series = _run(records[0], answers).signals["ceiling_share"]
    assert series.tolist() == [1 / 20, 6 / 20, 11 / 20, 1]
    assert np.isnan(_run(records[0], {}).signals["ceiling_share"]).all()
    short = {key: grid._replace(steps=steps + 1) for key in answers}
    assert np.isnan(_run(records[0], short).signals["ceiling_share"]).all()


def many(n_seeds: int, betas: Sequence[float], n_points: int, variants: str = "a") -> list[dict[str, Any]]:
    rng = np.random.default_rng(9)
    names = [signal.name for signal in (*candidates(), BASELINES[-1])]
    return [
        run(
            seed,
            rng.integers(0, 200, n_points) / 200,
            variant=variant,
            beta=beta,
            gap_standardised=rng.random(n_points),
            **{name: rng.random(n_points) for name in names},  # pyright: ignore[reportArgumentType]
        )
        for variant in variants
        for beta in betas
        for seed in range(n_seeds)
    ]


def test_twenty_runs_of_forty_points_take_under_two_seconds() -> None:
    records = many(5, (0.1, 1.0), 40, "ab")
    start = time.process_time()
    signs(records)
    assert time.process_time() - start < 2


@pytest.mark.slow
def test_two_hundred_runs_of_a_thousand_points_take_seconds() -> None:
    records = many(20, tuple(np.geomspace(0.1, 10, 10)), 1000)
    start = time.process_time()
    signs(records)
    assert time.process_time() - start < 20
