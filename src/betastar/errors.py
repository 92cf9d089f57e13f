"""Errors for people to read: one sentence with what failed, where, and what to do next."""

from __future__ import annotations


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
