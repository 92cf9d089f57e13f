"""Preference pairs: reading them from JSON Lines, and one split by prompt that every condition and seed shares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from betastar.data.jsonl import read_jsonl
from betastar.errors import BetastarError

SplitName = Literal["train", "validation", "test"]

SMALLEST_SPLIT = 50
"""From about this many prompts on, all three splits hold a prompt in 99 of 100 data sets (2 · 0.9^n ≈ 0.01)."""


@dataclass(frozen=True)
class Message:
    """One turn of a chat, as chat templates take it."""

    role: str
    content: str


@dataclass(frozen=True)
class PreferencePair:
    """Two responses to one prompt, `chosen` preferred over `rejected`.

    The prompt is plain text, or the messages before the final assistant turn; the responses are text either way.
    """

    prompt: str | tuple[Message, ...]
    chosen: str
    rejected: str

    @cached_property
    def prompt_id(self) -> str:
        """16 hexadecimal digits, equal for equal prompts on every machine; plain text counts as one user message."""
        messages = (
            [("user", self.prompt)] if isinstance(self.prompt, str) else [(m.role, m.content) for m in self.prompt]
        )
        return hashlib.blake2b(json.dumps(messages).encode(), digest_size=8).hexdigest()


class LoadedPreferences(NamedTuple):
    """What a preference file holds."""

    pairs: list[PreferencePair]
    """Usable pairs in file order, repeated ones included."""
    n_rows: int
    """Rows read: `len(pairs) + n_equal_dropped`."""
    n_equal_dropped: int
    """Rows left out because both responses are the same text: they prefer nothing."""
    n_duplicates: int
    """Pairs of `pairs` that repeat an earlier one in prompt and both responses."""


class Splits(NamedTuple):
    """Pairs by split, each in the order given; no prompt is in two of them."""

    train: list[PreferencePair]
    validation: list[PreferencePair]
    test: list[PreferencePair]


def read_preferences(path: Path | str, limit: int | None = None) -> LoadedPreferences:
    """Read pairs from JSON Lines, stopping after `limit` usable ones.

    Each row has `chosen` and `rejected` and one of three prompts:

    - `prompt` as text, responses as text;
    - no `prompt`, responses as message lists `{role, content}` ending in an assistant turn: the messages before it,
      which must be the same in both, are the prompt (ultrafeedback_binarized, HelpSteer2);
    - `prompt` as a message list, or as text, beside message lists that repeat it or hold only the assistant turn.

    Other fields are ignored. Raises BetastarError naming file and line for a row that is none of these, for an empty
    prompt or response, and where no usable pair is left.
    """
    if limit is not None and limit < 1:
        raise BetastarError(f"The limit on preference pairs is {limit}; give at least 1, or none to read them all.")
    pairs: list[PreferencePair] = []
    n_rows = 0
    for number, row in read_jsonl(path):
        pair = _parse_row(f"{path}, line {number}", row)
        n_rows += 1
        if pair.chosen != pair.rejected:
            pairs.append(pair)
        if len(pairs) == limit:
            break
    if not pairs:
        raise BetastarError(f"{path}: in all {n_rows} rows `chosen` equals `rejected`; supply pairs that differ.")
    return LoadedPreferences(pairs, n_rows, n_rows - len(pairs), len(pairs) - len(set(pairs)))


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
            f"No prompt falls into the {empty} split (different prompts: {n_prompts}); "
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
    """The pairs that `write_pairs` wrote, none dropped. Raises BetastarError like `read_preferences`."""
    return [_parse_row(f"{path}, line {number}", row) for number, row in read_jsonl(path)]


def _parse_row(where: str, row: dict[str, Any]) -> PreferencePair:
    for field in ("chosen", "rejected"):
        if field not in row:
            raise BetastarError(f"{where}: no `{field}` field; give each row `chosen` and `rejected` responses.")
    prompt = _text_or_messages(where, "prompt", row["prompt"]) if "prompt" in row else None
    before_chosen, chosen = _response(where, "chosen", row["chosen"])
    before_rejected, rejected = _response(where, "rejected", row["rejected"])
    if (before_chosen is None) != (before_rejected is None):
        raise BetastarError(f"{where}: one response is text and the other a list of messages; use one form for both.")
    if before_chosen != before_rejected:
        raise BetastarError(
            f"{where}: the messages before the last differ between `chosen` and `rejected`; "
            "both must answer the same prompt."
        )
    return PreferencePair(_agreed_prompt(where, prompt, before_chosen), chosen, rejected)


def _response(where: str, field: str, value: object) -> tuple[tuple[Message, ...] | None, str]:
    """The messages before the response (None where the field is text), and the response."""
    value = _text_or_messages(where, field, value)
    before = None
    if not isinstance(value, str):
        if not value or value[-1].role != "assistant":
            raise BetastarError(
                f"{where}: the last message of `{field}` is not the assistant's; end it with a response."
            )
        before, value = value[:-1], value[-1].content
    if not value.strip():
        raise BetastarError(f"{where}: the `{field}` response is empty; write a response or remove the line.")
    return before, value


def _agreed_prompt(
    where: str, prompt: str | tuple[Message, ...] | None, before: tuple[Message, ...] | None
) -> str | tuple[Message, ...]:
    """The one prompt of a row, from its `prompt` field and from the messages before its responses, if any."""
    if before:
        repeated = prompt == before or (isinstance(prompt, str) and any(prompt == turn.content for turn in before))
        if prompt is not None and not repeated:
            raise BetastarError(
                f"{where}: the `prompt` field and the messages before the response differ; "
                "remove one or make them agree."
            )
        prompt = before
    elif prompt is None:
        raise BetastarError(f"{where}: no prompt; add a `prompt` field or the messages before the response.")
    elif before is not None and isinstance(prompt, str):
        prompt = (Message("user", prompt),)  # the responses are chat turns, so the prompt is one
    if not any(text.strip() for text in ([prompt] if isinstance(prompt, str) else [turn.content for turn in prompt])):
        raise BetastarError(f"{where}: the prompt is empty; write a prompt or remove the line.")
    return prompt


def _text_or_messages(where: str, field: str, value: object) -> str | tuple[Message, ...]:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return tuple(_message(where, field, message) for message in value)
    raise BetastarError(
        f"{where}: `{field}` is {_kind(value)}; make it text or a list of messages with `role` and `content`."
    )


def _message(where: str, field: str, value: object) -> Message:
    if isinstance(value, dict):
        role, content = value.get("role"), value.get("content")
        if isinstance(role, str) and role and isinstance(content, str):
            return Message(role, content)
    raise BetastarError(f"{where}: `{field}` holds a message without text in `role` and `content`; give it both.")


def _kind(value: object) -> str:
    names: Sequence[tuple[type, str]] = ((type(None), "null"), (bool, "true or false"), (dict, "an object"))
    return next((name for kind, name in names if isinstance(value, kind)), "a number")
