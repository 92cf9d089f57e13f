"""From logs to evaluation points: one tidy table of all runs, with notes of what was guessed and done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from betastar.analysis.logs import remarks, responses
from betastar.analysis.logs.cells import numbers
from betastar.analysis.logs.columns import (
    COLUMNS,
    LABELS,
    Identity,
    bare,
    beta_of,
    choose,
    compiled,
    conditions,
    epoch_column,
    field_name,
    finished_runs,
    found_by,
    from_name,
    others,
    seed_of,
    short_names,
    split,
    step_columns,
)
from betastar.analysis.logs.log import Log, Options, TooManyRunsError, Unit, check_runs
from betastar.analysis.logs.names import kl_per
from betastar.analysis.logs.responses import GOLDS, GRADED, graded, has_responses, together, with_steps
from betastar.analysis.logs.sums import without_the_truth
from betastar.analysis.logs.truth import COLUMN, COUNT, join, run_of
from betastar.errors import BetastarError, argument
from betastar.record.answers import complete
from betastar.record.entries import INSIDE

Array = NDArray[np.float64]
# Logged this many times as often as the rarer reward, a quantity is averaged between evaluation points.
MUCH_MORE_OFTEN = 2
LARGEST_STEP = 2**53
# A truth above 1 that never passes this is a score; one that does, up to 100, is a percentage.
LEAST_PERCENT = 10


"""Beyond it neighbouring whole numbers are one floating-point number."""


class Curve(NamedTuple):
    """The values [T] of one quantity at its own ascending steps [T]; none is NaN."""

    steps: Array
    values: Array


class Points(NamedTuple):
    """`table`: one row per evaluation point, columns "step" and the fields; `notes`: what was done to get it."""

    table: pd.DataFrame
    notes: list[str]


def numeric(rows: pd.DataFrame) -> tuple[dict[str, Array], dict[str, str]]:
    """The columns that hold a finite number somewhere, as arrays [rows]; text and infinities become NaN. And of those
    that are not plain numbers, how they are written."""
    found = {str(name): numbers(rows[name]) for name in rows}
    some = {name: read for name, read in found.items() if not np.isnan(read.values).all()}
    written = {name: read.how for name, read in some.items() if read.how is not None}
    return {name: read.values for name, read in some.items()}, written


def evaluation_points(
    rows: Mapping[str, Array],
    columns: Mapping[str, str],
    steps: Sequence[str],
    where: str,
    until: int | None = None,
    fewest: int = 2,
) -> Points:
    """The evaluation points of a run from its numeric `rows`, column → [rows], in the order written.

    `columns`: field → column. `steps`: the columns that may hold a row's step; with none, rows are numbered from 1.
    Steps past `until` are cut off. Of a step written again after a resume the later row counts; rows of one step that
    follow each other are averaged. The rarer reward sets the points: what is logged at least twice as often is there
    the mean since the point before, everything else its value at the step; a point without both rewards is left out.

    Raises BetastarError for a step that is no whole number or too large for one, and for fewer than `fewest` points.
    """
    step, notes = step_of_rows(rows, steps, where)
    kept = step <= (np.inf if until is None else until)
    step = step[kept]
    if (np.diff(step) < 0).any():
        notes.append("steps are out of order or repeat after a resume; they were sorted")
    curves, averaged, again = {}, 0, 0
    judged = "true_strict" in columns
    if not judged:
        columns = {**columns, "true_strict": columns["proxy"]}  # for its steps
    for field, column in columns.items():
        curves[field], several, repeated = _by_step(step, rows[column][kept])
        if field in ("proxy", "true_strict"):
            averaged, again = max(averaged, several), max(again, repeated)
    if averaged:
        these = "1 step has" if averaged == 1 else f"{averaged} steps have"
        notes.append(
            f"{these} several rows, which were averaged. If the file holds several runs, "
            f"{argument('beta')} and {argument('seed')} name the columns that tell them apart"
        )
    if again:
        notes.append(
            f"{again} values were written twice for the same step; the last one counts, as after a resume. If the "
            f"file holds several runs, {argument('beta')} and {argument('seed')} name the columns that tell them apart"
        )
    table, aligned = _aligned(curves)
    aligned += _late_start(table, curves, step)
    if len(table) < fewest:
        raise BetastarError(
            f"{where}: a gap needs two points with both rewards, but there {'is' if len(table) else 'are'} "
            f"{len(table)}; log the true reward more often, or choose other columns with {argument('proxy')} and "
            f"{argument('true')}."
        )
    return Points(table if judged else table.assign(true_strict=np.nan), [*notes, *aligned])


def _late_start(table: pd.DataFrame, curves: Mapping[str, Curve], step: Array) -> list[str]:
    """That the first step is no point, if it lacks a reward."""
    true, proxy = curves["true_strict"].steps, curves["proxy"].steps
    if len(table) < 2 or MUCH_MORE_OFTEN * min(true.size, proxy.size) <= max(true.size, proxy.size):
        return []
    first, start = np.nanmin(step), table["step"].min()
    lacks = [name for name, steps in (("proxy", proxy), ("true reward", true)) if first not in steps]
    return [f"step {first:g} has no {' and no '.join(lacks)}, so step {start} is the start"] if lacks else []


def step_of_rows(rows: Mapping[str, Array], steps: Sequence[str], where: str) -> tuple[Array, list[str]]:
    """The step of every row [rows], from the first of the columns `steps` that has one, NaN where none has; without
    such columns thousandths of an epoch, or the rows are numbered from 1. And what was done."""
    size, notes = len(next(iter(rows.values()))), []
    step = np.full(size, np.nan)
    for name in steps:
        step = np.where(np.isnan(step), rows[name], step)
    if not steps:
        if (epoch := epoch_column(list(rows))) is not None and np.unique(rows[epoch]).size > 1:
            step = np.round(rows[epoch] * 1000)
            notes.append(f"no column counts steps, so steps are thousandths of an epoch ({epoch})")
        else:
            step = np.arange(1.0, size + 1)
            how = argument("step", "COLUMN")
            notes.append(f"no column counts steps, so rows are numbered from 1 ({how} names a column)")
    if lost := int(np.isnan(step).sum()):
        notes.append(f"{lost} rows without a step are skipped")
    known = step[~np.isnan(step)]
    if (np.abs(known) > LARGEST_STEP).any():
        largest = known[np.abs(known).argmax()]
        raise BetastarError(
            f"{where}: {steps[0] if steps else 'a step'} is {largest:g}, too large to be counted exactly; name the "
            f"step with {argument('step')}."
        )
    if (known % 1 != 0).any():
        raise BetastarError(
            f"{where}: {steps[0]} is not a whole number in every row; name the step with {argument('step')}."
        )
    return step, notes


def _by_step(step: Array, values: Array) -> tuple[Curve, int, int]:
    """One value for each step, NaN left out: rows of a step that follow each other are averaged, and of several such
    groups, as a resume writes them, the last one counts. And how many steps of the curve are averages, and how many
    values were written again."""
    known = ~np.isnan(values)
    step, values = step[known], values[known]
    if not step.size:
        return Curve(step, values), 0, 0
    begins = np.flatnonzero(np.r_[True, np.diff(step) != 0])
    counts = np.diff(np.r_[begins, step.size])
    means, at = np.add.reduceat(values, begins) / counts, step[begins]
    steps, place = np.unique(at[::-1], return_index=True)
    return Curve(steps, means[::-1][place]), int((counts[::-1][place] > 1).sum()), at.size - steps.size


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


# Of a run of ours: what is known of a checkpoint beside its points.
EXTRAS = ("alignment", "base", "again", "diverged", "log_ratio_noise", *INSIDE)


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
    answers: pd.DataFrame | None = None


class Assembled(NamedTuple):
    """`frame`: all evaluation points, β NaN where unknown. `runs`: name, format, condition, columns and number of
    points of each. `extras`: by (variant, β, seed). `notes`: sentences on what was guessed, skipped and changed.
    `answers`: the table of single answers of those runs that kept them, None if none did."""

    frame: pd.DataFrame
    runs: list[dict[str, Any]]
    extras: dict[tuple[Any, ...], Mapping[str, Any]]
    notes: list[str]
    answers: pd.DataFrame | None = None


def assemble(logs: Sequence[Log], options: Options) -> Assembled:
    """All runs in one table. A log without usable rewards is passed over and noted where another has them.

    Raises BetastarError where none has, for a faulty option, for too many runs, and where two runs claim the same
    condition.
    """
    compiled(options.patterns)
    told = {field_name(name): column for name, column in options.columns.items()}
    runs: list[Run] = []
    problems: list[BetastarError] = []
    check_runs(len(logs), "the logs", options.max_runs)
    for log in together(logs, step_columns):
        try:
            runs += _runs(log, options, told)
            check_runs(len(runs), "the logs", options.max_runs)
        except TooManyRunsError:
            raise
        except BetastarError as error:
            problems.append(error)
    judged = [run for run in runs if "true_strict" in run.columns]
    if judged and len(judged) < len(runs):
        problems += [
            BetastarError(f"{run.log.name}: no column is recognised as the true reward")
            for run in runs
            if "true_strict" not in run.columns
        ]
        runs = judged
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
    unmatched = [p for p in options.patterns if not any(found_by(compiled([p])[0], name, p) for name in names)]
    sentences = [
        *(f"{argument('patterns', p)}: matches no run's name or path, such as {names[0]}" for p in unmatched),
        *remarks.guesses([{f: column for f, column in run.guessed.items() if f in used} for run in runs]),
        *remarks.by_run([(run.log.name, run.notes) for run in runs]),
        *remarks.unknown(without_beta, without_seed, len(runs)),
        *([] if judged else [remarks.no_truth()]),
        *unit,
        *remarks.start(frame),
        *remarks.first_few([f"skipped {error}" for error in problems]),
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
    single = [
        run.answers.assign(**place._asdict())
        for run, place in zip(runs, places, strict=True)
        if run.answers is not None
    ]
    answers = complete(pd.concat(single, ignore_index=True)) if single else None
    return Assembled(frame, listed, extras, sentences, answers)


def _runs(log: Log, options: Options, told: Mapping[str, str]) -> list[Run]:
    """The runs of a log, each with what options, columns and names, in this order, say it is."""
    said: dict[str, Any] = {part: getattr(options, part) for part in Identity._fields}
    told_identity = {part: value for part, value in said.items() if value is not None}
    told_beta, told_seed = (None if isinstance(said[part], str) else said[part] for part in ("beta", "seed"))
    numbers = Identity(
        None,
        None if told_beta is None else beta_of(told_beta, argument("beta"), "it"),
        None if told_seed is None else seed_of(told_seed, argument("seed"), "it"),
    )
    _check_one_value_each(log, [*COLUMNS.values(), told.values(), told_identity.values(), step_columns(list(log.rows))])
    result = []
    finished = [] if has_responses(log.rows) else finished_runs(log, {**told_identity, **told}, options.max_runs)
    for part, by_column in finished or split(log, told_identity, options.max_runs):
        identity = _first_known(numbers, by_column, from_name(part.name, options.patterns))
        counted = [told["step"]] if "step" in told else step_columns(list(part.rows))
        single = has_responses(part.rows, counted)
        part = with_steps(part, step_columns(list(part.rows))) if single and "step" not in told else part
        own, more = dict(told), []
        if single and options.grade is not None:
            part = graded(part, options.grade)
            own |= {"true_strict": GRADED[0], "true_lenient": GRADED[1]}
        if options.truth is not None:
            counted = [own["step"]] if "step" in own else step_columns(list(part.rows))
            run = run_of(options.truth, part.name)
            part, more = join(part, options.truth, counted, run, options.truth_distance)
            own |= {"true_strict": COLUMN, "n": COUNT}
        read, how = numeric(part.rows)
        if COUNT in own.values() and COUNT not in read:
            del own["n"]
        rows = _with_numbers(read, own, len(part.rows))
        steps = [own["step"]] if "step" in own else step_columns(list(rows))
        aside = {*steps, *(GOLDS if single else ())}
        names = [name for name in rows if name in own.values() or name not in aside]
        without: Any = part.rows.isna().all()
        empty = [str(name) for name, none in without.items() if none]
        columns, seen = choose(names, own, part.name, rows, empty)
        fields = {field: column for field, column in columns.items() if field != "step"}
        summed = None
        if "true_strict" in fields:
            rows, fields, summed = without_the_truth(rows, fields, own)
        answers = None
        if single:
            step, told_steps = step_of_rows(rows, steps, part.name)
            found = responses.points(part.rows, rows, step, fields)
            answers, seen = found.answers, [*seen, *told_steps, *found.notes]
            rows, steps = found.rows, ["step"]
            fields |= {name: name for name in ("n", "proxy_std", "correct_strict", "true_std") if name in rows}
        if finished and not steps:
            rows, steps = rows | {FINISHED: np.zeros(len(part.rows))}, [FINISHED]
        points = evaluation_points(rows, fields, steps, part.name, options.until, 1 if finished or single else 2)
        _check_counts(points.table, fields, part.name)
        table, about_kl = _kl_per_response(points.table, fields, part, options)
        points = Points(table, [*points.notes, *about_kl])
        guessed = {field: column for field, column in columns.items() if field not in own}
        if steps and "step" not in own and steps != [FINISHED]:
            guessed["step"] = " or ".join(steps)
        written = [f"{name} is written with {how[name]}" for name in how if name in (*columns.values(), *steps)]
        done = [*filter(None, [part.note, summed]), *more, *written, *seen, *points.notes]
        extra = _extra(log.record, by_column) or _again(part.rows)
        answers = answers if single else _answers(log.answers, by_column, points.table)
        result.append(Run(log.name, part, identity, points.table, fields, guessed, done, extra, answers))
    if finished:
        note = "rows differ in β or run, not in step: each is taken for a finished run, and they are shown by √KL"
        result = [run._replace(notes=[note, *run.notes]) for run in result]
    return result


def _check_one_value_each(log: Log, names: Iterable[Iterable[Any]]) -> None:
    """Raises BetastarError where a cell that tells a run or a step holds a list or an object: it equals nothing."""
    rows: Any = log.rows
    for name in sorted({name for some in names for name in some if isinstance(name, str) and name in rows}):
        held = rows[name]
        several = [] if held.dtype != object else [cell for cell in held if isinstance(cell, list | dict | np.ndarray)]
        if several:
            raise BetastarError(
                f"{log.name}: the column {name} holds {several[0]!r:.40} where one value is due; correct the file."
            )


def _check_counts(table: Any, fields: Mapping[str, str], where: str) -> None:
    """Raises BetastarError where a column that counts responses holds what counts none."""
    for field, least in (("n", 1), ("answers", 1), ("correct_strict", 0)):
        if field not in table:
            continue
        wrong = table[field][(table[field] < least) | (table[field] > LARGEST_STEP)]
        if len(wrong):
            raise BetastarError(
                f"{where}: {fields[field]} is {wrong.iloc[0]:g}, which counts no responses; correct it, or name "
                f"another column with {argument('columns', f'{field}=COLUMN')}."
            )


def _kl_per_response(
    table: Any, fields: Mapping[str, str], log: Log, options: Options
) -> tuple[pd.DataFrame, list[str]]:
    """The points with KL in nats per response, and what was done: a KL per token is multiplied by the mean number of
    tokens, where that is logged."""
    column = fields.get("kl")
    if column is None or log.record is not None:
        return table, []
    name = bare(column)
    per = options.kl_per or kl_per(name, [bare(str(n)) for n in log.rows])
    change = f"{argument('kl_per', 'response')} or {argument('kl_per', 'token')} changes it"
    if per is None:
        return table, [f"{column} is taken for nats per response, since nothing tells who wrote it ({change})"]
    if per == "response":
        return table, [] if options.kl_per else [f"{column} is in nats per response ({change})"]
    if "response_tokens" not in table or table["response_tokens"].isna().all():
        return table, [
            f"{column} is in nats per token and the length of responses is not logged, so √KL here is per token too "
            f"({argument('columns', 'length=COLUMN')} names the length; {change})"
        ]
    return table.assign(kl=table["kl"] * table["response_tokens"]), [
        f"{column} is in nats per token and was multiplied by the mean length of responses "
        f"({fields['response_tokens']}) for nats per response ({change})"
    ]


FINISHED = "step of a finished run"


def _answers(answers: pd.DataFrame | None, identity: Identity, points: pd.DataFrame) -> pd.DataFrame | None:
    """Of a table of answers, those of one condition at its evaluation points. What no column says tells none apart."""
    if answers is None:
        return None
    of_it = answers["step"].isin(points["step"]).to_numpy()
    for part, value in identity._asdict().items():
        of_it = of_it & (True if value is None else (answers[part] == value).to_numpy())
    return answers.loc[of_it] if of_it.any() else None


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
    if np.isnan(true).all():
        return frame.assign(true_std=np.nan), []
    low, high, said = true.min(), true.max(), []
    if unit is None:
        inside = low >= 0 and high <= 1
        if inside and not _spread_of_shares(frame):
            unit = "score"
            said.append(
                "the true reward is read as a score, since its logged standard deviation is not that of right and "
                f"wrong answers (else {argument('true_unit', 'share')})"
            )
        elif inside:
            unit = "share"
        else:
            unit = "percent" if low >= 0 and LEAST_PERCENT < high <= 100 else "score"
        if unit == "percent":
            said.append(
                f"true rewards go up to {high:g}: read as percentages and divided by 100 (else "
                f"{argument('true_unit', 'score')})"
            )
        if unit == "score" and not inside:
            said.append(
                f"true rewards go from {low:g} to {high:g}: read as scores, not as shares of right answers (else "
                f"{argument('true_unit', 'percent')})"
            )
    if unit == "score":
        return (frame if "true_std" in frame else frame.assign(true_std=np.nan)), said
    if unit == "share" and not (low >= 0 and high <= 1):
        raise BetastarError(
            f"true rewards go from {low:g} to {high:g}, so they are not shares; use "
            f"{argument('true_unit', 'percent')} or {argument('true_unit', 'score')}."
        )
    frame = frame.drop(columns="true_std", errors="ignore")
    return frame.assign(true_strict=true / 100 if unit == "percent" else true), said


def _spread_of_shares(frame: pd.DataFrame) -> bool:
    """Whether the logged standard deviations of true rewards, if there are any, are about √(q(1−q)), as those of right
    and wrong answers are; of rewards of −1 and +1, say, they are twice that."""
    if "true_std" not in frame:
        return True
    share, spread = frame["true_strict"].to_numpy(), frame["true_std"].to_numpy()
    usual = np.sqrt(share * (1 - share))
    known = (usual > 0) & (spread > 0)
    return not known.any() or bool(0.75 < np.median(spread[known] / usual[known]) < 1.35)


def _again(rows: pd.DataFrame) -> dict[str, Any]:
    """The second evaluation of the start that `GoodhartMonitor` keeps beside the first."""
    column: Any = rows.get("again", ())
    for kept in column:
        if isinstance(kept, list) and kept and isinstance(kept[0], Mapping):
            return {"again": {name: kept[0].get(name) for name in ("proxy", "true_strict")}}
    return {}
