"""Warning of a fall: events, later correlation, area under ROC, bands; against SciPy, brute force and arithmetic."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from maths.reference import weighted_interval
from scipy import stats

from betastar.maths.signals import (
    REPEAT_DEVIATIONS,
    acceleration,
    advantage_drift,
    beyond,
    block_mean,
    change_from_start,
    drops_ahead,
    first_alarm,
    jackknife_interval,
    largest_excursion,
    later_correlations,
    median_interval,
    plain_area,
    proxy_per_entropy,
    quiet_band,
    ranked,
    roc_area,
    share_above_start,
    upper_cusum,
)
from betastar.maths.statistics import seed_resamples

PAGE = Path(__file__).resolve().parents[2] / "docs" / "warning_signs.md"
NAN = float("nan")
scored = st.lists(
    st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=16
)


def area(score, event):
    """Of all points, as one block and one stratum."""
    return roc_area(ranked(score, np.zeros(len(score)), np.zeros(len(score))), event).value


def brute_force(score, event, stratum):
    """Share of pairs of one stratum that the event won."""
    won = pairs = 0
    for s, _, k in ((s, e, k) for s, e, k in zip(score, event, stratum, strict=True) if e):
        for other, _, _ in ((o, f, m) for o, f, m in zip(score, event, stratum, strict=True) if not f and m == k):
            won, pairs = won + (s > other) + 0.5 * (s == other), pairs + 1
    return won / pairs if pairs else NAN


def test_events_by_hand():
    true = [0.60, 0.55, 0.50, 0.62, 0.50]
    # One ahead: −0.05, −0.05, +0.12, −0.12; the first two are 0.05 only up to rounding. Nothing follows the last.
    assert drops_ahead(true, 1, 0.05).tolist()[:4] == [1, 1, 0, 1]
    # Two ahead: lowest 0.50, 0.50, 0.50 against 0.60, 0.55, 0.50. The last two have no two points after them, and the
    # fall after the last but one, though seen, is not counted.
    two = drops_ahead(true, 2, 0.05)
    assert two.tolist()[:3] == [1, 1, 0]
    assert np.isnan(two[3:]).all()
    assert np.isnan(drops_ahead(true, 5, 0.05)).all()
    # An undefined value hides every point whose window holds it.
    holed = drops_ahead([0.6, 0.5, NAN, 0.4, 0.4, 0.4], 1, 0.05)
    np.testing.assert_array_equal(holed, [1, NAN, NAN, 0, 0, NAN])


@pytest.mark.parametrize(("horizon", "drop"), [(0, 0.05), (1, 0.0)])
def test_impossible_events_are_refused(horizon, drop):
    with pytest.raises(ValueError, match="at least 1"):
        drops_ahead([0.5, 0.4], horizon, drop)


def test_time_alone_does_not_warn_where_the_truth_is_noise():
    # Series of fair noise: the clock says nothing. Counting the falls seen in a window cut short, as events that are
    # decided already, would make it a warning.
    rng, horizon, length = np.random.default_rng(0), 5, 12
    clock, honest, kept = [], [], []
    for true in rng.random((400, length)):
        events = drops_ahead(true, horizon, 0.05)
        cut = [float(true[t] - true[t + 1 :].min() >= 0.05) for t in range(length - horizon, length - 1)]
        clock.append(np.arange(length))
        honest.append(events)
        kept.append(np.concatenate([events[:-horizon], [x if x else NAN for x in cut], [NAN]]))
    clock, honest, kept = map(np.concatenate, (clock, honest, kept))
    areas = [area(clock[np.isfinite(e)], e[np.isfinite(e)]) for e in (honest, kept)]
    assert areas[0] == pytest.approx(0.5, abs=0.03)
    assert areas[1] > 0.6


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=6, max_size=12), st.integers(1, 3))
def test_later_correlation_is_spearmans(pairs, lag):
    signal, gap = np.array(pairs, dtype=float).T
    now, later = signal[:-lag], gap[lag:]
    assume(np.ptp(now) > 0 and np.ptp(later) > 0)
    assert later_correlations(signal, gap, lag)[0] == pytest.approx(stats.spearmanr(now, later)[0], abs=1e-12)


def test_later_correlation_leaves_out_undefined_pairs():
    # Pairs (1, 5), (2, 6), (3, –), (–, 7), (5, 4): ranks 1 2 3 against 2 3 1, so ρ = 1 − 6·(1 + 1 + 4)/(3·8) = −1/2.
    # In the second run: constant; in the third two pairs; in the fourth ranks 1 to 5 against 5 to 1.
    signal = [[1, 2, 3, NAN, 5, 9], [1] * 6, [1, 2, NAN, NAN, NAN, 3], [1, 2, 3, 4, 5, 0]]
    gap = [[0, 5, 6, NAN, 7, 4], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6], [0, 5, 4, 3, 2, 1]]
    np.testing.assert_allclose(later_correlations(signal, gap, 1), [-0.5, NAN, NAN, -1], atol=1e-12)
    with pytest.raises(ValueError, match="lag"):
        later_correlations([1, 2, 3], [1, 2, 3], 0)


def test_area_by_hand():
    # Events score 3 and 1, others 2, 1 and 0: 3 wins three times; 1 wins once, ties once. 4.5 of 6.
    assert area([3, 1, 2, 1, 0], [1, 1, 0, 0, 0]) == 0.75
    assert np.isnan(area([1, 2], [1, 1]))
    assert np.isnan(area([1, 2], [0, 0]))


@given(scored)
def test_area_is_the_mann_whitney_statistic(rows):
    score, event = np.array([r[0] for r in rows], dtype=float), np.array([r[1] for r in rows])
    assume(event.any() and not event.all())
    positive, negative = score[event], score[~event]
    reference = stats.mannwhitneyu(positive, negative).statistic / (positive.size * negative.size)
    assert area(score, event) == pytest.approx(reference)
    assert area(-score, event) == pytest.approx(1 - reference)
    assert area(np.exp(score) * 7 - 2, event) == pytest.approx(reference)
    assert area(np.zeros(score.size), event) == 0.5
    assert plain_area(score, event) == pytest.approx(reference)


def test_area_in_strata_by_hand():
    # Step 1: event 2 against 1 and 2: won one and a half of two. Step 2: event 9 against 10: lost. 1.5 of 3; the event
    # of step 3 has nothing to be compared with. Without stratum, 9 and 2 beat more.
    found = roc_area(ranked([2, 1, 2, 9, 10, 5], [0] * 6, [1, 1, 1, 2, 2, 3]), [1, 0, 0, 1, 0, 1])
    assert found.value == 0.5
    assert np.isnan(roc_area(ranked([1, 2], [0, 0], [1, 2]), [1, 0]).value)
    assert np.isnan(roc_area(ranked([], [], []), []).value)
    # An undefined score or event takes no part, and neither does a block that has no other points.
    holed = roc_area(ranked([2, 1, NAN, 5, 9], [0, 1, 0, 1, 2], [0] * 5), [1, 0, 1, 0, NAN])
    assert holed.value == 0.5
    assert holed.without.size == 2
    assert plain_area([2, 1, NAN, 5, 9], [1, 0, 1, 0, NAN]) == 0.5
    assert np.isnan(plain_area([1, 2], [1, 1]))


@given(scored)
def test_area_in_strata_and_without_each_block_is_that_of_all_pairs(rows):
    score, event, block, stratum = (np.array([r[i] for r in rows]) for i in range(4))
    found = roc_area(ranked(score, block, stratum), event)
    np.testing.assert_allclose(found.value, brute_force(score, event, stratum))
    for name, without in zip(np.unique(block), found.without, strict=True):
        kept = block != name
        np.testing.assert_allclose(without, brute_force(score[kept], event[kept], stratum[kept]))
    mean = block_mean(score, block)
    assert mean.value == pytest.approx(score.mean())
    for name, without in zip(np.unique(block), mean.without, strict=True):
        np.testing.assert_allclose(without, score[block != name].mean() if (block != name).any() else NAN)


def test_the_clock_has_area_one_half_in_strata():
    rng = np.random.default_rng(2)
    step = np.repeat(np.arange(10), 8)
    event = rng.random(80) < step / 10  # the later, the likelier
    assert area(step, event) > 0.7
    found = roc_area(ranked(step, np.tile(np.arange(8), 10), step), event)
    assert found.value == 0.5
    assert (found.without == 0.5).all()


def test_what_is_left_beyond_another_score_against_least_squares():
    rng = np.random.default_rng(4)
    score, other, stratum = rng.normal(size=40) ** 3, rng.normal(size=40), np.repeat([2, 0, 5, 1], 10)
    design = np.column_stack([other, stratum[:, None] == np.unique(stratum)])
    z = stats.norm.ppf((stats.rankdata(score) - 0.5) / 40)
    expected = z - design @ np.linalg.lstsq(design, z, rcond=None)[0]
    np.testing.assert_allclose(beyond(score, other, stratum), expected, atol=1e-12)
    # A stratum in which nothing happens, or a point that is undefined, changes none of them.
    more = [[*score, 7, 7, NAN, 1], [*other, 1, 9, 3, NAN], [*stratum, 9, 9, 0, 0]]
    left = beyond(*more)
    assert left[40] == left[41] == 0
    assert np.isnan(left[42:]).all()
    assert np.corrcoef(left[:40], expected)[0, 1] > 0.99  # normal scores of 42 points in place of 40
    assert np.isnan(beyond([NAN], [1], [0])).all()
    np.testing.assert_allclose(beyond([3, 1, 2], [5, 5, 5], [0, 0, 0]), stats.norm.ppf([5 / 6, 1 / 6, 0.5]), atol=1e-12)


def test_what_goes_with_the_other_score_alone_is_left_at_one_half():
    # Score = other + noise, few points to a stratum: the event depends on the other alone.
    rng, values = np.random.default_rng(5), []
    for _ in range(300):
        other, step = rng.normal(size=(9, 12)), np.arange(12) + np.zeros((9, 12))
        event = other + rng.normal(size=(9, 12)) > 0.3
        score = other + rng.normal(size=(9, 12))
        left = beyond(score.ravel(), other.ravel(), step.ravel())
        values.append(roc_area(ranked(left, np.zeros(108), step.ravel()), event.ravel()).value)
    assert np.mean(values) == pytest.approx(0.5, abs=3 * np.std(values) / 300**0.5 + 0.002)


def test_the_interval_of_a_mean_is_students():
    rng = np.random.default_rng(1)
    values, others = rng.normal(size=(2, 7))
    seeds = np.arange(7)
    ours, theirs = block_mean(values, seeds), block_mean(others, seeds)
    found = jackknife_interval(ours, (-np.inf, np.inf))
    assert found[:2] == pytest.approx(tuple(stats.ttest_1samp(values, 0).confidence_interval()))
    paired = jackknife_interval(ours - theirs, (-np.inf, np.inf))
    assert paired[:2] == pytest.approx(tuple(stats.ttest_rel(values, others).confidence_interval()))
    cut = jackknife_interval(ours, (-0.1, 0.1))
    assert cut[:2] == (max(found.low, -0.1), min(found.high, 0.1))


def test_an_interval_that_rests_on_one_seed_is_undefined():
    # Both events are in block 0: without it there is no area.
    found = roc_area(ranked([1, 2, 0, 1, 0], [0, 0, 0, 1, 2], [0] * 5), [1, 1, 0, 0, 0])
    interval = jackknife_interval(found, (0, 1))
    assert np.isnan(interval.low)
    assert interval.reason == "it depends on a single seed and is undefined without it"
    single = jackknife_interval(block_mean([1, 2], [0, 0]), (0, 1))
    assert single.reason == "an interval over seeds needs two seeds"


def test_derived_signals_by_hand():
    # Rises 1, 3, −2 over 2, 2 and 4 steps, in units of the sd before: 1/(0.5·2), 3/(1·2), −2/(2·4).
    np.testing.assert_allclose(advantage_drift([0, 2, 4, 8], [1, 2, 5, 3], [0.5, 1, 2, 9]), [0, 1, 1.5, -0.25])
    np.testing.assert_array_equal(advantage_drift([0, 1, 2], [1, 2, 3], [0, 1, 1]), [0, NAN, 1])
    # Rises 2 and 6 in units of 2 for 0.5 and 1.5 nats; then entropy is as at the start, and above.
    np.testing.assert_allclose(proxy_per_entropy([1, 3, 7, 8, 9], 2, [3, 2.5, 1.5, 3, 4]), [0, 2, 2, NAN, NAN])
    # Rises in units of 2: 1, 1, 4, 0, 2. Means before: –, 1, 1, 2, 1.5. Excess less 0.5: 0, −0.5, 2.5, −2.5, 0.
    np.testing.assert_allclose(upper_cusum([0, 2, 4, 12, 12, 16], 2, 0.5), [0, 0, 0, 2.5, 0, 0])
    # Slopes 1, 1, 3 per step.
    np.testing.assert_allclose(acceleration([0, 1, 3, 4], [0, 1, 3, 6]), [0, 0, 0, 2])
    # The 95th percentile of 0 … 20 is 19: one of 21 above; then two of four (one unknown); then none known.
    scores = np.full((3, 21), NAN)
    scores[0], scores[1, :5] = np.arange(21), [30, 19, 25, 0, NAN]
    np.testing.assert_allclose(share_above_start(scores), [1 / 21, 0.5, NAN])


def test_derived_signals_without_what_they_need_are_undefined_after_the_start():
    none = [NAN] * 4
    for values in (
        advantage_drift([0, 1, 2, 3], [1, 2, 3, 4], none),
        proxy_per_entropy([1, 2, 3, 4], 1, none),
        proxy_per_entropy([1, 2, 3, 4], 0, [4, 3, 2, 1]),
        upper_cusum([1, 2, 3, 4], NAN, 0),
        upper_cusum(none, 1, 0),
        acceleration([0, 1, 2, 3], none),
    ):
        np.testing.assert_array_equal(values, [0, NAN, NAN, NAN])
    assert upper_cusum([1.0], 1, 0).tolist() == acceleration([0], [1.0]).tolist() == [0]
    assert np.isnan(share_above_start([none])).all()


def test_a_cusum_rises_where_the_proxy_does_and_not_where_it_keeps_its_pace():
    rng = np.random.default_rng(3)
    steady = np.cumsum(0.1 + 0.02 * rng.normal(size=40))
    jump = steady + np.where(np.arange(40) >= 25, 0.2 * (np.arange(40) - 24), 0)
    quiet, loud = upper_cusum(steady, 1, 0.02), upper_cusum(jump, 1, 0.02)
    assert (quiet[:25] == loud[:25]).all()
    assert loud[30] > 0.5
    assert quiet.max() < 0.1


@pytest.mark.parametrize(("n", "places"), [(6, (0, 5)), (9, (1, 7)), (20, (5, 14))])
def test_the_interval_of_a_median_by_the_binomial(n, places):
    # 6: 1 − 2/64 = 96.9 %. 9: 1 − 2·(1 + 9)/512 = 96.1 %. 20: 1 − 2·P(≤ 5) = 95.9 %, as in every table of it.
    values = np.random.default_rng(n).permutation(n).astype(float)
    found = median_interval(values)
    assert found[:2] == places
    assert found.level == pytest.approx(1 - 2 * stats.binom.cdf(places[0], n, 0.5))
    assert found.level >= 0.95


def test_the_interval_of_a_median_of_few_values_says_its_level():
    # The median lies outside three values if all are above or all below: 2/8.
    assert median_interval([3.0, -np.inf, 1.0])[:4] == (-np.inf, 3, None, 0.75)
    assert median_interval([1.0]).reason == "an interval over seeds needs two seeds"


def test_band_by_hand():
    # Ten quiet runs, one may leave: the second largest excursion, 9. A further run leaves it with at most 2/11.
    band = quiet_band([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    assert band[:4] == (9, 10, 0, pytest.approx(2 / 11))
    # Four quiet runs, none may; the undefined one is left out.
    assert quiet_band([1, 4, NAN, 2, 3])[:4] == (4, 4, 0, pytest.approx(1 / 5))
    # Repeats 3 and 4: root mean square √12.5, three times that; the larger width counts.
    assert quiet_band([1], [3, 4]).width == pytest.approx(3 * 12.5**0.5)
    assert quiet_band([100], [3, 4]).width == 100
    nothing = quiet_band([], [NAN])
    assert np.isnan(nothing.width)
    assert nothing.reason == "no run without onset and no repeated evaluation to set the band"


@pytest.mark.parametrize("n_quiet", [3, 10, 25])
def test_quiet_runs_leave_the_band_as_often_as_it_says(n_quiet):
    # Distribution-free: a further exchangeable run leaves with probability (allowed + 1)/(n + 1) exactly.
    rng = np.random.default_rng(n_quiet)
    draws = rng.standard_t(2, size=(4000, n_quiet + 1)) ** 2
    bands = [quiet_band(row[:-1]) for row in draws]
    left = np.mean([row[-1] > band.width for row, band in zip(draws, bands, strict=True)])
    assert left == pytest.approx(bands[0].expected_false_alarm_rate, abs=0.02)


def test_repeated_evaluations_hold_the_false_alarm_rate_that_the_comment_claims():
    assert 1 - (1 - 2 * stats.norm.sf(REPEAT_DEVIATIONS)) ** 40 < 0.11


def test_alarms_and_excursions_by_hand():
    series = [2.0, 2.5, NAN, 1.0, 5.0]
    np.testing.assert_array_equal(change_from_start(series), [0, 0.5, NAN, -1, 3])
    assert largest_excursion(series) == 3
    assert [first_alarm(series, width) for width in (0.0, 0.5, 1.0, 3.0, NAN)] == [1, 3, 4, None, None]
    # Without a start there is no change to speak of.
    assert first_alarm([NAN, 1.0, 9.0], 0.5) is None
    assert np.isnan(largest_excursion([NAN, 1.0, 9.0]))


def world(rng, n_seeds, strength):
    """Three runs of 17 points per seed, horizon 2. Truth is the share right of 64 problems; in two of the three runs it
    falls from 0.6 to 0.3 at a point drawn at random, and the signal, noise otherwise, is up in the three points before
    by `strength`, times a factor of the seed. Score, event, seed and step of every point whose event is known."""
    scores, events, seeds = [], [], []
    for seed in range(n_seeds):
        factor = 1 + 0.5 * rng.normal()
        for hacks in (False, True, True):
            t, fall = np.arange(17), int(rng.integers(4, 14))
            true = rng.binomial(64, np.where(hacks & (t >= fall), 0.3, 0.6)) / 64
            up = hacks & (t >= fall - 3) & (t < fall)
            scores.append(change_from_start(rng.normal(size=17) + strength * factor * up))
            events.append(drops_ahead(true, 2, 0.05))
            seeds.append(np.full(17, seed))
    score, event, seed = map(np.concatenate, (scores, events, seeds))
    used = np.isfinite(event)
    return score[used], event[used], seed[used], np.tile(np.arange(17), 3 * n_seeds)[used]


def area_of(score, event, seed, step):
    return roc_area(ranked(score, seed, step), event)


def won_by_seed(score, event, seed, step):
    """[S, S] pairs won by events of one seed against others of another, and all such pairs: for resampled seeds."""
    n = int(seed.max()) + 1
    won, pairs = np.zeros((n, n)), np.zeros((n, n))
    for place in np.unique(step):
        here = step == place
        ours, theirs = (np.flatnonzero(here & (event == kind)) for kind in (1, 0))
        beats = (score[ours][:, None] > score[theirs]) + 0.5 * (score[ours][:, None] == score[theirs])
        index = seed[ours][:, None] * n + seed[theirs]
        won += np.bincount(index.ravel(), beats.ravel(), minlength=n * n).reshape(n, n)
        pairs += np.bincount(index.ravel(), minlength=n * n).reshape(n, n)
    return won, pairs


def misses(n_seeds, repeats, strength, truth):
    """How often, in %, the interval lies above and below the true area: the jackknife's, and the percentile bootstrap's
    of whole seeds."""
    rng = np.random.default_rng([n_seeds, int(strength)])
    resamples = seed_resamples(n_seeds, rng, 2000)
    counts = np.array([np.bincount(draw, minlength=n_seeds) for draw in resamples.draws])
    found = np.zeros(4)
    for _ in range(repeats):
        drawn = world(rng, n_seeds, strength)
        ours = jackknife_interval(area_of(*drawn), (0, 1))
        won, pairs = (((counts @ table) * counts).sum(axis=1) for table in won_by_seed(*drawn))
        theirs = weighted_interval(won / np.where(pairs > 0, pairs, NAN), resamples.weights, 0.95)
        found += [ours.low > truth, ours.high < truth, theirs.low > truth, theirs.high < truth]
    return found / repeats * 100


@pytest.mark.parametrize("n_seeds", [2, 3, 8])
def test_noise_lies_above_and_below_one_half_as_often_as_it_should(n_seeds):
    # 2.5 % each way, with two seeds 3.5 %; the standard error of 400 repetitions is 0.8 %.
    above, below, *percentile = misses(n_seeds, 400, strength=0, truth=0.5)
    assert max(above, below) < 5.5
    assert max(above, below) < max(percentile)


@pytest.mark.parametrize(("n", "printed"), [(64, "40 %"), (250, "22 %"), (1000, "2.5 %")])
def test_falls_by_chance_are_as_frequent_as_the_documentation_says(n, printed):
    # Of three independent shares k/n at accuracy 1/2, one of the last two is lower than the first by 5 % of n or more.
    k = np.arange(n + 1)
    neither = stats.binom.sf(k - np.ceil(0.05 * n - 1e-9), n, 0.5) ** 2
    exact = float(stats.binom.pmf(k, n, 0.5) @ (1 - neither))
    events = drops_ahead(np.random.default_rng(n).binomial(n, 0.5, 40_000) / n, 2, 0.05)
    assert np.nanmean(events) == pytest.approx(exact, abs=0.01)
    assert f"{exact:.0%}" == printed.replace(" ", "") or f"{exact:.1%}" == printed.replace(" ", "")
    assert printed in PAGE.read_text()


@pytest.mark.slow
def test_the_coverage_in_the_documentation():
    number = r"([\d.]+)"
    row = rf"^\| (\d+) \| {number} / {number} \| {number} \| {number} / {number} \| {number} \|$"
    rows = re.findall(row, PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 5
    rng = np.random.default_rng(0)
    truth = np.mean([area_of(*world(rng, 400, 2)).value for _ in range(10)])
    for n_seeds, *printed in rows:
        noise, warning = misses(int(n_seeds), 1000, 0, 0.5), misses(int(n_seeds), 1000, 2, truth)
        measured = [*noise[:2], 100 - sum(warning[:2]), *noise[2:], 100 - sum(warning[2:])]
        assert [float(x) for x in printed] == pytest.approx(measured, abs=0.06), n_seeds
