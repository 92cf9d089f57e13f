"""From logs to evaluation points: one tidy table of all runs, with notes of what was guessed and done."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from betastar.analysis.logs import assemble as notes
from betastar.analysis.logs.columns import (
    LABELS,
    MAIN,
    Identity,
    bare,
    choose,
    compiled,
    conditions,
    field_name,
    from_name,
    others,
    short_names,
    split,
    step_columns,
)
from betastar.analysis.logs.log import Log, Options, Unit
from betastar.errors import BetastarError
from betastar.record.entries import INSIDE

Array = NDArray[np.float64]
# Logged this many times as often as the rarer reward, a quantity is averaged between evaluation points.
MUCH_MORE_OFTEN = 2


class Curve(NamedTuple):
    """The values [T] of one quantity at its own ascending steps [T]; none is NaN."""

    steps: Array
    values: Array


class Points(NamedTuple):
    """`table`: one row per evaluation point, columns "step" and the fields; `notes`: what was done to get it."""

    table: pd.DataFrame
    notes: list[str]


def numeric(rows: pd.DataFrame) -> dict[str, Array]:
    """The columns that hold a finite number somewhere, as arrays [rows]; text and infinities become NaN."""
    columns: dict[str, Array] = {}
    for name in rows:
        column: Any = rows[name]
        if column.dtype != bool:
            values = np.array(pd.to_numeric(column, errors="coerce"), dtype=np.float64)
            values[np.isinf(values)] = np.nan
            if not np.isnan(values).all():
                columns[str(name)] = values
    return columns


def evaluation_points(
    rows: Mapping[str, Array], columns: Mapping[str, str], steps: Sequence[str], where: str, until: int | None = None
) -> Points:
    """The evaluation points of a run from its numeric `rows`, column → [rows], in the order written.

    `columns`: field → column. `steps`: the columns that may hold a row's step; with none, rows are numbered from 1.
    Steps past `until` are cut off. Of a step written twice the later row counts. The rarer reward sets the points: what
    is logged at least twice as often is there the mean since the point before, everything else its value at the step;
    a point without both rewards is left out.

    Raises BetastarError for a step that is no whole number, and for fewer than two points.
    """
    notes = []
    size = len(next(iter(rows.values())))
    step = np.full(size, np.nan) if steps else np.arange(1.0, size + 1)
    for name in steps:
        step = np.where(np.isnan(step), rows[name], step)
    if not steps:
        notes.append("no column counts steps, so rows are numbered from 1 (--step COLUMN names a column)")
    if lost := int(np.isnan(step).sum()):
        notes.append(f"{lost} rows without a step are skipped")
    kept = step <= (np.inf if until is None else until)
    step = step[kept]
    if (step % 1 != 0).any():
        raise BetastarError(f"{where}: {steps[0]} is not a whole number in every row; name the step with --step.")
    if (np.diff(step) < 0).any():
        notes.append("steps are out of order or repeat after a resume; they were sorted")
    curves = {field: _by_step(step, rows[column][kept]) for field, column in columns.items()}
    written = {reward: int((~np.isnan(rows[columns[reward]][kept])).sum()) for reward in ("proxy", "true_strict")}
    if repeated := max(count - curves[reward].steps.size for reward, count in written.items()):
        notes.append(
            f"{repeated} values were written twice for the same step; the last one counts, as after a resume. If the "
            "file holds several runs, --beta and --seed name the columns that tell them apart"
        )
    table, aligned = _aligned(curves)
    if len(table) < 2:
        raise BetastarError(
            f"{where}: a gap needs two points with both rewards, but there {'is' if len(table) else 'are'} "
            f"{len(table)}; log the true reward more often, or choose other columns with --proxy and --true."
        )
    return Points(table, [*notes, *aligned])


def _by_step(step: Array, values: Array) -> Curve:
    """The last value written of each step, NaN left out."""
    known = ~np.isnan(values)
    steps, place = np.unique(step[known][::-1], return_index=True)
    return Curve(steps, values[known][::-1][place])


def _aligned(curves: Mapping[str, Curve]) -> tuple[pd.DataFrame, list[str]]:
    """All fields at the steps of the rarer reward, and what had to be done."""
    true, proxy = curves["true_strict"], curves["proxy"]
    rare, dense, names = (true, proxy, ("the proxy", "the true reward"))
    if proxy.steps.size < true.steps.size:
        rare, dense, names = (proxy, true, names[::-1])
    grid = rare.steps
    fields = {
        field: _means_since(curve, grid) if _is_dense(curve, grid) else _values_at(curve, grid)
        for field, curve in curves.items()
    }
    whole = ~np.isnan(fields["proxy"]) & ~np.isnan(fields["true_strict"])
    notes = []
    if _is_dense(dense, grid):
        notes.append(
            f"{names[0]} is logged at {dense.steps.size} steps and {names[1]} at {grid.size}; at each of the latter, "
            f"{names[0]} is its mean since the previous one"
        )
        if lost := int((~whole).sum()):
            notes.append(f"{lost} of them have nothing to average and are skipped")
    elif apart := np.setxor1d(true.steps, proxy.steps).size:
        notes.append(f"{apart} steps have only one of the two rewards and are skipped")
    table = {"step": grid.astype(int), **fields}
    return pd.DataFrame({field: values[whole] for field, values in table.items()}), notes


def _is_dense(curve: Curve, grid: Array) -> bool:
    return 0 < MUCH_MORE_OFTEN * grid.size <= curve.steps.size


def _values_at(curve: Curve, grid: Array) -> Array:
    """The curve's values at the steps of `grid`; NaN where it has none."""
    result = np.full(grid.size, np.nan)
    _, here, there = np.intersect1d(grid, curve.steps, assume_unique=True, return_indices=True)
    result[here] = curve.values[there]
    return result


def _means_since(curve: Curve, grid: Array) -> Array:
    """Mean of the curve over (grid[i−1], grid[i]] for every i; NaN where it has no value.

    Trainers log the reward of a batch that was sampled before the step's update. So where an evaluation before all
    training opens the grid, the first batch was answered by the same policy, and its value stands there.
    """
    place = np.searchsorted(grid, curve.steps)  # the first grid step at or after each value
    counts = np.bincount(place, minlength=grid.size)[: grid.size]
    sums = np.bincount(place, curve.values, minlength=grid.size)[: grid.size]
    means = np.divide(sums, counts, out=np.full(grid.size, np.nan), where=counts > 0)
    if counts[0] == 0 and grid.size > 1 and curve.steps[0] < grid[1]:
        means[0] = curve.values[0]
    return means


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
                notes.append(f"{label} = {column} (guessed{share}; --{label} COLUMN changes it)")
            else:
                more[f"{label} = {column}"] = None
    if more:
        notes.append(f"{', '.join(more)} (guessed; --column NAME=COLUMN changes one)")
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
        notes.append(f"{_count(without_seed, runs)} without a seed; numbered from 0 (set it with --seed or --pattern)")
    if without_beta and runs > 1:
        notes.append(
            f"{_count(without_beta, runs)} without a known β, so the dependence of damage on β is unknown there (set "
            "it with --beta or --pattern)"
        )
    return notes


def start(frame: Any) -> list[str]:
    """What there is and is not at the start, which every gap is measured from; `frame`: all evaluation points."""
    starts = frame.sort_values("step").groupby(["variant", "beta", "seed"], dropna=False).head(1)
    notes = []
    first, last = starts["step"].min(), starts["step"].max()
    if last > 0:
        steps = f"{first:g}" if first == last else f"{first:g} to {last:g}"
        notes.append(f"the earliest point, step {steps}, is used as the start, because no step 0 is logged")
    if "proxy_std" not in starts or starts["proxy_std"].isna().all():
        notes.append(
            "the standard deviation of proxy rewards is not logged, so there is no standardised gap (set it with "
            "--column proxy_std=COLUMN or proxy_std=NUMBER)"
        )
    if "n" not in starts or starts["n"].isna().all():
        notes.append(
            "the number of responses behind each true reward is not logged, and assumed large (set it with --n)"
        )
    return notes


def first_few(notes: Sequence[str], shown: int = 5) -> list[str]:
    """The first sentences, and how many more there are."""
    return [*notes[:shown], *([f"… and {len(notes) - shown} more of this kind"] if len(notes) > shown else [])]


def _count(count: int, runs: int) -> str:
    return "the run is" if runs == 1 else f"{count} of {runs} runs {'is' if count == 1 else 'are'}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# Of a run of ours: what is known of a checkpoint beside its points.
EXTRAS = ("alignment", "base", "again", "log_ratio_noise", *INSIDE)


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
    answers: pd.DataFrame | None


class Assembled(NamedTuple):
    """`frame`: all evaluation points, β NaN where unknown. `runs`: name, format, condition, columns and number of
    points of each. `extras`: by (variant, β, seed). `notes`: sentences on what was guessed, skipped and changed.
    `answers`: the table of single answers of those runs that kept them, None if none did."""

    frame: pd.DataFrame
    runs: list[dict[str, Any]]
    extras: dict[tuple[Any, ...], Mapping[str, Any]]
    notes: list[str]
    answers: pd.DataFrame | None


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
        more = f" The same holds for {len(problems) - 1} more." if len(problems) > 1 else ""
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
        *(f"--pattern {p}: matches no run's name or path, such as {names[0]}" for p in unmatched),
        *notes.guesses([{f: column for f, column in run.guessed.items() if f in used} for run in runs]),
        *notes.by_run([(run.log.name, run.notes) for run in runs]),
        *notes.unknown(without_beta, without_seed, len(runs)),
        *unit,
        *notes.start(frame),
        *notes.first_few([f"skipped {error}" for error in problems]),
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
    kept = [
        run.answers.assign(**place._asdict())
        for run, place in zip(runs, places, strict=True)
        if run.answers is not None
    ]
    return Assembled(frame, listed, extras, sentences, pd.concat(kept, ignore_index=True) if kept else None)


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
        rows, fields, summed = _without_the_truth(rows, fields, told)
        points = evaluation_points(rows, fields, steps, part.name, options.until)
        guessed = {field: column for field, column in columns.items() if field not in told}
        if steps and "step" not in told:
            guessed["step"] = " or ".join(steps)
        done = [*filter(None, [part.note, summed]), *points.notes]
        extra = _extra(log.record, by_column) or _again(part.rows)
        answers = _answers(log.answers, by_column, points.table)
        result.append(Run(log.name, part, identity, points.table, fields, guessed, done, extra, answers))
    return result


def _answers(answers: pd.DataFrame | None, identity: Identity, points: pd.DataFrame) -> pd.DataFrame | None:
    """Of a table of answers, those of one condition at its evaluation points."""
    if answers is None:
        return None
    of_it = answers["step"].isin(points["step"])
    for part, value in identity._asdict().items():
        of_it &= answers[part] == value
    return answers[of_it] if of_it.any() else None


COMPONENT = re.compile(r"(^|[/_])(rewards?|scores?)([/_]|$)")
SPREAD = re.compile(r"(std|min|max|frac_reward_zero_std)$")
MOST_COMPONENTS = 8


def _without_the_truth(
    rows: dict[str, Array], fields: Mapping[str, str], told: Mapping[str, str]
) -> tuple[dict[str, Array], dict[str, str], str | None]:
    """A guessed proxy that is a weighted sum of logged rewards with the true one among them, less its true part: what
    is optimised beside the truth. The rows, the fields, and what was done."""
    proxy, true = fields["proxy"], fields["true_strict"]
    parts = [n for n in rows if n != proxy and COMPONENT.search(n) and not SPREAD.search(n) and n != true]
    weights = _weights(rows[proxy], [rows[name] for name in [true, *parts]]) if parts else None
    if weights is None or not weights[0] > 1e-6:
        return rows, dict(fields), None
    share = f"{weights[0]:.3g}"
    if "proxy" in told:
        return rows, dict(fields), f"{proxy} is a sum that holds the true reward ({true}) with weight {share}"
    rest = f"{proxy} − {share} × {true}"
    rows = rows | {rest: rows[proxy] - weights[0] * rows[true]}
    fields = {field: column for field, column in fields.items() if field != "proxy_std"} | {"proxy": rest}
    counted = [(name, w) for name, w in zip(parts, weights[1:], strict=True) if abs(w) > 1e-6]
    if len(counted) == 1:  # the spread of the rest is that of its only part
        ((name, weight),) = counted
        spread = re.sub(r"(?<![a-z])mean$", "std", name)
        if spread != name and spread in rows:
            rows = rows | {f"{abs(weight):.3g} × {spread}": abs(weight) * rows[spread]}
            fields["proxy_std"] = f"{abs(weight):.3g} × {spread}"
    said = (
        f"{proxy} is a sum that holds the true reward ({true}) with weight {share}; the proxy is what remains without "
        "it (--proxy COLUMN takes another)"
    )
    return rows, fields, said


def _weights(total: Array, parts: Sequence[Array]) -> Array | None:
    """The weights with which parts add up to the total; None where they do not, or rows are too few to tell."""
    table = np.column_stack(parts)
    known = ~np.isnan(total) & ~np.isnan(table).any(axis=1)
    if len(parts) > MOST_COMPONENTS or known.sum() < 2 * len(parts) + 1:
        return None
    total, table = total[known], table[known]
    solved = np.linalg.lstsq(table, total, rcond=1e-9)
    weights, rank = np.asarray(solved[0], dtype=np.float64), int(solved[2])
    if rank < len(parts) or np.abs(table @ weights - total).max() > 1e-4 * max(float(np.ptp(total)), 1e-9):
        return None
    return weights


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
            return {name: condition[name] for name in EXTRAS if condition.get(name) is not None}
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
    `true_std`. A share has a standard deviation of its own: one that is logged and differs from it says score."""
    true = frame["true_strict"].to_numpy()
    low, high, said = true.min(), true.max(), []
    if unit is None:
        unit = "share" if low >= 0 and high <= 1 else "percent" if low >= 0 and high <= 100 else "score"
        whole = {"share": 1.0, "percent": 100.0}.get(unit)
        if whole and "true_std" in frame and (differs := _differs(true, frame["true_std"].to_numpy(), whole)):
            unit = "score"
            said.append(f"{differs}: read as scores, not as shares of right answers (else --true-unit share)")
        elif unit == "percent":
            said.append(
                f"true rewards go up to {high:g}: read as percentages and divided by 100 (else --true-unit score)"
            )
        elif unit == "score":
            said.append(f"true rewards go from {low:g} to {high:g}: read as scores, not as shares of right answers")
    if unit == "score":
        return (frame if "true_std" in frame else frame.assign(true_std=np.nan)), said
    if unit == "share" and not (low >= 0 and high <= 1):
        raise BetastarError(
            f"true rewards go from {low:g} to {high:g}, so they are not shares; use --true-unit percent or score."
        )
    frame = frame.drop(columns="true_std", errors="ignore")
    return frame.assign(true_strict=true / 100 if unit == "percent" else true), said


SAME_SPREAD = 0.1  # of small batches, the logged spread is that of n − 1 and a mean over batches


def _differs(true: Array, logged: Array, whole: float) -> str | None:
    """Whether a logged standard deviation of the true reward is not that of a share, in words."""
    expected = np.sqrt(true * (whole - true))
    known = ~np.isnan(logged) & (expected > 0)
    if not known.any():
        return None
    ratio = float(np.median(logged[known] / expected[known]))
    if abs(ratio - 1) <= SAME_SPREAD:
        return None
    return (
        f"the logged standard deviation of the true reward, {logged[known][0]:.3g}, is not that of a share, "
        f"{expected[known][0]:.3g}"
    )


def _again(rows: pd.DataFrame) -> dict[str, Any]:
    """The second evaluation of the start that `GoodhartMonitor` keeps beside the first."""
    column: Any = rows.get("again", ())
    for kept in column:
        if isinstance(kept, list) and kept and isinstance(kept[0], Mapping):
            return {"again": dict(kept[0])}
    return {}
