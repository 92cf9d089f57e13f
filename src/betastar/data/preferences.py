"""Preference data: reading pairs, and one split by prompt that every condition and seed shares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from betastar.data.jsonl import read_jsonl
from betastar.data.pairs import Message, PreferencePair, Prompt, parse_pair
from betastar.data.rows import Malformed, Row, Rows, usable_rows
from betastar.errors import BetastarError
from betastar.sections import PairColumns

SplitName = Literal["train", "validation", "test"]

SMALLEST_SPLIT = 50
"""From about this many prompts on, all three splits hold a prompt in 99 of 100 data sets (2 · 0.9^n ≈ 0.01)."""


class LoadedPreferences(NamedTuple):
    """The usable pairs of a dataset in its order, repeated ones included, and what was left out."""

    pairs: list[PreferencePair]
    n_equal_dropped: int = 0
    """Rows left out because both responses are the same text: they prefer nothing."""
    malformed: Malformed = Malformed()


class Splits(NamedTuple):
    """Pairs by split, each in the order given; no prompt is in two of them."""

    train: list[PreferencePair]
    validation: list[PreferencePair]
    test: list[PreferencePair]


def read_preferences(
    rows: Rows, columns: PairColumns | None = None, limit: int | None = None, max_bad_share: float = 0.0
) -> LoadedPreferences:
    """Read pairs, stopping after `limit` usable ones; `betastar.data.pairs.parse_pair` says what a row may hold.

    Raises BetastarError where a column is missing, more than `max_bad_share` of the rows are malformed, or no usable
    pair is left.
    """
    columns = columns or PairColumns()

    def parse(row: Row) -> PreferencePair | None:
        pair = parse_pair(row, columns)
        return pair if pair.chosen != pair.rejected else None

    found = usable_rows(rows, parse, max_bad_share, limit)
    n_equal = found.n_rows - found.malformed.n - len(found.items)
    if not found.items:
        raise BetastarError(
            f"{rows.name}: in all {n_equal} rows `{columns.chosen}` equals `{columns.rejected}`; "
            "supply pairs that differ."
        )
    return LoadedPreferences(found.items, n_equal, found.malformed)


def split_of(prompt_id: str) -> SplitName:
    """The split of a prompt, 80/10/10, by a hash of its id alone: no seed, order or other prompt changes it."""
    tenth = int.from_bytes(hashlib.blake2b(f"split:{prompt_id}".encode(), digest_size=8).digest(), "little") % 10
    return "validation" if tenth == 8 else "test" if tenth == 9 else "train"


def split_by_prompt(pairs: Iterable[PreferencePair]) -> Splits:
    """Sort pairs into the three splits. Raises BetastarError where one would be empty."""
    splits = Splits([], [], [])
    for pair in pairs:
        getattr(splits, split_of(pair.prompt_id)).append(pair)
    if not all(splits):
        n_prompts = len({pair.prompt_id for split in splits for pair in split})
        empty = " and ".join(name for name, split in zip(Splits._fields, splits, strict=True) if not split)
        raise BetastarError(
            f"preferences.source: no prompt falls into the {empty} split (different prompts: {n_prompts}); "
            f"supply pairs with about {SMALLEST_SPLIT} different prompts or more."
        )
    return splits


def write_pairs(path: Path | str, pairs: Iterable[PreferencePair]) -> None:
    """Write pairs as JSON Lines that `load_pairs` reads back equal. Writes in place: callers make it atomic."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for pair in pairs:
            prompt = pair.prompt if isinstance(pair.prompt, str) else [vars(message) for message in pair.prompt]
            row = {"prompt": prompt, "chosen": pair.chosen, "rejected": pair.rejected}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def load_pairs(path: Path | str) -> list[PreferencePair]:
    """The pairs that `write_pairs` wrote. Raises BetastarError where the file cannot be read."""
    return [PreferencePair(_prompt(row["prompt"]), row["chosen"], row["rejected"]) for _, row in read_jsonl(path)]


def _prompt(value: Any) -> Prompt:
    return value if isinstance(value, str) else tuple(Message(**turn) for turn in value)
