"""From logs to one table of evaluation points with the columns of `metrics.jsonl`, and what had to be guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from betastar.errors import BetastarError
from betastar.logs import notes
from betastar.logs.columns import LABELS, bare, choose, field_name, others, step_columns
from betastar.logs.identity import Identity, compiled, conditions, from_name, short_names, split
from betastar.logs.log import Log
from betastar.logs.options import Options, Unit
from betastar.logs.tidy import Array, evaluation_points, numeric

# Of a run of ours: what is known of a checkpoint beside its points.
EXTRAS = ("alignment", "base", "again", "log_ratio_noise")


class Run(NamedTuple):
    """One run: `source`, the log it was in; `table`, its evaluation points; `columns`, field → column, of which the
    `guessed` were not told; `notes`, what was done to it."""

    source: str
    log: Log
    identity: Identity
    table: pd.DataFrame
    columns: Mapping[str, str]
    guessed: Mapping[str, str]
    notes: list[str]
    extra: Mapping[str, Any]


class Assembled(NamedTuple):
    """`frame`: all evaluation points, β NaN where unknown. `runs`: name, format, condition, columns and number of
    points of each. `extras`: by (variant, β, seed). `notes`: sentences on what was guessed, passed over and done."""

    frame: pd.DataFrame
    runs: list[dict[str, Any]]
    extras: dict[tuple[Any, ...], Mapping[str, Any]]
    notes: list[str]


def assemble(logs: Sequence[Log], options: Options) -> Assembled:
    """All runs in one table. A log without usable rewards is passed over and noted where another has them.

    Raises BetastarError where none has, for a faulty option, and where two runs claim the same condition.
    """
    compiled(options.patterns)
    told = {field_name(name): column for name, column in options.columns.items()}
    runs: list[Run] = []
    problems: list[BetastarError] = []
    for log in logs:
        try:
            runs += _runs(log, options, told)
        except BetastarError as error:
            problems.append(error)
    if not runs:
        more = f" So it is in {len(problems) - 1} more." if len(problems) > 1 else ""
        raise BetastarError(f"{problems[0]}{more}")
    names, found = [run.log.name for run in runs], _named_by_run(runs)
    places = conditions(names, found)
    scored = any(bare(run.columns.get("true_std", "")) == "true_std" or "true_std" in told for run in runs)
    frame, unit = _true_as_share(_frame(runs, places), options.true_unit or ("score" if scored else None))
    if options.n is not None:
        frame = frame.drop(columns="correct_strict", errors="ignore").assign(n=options.n)
    without_beta = sum(identity.beta is None for identity in found)
    without_seed = sum(identity.seed is None and identity.beta is not None for identity in found)
    used = {"step", *frame.columns}
    unmatched = [p for p in options.patterns if not any(compiled([p])[0].search(name) for name in names)]
    sentences = [
        *(f"--pattern {p}: found in no run's name or path, such as {names[0]}" for p in unmatched),
        *notes.guesses([{f: column for f, column in run.guessed.items() if f in used} for run in runs]),
        *notes.by_run([(run.log.name, run.notes) for run in runs]),
        *notes.unknown(without_beta, without_seed, len(runs)),
        *unit,
        *notes.start(frame),
        *notes.first_few([f"passed over {error}" for error in problems]),
    ]
    listed = [
        {
            "name": run.log.name,
            "kind": run.log.kind,
            **place._asdict(),
            "points": len(run.table),
            "columns": {LABELS.get(f, f): column for f, column in run.columns.items() if f in used},
        }
        for run, place in zip(runs, places, strict=True)
    ]
    extras = {tuple(place): run.extra for run, place in zip(runs, places, strict=True) if run.extra}
    return Assembled(frame, listed, extras, sentences)


def _runs(log: Log, options: Options, told: Mapping[str, str]) -> list[Run]:
    """The runs of a log, each with what options, columns and names, in this order, say it is."""
    said: dict[str, Any] = {part: getattr(options, part) for part in Identity._fields}
    told_identity = {part: value for part, value in said.items() if value is not None}
    numbers = Identity(*(None if isinstance(value, str) else value for value in said.values()))
    result = []
    for part, by_column in split(log, told_identity):
        identity = _first_known(numbers, by_column, from_name(part.name, options.patterns))
        rows = _with_numbers(numeric(part.rows), told, len(part.rows))
        steps = [told["step"]] if "step" in told else step_columns(list(rows))
        columns = choose([name for name in rows if name in told.values() or name not in steps], told, part.name)
        fields = {field: column for field, column in columns.items() if field != "step"}
        points = evaluation_points(rows, fields, steps, part.name, options.until)
        guessed = {field: column for field, column in columns.items() if field not in told}
        if steps and "step" not in told:
            guessed["step"] = " or ".join(steps)
        done = [*filter(None, [part.note]), *points.notes]
        extra = _extra(log.record, by_column) or _again(part.rows)
        result.append(Run(log.name, part, identity, points.table, fields, guessed, done, extra))
    return result


def _first_known(*ranked: Identity) -> Identity:
    """Each part from the first that knows it."""
    parts: list[Any] = [next((v for v in values if v is not None), None) for values in zip(*ranked, strict=True)]
    return Identity(*parts)


def _with_numbers(rows: dict[str, Array], told: Mapping[str, str], size: int) -> dict[str, Array]:
    """A number told in place of a column becomes a column of that name."""
    numbers = {text: value for text in told.values() if text not in rows and (value := _number(text)) is not None}
    return rows | {text: np.full(size, value) for text, value in numbers.items()}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _extra(record: Mapping[str, Any] | None, identity: Identity) -> dict[str, Any]:
    """What `results.json` of a run of ours holds of a condition that its evaluation points do not."""
    for condition in (record or {}).get("conditions", []):
        if Identity(*(condition[part] for part in Identity._fields)) == identity:
            return {name: condition[name] for name in EXTRAS if name in condition}
    return {}


def _named_by_run(runs: Sequence[Run]) -> list[Identity]:
    """The identities of runs. Of several runs of ours, each variant bears its run's name: the settings may differ."""
    ours = sorted({run.source for run in runs if run.log.record is not None})
    names = dict(zip(ours, short_names(ours), strict=True)) if len(ours) > 1 else {}
    return [
        run.identity._replace(variant=f"{names[run.source]}: {run.identity.variant}")
        if run.source in names
        else run.identity
        for run in runs
    ]


def _frame(runs: Sequence[Run], places: Sequence[Identity]) -> pd.DataFrame:
    """All evaluation points with the columns of `metrics.jsonl`, as far as they are logged."""
    tables = [run.table.assign(**place._asdict()) for run, place in zip(runs, places, strict=True)]
    frame = pd.concat(tables, ignore_index=True).astype({"beta": float})
    known = [name for name in ("proxy", "true_strict", *others()) if name in frame]
    return pd.DataFrame(frame, columns=[*Identity._fields, "step", *known])


def _true_as_share(frame: pd.DataFrame, unit: Unit | None) -> tuple[pd.DataFrame, list[str]]:
    """True rewards as shares of right answers, a percentage divided by 100; or as scores, which need the column
    `true_std`: a share has a standard deviation of its own."""
    true = frame["true_strict"].to_numpy()
    low, high, said = true.min(), true.max(), []
    if unit is None:
        unit = "share" if low >= 0 and high <= 1 else "percent" if low >= 0 and high <= 100 else "score"
        if unit == "percent":
            said.append(f"true rewards go up to {high:g}: taken for percentages and divided by 100 (--true-unit score)")
        if unit == "score":
            said.append(f"true rewards go from {low:g} to {high:g}: taken for scores, not shares of right answers")
    if unit == "score":
        return (frame if "true_std" in frame else frame.assign(true_std=np.nan)), said
    if unit == "share" and not (low >= 0 and high <= 1):
        raise BetastarError(
            f"true rewards go from {low:g} to {high:g} and are no shares; say --true-unit percent or score."
        )
    frame = frame.drop(columns="true_std", errors="ignore")
    return frame.assign(true_strict=true / 100 if unit == "percent" else true), said


def _again(rows: pd.DataFrame) -> dict[str, Any]:
    """The second evaluation of the start that `GoodhartMonitor` keeps beside the first."""
    column: Any = rows.get("again", ())
    for kept in column:
        if isinstance(kept, list) and kept and isinstance(kept[0], Mapping):
            return {"again": dict(kept[0])}
    return {}
