"""Goodhart analysis of finished runs, whoever trained them: logs or a table in, the record of `results.json` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from betastar.analysis.results import BETA_UNKNOWN, build_results
from betastar.errors import BetastarError
from betastar.logs.assemble import Assembled, assemble
from betastar.logs.collect import Collected, collect
from betastar.logs.log import Log
from betastar.logs.options import Options, Unit

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
)
STAND_IN = 1.0  # of an unknown β: alone in its variant, it takes part in no comparison


class Analysis(NamedTuple):
    """`results`: the record, with `source` beside the usual fields. `frame`: the evaluation points, columns of
    `metrics.jsonl`. `notes`: sentences on what was guessed, passed over, done and missing."""

    results: dict[str, Any]
    frame: pd.DataFrame
    notes: list[str]


def analyze(
    frame: pd.DataFrame,
    *,
    proxy: str | None = None,
    true: str | None = None,
    step: str | None = None,
    uncertainty: str | None = None,
    beta: float | str | None = None,
    seed: int | str | None = None,
    variant: str | None = None,
    columns: Mapping[str, str] | None = None,
    n: int | None = None,
    true_unit: Unit | None = None,
    until: int | None = None,
    name: str = "frame",
) -> dict[str, Any]:
    """Analyse a table with one row per logged step, of one run or of several that columns tell apart.

    Every argument but the frame is optional: `proxy`, `true`, `step`, `uncertainty` and `variant` name columns, `beta`
    and `seed` a column or a number; what is left out is guessed from the names that trainers use, and
    `results["source"]["notes"]` says how. `columns`: more fields, such as `{"kl": "my_kl", "proxy_std": "r_std"}`. `n`:
    how many responses stand behind each true reward. `true_unit`: "share" of right answers, "percent" or "score".
    `until`: the last step that counts.

    Returns the record that `results.json` holds (docs/results.md); undefined numbers are NaN, with reasons. Raises
    BetastarError, in one sentence, where rewards cannot be found or a column is not as described.
    """
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise BetastarError(f"{name}: the column {twice!r} is there twice; rename or drop one.")
    told = {"proxy": proxy, "true": true, "step": step, "uncertainty": uncertainty}
    options = Options(
        columns={**(columns or {}), **{field: column for field, column in told.items() if column is not None}},
        beta=beta,
        seed=seed,
        variant=variant,
        n=n,
        true_unit=true_unit,
        until=until,
    )
    log = Log(name, frame.reset_index(drop=True), "pandas frame")
    return analyze_logs(Collected([log], [], []), options, name).results


def analyze_paths(paths: Sequence[Path], options: Options) -> Analysis:
    """Analyse the logs at `paths`, files or folders; raises BetastarError as `collect` and `assemble` do."""
    name = paths[0].resolve().name if len(paths) == 1 else f"{len(paths)} paths"
    return analyze_logs(collect(paths), options, name)


def analyze_logs(collected: Collected, options: Options, name: str) -> Analysis:
    """Analyse logs that were read."""
    assembled = assemble(collected.logs, options)
    notes = [*assembled.notes, *collected.notes]
    records = [log.record for log in collected.logs if log.record is not None]
    ours = records[0] if len(records) == len(collected.logs) == 1 else {}
    context = {
        "name": ours.get("name", name),
        **{field: ours[field] for field in CONTEXT if field in ours},
        "source": {"files": collected.files, "runs": [_listed(run) for run in assembled.runs], "notes": notes},
    }
    trade_off = ours.get("config", {}).get("law", {}).get("trade_off")
    results = _results(assembled, context, ours.get("root_seed", 0), trade_off)
    return Analysis(results, assembled.frame, notes)


def _listed(run: Mapping[str, Any]) -> dict[str, Any]:
    return {**run, **({"missing": {"beta": BETA_UNKNOWN}} if run["beta"] is None else {})}


def _results(
    assembled: Assembled, context: Mapping[str, Any], root_seed: int, trade_off: float | None
) -> dict[str, Any]:
    """The record of all runs; β null where it is unknown."""
    frame = assembled.frame
    extras: Any = {(v, STAND_IN if b is None else b, seed): known for (v, b, seed), known in assembled.extras.items()}
    unknown = set(frame.loc[frame["beta"].isna(), "variant"])
    filled = frame.assign(beta=frame["beta"].fillna(STAND_IN))
    return build_results(filled, extras, context, root_seed=root_seed, trade_off=trade_off, unknown_beta=unknown)
