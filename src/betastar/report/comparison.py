"""A comparison of runs as a person reads it: verdicts, and rows of the tables of the page and of the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from betastar.printing import visible
from betastar.record.entries import REGISTRY
from betastar.record.schema import BETWEEN_VARIANTS
from betastar.report.card import said
from betastar.report.palette import beta_labels
from betastar.report.words.numbers import POINTS, SCORE, Unit, defined, mean_interval

Json = Mapping[str, Any]
LEADING = "true_end"
SECONDARY = {"regret": "Regret", "augc_standardised": "AUGC"}
NAMES = {name: REGISTRY.summary(name).words for name in BETWEEN_VARIANTS}
MOST = 10  # settings that are seen at once
LONGEST = 90  # characters of a setting's value in the table


class Verdict(NamedTuple):
    """What two runs' data say of one variant: who minus whom, a sentence with its numbers, and what limits it."""

    heading: str
    sentence: str
    limits: list[str]


def verdicts(comparison: Json) -> list[Verdict]:
    """One for each difference of the record."""
    share = all(run["truth_unit"] == "pp" for run in comparison["runs"])
    return [_verdict(entry, POINTS if share else SCORE) for entry in comparison["differences"]]


def setting_rows(comparison: Json) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the settings that differ, and of β, variants and last steps where those differ."""
    names = [run["name"] for run in comparison["runs"]]
    rows: list[list[str]] = []
    for field, words in {"betas": "β in use", "variants": "variants", "last_step": "last step"}.items():
        values = [run[field] for run in comparison["runs"]]
        if any(value != values[0] for value in values):
            rows.append([words, *(_short(said(value)) for value in values)])
    rows += [
        [entry["setting"], *(_short(said(entry["values"][name])) for name in names)] for entry in comparison["settings"]
    ]
    return ["", *names], rows


def settings_note(comparison: Json) -> str:
    """Whose settings are not known, in a sentence; empty where all are."""
    unknown = comparison["settings_unknown"]
    return f"Logs do not contain settings, so those of {', '.join(unknown)} are unknown." if unknown else ""


def outcome_rows(comparison: Json, variant: str) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of one variant: the truth at the end by β and run, slopes last, and each run minus the first."""
    runs = [entry for entry in comparison["outcomes"] if entry["variant"] == variant]
    differences = [entry for entry in comparison["differences"] if entry["variant"] == variant and entry["method"]]
    columns = ["β", *(entry["run"] for entry in runs)]
    columns += [f"{entry['run']} − {entry['minus']}, {entry['method']}" for entry in differences]
    every = [row["beta"] for entry in runs for row in entry["by_beta"]]
    rows = []
    for beta, label in beta_labels(every).items():
        cells = [_at(entry["by_beta"], beta) for entry in runs]
        rows.append([label, *cells, *(_at(entry["by_beta"], beta, "+") for entry in differences)])
    slopes = [entry["slope_per_tenfold_beta"][LEADING] for entry in runs]
    slopes += [entry["slope_per_tenfold_beta"][LEADING] for entry in differences]
    if any(slope["mean"] is not None for slope in slopes):
        rows.append(["per tenfold β", *(_signed(mean_interval(slope, "+")) for slope in slopes)])
    return columns, rows


DIFFERENCE_COLUMNS = ("", "n", *NAMES.values())


def difference_rows(comparison: Json, variant: str) -> list[list[str]]:
    """Every difference of one variant: run, β, n, and each quantity with its 95 % interval."""
    rows = []
    for entry in comparison["differences"]:
        if entry["variant"] != variant or entry["method"] is None:
            continue
        who = f"{entry['run']} − {entry['minus']}"
        labels = beta_labels(entry["betas"])
        for row in entry["by_beta"]:
            rows.append([f"{who}, β {labels[row['beta']]}", *_cells(row)])
        if len(entry["by_beta"]) > 1:
            rows.append([f"{who}, mean over shared β", *_cells(entry["over_beta"])])
    return rows


def notes(comparison: Json) -> list[str]:
    """What the tables leave open, in sentences."""
    lines = [
        "Runs are compared only at values of β that they share. A slope per tenfold β is over each run's own values."
    ]
    intervals = sum(len(e["by_beta"]) for e in comparison["differences"])
    if intervals > 1:
        lines.append(
            f"There are {intervals} differences by β, each with a 95 % interval over seeds. Some will miss by chance, "
            "and none covers another reward ensemble or evaluation set."
        )
    reference, compared = comparison["reference"], {e["variant"] for e in comparison["differences"]}
    alone = [e for e in comparison["outcomes"] if e["run"] == reference and e["variant"] not in compared]
    if alone:
        lines.append(f"Variant {', '.join(e['variant'] for e in alone)} exists only in {reference}.")
    first = {e["variant"] for e in comparison["outcomes"] if e["run"] == reference}
    others = [f"{e['variant']} of {e['run']}" for e in comparison["outcomes"] if e["variant"] not in first]
    if others:
        lines.append(f"Not in {reference}, so not compared: variant {', '.join(others)}.")
    return lines


def _verdict(entry: Json, unit: Unit) -> Verdict:
    heading = f"{entry['run']} minus {entry['minus']}, variant {entry['variant']}"
    limits = list(entry["cautions"])
    if entry["method"] is None:
        return Verdict(heading, f"Not compared: {entry['reason']}.", limits)
    if entry["method"] == "unpaired":
        limits.insert(0, f"Not paired: {entry['reason']}. Seeds count as independent samples (Welch's t).")
    for name, words in SECONDARY.items():
        limits += _secondary(entry, name, words, unit)
    lost = [f"{visible(name)}: {said(betas)}" for name, betas in entry["other_betas"].items() if betas]
    if lost:
        limits.append(f"Not compared, because the other run does not have it: β {'; '.join(lost)}.")
    return Verdict(heading, _truth(entry, unit), limits)


def _truth(entry: Json, unit: Unit) -> str:
    """How the end of the true reward differs at equal β, in a sentence."""
    over = entry["over_beta"][LEADING]
    if not defined(over["mean"]):
        return f"The difference in true reward at the end is undefined: {over['reason']}."
    if over["mean"] == 0 and over["standard_error"] == 0:
        return f"The truth at the end is the same in every seed at the shared values of β, {_n(entry, over)}."
    size = _size(over, LEADING, unit)
    return f"The truth at the end is {_direction(over)}: {size}, {_at_shared(entry)}, {_n(entry, over)}."


def _secondary(entry: Json, name: str, words: str, unit: Unit) -> list[str]:
    """How another measure differs at equal β, and its change per tenfold β, in sentences."""
    over, slope = entry["over_beta"][name], entry["slope_per_tenfold_beta"][name]
    found: list[str] = []
    if over["mean"] is None:
        found.append(f"The difference in {_inside(words)} at equal β is undefined: {over['reason']}.")
    elif over["mean"] == 0 and over["standard_error"] == 0:
        found.append(f"{words} is the same in every seed at the shared values of β, {_n(entry, over)}.")
    else:
        size = _size(over, name, unit)
        found.append(f"{words} is {_direction(over)}: {size}, {_at_shared(entry)}, {_n(entry, over)}.")
    if slope["mean"] == 0 and slope["standard_error"] == 0:
        found.append(f"The change of {_inside(words)} per tenfold β is the same in every seed.")
    elif slope["mean"] is not None:
        size = _size(slope, name, unit)
        found.append(f"The change of {_inside(words)} per tenfold β is {_direction(slope)}: {size}.")
    return found


def _inside(words: str) -> str:
    """A name within a sentence."""
    return words if words.isupper() else words.lower()


def _at_shared(entry: Json) -> str:
    many = len(entry["betas"])
    return "at the shared β" if many == 1 else f"mean over the {many} shared values of β"


BOUNDS = ("low", "high")


def _size(over: Json, name: str, unit: Unit) -> str:
    """A difference with its interval in its own unit: the truth in points (the record has a share), regret in points
    (the record has hundredths of a score), AUGC in gap × steps."""
    if name.startswith("augc"):
        return Unit(1.0, "gap × steps").with_interval(over["mean"], over["interval"], "+")
    share = bool(unit.word)
    factor = {"true_end": 100.0 if share else 1.0, "regret": 1.0 if share else 0.01}[name]
    ends = {bound: factor * over["interval"][bound] if defined(over["interval"][bound]) else None for bound in BOUNDS}
    return unit.with_interval(factor * over["mean"], {**over["interval"], **ends}, "+")


def _direction(entry: Json) -> str:
    low, high = entry["interval"]["low"], entry["interval"]["high"]
    if low is None:
        return "higher, with unknown certainty" if entry["mean"] > 0 else "lower, with unknown certainty"
    if low > 0 or high < 0:
        return "higher" if low > 0 else "lower"
    return "not detectably different"


def _n(entry: Json, over: Json) -> str:
    if entry["method"] == "paired":
        return f"paired within {over['n']} seed{'s' * (over['n'] != 1)}"
    return f"{over['n']} and {over['n_minus']} independent seeds"


def _cells(row: Json) -> list[str]:
    first = row[LEADING]
    n = f"{first['n']} and {first['n_minus']}" if "n_minus" in first else str(first["n"])
    return [n, *(_signed(mean_interval(row[name], "+")) for name in NAMES)]


def _at(rows: Sequence[Json], beta: float | None, sign: str = "") -> str:
    found = next((row for row in rows if row["beta"] == beta), None)
    return "" if found is None else _signed(mean_interval(found[LEADING], sign))


def _signed(text: str) -> str:
    return text.replace("-", "−")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
