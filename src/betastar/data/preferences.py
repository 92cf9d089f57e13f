"""Preference pairs: read in TRL's formats, cleaned, split by prompt, and described (arXiv:2606.30627
Appendix F, item d).
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from betastar.data.sources import BadRow, Malformed, MissingColumn, Row, Rows, read_jsonl, usable_rows
from betastar.errors import BetastarError, InternalError
from betastar.settings.sections import PairColumns


@dataclass(frozen=True)
class Message:
    """One turn of a chat, as chat templates take it."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]


@dataclass(frozen=True)
class PreferencePair:
    """Two responses to one prompt, `chosen` preferred over `rejected`.

    The prompt is plain text, or the messages before the final assistant turn; the responses are text either way.
    """

    prompt: Prompt
    chosen: str
    rejected: str

    @cached_property
    def prompt_id(self) -> str:
        """16 hexadecimal digits, equal for equal prompts on every machine; plain text counts as one user message."""
        messages = (
            [("user", self.prompt)] if isinstance(self.prompt, str) else [(m.role, m.content) for m in self.prompt]
        )
        return hashlib.blake2b(json.dumps(messages).encode(), digest_size=8).hexdigest()


def parse_pair(row: Mapping[str, Any], columns: PairColumns) -> PreferencePair:
    """The pair in a row, its prompt found as TRL's `maybe_extract_prompt` finds it.

    - *Explicit*: the prompt is a column of the same form as the responses, text or messages.
    - *Implicit*: without that column, or with a text beside conversations (then it is only a label), the prompt is what
      both responses begin with: their common text, or their common turns.

    Beyond TRL, a text prompt may stand beside messages that hold the assistant's turn alone, and messages as prompt
    beside texts or beside messages that repeat it. Raises BadRow for everything else, and for an empty prompt or
    response.
    """
    chosen = _text_or_messages(row, columns.chosen)
    rejected = _text_or_messages(row, columns.rejected)
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise BadRow("one response is text and the other a list of messages; use the same form for both")
    prompt = None
    if columns.prompt is not None or "prompt" in row:
        prompt = _text_or_messages(row, columns.prompt or "prompt")
    implicit = prompt is None or (isinstance(prompt, str) and isinstance(chosen, tuple))
    if implicit and (shared := shared_length(chosen, rejected)):
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    elif isinstance(prompt, tuple) and chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    elif isinstance(prompt, str) and isinstance(chosen, tuple):
        prompt = (Message("user", prompt),)  # the responses are chat turns, so the prompt is one
    if prompt is None:
        raise BadRow("no prompt; add a `prompt` column, or begin both responses with it")
    if not any(text.strip() for text in ([prompt] if isinstance(prompt, str) else [turn.content for turn in prompt])):
        raise BadRow("the prompt is empty; write a prompt or remove the row")
    return PreferencePair(prompt, _answer(columns.chosen, chosen), _answer(columns.rejected, rejected))


def shared_length(chosen: Sequence[Any], rejected: Sequence[Any]) -> int:
    """How many leading characters or turns are the implicit prompt, as in TRL's `extract_prompt`: what both begin with,
    but never a whole response; a space where they part belongs to the responses."""
    most = min(len(chosen), len(rejected)) - 1
    differs = bisect.bisect_left(range(most + 1), True, key=lambda n: chosen[: n + 1] != rejected[: n + 1])
    if differs > most:
        return max(most, 0)
    return differs - (differs > 0 and chosen[differs - 1] == " ")


def _answer(column: str, value: Prompt) -> str:
    """The text of what follows the prompt, which must be one answer."""
    if not isinstance(value, str):
        if len(value) != 1 or value[0].role != "assistant":
            roles = " ".join(turn.role for turn in value) or "nothing"
            raise BadRow(
                f"after the prompt, `{column}` has {roles} instead of one assistant message; the conversations must "
                "differ only in their last turn, by the assistant"
            )
        value = value[0].content
    if not value.strip():
        raise BadRow(f"the `{column}` response is empty; write a response or remove the row")
    return value


def _text_or_messages(row: Mapping[str, Any], column: str) -> Prompt:
    if column not in row:
        raise MissingColumn(column, row, "preferences.columns")
    value = row[column]
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return tuple(_message(column, message) for message in value)
    kinds = {type(None): "null", bool: "true or false", dict: "an object", int: "a number", float: "a number"}
    kind = kinds.get(type(value), type(value).__name__)
    raise BadRow(f"`{column}` is {kind}; it must be text or a list of messages with `role` and `content`")


def _message(column: str, value: object) -> Message:
    if isinstance(value, dict):
        role, content = value.get("role"), value.get("content")
        if isinstance(content, list):
            content = _joined(column, content)
        if isinstance(role, str) and role and isinstance(content, str):
            return Message(role, content)
    raise BadRow(f"`{column}` has a message without text in `role` or `content`; fill in both")


def _joined(column: str, parts: list[Any]) -> str:
    """The text of a content in parts, `[{"type": "text", "text": …}, …]`, as chat templates print them: one after the
    other. A table gives every part all keys, null where a part has none."""
    kinds = [part.get("type") if isinstance(part, dict) else None for part in parts]
    if other := sorted({kind for kind in kinds if isinstance(kind, str) and kind != "text"}):
        raise BadRow(
            f"`{column}` has a message with {', '.join(other)[:60]}, and betastar reads text alone; remove such rows"
        )
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    if not texts or kinds != ["text"] * len(texts):
        raise BadRow(
            f'`{column}` has a message whose content is a list but not of texts; write [{{"type": "text", "text": …}}]'
        )
    return "".join(texts)


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
    """Read pairs, stopping after `limit` usable ones; `betastar.data.preferences.parse_pair` says what a row may hold.

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
            f"{rows.name}: in all {n_equal} rows `{columns.chosen}` equals `{columns.rejected}`; give pairs that "
            "differ."
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
            f"preferences.source: no prompt falls into the {empty} split (different prompts: {n_prompts}); give pairs "
            f"with about {SMALLEST_SPLIT} different prompts or more."
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


LENGTH_PERCENTILE = 75
"""Algorithm 1, line 2."""


class SequenceLengths(NamedTuple):
    """Limits in tokens, and the share of all examples, in [0, 1], that is longer than them."""

    prompt: int
    response: int
    share_prompts_truncated: float
    share_responses_truncated: float


def coverage(
    pairs: Sequence[PreferencePair],
    prompt_lengths: npt.ArrayLike,
    chosen_lengths: npt.ArrayLike,
    rejected_lengths: npt.ArrayLike,
    tokens_seen: int,
    vocabulary_size: int,
    n_equal_dropped: int,
    malformed: Malformed,
) -> dict[str, Any]:
    """Appendix F item d, ready for JSON.

    The lengths are token counts `[n pairs]`, in the order of `pairs`; `tokens_seen` counts the different tokens of a
    vocabulary of `vocabulary_size`. Percentiles interpolate linearly. Raises InternalError for no pairs, lengths of
    another count or more tokens seen than exist.
    """
    lengths = {
        "prompt": np.asarray(prompt_lengths, dtype=np.float64),
        "chosen": np.asarray(chosen_lengths, dtype=np.float64),
        "rejected": np.asarray(rejected_lengths, dtype=np.float64),
    }
    for name, values in lengths.items():
        if not pairs or values.shape != (len(pairs),):
            shape = list(values.shape)
            raise InternalError(
                f"Coverage of {len(pairs)} pairs got {name} lengths of shape {shape}; please report this bug."
            )
    if not 0 <= tokens_seen <= vocabulary_size or vocabulary_size < 1:
        seen = f"{tokens_seen} tokens seen of {vocabulary_size}"
        raise InternalError(f"Coverage got {seen}, which cannot be; please report this bug.")
    return {
        "pairs": len(pairs),
        "unique_prompts": len({pair.prompt_id for pair in pairs}),
        "duplicate_pairs": len(pairs) - len(set(pairs)),
        "ties_dropped": n_equal_dropped,
        **malformed.record(),
        "tokens": {name: _summary(values) for name, values in lengths.items()},
        "chosen_minus_rejected_tokens": _summary(lengths["chosen"] - lengths["rejected"]),
        "vocabulary": {"seen": tokens_seen, "size": vocabulary_size, "share": tokens_seen / vocabulary_size},
    }


def sequence_lengths(
    prompt_lengths: npt.ArrayLike, response_lengths: npt.ArrayLike, rng: np.random.Generator
) -> SequenceLengths:
    """Token limits by Algorithm 1 line 2: the 75th percentile over a random sample of ⌈√n⌉ of the n lengths.

    Prompts and responses are sampled apart, since a pair has one prompt and two responses; a fraction of a token
    rounds up. Raises InternalError without any lengths.
    """
    prompts, responses = np.asarray(prompt_lengths), np.asarray(response_lengths)
    prompt, response = _limit(prompts, rng), _limit(responses, rng)
    return SequenceLengths(prompt, response, float((prompts > prompt).mean()), float((responses > response).mean()))


def _summary(values: np.ndarray) -> dict[str, float]:
    p5, p50, p95 = np.percentile(values, (5, 50, 95)).tolist()
    return {"mean": float(values.mean()), "p5": p5, "p50": p50, "p95": p95}


def _limit(lengths: np.ndarray, rng: np.random.Generator) -> int:
    if lengths.ndim != 1 or not lengths.size:
        raise InternalError(
            f"Sequence lengths need a list of token counts, not shape {list(lengths.shape)}; please report this bug."
        )
    n_sample = math.isqrt(lengths.size - 1) + 1  # ⌈√n⌉ in integers
    sample = rng.choice(lengths, n_sample, replace=False)
    return max(1, math.ceil(np.percentile(sample, LENGTH_PERCENTILE)))
