"""Tables of outcomes: what the terminal, the page and the summary in Markdown show of every β and of every run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from betastar.report.words.headline import SEVERITY
from betastar.report.words.numbers import (
    Unit,
    beta_name,
    defined,
    mean_error,
    minus,
    places,
    strength_symbol,
    unit_of_changes,
)
from betastar.report.words.untold import cells, columns, end_distances, untold

Json = Mapping[str, Any]


def outcome_columns(results: Json, variant: str) -> list[str]:
    """Heads of the table of `outcome_rows`."""
    if "frontier" in results:
        known = all(row["beta"] is not None for row in results["frontier"]["rows"])
        return ["β" if known else "run", "√KL", "proxy", "truth"]
    runs = [run for run in results["conditions"] if run["variant"] == variant]
    if untold(runs):
        return [*([] if _alone(results, variant) else [strength_symbol(results, variant)]), *columns(runs)]
    unit = f", {word}" if (word := unit_of_changes(results["decision"][variant]).word) else ""
    rest = [f"change{unit}", f"regret{unit}", "verdicts", "proxy rise, sd", "√KL, end"]
    if _alone(results, variant):
        return ["truth: start → peak → end", *rest]
    return [strength_symbol(results, variant), "truth: start → end", *rest]


def outcome_rows(results: Json, variant: str) -> list[list[str]]:
    """One row of text per β: start, end and change of the truth, regret, verdicts, rise of the proxy, √KL of the end
    from the checkpoint; means over seeds, changes with their 95 % interval. The only β of a variant is not named, and
    its row has the peak as well; that of a single run has the intervals of that run, over problems. Without a true
    reward: what the policies did."""
    if "frontier" in results:
        return [
            [
                row["variant"] if row["beta"] is None else beta_name(row["beta"]),
                *(minus(f"{row[name]:.3g}") if defined(row[name]) else "–" for name in ("distance", "proxy", "truth")),
            ]
            for row in results["frontier"]["rows"]
        ]
    alone = _alone(results, variant)
    every = [run for run in results["conditions"] if run["variant"] == variant]
    if untold(every):
        by_beta = [row["beta"] for row in results["summary"][variant]["by_beta"]]
        told = [cells([run for run in every if run["beta"] == beta], every) for beta in by_beta]
        return told if alone else [[beta_name(beta), *row] for beta, row in zip(by_beta, told, strict=True)]
    parts = ("true_start", "true_peak", "true_end") if alone else ("true_start", "true_end")
    unit = unit_of_changes(results["decision"][variant])
    rows = []
    for row in results["summary"][variant]["by_beta"]:
        runs = [run for run in every if run["beta"] == row["beta"]]
        change, regret = (_cell(name, row, runs, unit) for name in ("end_change", "regret"))
        ends = " → ".join(_level(row[name]) for name in parts)
        rise = mean_error(row["proxy_standardised_rise"], 2)
        found = [ends, change, regret, verdict_cell(runs), rise, _distance(runs)]
        rows.append(found if alone else [beta_name(row["beta"]), *found])
    return rows


def _alone(results: Json, variant: str) -> bool:
    return len(results["decision"][variant]["betas"]) < 2


def _level(entry: Json) -> str:
    return "–" if not defined(entry["mean"]) else minus(f"{entry['mean']:.2f}")


def _cell(name: str, row: Json, runs: Sequence[Json], unit: Unit) -> str:
    """A mean over seeds with its interval; of one run alone its own."""
    value, interval = row[name]["mean"], row[name]["interval"]
    if len(runs) == 1:
        value, interval = runs[0][name], runs[0]["intervals"].get(name, interval)
    return measured(value, interval, unit, "+" if name == "end_change" else "")


def measured(value: float | None, interval: Json, unit: Unit, sign: str = "") -> str:
    """`−7 [−15, +1]`; a dash where it is undefined."""
    if value is None or not defined(value):
        return "–"
    low, high = interval["low"], interval["high"]
    known = defined(low) and defined(high)
    digits = places(*(v / unit.divisor for v in ((value, low, high) if known else (value,))))
    bounds = f" [{unit.plain(low, sign, digits)}, {unit.plain(high, sign, digits)}]" if known else ""
    return unit.plain(value, sign, digits) + bounds


def verdict_cell(runs: Sequence[Json]) -> str:
    """`hacked 2, improved 1`, the worst first; of one run its verdict."""
    found = Counter(run["verdict"] for run in runs if run["verdict"] is not None)
    words = [word for word in SEVERITY if word in found]
    if not words:
        return "–"
    if len(runs) == 1:
        return words[0]
    return ", ".join(f"{word} {found[word]}" for word in words)


def _distance(runs: Sequence[Json]) -> str:
    """√KL of the last point from the checkpoint, mean over seeds ± standard error."""
    found = end_distances(runs)
    if not found:
        return "–"
    error = f" ± {stdev(found) / sqrt(len(found)):.2g}" if len(set(found)) > 1 else ""
    return f"{fmean(found):.2f}{error}"


def condition_columns(results: Json) -> list[str]:
    """Heads of the table of `condition_rows`."""
    names = _named(results)
    return [
        *names.values(),
        "verdict",
        "truth: start → peak → end",
        "change",
        "since the peak",
        "proxy: start → end",
    ]


def condition_rows(results: Json) -> list[list[str]]:
    """One row of text per run. Variant, β and seed are named only if the record has several of them."""
    rows = []
    for run in results["conditions"]:
        unit = unit_of_changes(results["decision"][run["variant"]])
        truth, proxy = run["true_strict"], run["proxy"]
        course = " → ".join(_number(v, 2) for v in (truth["start"], run["true_peak"], truth["end"]))
        changes = [
            measured(run[name], run["intervals"].get(name) or {"low": None, "high": None}, unit, "+")
            for name in ("end_change", "since_peak")
        ]
        ends = " → ".join(_number(proxy[end], 3) for end in ("start", "end"))
        who = {"variant": run["variant"], "beta": beta_name(run["beta"]), "seed": str(run["seed"])}
        rows.append([*(who[name] for name in _named(results)), run["verdict"] or "–", course, *changes, ends])
    return rows


def _number(value: float | None, digits: int) -> str:
    if value is None or not defined(value):
        return "–"
    return minus(f"{value:.{digits}f}" if digits == 2 else f"{value:.{digits}g}")


def _named(results: Json) -> dict[str, str]:
    """The fields that tell the runs of a record apart, with their heads."""
    runs = results["conditions"]
    heads = {"variant": "variant", "beta": "β", "seed": "seed"}
    return {name: head for name, head in heads.items() if len({run[name] for run in runs}) > 1}
