"""A log as it was read, and how the user wants logs read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from betastar.analysis.logs.names import Per
from betastar.errors import BetastarError, argument
from betastar.record.responses import Grade

if TYPE_CHECKING:
    import pandas as pd


Unit = Literal["share", "percent", "score"]


class Truth(NamedTuple):
    """`rows`: step, value, n (NaN if unknown) and run (None if there is one run only). `source`: what it was read from,
    in words."""

    rows: pd.DataFrame
    source: str


@dataclass(frozen=True)
class Options:
    """What is left out is guessed, and the guess is noted.

    `columns`: field → column, or a number that holds throughout; a field is one of step, proxy, true, uncertainty, kl,
    entropy, length, at_limit, proxy_std and the other columns of `metrics.jsonl`. `beta`, `seed`: a number for all
    runs, or a column; `variant`: a column. `patterns`: regular expressions over the names of runs, with the groups
    variant, beta and seed. `n`: responses behind each true reward. `true_unit`: whether true rewards are shares of
    right answers, percentages or other scores. `until`: the last step that counts. `truth`: true rewards measured
    elsewhere, joined to steps at most `truth_distance` away. `grade`: gives the grade of a response from its text and
    the gold answer, for logs with a row per response. `kl_per`: what a logged KL is counted per. `primary`: the measure
    that the answer over β rests on. `max_runs`: the most runs that are analysed, by default 2 000.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    beta: float | str | None = None
    seed: float | str | None = None
    variant: str | None = None
    patterns: Sequence[str] = ()
    n: int | None = None
    true_unit: Unit | None = None
    until: int | None = None
    primary: str | None = None
    truth: Truth | None = None
    truth_distance: int | None = None
    grade: Callable[[str, str], Grade] | None = None
    kl_per: Per | None = None
    max_runs: int | None = None


MOST_RUNS = 2000
"""Every run has its outcomes, intervals and curves; more of them than this take longer than a person waits."""


class TooManyRunsError(BetastarError):
    """The logs hold more runs than are analysed unless that is asked for."""


def check_runs(count: int, where: str, most: int | None) -> None:
    """Raises TooManyRunsError for more than `most` runs (None: `MOST_RUNS`)."""
    limit = MOST_RUNS if most is None else most
    if count > limit:
        raise TooManyRunsError(
            f"{count} runs are more than the limit of {limit}",
            where=where,
            remedy=f"check that {argument('beta')} and {argument('seed')} are what tells runs apart, analyse a part of "
            f"them, or raise the limit with {argument('max_runs', str(count))}",
        )


class Log(NamedTuple):
    """One run. `name`: its path, and the run's name where a file holds several; β and seed are looked for in it.
    `rows`: one row per logged record, in the order written, columns as logged. `kind`: the format, in words.
    `record`: `results.json`, where the run is ours, and `answers`, its table of single answers, where it kept one.
    `note`: what a person should know of how it was read."""

    name: str
    rows: pd.DataFrame
    kind: str
    record: Mapping[str, Any] | None = None
    answers: pd.DataFrame | None = None
    note: str | None = None


WRAPPERS = ("data", "metrics")
"""Objects around the metrics of a row, of which their names keep no trace."""


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one level, names joined by "/"; a wrapper named `data` or `metrics` leaves no trace. Halves of
    surrogate pairs, which JSON can hold and a table's texts cannot, become question marks."""
    result: dict[str, Any] = {}
    for key, value in record.items():
        name = f"{prefix}{_encodable(key)}"
        if isinstance(value, Mapping):
            result |= flat(value, prefix if key in WRAPPERS else f"{name}/")
        else:
            result[name] = _encodable(value)
    return result


def _encodable(value: Any) -> Any:
    if isinstance(value, list):
        return [_encodable(part) for part in value]
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-8", "replace").decode()
