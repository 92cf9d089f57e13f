"""What a running experiment says about itself. The library is silent; the command line gives a voice."""

from __future__ import annotations


class Reporter:
    """Receives progress; this one ignores it. The command line's reporters inherit from it."""

    def say(self, text: str) -> None:
        """One line worth reading."""

    def stage(self, name: str, place: int, of: int) -> None:
        """A stage begins: the `place`-th `of` the whole."""

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """`done` of `total` units of the present stage are finished; `note` holds the last values."""
