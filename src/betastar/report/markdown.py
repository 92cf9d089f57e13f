"""A record as a summary in GitHub's Markdown: for the log of a CI job or a comment on a pull request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from betastar.report.export import plain_text
from betastar.report.words import (
    condition_columns,
    condition_rows,
    headlines,
    measure_note,
    one_beta,
    outcome_columns,
    outcome_rows,
    penalty,
)

MOST_RUNS = 60  # rows of the table of runs: a comment on GitHub holds 65 536 characters


def summary(record: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """The answer of every variant, the outcomes by β, every run with its verdict, the warnings; `notes`, such as how
    columns were read, are folded away. Ends with a line break."""
    lines = [f"## {plain_text(str(record.get('name', 'betastar')))}", ""]
    several = len(record["summary"]) > 1
    for found in headlines(record):
        if several:
            under = penalty(record, found.variant)
            lines += [f"### variant {plain_text(found.variant)}{f': {under}' if under else ''}", ""]
        lines += [f"**{plain_text(found.verdict)}**", ""]
        lines += [f"- *{label}* {plain_text(text)}" for label, text in found.labelled]
        lines += [f"- ⚠️ {plain_text(text)}" for text in found.cautions]
        lines.append("")
        if not one_beta(record):
            lines += table(outcome_columns(record, found.variant), outcome_rows(record, found.variant))
    rows = condition_rows(record)
    lines += table(condition_columns(record), rows[:MOST_RUNS])
    if len(rows) > MOST_RUNS:
        lines += [f"{len(rows) - MOST_RUNS} more runs are in results.json.", ""]
    if record["warnings"]:
        lines += ["**What limits this result**", "", *(f"- {plain_text(text)}" for text in record["warnings"]), ""]
    if notes:
        lines += ["<details><summary>How the logs were read</summary>", "", *(f"- {plain_text(n)}" for n in notes), ""]
        lines += ["</details>", ""]
    about = f"{measure_note(record)} Intervals are 95 %; betastar {record.get('betastar', '')}."
    lines += [f"<sub>{plain_text(about)}</sub>"]
    return "\n".join(lines) + "\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table and an empty line behind it."""
    lines = [_row(columns), _row(["---"] * len(columns), escape=False)]
    return [*lines, *map(_row, rows), ""]


def _row(cells: Sequence[str], escape: bool = True) -> str:
    return f"| {' | '.join(plain_text(cell) if escape else cell for cell in cells)} |"
