"""`betastar export`: Table 1's rows for a paper or another program."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from betastar.errors import BetastarError


class Format(StrEnum):
    """How the table is written."""

    csv = "csv"
    latex = "latex"
    markdown = "markdown"


SUFFIXES = {".csv": Format.csv, ".tex": Format.latex}


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run directory, or the folder that `betastar analyze` wrote.")
    ],
    kind: Annotated[
        Format | None, typer.Option("--format", help="Without it by the ending of --out, else markdown.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write it; without it, printed.")] = None,
) -> None:
    """Print Table 1's rows: AUGC, û, onset and r_UQ by variant and β, and Spearman's ρ."""
    from betastar import api

    kind = kind or SUFFIXES.get("" if out is None else out.suffix.lower(), Format.markdown)
    text = api.load(run).table_1(kind.value)
    if out is None:
        print(text, end="")
        return
    if out.is_dir() or not out.resolve().parent.is_dir():
        raise BetastarError(f"--out {out}: name a file in a folder that exists.")
    if out.name == "results.json":
        raise BetastarError(f"--out {out}: a record is not replaced by a table; name another file.")
    api.write_file(out, text)
