"""One preference pair, and reading it from a row in TRL's standard or conversational format."""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from betastar.data.rows import BadRow, MissingColumn
from betastar.sections import PairColumns


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
        raise BadRow("one response is text and the other a list of messages; use one form for both")
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
                f"after the prompt, `{column}` holds {roles} where one assistant message is due; let the "
                "conversations differ in their last turn alone, and let that be the assistant's"
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
    raise BadRow(f"`{column}` is {kind}; make it text or a list of messages with `role` and `content`")


def _message(column: str, value: object) -> Message:
    if isinstance(value, dict):
        role, content = value.get("role"), value.get("content")
        if isinstance(role, str) and role and isinstance(content, str):
            return Message(role, content)
    raise BadRow(f"`{column}` holds a message without text in `role` and `content`; give it both")
