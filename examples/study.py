"""The study's tables and figures from the records of its runs (docs/study/).

    python examples/study.py main MICRO_RUN OUT                  # H1 to H4, H6 and the sensitivity table
    python examples/study.py styles OUT STYLE=RUN STYLE=RUN …    # H7
    python examples/study.py pairs OUT PROMPTS=RUN PROMPTS=RUN …  # H8
    python examples/study.py choices OUT NAME=RUN NAME=RUN …     # the sign under other settings
    python examples/study.py objectives RUN OUT                  # H5
    python examples/study.py against RUN OUT BASELINE            # every variant against one

Each prints Markdown and writes its figures, if it has any, as .svg into OUT. Every number is computed from the records;
slopes are per tenfold β (or strength), within seeds, with 95 % intervals over whole seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd

import betastar as bs
from betastar.experiment.proxy import cost
from betastar.maths.gao import at_distance
from betastar.maths.trend import holm, slope_within
from betastar.settings.config import load_config


def slopes(frame: pd.DataFrame, value: str) -> np.ndarray:
    """For each seed that has every β, the least-squares slope of `value` over log10 β."""
    table = frame.pivot_table(value, "seed", "beta", dropna=False).dropna()
    return slope_within(table.columns, table) if len(table) else np.array([])


def mean_of(values: np.ndarray) -> tuple[float, float, float, float]:
    """Mean over seeds, its 95 % interval and the two-sided p of zero, by Student's t."""
    from scipy import stats

    values = values[np.isfinite(values)]
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
    half = stats.t.ppf(0.975, len(values) - 1) * error
    return mean, mean - half, mean + half, float(stats.ttest_1samp(values, 0).pvalue)


def interval(mean: float, low: float, high: float, digits: int = 1) -> str:
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]".replace("-", "−")


def p_text(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def seed_mean(entry: dict[str, Any], digits: int = 1) -> str:
    if entry["mean"] is None:
        return f"– ({entry['reason']})"
    if entry["interval"]["low"] is None:
        return f"{entry['mean']:+.{digits}f} ({entry['interval']['reason']})".replace("-", "−")
    return interval(entry["mean"], entry["interval"]["low"], entry["interval"]["high"], digits)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    head = list(rows[0])
    print(f"| {' | '.join(head)} |\n| {' | '.join(['---'] * len(head))} |")
    for row in rows:
        print(f"| {' | '.join(str(row[name]) for name in head)} |")
    print()


def by_beta(results: bs.Results) -> list[dict[str, Any]]:
    rows = []
    for (variant, beta), group in results.conditions.groupby(["variant", "beta"], sort=True):
        points = results.points[(results.points.variant == variant) & (results.points.beta == beta)]
        start, end = (points[points.step == step] for step in (points.step.min(), points.step.max()))
        verdicts = ", ".join(f"{name} {n}" for name, n in group.verdict.value_counts().items())
        rows.append(
            {
                "variant": variant,
                "β": f"{beta:.3g}",
                "√KL from base, start": f"{np.sqrt(start.kl_base.clip(lower=0)).mean():.2f}",
                "end": f"{np.sqrt(end.kl_base.clip(lower=0)).mean():.2f}",
                "truth, start": f"{start.true_strict.mean():.2f}",
                "end ": f"{end.true_strict.mean():.2f}",
                "regret, points": interval(*mean_of(group.regret.to_numpy(float))[:3]),
                "proxy rise, sd": f"{group.proxy_standardised_rise.mean():.2f}",
                "verdicts": verdicts,
            }
        )
    return rows


def answers(results: bs.Results) -> list[dict[str, Any]]:
    """The primary test of every variant, as the record has it."""
    rows = []
    for variant, decision in results.record["decision"].items():
        effect, test = decision["effect"], decision["test"]
        rows.append(
            {
                "variant": variant,
                f"{decision['measure']}, points per tenfold": seed_mean(effect["slope"]),
                "p (Holm)": p_text(test["p_holm"]),
                "damage": decision["damage"] or "no change found",
                "against ± 5": effect["relevance"],
            }
        )
    return rows


def matched(results: bs.Results) -> list[dict[str, Any]]:
    rows = []
    for variant, distance in results.record["distance"].items():
        for origin, found in distance["matched"].items():
            if found["reason"] and found["truth"]["matched"]["mean"] is None:
                rows.append(
                    {"variant": variant, "from": origin, "√KL": "–", "truth": found["reason"], "explained": "–"}
                )
                continue
            rows.append(
                {
                    "variant": variant,
                    "from": origin.replace("from_", ""),
                    "√KL": f"{found['low']:.2f} to {found['high']:.2f}",
                    "truth": seed_mean(found["truth"]["matched"]),
                    "explained": seed_mean(found["truth"]["explained"]),
                }
            )
    return rows


def chain(results: bs.Results) -> list[dict[str, Any]]:
    """Of the checkpoints, which all variants share."""
    points = results.points
    start = points[(points.step == 0) & (points.variant == points.variant.iloc[0])]
    named = {
        "policy_entropy": ("policy entropy, nats", 3),
        "prompt_diversity": ("diversity within a prompt", 3),
        "disagreement_centred": ("û, centred", 3),
    }
    measures = {name: words for name, words in named.items() if start[name].notna().all()}
    found = {name: mean_of(slopes(start, name)) for name in measures}
    adjusted = holm([found[name][3] for name in measures])
    return [
        {"measure at step 0": words, "per tenfold β": interval(*found[name][:3], digits), "p (Holm)": p_text(p)}
        for (name, (words, digits)), p in zip(measures.items(), adjusted, strict=True)
    ]


def sensitivity(results: bs.Results) -> list[dict[str, Any]]:
    """The slope over β under other choices: a positive one of a loss says that damage rises with β."""
    choices = {
        "regret (primary), points": ("regret", 1, 1),
        "truth lost from start to end, points": ("end_change", -1, 1),
        "the same by the lenient grade, points": ("end_change_lenient", -1, 1),
        "mean loss below the start, points": ("points_lost", 1, 1),
        "AUGC, common scale": ("augc_common", 1, 2),
        "AUGC, standardised": ("augc_standardised", 1, 2),
        "AUGC, the paper's": ("augc_paper", 1, 2),
        "truth missing for the proxy's rise, sd": ("gap_adjusted_end", 1, 2),
    }
    rows = []
    for words, (name, sign, digits) in choices.items():
        row = {"damage by": words}
        for variant, group in results.conditions.groupby("variant", sort=False):
            row[str(variant)] = signed(sign * slopes(group, name), digits)
        rows.append(row)
    return rows


def signed(values: np.ndarray, digits: int = 1) -> str:
    """The mean slope of a damage with its interval, and the way it goes where that excludes zero; a dash for a measure
    that fewer than two seeds have at every β."""
    if np.isfinite(values).sum() < 2:
        return "–"
    mean, low, high, _ = mean_of(values)
    way = "rises" if low > 0 else "falls" if high < 0 else "–"
    return f"{interval(mean, low, high, digits)} {way}"


def figure(results: bs.Results, out: Path) -> None:
    """Truth over steps by β, and regret over β, by variant."""
    scale = alt.Scale(type="log", scheme="viridis")
    points = results.points.groupby(["variant", "beta", "step"], as_index=False).true_strict.mean()
    lines = (
        alt.Chart(points)
        .mark_line()
        .encode(
            x=alt.X("step:Q", title="online step"),
            y=alt.Y("true_strict:Q", title="true reward"),
            color=alt.Color("beta:Q", scale=scale, title="β", legend=alt.Legend(format=".2g")),
            detail="beta:N",
        )
        .properties(width=170, height=130)
        .facet(column=alt.Column("variant:N", title=None))
    )
    rows = []
    for (variant, beta), group in results.conditions.groupby(["variant", "beta"]):
        mean, low, high, _ = mean_of(group.regret.to_numpy(float))
        low, high = max(low, -100), min(high, 100)  # points: no regret is larger, whatever Student says of two seeds
        rows.append({"variant": variant, "beta": beta, "mean": mean, "low": low, "high": high})
    base = alt.Chart(pd.DataFrame(rows)).encode(x=alt.X("beta:Q", scale=alt.Scale(type="log"), title="β"))
    bars = (
        alt.layer(
            base.mark_rule().encode(y=alt.Y("low:Q", title="regret, points"), y2="high:Q"),
            base.mark_line(point=True).encode(y="mean:Q"),
        )
        .properties(width=170, height=130)
        .facet(column=alt.Column("variant:N", title=None))
    )
    (lines & bars).save(out)


def main_run(folder: str, out: Path) -> None:
    results = bs.load(folder)
    diverged = results.conditions.verdict.isna().sum()
    print(f"{len(results.conditions)} conditions, {diverged} of them without a verdict.\n")
    print_table(answers(results))
    print_table(by_beta(results))
    print_table(matched(results))
    print_table(chain(results))
    print_table(sensitivity(results))
    figure(results, out / f"{results.record['name'].replace('-', '_')}.svg")


class Factor(NamedTuple):
    """What differs between runs: its name, the words for an effect of it, its axis, and what an effect is a slope
    over."""

    name: str
    per: str
    axis: str
    scale: Callable[[Any], Any]


STYLE = Factor("style", "per unit of style", "weight of style in the annotator's score", np.asarray)
PAIRS = Factor("prompts", "per tenfold prompts", "prompts of preference pairs", np.log10)
FACTORS = {"styles": STYLE, "pairs": PAIRS}


def by_factor(factor: Factor, runs: Sequence[str], out: Path) -> None:
    """Whether regret at the smallest β, and its slope over β, depend on what differs between runs `NUMBER=RUN`."""
    loaded = {float(name): bs.load(folder) for name, folder in (run.split("=", 1) for run in runs)}
    tests, cells, frames = [], [], []
    keep = ("variant", "β", "truth, start", "end ", "regret, points", "proxy rise, sd", "verdicts")
    for value, results in sorted(loaded.items()):
        tests += [{factor.name: f"{value:g}", **row} for row in answers(results)]
        cells += [{factor.name: f"{value:g}", **{name: row[name] for name in keep}} for row in by_beta(results)]
        frames.append(results.conditions.assign(factor=value))
    print_table(tests)
    print_table(cells)
    every = pd.concat(frames)
    found = []
    for variant, group in every.groupby("variant", sort=False):
        low = group[group.beta == group.beta.min()].rename(columns={"beta": "was"})
        table = low.pivot_table("regret", "seed", "factor").dropna()
        at_low = np.polyfit(factor.scale(table.columns.to_numpy(float)), table.to_numpy(float).T, 1)[0]
        per_value = {value: slopes(of, "regret") for value, of in group.groupby("factor")}
        of_slope = np.polyfit(factor.scale(list(per_value)), np.array(list(per_value.values())), 1)[0]
        found.append((str(variant), mean_of(at_low), mean_of(of_slope)))
    for variant, *tests in found:
        ps = holm([test[3] for test in tests])
        print_table(
            [
                {"variant": variant, factor.per: words, "change": interval(*test[:3]), "p (Holm)": p_text(p)}
                for words, test, p in zip(
                    ("regret at the smallest β, points", "slope of regret over β, points per tenfold β"),
                    tests,
                    ps,
                    strict=True,
                )
            ]
        )
    drawn = []
    for (variant, beta, value), group in every.groupby(["variant", "beta", "factor"]):
        mean, low, high, _ = mean_of(group.regret.to_numpy(float))
        drawn.append({"variant": variant, "beta": beta, "factor": value, "mean": mean, "low": low, "high": high})
    base = alt.Chart(pd.DataFrame(drawn)).encode(
        x=alt.X("factor:O", title=factor.axis, axis=alt.Axis(labelAngle=0)),
        xOffset="beta:N",
        color=alt.Color("beta:N", title="β"),
    )
    points = base.mark_point(filled=True).encode(y=alt.Y("mean:Q", title="regret, points"))
    bars = base.mark_rule().encode(y="low:Q", y2="high:Q")
    chart = (points + bars).properties(width=220, height=140).facet(column=alt.Column("variant:N", title=None))
    chart.save(out / f"study_{factor.name}.svg")


def choices(runs: Sequence[str]) -> None:
    """One row per run: regret, its mean over β and seeds and its slope per tenfold β, of the two couplings."""
    rows = []
    for name, folder in (run.split("=", 1) for run in runs):
        row = {"setting": name}
        for variant, group in bs.load(folder).conditions.groupby("variant", sort=False):
            if variant in ("paper", "fixed"):
                row[f"`{variant}`: regret"] = f"{group.regret.mean():+.1f}".replace("-", "−")
                row[f"`{variant}`: per tenfold β"] = signed(slopes(group, "regret"))
        rows.append(row)
    print_table(rows)


def slope_over(x: np.ndarray, y: np.ndarray) -> float:
    """Least-squares slope of y over x; NaN where fewer than two x are distinct, or a y is not known."""
    return float(np.polyfit(x, y, 1)[0]) if len(set(x)) > 1 and np.isfinite([x, y]).all() else np.nan


def objectives(folder: str, out: Path) -> None:
    results = bs.load(folder)
    print_table(answers(results))
    print_table(by_beta(results))
    first = results.points[results.points.step == 0]
    per_seed = results.conditions.merge(
        first.assign(distance=np.sqrt(first.kl_base.clip(lower=0)))[["variant", "beta", "seed", "distance"]]
    )
    rows = []
    for variant, group in per_seed.groupby("variant"):
        steepness = np.array(
            [slope_over(of.distance.to_numpy(float), of.regret.to_numpy(float)) for _, of in group.groupby("seed")]
        )
        distances = group.groupby("beta").distance.mean()
        rows.append(
            {
                "objective": variant,
                "√KL of checkpoints": f"{distances.min():.2f} to {distances.max():.2f}",
                "regret, points per √nat": interval(*mean_of(steepness)[:3]),
            }
        )
    print_table(rows)
    table = per_seed.groupby(["variant", "beta"], as_index=False)[["distance", "regret"]].mean()
    chart = (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=alt.X("distance:Q", title="√KL of the checkpoint from the base"),
            y=alt.Y("regret:Q", title="regret, points"),
            color=alt.Color("variant:N", title="objective"),
        )
        .properties(width=320, height=200)
    )
    chart.save(out / "study_objectives.svg")


def crossing(points: pd.DataFrame, along: str, level: float) -> float:
    """Truth where `along` first reaches `level`."""
    return float(at_distance(points[along], points.true_strict, [level])[0])


def scoring_passes(folder: str) -> dict[str, float]:
    """Reward-model passes for each response trained on, by variant."""
    config = load_config(str(Path(folder) / "config.yaml"))
    return {name: cost(config.variant(name).proxy, config.rewards.members) for name in config.variants}


def against(folder: str, out: Path, baseline: str) -> None:
    """Every variant minus the baseline, paired by seed, mean over β: at the last step, and where both have come equally
    far from the checkpoint (√KL) or gained as much proxy: at nine tenths of what the one that went less far reached."""
    results = bs.load(folder)
    points = results.points.sort_values("step").assign(
        distance=lambda f: np.sqrt(f.kl.clip(lower=0)),
        gain=lambda f: f.proxy - f.groupby(["variant", "beta", "seed"]).proxy.transform("first"),
    )
    by = dict(list(points.groupby(["variant", "beta", "seed"])))
    regret = results.conditions.set_index(["variant", "beta", "seed"]).regret
    differences = []
    for (variant, beta, seed), mine in by.items():
        base = by[baseline, beta, seed]
        levels = {along: 0.9 * min(mine[along].max(), base[along].max()) for along in ("distance", "gain")}
        differences.append(
            {
                "variant": variant,
                "seed": seed,
                "end truth, points": 100 * (mine.true_strict.iloc[-1] - base.true_strict.iloc[-1]),
                "proxy's rise, sd": (mine.gain.iloc[-1] - base.gain.iloc[-1]) / base.proxy_std.iloc[0],
                "regret, points": regret[variant, beta, seed] - regret[baseline, beta, seed],
                **{
                    f"truth at equal {words}": 100
                    * (crossing(mine, along, levels[along]) - crossing(base, along, levels[along]))
                    for along, words in (("distance", "√KL"), ("gain", "proxy"))
                },
            }
        )
    # A seed counts with those β at which the comparison can be made.
    by_seed = pd.DataFrame(differences).groupby(["variant", "seed"], sort=False).mean()
    passes = scoring_passes(folder)
    rows = []
    for variant in dict.fromkeys(results.conditions.variant):
        cells = {}
        for column in by_seed:
            values = by_seed.loc[variant, column].dropna().to_numpy(float)
            enough = len(values) > 1 and variant != baseline
            cells[column] = interval(*mean_of(values)[:3], 2 if column.endswith("sd") else 1) if enough else "–"
        verdicts = results.conditions[results.conditions.variant == variant].verdict.value_counts()
        costs = {"scoring passes": f"{passes[variant]:g}"} if len(set(passes.values())) > 1 else {}
        said = ", ".join(f"{name} {n}" for name, n in verdicts.items())
        rows.append({"variant": variant, **cells, **costs, "verdicts": said})
    print_table(rows)
    print_table(by_beta(results))
    path = points.groupby(["variant", "step"], as_index=False)[["gain", "true_strict"]].mean()
    chart = (
        alt.Chart(path)
        .mark_line(point=True)
        .encode(
            x=alt.X("gain:Q", title="rise of the proxy"),
            y=alt.Y("true_strict:Q", title="true reward", scale=alt.Scale(zero=False)),
            color=alt.Color("variant:N", title=None, scale=alt.Scale(scheme="category20")),
            order="step:Q",
        )
        .properties(width=340, height=220)
    )
    chart.save(out / f"study_{results.record['name']}.svg")


def run(arguments: Sequence[str]) -> None:
    if len(arguments) < 3 or arguments[0] not in ("main", *FACTORS, "choices", "objectives", "against"):
        sys.exit(__doc__)
    kind, *rest = arguments
    out = Path(rest[0] if kind in (*FACTORS, "choices") else rest[1])
    out.mkdir(parents=True, exist_ok=True)
    if kind in FACTORS:
        by_factor(FACTORS[kind], rest[1:], out)
    elif kind == "choices":
        choices(rest[1:])
    elif kind == "against":
        against(rest[0], out, rest[2])
    else:
        {"main": main_run, "objectives": objectives}[kind](rest[0], out)


if __name__ == "__main__":
    run(sys.argv[1:])
