"""Rows of a dataset: those that can be used, and those that cannot: counted, shown, and refused above a share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from betastar.errors import BetastarError

T = TypeVar("T")
Row = dict[str, Any]

EXAMPLES = 3
"""How many malformed rows are shown."""


class BadRow(Exception):
    """Why one row cannot be used and what to do, as `reason; remedy` without a full stop."""


class MissingColumn(BadRow):
    """A row without a column that was asked for. `asked_by` names the setting."""

    def __init__(self, column: str, row: Mapping[str, Any], asked_by: str):
        columns = ", ".join(map(str, row)) or "none"
        super().__init__(f"no column `{column}`; the columns are {columns}: correct {asked_by}")
        self.column = column


@dataclass(frozen=True)
class Rows:
    """An opened dataset. `read` yields (number, row) or, for what is no row, (number, reason)."""

    name: str  # what messages call it
    unit: str  # what is numbered from 1: "line" or "row"
    digest: str  # equal for equal content
    read: Callable[[], Iterator[tuple[int, Row | BadRow]]]


class Malformed(NamedTuple):
    """Rows left out because they cannot be used: how many of how many, and the first few with place and reason."""

    n: int = 0
    of: int = 0
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.n} of {self.of} rows are malformed and left out: {' | '.join(self.examples)}"

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"malformed_dropped": self.n, "malformed_examples": list(self.examples)}

    def together(self, other: Malformed) -> Malformed:
        examples = (self.examples + other.examples)[:EXAMPLES]
        return Malformed(self.n + other.n, self.of + other.of, examples)


class Usable(NamedTuple, Generic[T]):
    """What `parse` made of the rows, how many rows were read, and which could not be used."""

    items: list[T]
    n_rows: int
    malformed: Malformed


def usable_rows(
    rows: Rows, parse: Callable[[Row], T | None], max_bad_share: float, limit: int | None = None
) -> Usable[T]:
    """Parse rows until `limit` items are made. `parse` returns None for a sound row that is not wanted, and raises
    BadRow for a malformed one.

    Raises BetastarError where more than `max_bad_share` of the rows read are malformed, and where a column that was
    asked for is in none of them.
    """
    items: list[T] = []
    bad: list[tuple[str, BadRow]] = []
    n_rows = 0
    for number, row in rows.read():
        n_rows += 1
        try:
            if isinstance(row, BadRow):
                raise row
            item = parse(row)
        except BadRow as fault:
            bad.append((f"{rows.unit} {number}", fault))
            continue
        if item is not None:
            items.append(item)
        if len(items) == limit:
            break
    if not n_rows:
        raise BetastarError(f"{rows.name}: there are no rows; give a dataset that has some.")
    missing = {getattr(fault, "column", None) for _, fault in bad}
    if len(bad) == n_rows and len(missing) == 1 and None not in missing:
        raise BetastarError(f"{rows.name}: {bad[0][1]}.")
    if len(bad) > max_bad_share * n_rows:
        raise BetastarError(_too_many(rows.name, bad, n_rows, max_bad_share))
    examples = tuple(f"{rows.name}, {where}: {fault}" for where, fault in bad[:EXAMPLES])
    return Usable(items, n_rows, Malformed(len(bad), n_rows, examples))


def _too_many(name: str, bad: list[tuple[str, BadRow]], n_rows: int, max_bad_share: float) -> str:
    (where, fault), others = bad[0], [place for place, _ in bad[1:EXAMPLES]]
    also = f", also {' and '.join(others)}" if others else ""
    share = f"{len(bad)} of {n_rows} rows ({100 * len(bad) / n_rows:.3g} %){also}"
    return (
        f"{name}, {where}: {fault}, or raise data.max_bad_share, now {max_bad_share:g}, to leave malformed rows out: "
        f"{share}."
    )
