"""Truth measured elsewhere: scores of checkpoints from an evaluation harness or a table, joined to logs by step."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from betastar.analysis.logs.cells import numbers
from betastar.analysis.logs.columns import first_match
from betastar.analysis.logs.log import Log, Truth
from betastar.analysis.logs.names import STEP, TRUE, patterns
from betastar.analysis.logs.responses import step_in
from betastar.errors import BetastarError, argument

COLUMN = "truth measured elsewhere"
COUNT = "problems behind the truth measured elsewhere"
# lm-evaluation-harness, lighteval and inspect_ai name the same kind of score, the plain one first.
SCORES = ("exact_match", "acc", "accuracy", "pass@1", "pass_at_1", "qem", "em", "extractive_match", "mean", "score")


COUNTS = (r"n|n_samples|num_(samples|problems)|total",)


class Joined(NamedTuple):
    """The log with the truth as a column, and what was matched."""

    log: Log
    notes: list[str]


def read_truth(path: Path, column: str | None = None) -> Truth:
    """The scores in `path`: a table with a step and a score (CSV, JSON, JSON Lines, Parquet), or a file or folder of
    results of lm-evaluation-harness, lighteval or inspect_ai. `column` names the score. Raises BetastarError where no
    step or no score is found, or several could be meant."""
    if not path.exists():
        raise BetastarError("does not exist", where=argument("truth", str(path)), remedy="check the path")
    found = list(_harness_rows(path, column))
    if found:
        kinds = dict.fromkeys(kind for kind, _ in found)
        return Truth(pd.DataFrame([row for _, row in found]), ", ".join(kinds))
    if path.is_dir():
        raise BetastarError(
            "holds no results of lm-evaluation-harness, lighteval or inspect_ai",
            where=argument("truth", str(path)),
            remedy="give such a folder, or a table with steps and scores",
        )
    return _table(path, column)


def chosen_truth(place: str, column: str | None = None) -> Truth:
    """`read_truth` of "FILE", or of one run of it, "FILE:RUN". Raises BetastarError also for a run that it lacks."""
    if Path(place).exists() or ":" not in place:
        return read_truth(Path(place), column)
    file, _, run = place.rpartition(":")
    truth = read_truth(Path(file), column)
    runs = [str(r) for r in truth.rows["run"].dropna().unique()] if "run" in truth.rows else []
    if run not in runs:
        raise BetastarError(
            f"has no run {run}", where=argument("truth", str(file)), remedy=f"its runs: {_few(runs) or 'none'}"
        )
    rows: Any = truth.rows
    return Truth(rows[rows["run"] == run].drop(columns="run"), f"{truth.source}, run {run}")


def join(log: Log, truth: Truth, steps: Sequence[str], run: str | None = None, most: int | None = None) -> Joined:
    """A log with the truth at its nearest steps. `steps`: the log's step columns; `run`: which run of the truth it is;
    `most`: the distance up to which a step is near, by default half the usual distance of two scores."""
    rows: Any = truth.rows
    if run is not None and "run" in rows:
        rows = rows[rows["run"] == run]
    known = pd.Series(np.nan, index=log.rows.index)
    for name in steps:
        known = known.fillna(pd.Series(numbers(log.rows[name]).values, index=log.rows.index))
    logged = np.unique(known.dropna().to_numpy())
    scored = np.sort(rows["step"].unique())
    if most is None:
        most = int(np.median(np.diff(scored)) // 2) if scored.size > 1 else 0
    matched, lost, moved = [], [], 0
    for row in rows.itertuples():
        nearest = logged[np.abs(logged - row.step).argmin()] if logged.size else np.inf
        if abs(nearest - row.step) <= most:
            matched.append({(steps[0] if steps else "step"): nearest, COLUMN: row.value, COUNT: row.n})
            moved += nearest != row.step
        else:
            lost.append(f"{row.step:g}")
    if not matched:
        raise BetastarError(
            f"none of the steps of the truth ({_few(scored)}) is within {most} of a logged one ({_few(logged)})",
            where=log.name,
            remedy=f"check that both count optimiser steps, or allow more with {argument('truth_distance')}",
        )
    notes = [f"the truth is read from {truth.source} at {len(matched)} steps"]
    if moved:
        notes.append(f"{moved} of its steps are not logged and were matched to the nearest one, at most {most} away")
    if lost:
        notes.append(
            f"its steps {', '.join(lost[:8])}{' and more' if len(lost) > 8 else ''} have no logged step nearby"
        )
    return Joined(log._replace(rows=pd.concat([log.rows, pd.DataFrame(matched)], ignore_index=True)), notes)


def run_of(truth: Truth, name: str) -> str | None:
    """Which run of a truth with several the log called `name` is: the one whose name its path holds, the longest of
    these. Raises BetastarError where that is none."""
    if "run" not in truth.rows:
        return None
    runs = [str(run) for run in truth.rows["run"].dropna().unique()]
    if len(runs) <= 1:
        return runs[0] if runs else None
    inside = [run for run in runs if run.lower() in name.lower()]
    if inside:
        return max(inside, key=len)
    raise BetastarError(
        f"the truth has several runs ({_few(runs)}) and none has its name in this path",
        where=name,
        remedy=f"name one with {argument('truth', 'FILE:RUN')}",
    )


def _table(path: Path, column: str | None) -> Truth:
    from betastar.analysis.logs.collect import read_file

    frames = []
    for log in read_file(path):
        rows = log.rows
        names = [str(name) for name in rows]
        step = _named(names, patterns(STEP)) or _named(names, (r"checkpoints?|model|label|name",))
        if step is None:
            raise BetastarError(
                f"has no column of steps (columns: {_few(list(rows))})",
                where=argument("truth", str(path)),
                remedy="name it step",
            )
        at = numbers(rows[step]).values
        if np.isnan(at).all():
            at = np.array([np.nan if (s := step_in(str(v))) is None else s for v in rows[step]], dtype=float)
        values = numbers(rows[column or _score(path, rows, step)]).values
        counts = _named(names, COUNTS)
        n = np.full(len(rows), np.nan) if counts is None else numbers(rows[counts]).values
        run = rows.get("run")
        part = pd.DataFrame({"step": at, "value": values, "n": n})
        label = log.name.rpartition(", run ")[2] if ", run " in log.name else None
        if run is not None or label is not None:
            part["run"] = run if run is not None else label
        frames.append(part.dropna(subset=["step", "value"]))
    return Truth(pd.concat(frames, ignore_index=True), path.name)


def _score(path: Path, rows: pd.DataFrame, step: str) -> str:
    names = [str(name) for name in rows if name not in (step, "run", "n")]
    named = _named(names, patterns(TRUE)) or next((s for s in SCORES if s in names), None)
    if named is not None:
        return named
    numeric = [name for name in names if not np.isnan(numbers(rows[name]).values).all()]
    if len(numeric) == 1:
        return numeric[0]
    raise BetastarError(
        f"{_few(numeric) or 'no column'} could be the score",
        where=argument("truth", str(path)),
        remedy=f"name it with {argument('true', 'COLUMN')}",
    )


def _named(names: Sequence[str], known: Sequence[str]) -> str | None:
    """The first of the best-known names."""
    return next(iter(first_match(names, known)), None)


def _harness_rows(path: Path, column: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(harness, row) of every result file at `path`; a result whose checkpoint names no step is passed over, and of a
    step evaluated twice the later file counts."""
    files = sorted(p for p in path.rglob("*") if p.suffix in (".json", ".eval")) if path.is_dir() else [path]
    found: dict[int, tuple[str, dict[str, Any]]] = {}
    for file in files:
        try:
            results = list(_results(file, column))
        except (AttributeError, TypeError, ValueError, OverflowError) as error:  # a part of it has another shape
            raise BetastarError(
                f"{file.name} is no result of a harness ({error})",
                where=argument("truth", str(path)),
                remedy="remove it, or evaluate again",
            ) from None
        for kind, place, value, n in results:
            step = next((s for text in place if (s := step_in(text)) is not None), None)
            if step is not None:
                found[step] = kind, {"step": float(step), "value": value, "n": n}
    yield from found.values()


def _results(file: Path, column: str | None) -> Iterator[tuple[str, tuple[str, ...], float, float]]:
    """(harness, texts that may name the step, score, number of problems)."""
    record = _record(file)
    if not isinstance(record, Mapping):
        return
    if isinstance(record.get("eval"), Mapping) and isinstance(record.get("results"), Mapping):
        yield from _inspect(file, record, column)
        return
    results = record.get("results")
    if not isinstance(results, Mapping):
        return
    tasks = {name: r for name, r in results.items() if isinstance(r, Mapping) and name != "all"}
    scored = [(name, s) for name, r in tasks.items() if (s := _best(r, column)) is not None]
    if not scored:
        return
    if len(scored) > 1 and column is None:
        raise BetastarError(
            f"has scores of {len(scored)} tasks ({_few([n for n, _ in scored])})",
            where=argument("truth", str(file)),
            remedy=f"name one with {argument('true', 'TASK')}",
        )
    name, value = next(((n, s) for n, s in scored if n == column), scored[0])
    counts = (record.get("n-samples") or {}).get(name) or {}
    config = record.get("config") or record.get("config_general") or {}
    model = str(config.get("model_args") or config.get("model_name") or record.get("model_name") or "")
    kind = "lighteval" if "config_general" in record else "lm-evaluation-harness"
    n = counts.get("effective", counts.get("original", np.nan)) if isinstance(counts, Mapping) else np.nan
    yield kind, (model, file.parent.name, file.name), value, float(n)


def _inspect(
    file: Path, record: Mapping[str, Any], column: str | None
) -> Iterator[tuple[str, tuple[str, ...], float, float]]:
    for score in record["results"].get("scores") or []:
        metrics = {k: m.get("value") for k, m in (score.get("metrics") or {}).items() if isinstance(m, Mapping)}
        value = _best(metrics, column)
        if value is not None:
            n = record["results"].get("completed_samples") or record["results"].get("total_samples") or np.nan
            model = str(record["eval"].get("model", ""))
            yield "inspect_ai", (model, file.parent.name, file.name), value, float(n)
            return


def _record(file: Path) -> Any:
    try:
        if file.suffix == ".eval":
            with zipfile.ZipFile(file) as archive:
                return json.loads(archive.read("header.json"))
        return json.loads(file.read_bytes())
    except (OSError, ValueError, KeyError, RecursionError, zipfile.BadZipFile):
        return None


def _best(metrics: Mapping[str, Any], column: str | None) -> float | None:
    """The score among a task's metrics, which lm-evaluation-harness calls "exact_match,strict-match"."""
    plain = {k: v for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    plain = {k: float(v) for k, v in plain.items() if "stderr" not in k}
    if column in plain:
        return plain[column]
    for name in SCORES:
        for key in sorted(plain, key=lambda key: ("strict" not in key, key)):
            if key.split(",")[0].split("/")[-1] == name:
                return plain[key]
    return None


def _few(values: Any, most: int = 6) -> str:
    listed = [f"{v:g}" if isinstance(v, float) else str(v) for v in list(values)[:most]]
    return ", ".join(listed) + (f" and {len(values) - most} more" if len(values) > most else "")
