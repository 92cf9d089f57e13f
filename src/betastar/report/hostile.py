"""Text that nobody vouches for, such as a model's responses, made safe to look at: what is invisible or changes the
direction of writing is shown by name, what is too long is cut with a note, and JSON cannot leave its script element."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

HEAD, TAIL = 3000, 1000  # characters kept of a response that is too long
UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # categories that have no glyph, or reorder their neighbours
# Fillers and blanks that count as letters or marks, and the variation selectors that can carry a hidden message.
BLANKS = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U000e0100-\U000e01ef]")


def visible(text: str) -> str:
    """The text with every control, format, bidirectional, surrogate, private or unassigned character shown by name;
    line breaks and tabs stay."""
    if text.replace("\n", "").replace("\t", "").isprintable() and not BLANKS.search(text):
        return text
    return "".join(_shown(c) for c in text)


def cut(text: str) -> str:
    """At most HEAD + TAIL characters, with a note of how many are left out, and `visible`."""
    if len(text) <= HEAD + TAIL:
        return visible(text)
    left_out = len(text) - HEAD - TAIL
    return f"{visible(text[:HEAD])}\n[… {left_out:,} characters left out …]\n{visible(text[-TAIL:])}"


def script_json(value: Any) -> str:
    """JSON for a `<script type="application/json">`: ASCII only, without a character that HTML could read as markup.
    NaN and infinity are refused."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _shown(character: str) -> str:
    if character in "\n\t":
        return character
    if unicodedata.category(character) not in UNSEEN and not BLANKS.match(character):
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # the pictures of control characters
    if code == 0x7F:
        return "\u2421"
    return f"⟨U+{code:04X}⟩"
