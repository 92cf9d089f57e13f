"""Errors for people to read: one sentence with what failed, where, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_on_command_line: ContextVar[bool] = ContextVar("on_command_line", default=False)


@contextmanager
def command_line() -> Iterator[None]:
    """Here `argument` names options of the command line."""
    token = _on_command_line.set(True)
    try:
        yield
    finally:
        _on_command_line.reset(token)


def argument(name: str, value: str = "") -> str:
    """An argument of one of the library's functions as the caller writes it: `true_unit="percent"` in Python,
    `--true-unit percent` on the command line. `value` may be left out; for `columns` it is NAME=COLUMN."""
    several = name in ("columns", "patterns")  # on the command line an option in the singular for each
    if _on_command_line.get():
        return f"--{(name[:-1] if several else name).replace('_', '-')} {value}".rstrip()
    if not value:
        return f"{name}=…"
    if not several:
        return f'{name}="{value}"'
    field, _, column = value.partition("=")
    return f'{name}={{"{field}": "{column}"}}' if name == "columns" else f'{name}=["{value}"]'


class BetastarError(Exception):
    """A mistake the user can fix. The command line prints only the message and exits with `exit_code`.

    `what` is wrong, `where` (a setting, file, model or stage; empty if that is part of `what`), and the `remedy` (empty
    if there is none): "where: what; remedy." A sentence given whole is printed as it is; its remedy is what follows the
    last semicolon. A message of several lines has none.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", remedy: str = ""):
        self.where = where
        if where or remedy:
            self.what, self.remedy = what, remedy
            super().__init__(f"{self.found}; {remedy}." if remedy else f"{self.found}.")
        else:
            found, _, rest = what.rstrip(".").rpartition("; ") if "\n" not in what else ("", "", what)
            self.what, self.remedy = (found, rest) if found else (rest, "")
            super().__init__(what)

    @property
    def found(self) -> str:
        """Where and what, without the remedy."""
        return f"{self.where}: {self.what}" if self.where else self.what


class InternalError(BetastarError):
    """A fault in betastar or the machine, not in the user's input."""

    exit_code = 1


class DrawingError(InternalError):
    """Figures cannot be drawn on this machine, or not now; the numbers are not affected."""
