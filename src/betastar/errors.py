"""Errors for people to read: one sentence with what failed, where, and what to do next."""

from __future__ import annotations


class BetastarError(Exception):
    """A mistake the user can fix. The command line prints only the message and exits with `exit_code`."""

    exit_code = 2


class InternalError(BetastarError):
    """A fault in betastar or the machine, not in the user's input."""

    exit_code = 1
