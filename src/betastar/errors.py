"""Errors that a person reads: one sentence with what failed, where, and what to do next."""

from __future__ import annotations


class BetastarError(Exception):
    """A mistake the user can mend. The command line prints the message alone and exits with `exit_code`."""

    exit_code = 2


class InternalError(BetastarError):
    """A fault of betastar or of the machine, not of the user's input."""

    exit_code = 1
