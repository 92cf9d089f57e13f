"""What is said of how logs were read: guesses, what was done to a run, what is unknown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from betastar.analysis.logs.columns import LABELS, MAIN, others
from betastar.errors import argument


def guesses(guessed: Sequence[Mapping[str, str]]) -> list[str]:
    """Which columns were taken for what; `guessed`: field → column of each run. A field's own name is no guess."""
    notes = []
    more: dict[str, None] = {}
    for field in (*MAIN, *others()):
        label = LABELS.get(field, field)
        for column, count in Counter(run[field] for run in guessed if field in run).items():
            if column in (field, label):
                continue
            if field in MAIN:
                share = "" if count == len(guessed) else f" in {count} of {len(guessed)} runs"
                notes.append(f"{label} = {column} (guessed{share}; {argument(label, 'COLUMN')} changes it)")
            else:
                more[f"{label} = {column}"] = None
    if more:
        notes.append(f"{', '.join(more)} (guessed; {argument('columns', 'NAME=COLUMN')} changes one)")
    return notes


def by_run(done: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """What was done to each run, (name, sentences), with equal sentences said once."""
    names: dict[str, list[str]] = {}
    for name, sentences in done:
        for sentence in sentences:
            names.setdefault(sentence, []).append(name)
    return [
        sentence if len(done) == 1 else f"{'every run' if len(runs) == len(done) else _some(runs)}: {sentence}"
        for sentence, runs in names.items()
    ]


def unknown(without_beta: int, without_seed: int, runs: int) -> list[str]:
    """What no column and no name says of the condition of some runs."""
    notes = []
    if without_seed:
        how = f"{argument('seed')} or {argument('patterns')}"
        notes.append(f"{_count(without_seed, runs)} without a seed; numbered from 0 (set it with {how})")
    if without_beta and runs > 1:
        notes.append(
            f"{_count(without_beta, runs)} without a known β, so the dependence of damage on β is unknown there (set "
            f"it with {argument('beta')} or {argument('patterns')})"
        )
    return notes


def no_truth() -> str:
    """That no run has a true reward."""
    return (
        "no column is recognised as a true reward, so nothing can be said about hacking, only what the policy did "
        f"(name it with {argument('true', 'COLUMN')}, or join it from elsewhere with {argument('truth', 'FILE')})"
    )


def start(frame: Any) -> list[str]:
    """What there is and is not at the start, which every gap is measured from; `frame`: all evaluation points."""
    starts = frame.sort_values("step").groupby(["variant", "beta", "seed"], dropna=False).head(1)
    notes = []
    first, last = starts["step"].min(), starts["step"].max()
    if last > 0:
        steps = f"{first:g}" if first == last else f"{first:g} to {last:g}"
        notes.append(f"the earliest point, step {steps}, is used as the start, because no step 0 is logged")
    if "true_strict" not in frame or frame["true_strict"].isna().all():
        return notes  # no gap, whatever else is logged
    if "proxy_std" not in starts or starts["proxy_std"].isna().all():
        notes.append(
            "the standard deviation of proxy rewards is not logged, so there is no standardised gap (set it with "
            f"{argument('columns', 'proxy_std=COLUMN')}, or a number in place of the column)"
        )
    if "n" not in starts or starts["n"].isna().all():
        notes.append(
            "the number of responses behind each true reward is not logged, and assumed large (set it with "
            f"{argument('n')})"
        )
    return notes


def first_few(notes: Sequence[str], shown: int = 5) -> list[str]:
    """The first sentences, and how many more there are."""
    return [*notes[:shown], *([f"… and {len(notes) - shown} more of this kind"] if len(notes) > shown else [])]


def _count(count: int, runs: int) -> str:
    return "the run is" if runs == 1 else f"{count} of {runs} runs {'is' if count == 1 else 'are'}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
