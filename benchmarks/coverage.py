"""How often the 95 % intervals cover a known truth, and how often the trend tests raise a false alarm.

    python benchmarks/coverage.py [--repeats 2000] [--quick]

Goals: intervals cover 92 to 98 % at 5 and 10 seeds (at 3 the table says what they really do); the headline sees a
change in at most 5 % of data sets that have none, and says "fell" in at most 6 % of those that only move less; the set
of β to choose holds the best in at least 92 %. `--repeats` data sets per cell for means and false headlines, half as
many for power and problems, a quarter for sets of β, an eighth where a law is fitted to each. Prints Markdown tables,
as in docs/statistics.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from betastar.maths.choice import best_columns, problem_variance, spread_of_means, widened
from betastar.maths.conservatism import conservatism_law, definition_beta_star
from betastar.maths.intervals import (
    N_RESAMPLES,
    draws_interval,
    mean_draws,
    mean_limits,
    root_mean_square_interval,
    seed_mean,
    studentised_limits,
    weighted_quantiles,
)
from betastar.maths.power_law import first_above, fit_power_law, fit_power_laws
from betastar.maths.statistics import Interval, Resamples, seed_resamples, spearman_exact
from betastar.maths.trend import slope_within, spearman_within, trend_test
from betastar.randomness import numpy_generator

Array = NDArray[np.float64]
Sampler = Callable[[np.random.Generator, tuple[int, ...]], Array]

SEEDS = (3, 4, 5, 10)
LEVEL, LOW, HIGH = 0.05, 0.92, 0.98
POINTS, LAST_STEP, GAP_NOISE = 11, 40.0, 0.25
BETA = np.geomspace(0.05, 5.0, 5)
TRADE_OFF = 200.0
PROMISED_OF_CURVES = ("slope per tenfold β", "largest β minus smallest", "β★ (Eq. 15)")
N_DRAWS = 1000  # as in the summary of a run


class Truth(NamedTuple):
    """A distribution of one value per seed. `promised`: whether the goal is claimed for it."""

    name: str
    draw: Sampler
    mean: float | None  # None: measured on a large sample
    promised: bool


def augc(rng: np.random.Generator, drift: Array | float, shape: tuple[int, ...]) -> Array:
    """Areas under the positive part of gaps that drift to N(drift, 1) standard deviations, with noise at each point."""
    steps = np.linspace(0, 1, POINTS)
    end = rng.normal(drift, 1.0, shape)
    noise = rng.normal(0.0, GAP_NOISE, (*shape, POINTS)) * (steps > 0)
    return np.trapezoid(np.maximum(end[..., None] * steps + noise, 0), steps * LAST_STEP, axis=-1)


TRUTHS = (
    Truth("normal", lambda rng, shape: rng.normal(1, 1, shape), 1.0, True),
    Truth("heavy tails: t, 3 degrees of freedom", lambda rng, shape: rng.standard_t(3, shape), 0.0, True),
    Truth("skewed: χ², 4 degrees of freedom", lambda rng, shape: rng.chisquare(4, shape), 4.0, True),
    Truth("skewed: lognormal, σ 0.5", lambda rng, shape: rng.lognormal(0, 0.5, shape), float(np.exp(0.125)), True),
    Truth("AUGC, drift 1 ± 1", lambda rng, shape: augc(rng, 1.0, shape), None, True),
    Truth("AUGC, drift 0 ± 1", lambda rng, shape: augc(rng, 0.0, shape), None, True),
    Truth("AUGC, difference of the two", lambda rng, shape: augc(rng, 1.0, shape) - augc(rng, 0.0, shape), None, True),
    Truth("AUGC, drift −1 ± 1", lambda rng, shape: augc(rng, -1.0, shape), None, False),
    Truth("very skewed: lognormal, σ 1", lambda rng, shape: rng.lognormal(0, 1, shape), float(np.exp(0.5)), False),
    Truth("half zero, half Γ(4)", lambda rng, shape: (rng.random(shape) < 0.5) * rng.gamma(4, 1, shape), 2.0, False),
)


class Cell(NamedTuple):
    """Share of intervals that cover the truth, and their median width."""

    coverage: float
    width: float


def percentile_limits(values: Array, n_resamples: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """The plain percentile bootstrap of seeds, for comparison; `values` [N, n]."""
    resamples = seed_resamples(values.shape[1], rng, n_resamples)
    means = values @ resamples.counts.T / values.shape[1]
    low, high = weighted_quantiles(means, resamples.weights, (0.025, 0.975))
    return low, high


def true_mean(truth: Truth, rng: np.random.Generator) -> float:
    return truth.mean if truth.mean is not None else float(truth.draw(rng, (400_000,)).mean())


def mean_coverage(draw: Sampler, mean: float, n: int, repeats: int, rng: np.random.Generator) -> dict[str, Cell]:
    """Coverage of the mean over `n` seeds by method; `ours` is what `seed_mean` gives."""
    resamples = seed_resamples(n, rng, N_RESAMPLES)
    methods: Mapping[str, Callable[[Array], tuple[Array, Array]]] = {
        "percentile": lambda values: percentile_limits(values, N_RESAMPLES, rng),
        "t": lambda values: mean_limits(values, None),
        "ours": lambda values: mean_limits(values, resamples),
    }
    covered: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in methods}
    widths: dict[str, list[Array]] = {name: [] for name in methods}
    for start in range(0, repeats, 250):
        values = draw(rng, (min(250, repeats - start), n))
        spread = np.ptp(values, axis=1) > 0  # equal values get no interval
        for name, limits in methods.items():
            low, high = limits(values)
            covered[name].append(((low <= mean) & (mean <= high))[spread])
            widths[name].append((high - low)[spread])
    return {
        name: Cell(float(np.concatenate(covered[name]).mean()), float(np.median(np.concatenate(widths[name]))))
        for name in methods
    }


def hall_limits(values: Array) -> tuple[Array, Array]:
    """Hall's (1992) cubic transformation, which takes the skewness out, with Student's quantiles; `values` [N, n]."""
    n, mean = values.shape[1], values.mean(axis=1)
    deviation = values - mean[:, None]
    spread = np.sqrt((deviation**2).mean(axis=1))
    skewness = (deviation**3).mean(axis=1) / spread**3
    skewness = np.where(np.abs(skewness) < 1e-6, 1e-6, skewness)
    reach = stats.t.ppf(1 - LEVEL / 2, n - 1) / np.sqrt(n - 1)

    def inverse(x: float) -> Array:
        return 3 / skewness * (np.cbrt(1 + skewness * (x - skewness / (6 * n))) - 1)

    return mean - spread * inverse(reach), mean - spread * inverse(-reach)


def bca_limits(values: Array, resamples: Resamples) -> tuple[Array, Array]:
    """The bias-corrected and accelerated bootstrap (Efron 1987); `values` [N, n]."""
    mean = values.mean(axis=1)
    deviation = values - mean[:, None]
    acceleration = (deviation**3).sum(axis=1) / (6 * (deviation**2).sum(axis=1) ** 1.5)
    means = values @ resamples.counts.T / values.shape[1]
    tie = np.abs(means - mean[:, None]) <= 1e-12
    below = ((means < mean[:, None]) & ~tie) @ resamples.weights + tie @ resamples.weights / 2
    bias = stats.norm.ppf(below)
    order = np.argsort(means, axis=1)
    cumulated, ordered = np.cumsum(resamples.weights[order], axis=1), np.take_along_axis(means, order, axis=1)
    found = []
    for z in stats.norm.ppf([LEVEL / 2, 1 - LEVEL / 2]):
        level = stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        place = np.minimum((cumulated < level[:, None] - 1e-12).sum(axis=1), means.shape[1] - 1)
        found.append(np.take_along_axis(ordered, place[:, None], axis=1)[:, 0])
    return found[0], found[1]


def print_alternatives(repeats: int) -> None:
    """Ways to an interval of a mean: coverage, and the 95th percentile of its width against that of Student's t."""
    print(f"### Alternatives for means: coverage in %, 95th percentile of width/width of t; {repeats} data sets\n")
    rng, rows, columns = numpy_generator(0, "alternatives"), [], []
    for truth in TRUTHS:
        mean = true_mean(truth, rng)
        for n in (3, 5, 10):
            resamples = seed_resamples(n, rng, N_RESAMPLES)
            values = truth.draw(rng, (repeats, n))
            values = values[np.ptp(values, axis=1) > 0]
            methods: Mapping[str, Callable[[Array], tuple[Array, Array]]] = {
                "t": lambda some: mean_limits(some, None),
                "studentised, floor 0.1": lambda some: studentised_limits(some, resamples, 0.1),  # noqa: B023
                "floor 0.25": lambda some: studentised_limits(some, resamples, 0.25),  # noqa: B023
                "floor 0.4": lambda some: studentised_limits(some, resamples, 0.4),  # noqa: B023
                "Hall": hall_limits,
                "BCa": lambda some: bca_limits(some, resamples),  # noqa: B023
            }
            columns = list(methods)
            pieces = [values[i : i + 250] for i in range(0, len(values), 250)]
            found = {
                name: np.concatenate([np.stack(limits(piece)) for piece in pieces], axis=1)
                for name, limits in methods.items()
            }
            width = {name: high - low for name, (low, high) in found.items()}
            cells = [
                f"{percent(float(((low <= mean) & (mean <= high)).mean()))}, "
                f"{np.quantile(width[name] / width['t'], 0.95):.1f}"
                for name, (low, high) in found.items()
            ]
            rows.append([truth.name, str(n), *cells])
    print_table(["truth", "seeds", *columns], rows)


class Curves(NamedTuple):
    """Tables [S, B] of AUGC at BETA whose mean over seeds is `mean` [B]."""

    name: str
    draw: Callable[[np.random.Generator, int], Array]
    mean: Array


def curves(rng: np.random.Generator) -> tuple[Curves, ...]:
    """What a variant's AUGC may look like: seeds share noise across β, damage rises with β."""
    law = 20 + 10 * BETA**1.2
    drift = 0.7 + 0.3 * BETA

    def normal(rng: np.random.Generator, n: int) -> Array:
        return np.maximum(law + rng.normal(0, 6, (n, 1)) + rng.normal(0, 5, (n, BETA.size)), 0)

    def skewed(rng: np.random.Generator, n: int) -> Array:
        shared, own = rng.normal(0, 0.3, (n, 1)), rng.normal(0, 0.3, (n, BETA.size))
        return law * np.exp(shared + own - 0.3**2)

    def areas(rng: np.random.Generator, n: int) -> Array:
        return augc(rng, drift + rng.normal(0, 0.5, (n, 1)), (n, BETA.size))

    return (
        Curves("law with normal noise", normal, law),
        Curves("law with lognormal noise, σ 0.42", skewed, law),
        Curves("AUGC, drift 0.7 + 0.3 β, ± 1", areas, areas(rng, 200_000).mean(axis=0)),
    )


def curve_coverage(truth: Curves, n: int, repeats: int, rng: np.random.Generator) -> dict[str, tuple[float, int]]:
    """Coverage, and the number of intervals given, of every statistic of a curve over β from `n` seeds."""
    law, step = fit_power_laws(BETA, truth.mean[None]), float(truth.mean[-1] - truth.mean[0])
    alignment = 0.5 + 0.2 * np.tanh(BETA)
    resamples = seed_resamples(n, rng, N_RESAMPLES)
    true_star = float(first_above(law, BETA, "beta_min")[0])
    within = float(np.nanmean(spearman_within(truth.draw(rng, 50_000))))
    hits: dict[str, list[bool]] = {}

    def note(name: str, interval: Interval, value: float) -> None:
        hits.setdefault(name, [])
        if not np.isnan(interval.low):
            hits[name].append(bool(interval.low <= value <= interval.high))

    for _ in range(repeats):
        table = truth.draw(rng, n)
        for name, values, value in (
            ("slope per tenfold β", slope_within(BETA, table), float(slope_within(BETA, truth.mean[None])[0])),
            ("largest β minus smallest", table[:, -1] - table[:, 0], step),
            ("mean ρ within seeds", spearman_within(table), within),
        ):
            if np.ptp(values) > 1e-12:
                low, high = mean_limits(values, resamples)
                note(name, Interval(float(low), float(high)), value)
        draws = mean_draws(table, rng, N_DRAWS)
        laws = fit_power_laws(BETA, np.maximum(draws, 0))
        star = draws_interval(first_above(laws, BETA, "beta_min"))
        note("β★ (Eq. 15)", star, true_star)
        note(
            "β★, grid reference",
            draws_interval(first_above(laws, BETA, "grid")),
            float(first_above(law, BETA, "grid")[0]),
        )
        if conservatism_law(BETA, table, rng=rng, n_draws=1).beta_star["beta_min"].status == "estimate":
            note("β★ (Eq. 15), only where one is given", star, true_star)
        note("exponent b", draws_interval(laws.b), float(law.b[0]))
        chosen = definition_beta_star(BETA, table, np.tile(alignment, (n, 1)), TRADE_OFF, rng=rng).interval
        note("β★ by Def. 6.1", chosen, float(BETA[(truth.mean - TRADE_OFF * alignment).argmin()]))
        note("not used: percentile bootstrap of β★", percentile_star(table, rng), true_star)
        rank = draws_interval(spearman_within(draws))
        note("not used: draws of ρ(β, mean AUGC)", rank, float(spearman_within(truth.mean[None])[0]))
    return {name: (float(np.mean(found)) if found else np.nan, len(found)) for name, found in hits.items()}


def percentile_star(table: Array, rng: np.random.Generator) -> Interval:
    """The percentile bootstrap of β★ over seeds, for comparison."""
    draws, weights = seed_resamples(len(table), rng, 500)
    values = first_above(fit_power_laws(BETA, table[draws].mean(axis=1)), BETA, "beta_min")
    low, high = weighted_quantiles(np.nan_to_num(values, nan=np.inf), weights, (0.025, 0.975))
    return Interval(float(low), float(high))


NULLS: Mapping[str, Callable[[np.random.Generator, int, int], Array]] = {
    "seeds differ, β do not": lambda rng, s, b: rng.normal(0, 1, (s, 1)) + rng.normal(0, 1, (s, b)),
    "AUGC with ties at 0": lambda rng, s, b: augc(rng, rng.normal(-1, 1, (s, 1)), (s, b)),
    "slopes differ between seeds": lambda rng, s, b: (
        rng.normal(0, 1, (s, 1)) * np.linspace(-1, 1, b) + rng.normal(size=(s, b))
    ),
    "spread grows twofold with β": lambda rng, s, b: rng.normal(0, np.geomspace(1, 2, b), (s, b)),
    "spread grows fivefold with β": lambda rng, s, b: rng.normal(0, np.geomspace(1, 5, b), (s, b)),
    "spread falls fivefold with β": lambda rng, s, b: rng.normal(0, np.geomspace(5, 1, b), (s, b)),
}
PROMISED_NULLS = [name for name in NULLS if not name.startswith("slopes differ")]


def rejections(draw: Callable[[], Array], repeats: int) -> dict[str, float]:
    """Share of data sets [S, B] in which each trend test has p ≤ 0.05."""
    found = dict.fromkeys(("ρ >", "ρ two-sided", "Page >", "Page two-sided", "headline", "ρ or Page"), 0)
    for _ in range(repeats):
        table = draw()
        trend = trend_test(table)
        rank, page = spearman_exact(range(table.shape[1]), table.mean(axis=0)), trend.page
        found["ρ >"] += rank.p_greater <= LEVEL
        found["ρ two-sided"] += rank.p_two_sided <= LEVEL
        found["Page >"] += page.p_greater <= LEVEL
        found["Page two-sided"] += page.p_two_sided <= LEVEL
        found["headline"] += trend.p_two_sided <= LEVEL
        found["ρ or Page"] += min(rank.p_two_sided, page.p_two_sided) <= LEVEL
    return {name: count / repeats for name, count in found.items()}


def law_given(draw: Callable[[], Array], repeats: int) -> float:
    """Share of data sets [S, B] in which the power law beats a constant, so that a β★ may be given."""
    beta = np.geomspace(0.05, 5, draw().shape[1])
    tables = [draw() for _ in range(repeats)]
    return float(np.mean([fit_power_law(np.tile(beta, len(t)), t.ravel()).beats_constant is True for t in tables]))


def noise_coverage(n_seeds: int, n_beta: int, correlation: float, repeats: int, rng: np.random.Generator) -> float:
    """Coverage of the instrument noise's standard deviation, for A/A gaps correlated within a seed."""
    hits = []
    for _ in range(repeats):
        shared, own = rng.normal(size=(n_seeds, 1)), rng.normal(size=(n_seeds, n_beta))
        interval = root_mean_square_interval(list(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own))
        hits.append(interval.low <= 1 <= interval.high)
    return float(np.mean(hits))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("| " + " | ".join(columns) + " |")
    print("| " + " | ".join("---" for _ in columns) + " |")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.1f}"


def in_band(coverage: float, repeats: int) -> bool:
    """Whether a coverage measured on so many data sets agrees with 92 to 98 %: within three standard errors of it."""
    return LOW - 3 * standard_error(LOW, repeats) <= coverage <= HIGH + 3 * standard_error(HIGH, repeats)


def standard_error(share: float, repeats: int) -> float:
    return float(np.sqrt(share * (1 - share) / repeats)) if repeats else float("nan")


def print_means(repeats: int, rng: np.random.Generator) -> list[str]:
    print(f"### Mean over seeds: coverage in %, {repeats} data sets per cell\n")
    rows, missed = [], []
    for truth in TRUTHS:
        mean = true_mean(truth, rng)
        cells = {n: mean_coverage(truth.draw, mean, n, repeats, rng) for n in SEEDS}
        rows.append(
            [truth.name + ("" if truth.promised else " (not promised)")]
            + [" / ".join(percent(cells[n][m].coverage) for m in ("percentile", "t", "ours")) for n in SEEDS]
            + [f"{cells[5]['ours'].width / cells[5]['t'].width:.2f}"]
        )
        if truth.promised:
            missed += [
                f"mean, {truth.name}, {n} seeds" for n in (5, 10) if not in_band(cells[n]["ours"].coverage, repeats)
            ]
    columns = ["truth", *(f"{n} seeds: percentile / t / ours" for n in SEEDS), "width at 5, × t"]
    print_table(columns, rows)
    return missed


def print_curves(repeats: int, rng: np.random.Generator) -> list[str]:
    missed = []
    for truth in curves(rng):
        print(f"### Statistics of a curve over {BETA.size} β, {truth.name}: coverage in % (of n intervals given)\n")
        cells = {n: curve_coverage(truth, n, repeats, rng) for n in (3, 5, 10)}
        names = list(dict.fromkeys(name for found in cells.values() for name in found))
        found = {name: [cells[n].get(name, (np.nan, 0)) for n in cells] for name in names}
        rows = [[name, *(f"{percent(share)} ({count})" for share, count in found[name])] for name in names]
        print_table(["statistic", *(f"{n} seeds" for n in cells)], rows)
        for name in PROMISED_OF_CURVES:
            missed += [
                f"{name}, {truth.name}, {n} seeds" for n in (5, 10) if not in_band(*cells[n].get(name, (np.nan, 0)))
            ]
    return missed


def print_noise(repeats: int, rng: np.random.Generator) -> None:
    print(f"### Instrument noise, 5 β: coverage in %, {repeats} data sets per cell\n")
    rows = [
        [f"{r:g}", *(percent(noise_coverage(n, 5, r, repeats, rng)) for n in (3, 5, 10))] for r in (0.0, 0.25, 0.5, 0.9)
    ]
    print_table(["correlation within seeds", "3 seeds", "5 seeds", "10 seeds"], rows)


def print_false_alarms(repeats: int, rng: np.random.Generator) -> list[str]:
    print(f"### False alarms in %, level 5 %, {repeats} data sets per cell\n")
    rows, missed, found = [], [], {}
    most = LEVEL + 3 * standard_error(LEVEL, repeats)
    for name, draw in NULLS.items():
        for seeds in (3, 5, 10):
            for betas in (3, 5, 7):
                found = rejections(lambda: draw(rng, seeds, betas), repeats)  # noqa: B023 (called at once)
                rows.append([name, str(seeds), str(betas), *map(percent, found.values())])
                if name in PROMISED_NULLS and found["headline"] > most:
                    missed.append(f"headline, {name}, {seeds} seeds, {betas} β")
    print_table(["truth", "seeds", "β", *found], rows)
    return missed


MOVEMENT = 10.0
"""How much less a policy moves at the largest β than at the smallest, in the check of M6."""


def shrinking(rng: np.random.Generator, seeds: int, betas: int) -> tuple[Array, Array]:
    """Signed and positive areas [S, B] of gaps that wander like N(0, m²) by the end, m falling tenfold over β."""
    steps = np.linspace(0, 1, POINTS)
    move = np.geomspace(MOVEMENT, 1, betas)
    wander = rng.normal(size=(seeds, betas, POINTS)) * (steps > 0) / np.sqrt(POINTS - 1)
    gaps = wander.cumsum(axis=-1) * move[:, None] + rng.normal(0, GAP_NOISE, (seeds, betas, POINTS)) * (steps > 0)
    at = steps * LAST_STEP
    return np.trapezoid(gaps, at, axis=-1), np.trapezoid(np.maximum(gaps, 0), at, axis=-1)


def falls(seeds: int, betas: int, repeats: int, rng: np.random.Generator) -> dict[str, float]:
    """Share of data sets of `shrinking` movement of which "fell" is said: of the signed area, of the positive area
    alone, and of the positive area where the signed one has to fall too, as in a decision."""
    found = dict.fromkeys(("signed area", "positive area alone", "positive area, guarded"), 0)
    for _ in range(repeats):
        signed, positive = (trend_test(table) for table in shrinking(rng, seeds, betas))
        fell = positive.p_two_sided <= LEVEL and positive.p_less < positive.p_greater
        found["signed area"] += signed.p_two_sided <= LEVEL and signed.p_less < signed.p_greater
        found["positive area alone"] += fell
        found["positive area, guarded"] += fell and signed.p_less <= LEVEL / 2
    return {name: count / repeats for name, count in found.items()}


def print_shrinking(repeats: int, rng: np.random.Generator) -> list[str]:
    print(f'### "fell" in %, gap of mean 0 that moves {MOVEMENT:g} times less at the largest β; {repeats} data sets\n')
    rows, missed, found = [], [], {}
    for seeds in (3, 5, 10):
        for betas in (3, 5, 7):
            found = falls(seeds, betas, repeats, rng)
            rows.append([str(seeds), str(betas), *map(percent, found.values())])
            for name in ("signed area", "positive area, guarded"):
                if found[name] > 0.06 + 2 * standard_error(0.06, repeats):
                    missed.append(f'"fell", {name}, {seeds} seeds, {betas} β')
    print_table(["seeds", "β", *found], rows)
    return missed


CHOICES: Mapping[str, Callable[[int], tuple[Array, Array]]] = {
    # means (the best is the last) and spreads by number of β
    "all equal": lambda b: (np.linspace(0, 1e-9, b), np.ones(b)),
    "all equal, spread grows fivefold": lambda b: (np.linspace(0, 1e-9, b), np.geomspace(1.0, 5.0, b)),
    "the last better by 1 sd": lambda b: (np.where(np.arange(b) == b - 1, 1.0, 0.0), np.ones(b)),
    "rises by 3 sd": lambda b: (np.linspace(0, 3, b), np.ones(b)),
}


def choice_coverage(shape: str, seeds: int, betas: int, repeats: int, rng: np.random.Generator) -> tuple[float, ...]:
    """Share of data sets whose set holds the best β, its mean size, and coverage of the range over β."""
    means, spread = CHOICES[shape](betas)
    kept, size, covered = 0, 0, 0
    for _ in range(repeats):
        table = means + rng.normal(size=(seeds, betas)) * spread + rng.normal(size=(seeds, 1))
        candidates, (_, interval) = best_columns(table).candidates, spread_of_means(table)
        kept, size = kept + bool(candidates[-1]), size + int(candidates.sum())
        covered += interval.low <= np.ptp(means) <= interval.high
    return kept / repeats, size / repeats, covered / repeats


def print_choices(repeats: int, rng: np.random.Generator) -> list[str]:
    print(f"### The set holds the best β, % (mean size); range over β covered, %; {repeats} data sets per cell\n")
    rows, missed = [], []
    for shape in CHOICES:
        for betas in (3, 5, 7):
            cells = [choice_coverage(shape, seeds, betas, repeats, rng) for seeds in (3, 5, 10)]
            rows.append([shape, str(betas), *(f"{percent(k)} ({n:.1f}); {percent(c)}" for k, n, c in cells)])
            for seeds, (kept, _, covered) in zip((3, 5, 10), cells, strict=True):
                if min(kept, covered) < LOW - 3 * standard_error(LOW, repeats):
                    missed.append(f"choice, {shape}, {seeds} seeds, {betas} β")
    print_table(["truth", "β", "3 seeds", "5 seeds", "10 seeds"], rows)
    return missed


PROBLEMS: Mapping[str, tuple[float, float]] = {
    # standard deviations of seeds and of problems; each answer's own is 4, over 100 problems
    "seeds only": (1.0, 0.0),
    "both alike": (0.5, 5.0),
    "problems only": (0.0, 5.0),
}


def two_way_coverage(kind: str, seeds: int, repeats: int, rng: np.random.Generator) -> tuple[float, float]:
    """Coverage of the mean over seeds and problems, by the two-way interval and by that over seeds alone."""
    of_seeds, of_problems = PROBLEMS[kind]
    both = alone = 0
    for _ in range(repeats):
        table = (
            rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, of_problems, (1, 100)) + rng.normal(0, 4, (seeds, 100))
        )
        mean = seed_mean(table.mean(axis=1))
        wide = widened(mean.interval, mean.mean, *problem_variance(table))
        both += wide.low <= 0 <= wide.high
        alone += mean.interval.low <= 0 <= mean.interval.high
    return both / repeats, alone / repeats


def print_two_way(repeats: int, rng: np.random.Generator) -> list[str]:
    print(f"### Seeds and problems drawn anew: coverage in %, two-way / seeds alone; {repeats} data sets per cell\n")
    rows, missed = [], []
    for kind in PROBLEMS:
        cells = [two_way_coverage(kind, seeds, repeats, rng) for seeds in SEEDS]
        rows.append([kind, *(f"{percent(both)} / {percent(alone)}" for both, alone in cells)])
        for seeds, (both, _) in zip(SEEDS, cells, strict=True):
            if both < LOW - 3 * standard_error(LOW, repeats):
                missed.append(f"two-way, {kind}, {seeds} seeds")
    print_table(["chance", *(f"{n} seeds" for n in SEEDS)], rows)
    return missed


REFERENCE = ((3, 5, 2, 56), (3, 7, 2, 80), (5, 5, 2, 82), (5, 7, 2, 95), (10, 7, 1, 79), (5, 3, 3, 92), (3, 5, 3, 91))
"""Seeds, β, rise in residual sd, and the share of headlines that said "rose" in an audit of an earlier version, whose
headline was the OR of ρ and Page."""


def print_power(repeats: int, rng: np.random.Generator) -> None:
    few = max(repeats // 10, 20)
    print(f"### Power in %: a rise in residual standard deviations, evenly in log β; {repeats} data sets per cell\n")
    rows = []
    found: dict[str, float] = {}
    cells: dict[tuple[int, int, int], int | None] = {(s, b, 2): None for s in (3, 5, 10) for b in (3, 5, 7)}
    cells |= {(s, b, e): p for s, b, e, p in REFERENCE}
    for (seeds, betas, rise), audit in cells.items():

        def draw(rise: float, seeds: int = seeds, betas: int = betas) -> Array:
            return 20 + np.linspace(0, rise, betas) + NULLS["seeds differ, β do not"](rng, seeds, betas)

        found = rejections(lambda: draw(rise), repeats)  # noqa: B023 (called at once)
        given = [percent(law_given(lambda: draw(e), few)) for e in (rise, 0.0)]  # noqa: B023
        told = "" if audit is None else str(audit)
        rows.append([str(seeds), str(betas), f"{rise:g}", *map(percent, found.values()), told, *given])
    columns = [
        "seeds",
        "β",
        "rise",
        *found,
        "audit",
        f"law beats a constant ({few})",
        f"the same without a rise ({few})",
    ]
    print_table(columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="a tenth of the repeats")
    arguments = parser.parse_args()
    repeats = arguments.repeats // (10 if arguments.quick else 1)
    rng, started = numpy_generator(0, "coverage"), time.process_time()
    print_alternatives(repeats // 2)
    missed = print_means(repeats, rng)
    missed += print_curves(max(repeats // 8, 20), rng)
    print_noise(repeats, rng)
    missed += print_false_alarms(repeats, rng)
    missed += print_shrinking(repeats // 2, rng)
    missed += print_choices(repeats // 4, rng)
    missed += print_two_way(repeats // 2, rng)
    print_power(repeats // 2, rng)
    print("\n".join(f"MISSED: {goal}" for goal in missed) or "All goals met.")
    print(f"{time.process_time() - started:.0f} s of one core")


if __name__ == "__main__":
    main()
