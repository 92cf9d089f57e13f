"""The file of a monitored run: a row for each evaluation, with the rewards of its single answers. It is the only thing
that is written during training; the table of answers and the kept responses follow from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from betastar.disk import opened
from betastar.record.answers import answer_rows, no_answers, read_answers
from betastar.record.files import ANSWERS, METRICS, RESULTS

if TYPE_CHECKING:
    import pandas as pd

Json = dict[str, Any]
FIRST = "instrument"  # a field of the first row
IN_TABLE = {"true": "strict"}  # the names of the table where they are others
OF_ANSWERS = ("proxy", "true", "lenient", "parsable", "tokens", "at_limit", "log_ratio", "disagreement")


def is_monitored(folder: Path) -> bool:
    """Whether a folder's metrics were written by a monitor."""
    try:
        with opened(folder / METRICS) as file:
            first = file.readline()
        return f'"{FIRST}"'.encode() in first and FIRST in json.loads(first)
    except (OSError, ValueError, TypeError):
        return False


def is_complete(folder: Path) -> bool:
    """Whether the results in a monitor's folder are those of its last evaluation."""
    try:
        return (folder / RESULTS).stat().st_mtime_ns >= (folder / METRICS).stat().st_mtime_ns
    except OSError:
        return False


def monitored_rows(folder: Path) -> list[Json]:
    """The rows of a monitor's folder; a line that a kill left unfinished is left out."""
    with opened(folder / METRICS) as file:
        lines = file.read().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def kept_answers(folder: Path) -> pd.DataFrame:
    """The table of single answers that a folder holds: a monitor's rows, which are the newest, or `answers.parquet`;
    without rows where there is neither. Raises BetastarError where the file is damaged."""
    if is_monitored(folder):
        return answers_in(monitored_rows(folder))
    return read_answers(folder / ANSWERS) if (folder / ANSWERS).is_file() else no_answers()


def answers_in(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table of single answers in rows whose `responses` hold them, without rows where they do not. The first repeat
    of the start is replicate 1."""
    parts = []
    names = _problems(rows)
    for row in rows:
        again: Any = row.get("again") or ()
        for replicate, source in enumerate((row, *again[:1])):
            found = source.get("responses")
            if not isinstance(found, Mapping) or not _is_whole(found, len(names)):
                continue
            parts.append(
                {
                    "step": row.get("step"),
                    "replicate": replicate,
                    "problem": names,
                    "answer": _places(names),
                    **{IN_TABLE.get(name, name): found[name] for name in OF_ANSWERS if name in found},
                }
            )
    if not parts:
        return no_answers()
    label = rows[0]
    return answer_rows(
        parts, beta=_number(label.get("beta"), nan), seed=label.get("seed") or 0, variant=str(label.get("variant", ""))
    )


def samples_in(rows: Iterable[Mapping[str, Any]]) -> list[Json]:
    """The responses that rows keep in full, as in `samples.jsonl`."""
    found = []
    for row in rows:
        name = {
            "variant": str(row.get("variant") or "logged"),  # as in what the analysis says of such rows
            "beta": row.get("beta"),
            "seed": row.get("seed") or 0,
            "step": row["step"],
        }
        for place, kept in enumerate(row.get("samples", ())):
            true = kept.get("true")
            found.append(
                {
                    **name,
                    "problem": str(kept.get("problem", place)),
                    "question": _text(kept.get("prompt")),
                    "response": _text(kept.get("response")),
                    "proxy": kept.get("proxy"),
                    "strict": bool(true) if true in (0, 1) else None,
                }
            )
    return found


def _problems(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The problem of each answer, by name or number: the first row's names, or as many as there are answers."""
    first = rows[0].get("responses") if rows else None
    if not isinstance(first, Mapping) or not isinstance(first.get("proxy"), list):
        return []
    size, each = len(first["proxy"]), int(rows[0].get("answers") or 1)
    names = rows[0].get("problems") or [str(i) for i in range(size // each)]
    return [str(name) for name in names for _ in range(each)]


def _places(names: Sequence[str]) -> list[int]:
    """The place of each answer among those to its problem."""
    seen: dict[str, int] = {}
    places = []
    for name in names:
        places.append(seen.get(name, 0))
        seen[name] = places[-1] + 1
    return places


def _is_whole(found: Mapping[str, Any], size: int) -> bool:
    """Whether there are both rewards of every answer."""
    return size > 0 and all(
        isinstance(found.get(name), list) and len(found[name]) == size for name in ("proxy", "true")
    )


def _number(value: Any, default: float) -> float:
    return default if value is None else float(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
