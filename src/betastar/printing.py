"""What reaches a terminal: every text passes one filter. Names, logs, messages of errors and the answers of models come
from others, and an escape sequence in them could write to the clipboard, hide a link or rewrite the screen."""

from __future__ import annotations

import os
import re
import sys
import traceback
import unicodedata
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # categories that have no glyph, or reorder their neighbours
# Fillers and blanks that count as letters or marks, and the variation selectors that can carry a hidden message.
BLANKS = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U000e0100-\U000e01ef]")


def visible(text: str) -> str:
    """The text with every control, format, bidirectional, surrogate, private or unassigned character shown by name;
    line breaks and tabs stay."""
    if text.replace("\n", "").replace("\t", "").isprintable() and not BLANKS.search(text):
        return text
    return "".join(_shown(c) for c in text)


def _shown(character: str) -> str:
    if character in "\n\t" or not _is_unseen(character):
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # the pictures of control characters
    if code == 0x7F:
        return "\u2421"
    return f"⟨U+{code:04X}⟩"


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in UNSEEN or bool(BLANKS.match(character))


MARKS = "β★û√±−│✓→"  # what tables and sentences are written with


def prepare_output() -> None:
    """See to it, before any work, that what is printed after hours can be: a closed output is replaced by one that
    drops everything (or the next file that is opened would be in its place), and a character that an output's encoding
    lacks is printed as a question mark. Either is said once, on standard error."""
    said = []
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
            if getattr(sys, name) is None:
                setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))
            if name == "stdout":
                said.append("standard output is closed, so nothing will be printed; the results are in files")
    for stream in (sys.stdout, sys.stderr):
        try:
            MARKS.encode(stream.encoding or "ascii")
        except UnicodeEncodeError:
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
            said.append(
                f"the encoding of the output is {stream.encoding}, which lacks characters such as β, so they are "
                "printed as ?; set PYTHONUTF8=1 for UTF-8"
            )
        except (AttributeError, LookupError):  # not a text stream of the system, such as a notebook's
            continue
    for sentence in dict.fromkeys(said):
        say(f"betastar: {sentence}", error=True)


def say(text: str = "", *, error: bool = False, end: str = "\n") -> None:
    """Print a text on standard output, or as an `error` on standard error."""
    print(visible(text), end=end, file=sys.stderr if error else sys.stdout, flush=error)


def say_json(text: str) -> None:
    """Print JSON, its unseen characters as JSON's own escapes: whoever parses it reads the same values."""
    print("".join(c if c == "\n" or not _is_unseen(c) else _escape(c) for c in text))


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def console(**options: Any) -> Console:
    """A rich console whose output passes the filter; `options` as rich's."""
    from rich.console import Console, RenderHook

    class Filter(RenderHook):
        def process_renderables(self, renderables: list[Any]) -> list[Any]:
            return [Filtered(renderable) for renderable in renderables]

    made = Console(highlight=False, **options)
    made.push_render_hook(Filter())
    return made


class Filtered:
    """What rich draws, its texts filtered: for what is redrawn in place, which goes past a console's own filter."""

    def __init__(self, renderable: RenderableType):
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        for segment in console.render(self.renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As Python prints an error of ours, filtered."""
    say("".join(traceback.format_exception(kind, error, trace)), error=True, end="")
