"""`betastar analyze`: the same tables, report and warnings for runs that were trained elsewhere."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from betastar.cli.options import Details
from betastar.errors import BetastarError


class TrueUnit(StrEnum):
    """What a true reward is."""

    share = "share"
    percent = "percent"
    score = "score"


def analyze(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH…", help="Logs: files, or folders that are searched. Every run is a condition."),
    ],
    proxy: Annotated[str | None, typer.Option(metavar="COLUMN", help="The reward that training optimised.")] = None,
    true: Annotated[str | None, typer.Option(metavar="COLUMN", help="The verifiable reward.")] = None,
    step: Annotated[str | None, typer.Option(metavar="COLUMN", help="The step.")] = None,
    uncertainty: Annotated[str | None, typer.Option(metavar="COLUMN", help="The disagreement û of the proxy.")] = None,
    beta: Annotated[str | None, typer.Option(metavar="COLUMN|NUMBER", help="β: a column, or one for all runs.")] = None,
    seed: Annotated[str | None, typer.Option(metavar="COLUMN|NUMBER", help="Seed: a column, or one for all.")] = None,
    variant: Annotated[str | None, typer.Option(metavar="COLUMN", help="The setting compared besides β.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="NAME=COLUMN", help="Another quantity, for example kl=actor/kl_loss.")
    ] = None,
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGEX", help="Finds (?P<beta>…), (?P<seed>…) or (?P<variant>…) in the path or name of a run."
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="How many responses a true reward is the mean of.")
    ] = None,
    true_unit: Annotated[TrueUnit | None, typer.Option(help="What the true reward is, if not a share.")] = None,
    until: Annotated[int | None, typer.Option(metavar="STEP", min=1, help="The last step that counts.")] = None,
    out: Annotated[Path, typer.Option(help="Where results.json, metrics.jsonl and report.html go.")] = Path("analysis"),
    details: Details = False,
) -> None:
    """Analyse logs of finished runs, ours or other people's: no model is needed."""
    from betastar import api

    started = time.time()
    results = api.analyze(
        paths,
        proxy=proxy,
        true=true,
        step=step,
        uncertainty=uncertainty,
        beta=_column_or_number(beta),
        seed=_column_or_number(seed),
        variant=variant,
        columns=_pairs(column or []),
        patterns=pattern or [],
        n=n,
        true_unit=None if true_unit is None else true_unit.value,
        until=until,
        out=out,
    )
    for note in results.notes:
        print(f"Note: {note}")
    results.show(details, time.time() - started)


def _pairs(texts: list[str]) -> dict[str, str]:
    """NAME=COLUMN options; a column may have "=" in its name."""
    for text in texts:
        if "=" not in text.strip("="):
            raise BetastarError(f"--column {text}: write NAME=COLUMN, for example --column kl=actor/kl_loss.")
    return dict(text.split("=", 1) for text in texts)


def _column_or_number(text: str | None) -> Any:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
