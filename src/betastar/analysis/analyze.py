"""Goodhart analysis of finished runs, whoever trained them: logs or a table in, the record of `results.json` out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from betastar.analysis.decision import check_primary
from betastar.analysis.inside import best_of_n_record
from betastar.analysis.logs.assemble import Assembled, assemble
from betastar.analysis.logs.collect import Collected, collect
from betastar.analysis.logs.columns import step_columns
from betastar.analysis.logs.log import Log, Options
from betastar.analysis.logs.text import shown_path
from betastar.analysis.results import BETA_UNKNOWN, build_results
from betastar.errors import BetastarError
from betastar.record.answers import grids

# What a run of ours says of itself in results.json, beside what follows from its evaluation points.
CONTEXT = (
    "root_seed",
    "prompt_split",
    "grid",
    "variants",
    "evaluation",
    "problems",
    "preferences",
    "data",
    "rewards",
    "hyperparameters",
    "best_of_n",
    "inside",
)
STAND_IN = 1.0  # of an unknown β: alone in its variant, it takes part in no comparison


class Analysis(NamedTuple):
    """`results`: the record, with `source` beside the usual fields. `frame`: the evaluation points, columns of
    `metrics.jsonl`. `notes`: sentences on what was guessed, passed over, done and missing."""

    results: dict[str, Any]
    frame: pd.DataFrame
    notes: list[str]


def analyze_frame(frame: pd.DataFrame, options: Options, name: str = "frame") -> Analysis:
    """Analyse a table with one row per logged step, of one run or of several that columns tell apart. What the index
    holds counts as columns: its named levels, and without names the step, if no column is one.

    Raises BetastarError, in one sentence, where rewards cannot be found or a column is not as described.
    """
    if not all(isinstance(column, str) for column in frame.columns):  # numbers, or several levels
        frame = frame.set_axis([_name(column) for column in frame.columns], axis=1)
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise BetastarError(f"{name}: the column {twice!r} appears twice; rename or drop one.")
    log = Log(name, _with_index(frame, options), "pandas frame")
    return analyze_logs(Collected([log], [], []), options, name)


def _name(column: Any) -> str:
    return "/".join(map(str, column)) if isinstance(column, tuple) else str(column)


def _with_index(frame: pd.DataFrame, options: Options) -> pd.DataFrame:
    """The frame with what its index says as columns."""
    index, names = frame.index, [str(name) for name in frame.columns]
    told = options.columns.get("step")
    if isinstance(index, pd.RangeIndex) and index.name is None:
        return frame.reset_index(drop=True)
    if index.nlevels == 1 and index.name is None:
        is_step = pd.api.types.is_numeric_dtype(index.dtype) and told is None and not step_columns(names)
        return frame.rename_axis("step").reset_index() if is_step and index.is_unique else frame.reset_index(drop=True)
    kept = [name for name in index.names if name is not None and name not in frame.columns]
    lost = [level for level, name in enumerate(index.names) if name not in kept]
    return frame.reset_index(level=lost, drop=True).reset_index() if kept and lost else frame.reset_index(drop=not kept)


def analyze_paths(
    paths: Sequence[Path], options: Options, name: str | None = None, most: int | None = None
) -> Analysis:
    """Analyse the logs at `paths`, files or folders, of which each file may hold `most` bytes. Raises BetastarError as
    `collect` and `assemble` do."""
    if not paths:
        raise BetastarError("nothing to analyse; give a data frame or the path of a log.")
    collected = collect(paths, most)
    name = name or (shown_path(Path(paths[0].resolve().name)) if len(paths) == 1 else f"{len(paths)} paths")
    return analyze_logs(collected, options, name)


def analyze_logs(collected: Collected, options: Options, name: str) -> Analysis:
    """Analyse logs that were read."""
    if options.primary is not None:
        check_primary(options.primary)
    assembled = assemble(collected.logs, options)
    notes = [*assembled.notes, *collected.notes]
    records = [log.record for log in collected.logs if log.record is not None]
    ours = records[0] if len(records) == len(collected.logs) == 1 else {}
    context = {
        "name": ours.get("name", name),
        **{field: ours[field] for field in CONTEXT if field in ours},
        "source": {"files": collected.files, "runs": [_listed(run) for run in assembled.runs], "notes": notes},
    }
    results = _results(assembled, context, ours, options.primary)
    return Analysis(results, assembled.frame, notes)


def _listed(run: Mapping[str, Any]) -> dict[str, Any]:
    return {**run, **({"missing": {"beta": BETA_UNKNOWN}} if run["beta"] is None else {})}


def best_of_n_of(answers: Any, unknown: set[str]) -> dict[str, Any]:
    """Best-of-n of the first checkpoint of every run that has several answers to each problem, as a part of the record;
    empty where none has, or runs differ in more than β and seed. `unknown`: the variants whose β is not known."""
    if answers["variant"].nunique() > 1:
        return {}
    found, sizes = {}, set()
    for (_, beta, seed), grid in grids(answers.assign(beta=answers["beta"].fillna(STAND_IN))).items():
        whole = ~(np.isnan(grid.proxy[0]) | np.isnan(grid.strict[0])).any(axis=1)
        if grid.proxy.shape[2] < 2 or whole.sum() < 2:
            return {}
        parts = {"proxy": grid.proxy, "strict": grid.strict, "lenient": grid.lenient}
        found[beta, seed] = {name: values[0][whole] for name, values in parts.items()}
        sizes.add((int(whole.sum()), grid.proxy.shape[2]))
    if len(sizes) != 1:
        return {}
    record = best_of_n_record(found)
    if unknown:
        why = {"beta": math.nan, "missing": {"beta": BETA_UNKNOWN}}
        record |= {part: [{**row, **why} for row in record[part]] for part in ("checkpoints", "by_beta")}
    return {"best_of_n": record}


def _results(
    assembled: Assembled, context: Mapping[str, Any], ours: Mapping[str, Any], primary: str | None
) -> dict[str, Any]:
    """The record of all runs; β null where it is unknown. `ours`: the record of a single run of betastar, whose
    settings count where nothing else is told."""
    config = ours.get("config", {})
    settings = config.get("analysis", {})
    frame = assembled.frame
    extras: Any = {(v, STAND_IN if b is None else b, seed): known for (v, b, seed), known in assembled.extras.items()}
    unknown = set(frame.loc[frame["beta"].isna(), "variant"])
    filled = frame.assign(beta=frame["beta"].fillna(STAND_IN))
    answers = assembled.answers
    grid = best_of_n_of(answers, unknown) if "best_of_n" not in context and answers is not None else {}
    return build_results(
        filled,
        extras,
        {**context, **grid},
        root_seed=ours.get("root_seed", 0),
        trade_off=config.get("law", {}).get("trade_off"),
        primary=primary or settings.get("primary", "regret"),
        smallest_effect=settings.get("smallest_effect"),
        unknown_beta=unknown,
        answers=None if answers is None else answers.assign(beta=answers["beta"].fillna(STAND_IN)),
    )
