"""The command line: the only package that prints, asks or exits."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from betastar import __version__
from betastar.cli import commands
from betastar.cli.plan import plan
from betastar.errors import BetastarError, InternalError, command_line
from betastar.printing import prepare_output, print_traceback, say

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Does conservative offline preference training make online reward hacking worse? Measure it.",
    epilog="Start with `betastar run`: the built-in micro world takes minutes on a laptop.",
)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"betastar {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for command in (
    commands.run,
    commands.work,
    commands.report,
    commands.compare,
    commands.watch,
    commands.clean,
    plan,
    commands.doctor,
    commands.analyze,
    commands.export,
    commands.presets,
    commands.config,
):
    app.command()(command)


FREE_SOME = "close other programs, or use a machine with more memory"
_FEWER = "read fewer or smaller files at a time, or use a machine with more memory"
REMEDIES = {
    "run": "lower online.conditions_at_once, use fewer values of β, or load the base with nf4",
    "work": "lower online.conditions_at_once, or load the base with nf4",
    "plan": "lower compute.tokens_per_forward or compute.rows_per_decode, or leave out --probe",
    "analyze": _FEWER,
    "compare": _FEWER,
    "report": _FEWER,
}
"""By command, for memory that runs out where no stage knows better."""


def main() -> None:
    """Entry point: one sentence per mistake, exit code 2 for the user's and 1 for ours."""
    # Threads of GNU OpenMP, which torch uses on the CPU, spin while they wait. Beside another busy process the default
    # makes small steps some 40 times slower; this limit costs little alone (docs/benchmarks.md). It is
    # read when torch loads, so it must be set before.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    prepare_output()
    try:
        with command_line():
            _check_arguments(sys.argv[1:])
            try:
                app()
            finally:
                sys.excepthook = print_traceback  # typer sets its own when it is called
                sys.stdout.flush()  # what fails now would be printed by Python itself, at exit
    except BetastarError as error:
        for line in str(error).split("\n"):
            say(f"betastar: {line}", error=True)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        # Files that cannot be written are named where that happens. What is left, without a name, is the output.
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF) or error.filename is not None:
            raise
        with suppress(OSError):
            sys.stdout.close()  # with what it could not write
        say(f"betastar: standard output cannot be written ({os.strerror(error.errno).lower()})", error=True)
        raise SystemExit(InternalError.exit_code) from None
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        text = f"out of memory; {REMEDIES.get(sys.argv[1] if len(sys.argv) > 1 else '', FREE_SOME)}"
        say(f"betastar: {text}", error=True)
        raise SystemExit(InternalError.exit_code) from None


def _check_arguments(given: Sequence[str]) -> None:
    """Raises BetastarError for an empty argument, such as an unset variable of a shell leaves: as a path it would be
    the current folder."""
    for before, text in zip(["", *given], given, strict=False):
        name, equals, value = text.partition("=")
        if not text or (name.startswith("--") and equals and not value):
            option = name or (before if before.startswith("-") else "an argument")
            raise BetastarError(f"{option} is empty; give a value, or leave it out.")


def _is_out_of_memory(error: BaseException) -> bool:
    """Of the processor or of a GPU. torch has been loaded where it is a GPU's."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from betastar.api import is_out_of_memory

    return is_out_of_memory(error)
