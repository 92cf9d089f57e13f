"""Logs with a row per response: rollouts that trainers dump, graded samples of checkpoints. They become evaluation
points (means, standard deviations, counts) and the table of single answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from betastar.analysis.logs.cells import Array
from betastar.analysis.logs.log import Log
from betastar.errors import BetastarError, argument
from betastar.record.responses import Grade

TEXTS = (
    *("response", "completion", "output", "outputs", "generation", "generated_text", "model_output", "prediction"),
    *("response_text", "completions", "responses", "answer_text", "text", "rollout", "messages", "generated"),
)
PROMPTS = ("prompt", "question", "problem", "input", "inputs", "query", "instruction", "prompt_text", "prompts")
PROBLEMS = ("problem_id", "prompt_id", "question_id", "uid", "index", "example_id", "sample_id", "task_id", "group_id")
# Answers to compare with: of responses, these are texts or their numbers and never a reward.
GOLDS = ("gold", "gts", "ground_truth", "answer", "target", "label", "solution", "reference")
CHECKPOINTS = ("label", "checkpoint", "ckpt", "policy", "model", "stage", "split")
STEP_IN_NAME = re.compile(
    r"(?:^|[^a-z])(?:global[-_ ]?step|training[-_ ]?step|step|iter(?:ation)?|ckpt|checkpoint|rollout|epoch)s?"
    r"[-_ =/]*(\d+)",
    re.IGNORECASE,
)
ONLY_NUMBER = re.compile(r"(\d+)")
START = re.compile(r"(^|[^a-z])(base|init(ial)?|sft|start|before|reference|ref)([^a-z]|$)", re.IGNORECASE)
GRADED = ("graded strictly", "graded leniently")
FROM_NAME = "steps are read from the names of files"
SHORTEST = 8  # characters of a text, on average, to be one


class Points(NamedTuple):
    """`rows`: one row per step, of every numeric column the mean; of the rewards also standard deviation and number.
    `answers`: one row per response with step, problem, answer and the numeric columns. `notes`: what was done."""

    rows: dict[str, Array]
    answers: pd.DataFrame
    notes: list[str]


def has_responses(rows: pd.DataFrame, steps: Sequence[str] = ()) -> bool:
    """Whether rows are single responses: they hold texts of prompts or responses, and more than one stands at a step
    (`steps`: the columns that count them)."""
    texts = [name for name in (*TEXTS, *PROMPTS) if (column := _column(rows, (name,))) and _is_text(rows[column])]
    counted = [name for name in steps if name in rows]
    return len(rows) > 1 and bool(texts) and not (counted and rows[counted[0]].dropna().is_unique)


def step_in(name: str) -> int | None:
    """The step in the name of a checkpoint or a file: 500 of "step-500", 0 of "base"."""
    stem = re.sub(r"(\.(jsonl|json|ndjson|parquet|csv|tsv|gz|zst|bz2|xz))+$", "", name.rsplit("/", 1)[-1])
    for text in (stem, name):
        if found := STEP_IN_NAME.findall(text):
            return int(found[-1])
        if START.search(text):
            return 0
    return int(stem) if ONLY_NUMBER.fullmatch(stem) else None


def with_steps(log: Log, steps: Sequence[str]) -> Log:
    """The log of responses with a column `step`: its own, or that in a column which names checkpoints, or in the name
    of the file; without any it stays as it is."""
    if any(name in log.rows for name in steps):
        return log
    column = _column(log.rows, CHECKPOINTS)
    if column is not None and not pd.api.types.is_numeric_dtype(log.rows[column]):
        found = {value: step_in(str(value)) for value in log.rows[column].dropna().unique()}
        if found and None not in found.values():
            rows = log.rows.assign(step=[found.get(value) for value in log.rows[column]])
            return log._replace(rows=rows, note=_and(log.note, f"steps are read from {column}"))
    step = step_in(log.name)
    if step is None:
        return log
    return log._replace(rows=log.rows.assign(step=step), note=_and(log.note, FROM_NAME))


def together(logs: Sequence[Log], steps: Callable[[Sequence[str]], list[str]]) -> list[Log]:
    """The logs in order, those of responses that are checkpoints of one run as one log: files of one folder, of the
    same columns, whose names are the same but for the step. `steps`: which of some names are columns of steps."""
    result: dict[Any, Log] = {}
    for i, log in enumerate(logs):
        key: Any = i
        if log.record is None and has_responses(log.rows) and not steps(list(map(str, log.rows))):
            log = with_steps(log, ())
            if "step" in log.rows:
                folder, _, file = log.name.rpartition("/")
                by_file = (log.note or "").endswith(FROM_NAME)
                rest = START.sub(" ", STEP_IN_NAME.sub(" ", file)) if by_file else ""
                key = folder, re.sub(r"[^a-z]+", "", rest.lower()), tuple(log.rows)
        if key in result:
            rows = pd.concat([result[key].rows, log.rows], ignore_index=True)
            name = key[0] or result[key].name
            result[key] = result[key]._replace(rows=rows, name=name)
        else:
            result[key] = log
    return list(result.values())


def problems(rows: pd.DataFrame) -> Any:
    """What tells the problems of responses apart [rows]: their number or the text of the prompt; None where nothing
    does."""
    column = _column(rows, PROBLEMS) or _column(rows, PROMPTS)
    if column is None:
        return None
    values = rows[column]
    if not _is_text(values):
        return values
    return pd.Series(pd.factorize(values.astype(str))[0], index=rows.index)


def points(rows: pd.DataFrame, numeric: Mapping[str, Array], step: Array, columns: Mapping[str, str]) -> Points:
    """Responses as evaluation points. `numeric`: column → [rows]; `step` [rows]; `columns`: field → column."""
    proxy = numeric[columns["proxy"]]
    true = numeric[columns["true_strict"]] if "true_strict" in columns else np.zeros(len(rows))
    kept = ~(np.isnan(step) | np.isnan(proxy) | np.isnan(true))
    table = pd.DataFrame({name: numeric[name][kept] for name in dict.fromkeys(columns.values()) if name in numeric})
    table["__step"] = step[kept]
    which = problems(rows)
    table["__problem"] = np.arange(len(table)) if which is None else np.asarray(which)[kept]
    by_step: Any = table.groupby("__step", sort=True)
    means = by_step[[c for c in table if not c.startswith("__")]].mean()
    points: dict[str, Array] = {str(name): means[name].to_numpy() for name in means}
    points["step"] = means.index.to_numpy(dtype=float)
    points["n"] = by_step.size().to_numpy(dtype=float)
    points["proxy_std"] = by_step[columns["proxy"]].std().to_numpy()
    if (judged := columns.get("true_strict")) is not None:
        if np.isin(table[judged], (0, 1)).all():
            points["correct_strict"] = by_step[judged].sum().to_numpy()
        else:
            points["true_std"] = by_step[judged].std().to_numpy()
    answer = table.groupby(["__step", "__problem"], sort=False).cumcount()
    answers = pd.DataFrame(
        {
            "step": table["__step"].astype(int),
            "problem": table["__problem"].astype("string"),
            "answer": answer,
            **{field: table[column] for field, column in _of_answers(columns).items() if column in table},
        }
    )
    sizes = points["n"]
    size = f"{sizes[0]:g}" if (sizes == sizes[0]).all() else f"{sizes.min():g} to {sizes.max():g}"
    note = f"rows are single responses, {size} at each of {len(sizes)} steps; points are their means"
    lost = [f"{int((~kept).sum())} responses lack a step or a reward and are skipped"] if not kept.all() else []
    return Points(points, answers, [note, *lost])


def _of_answers(columns: Mapping[str, str]) -> dict[str, str]:
    """Field of an answer → column."""
    names = {
        "proxy": "proxy",
        "true_strict": "strict",
        "true_lenient": "lenient",
        "disagreement": "disagreement",
        "response_tokens": "tokens",
        "at_limit": "at_limit",
        "kl": "log_ratio",
    }
    return {names[field]: column for field, column in columns.items() if field in names}


def graded(log: Log, grade: Callable[[str, str], Grade]) -> Log:
    """The log of responses with the columns of `GRADED`, graded anew from their texts. Raises BetastarError where texts
    or gold answers are missing."""
    found = [c for name in TEXTS if (c := _column(log.rows, (name,))) is not None and _is_text(log.rows[c])]
    gold = _column(log.rows, GOLDS)
    if not found or gold is None:
        lacks = "texts of responses" if not found else "gold answers"
        names = ", ".join(TEXTS[:4] if not found else GOLDS[:4])
        raise BetastarError(
            f"has no {lacks} to grade",
            where=log.name,
            remedy=f"name their column {names} or the like, or drop {argument('grade')}",
        )
    grades = [grade(_text(r), str(g)) for r, g in zip(log.rows[found[0]], log.rows[gold], strict=True)]
    strict, lenient = ([float(g[i]) for g in grades] for i in (0, 1))
    note = _and(log.note, f"responses are graded anew, from {found[0]} and {gold}")
    return log._replace(rows=log.rows.assign(**{GRADED[0]: strict, GRADED[1]: lenient}), note=note)


def _text(response: Any) -> str:
    """A response's text; of messages, that of the last one."""
    if isinstance(response, np.ndarray | list) and len(response):
        last = response[-1]
        return str(last.get("content", "")) if isinstance(last, Mapping) else str(last)
    return str(response)


def _column(rows: pd.DataFrame, names: Sequence[str]) -> str | None:
    lower = {str(column).lower(): str(column) for column in rows}
    return next((lower[name] for name in names if name in lower), None)


def _is_text(column: Any) -> bool:
    if column.dtype.kind in "biufmM":
        return False
    few = column.dropna().head(200)
    return bool(len(few)) and float(np.mean([len(str(value)) for value in few])) >= SHORTEST


def _and(note: str | None, more: str) -> str:
    return f"{note}; {more}" if note else more
