r"""Graders of dataset tasks. Each reads a *stated* answer, in the form that the prompt asks for, and a lenient one.

A response is strictly right by its stated answer alone; leniently right also where the answer stands in another form,
because a policy that only forgot the form has not forgotten the answer.

| grader | stated | lenient |
| --- | --- | --- |
| gsm8k | the number after the last `####` | else the last number |
| number | the number after the last `Answer:` or `####`, or in the last `\boxed{}` | else the last number |
| text | what follows the last `Answer:` on its line | its first clause; without `Answer:` the response, its first clause or last line |
| choice | the letter A to E after the last `Answer:` | else the last "answer is B", else the last `\boxed{B}`, `(B)` or line that begins with `B.` |
| math | the last `\boxed{}` | else the last formula or number |

Several letters (`Answer: B, C`), or a letter that begins a sentence (`Answer: A cat`), state none. What is a number,
and which are equal, `betastar.data.answers` says.
"""  # noqa: E501

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

from betastar.data.answers import Grade, Grader, gold_value, grade_gsm8k, lenient_answer, strict_answer
from betastar.data.latex import last_box, math_grader
from betastar.errors import BetastarError

_LABEL = re.compile(r"\banswer[ \t*_]*+[:：]", re.IGNORECASE)
_HASHES = re.compile(r"#{4,}+")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_LATEX_SPACING = re.compile(r"(?<=\d)(?:\{,\}|\\[,!;:])(?=\d)")  # within a number, as in 1{,}234

_DECORATION = r"""[*_"'`$]*+"""
_LETTER = re.compile(
    rf"""[\s(\[*_"'`$]*+ (?:\\\w++\{{[^\w\\]*+)*+ ([A-E])(?![\w'’-])                # (B), **B**, \text{{B}}
        (?! [)\]}}.]?+ {_DECORATION} \s*+ (?:[,/&]|and\b|or\b) \s*+ [(\[*_]*+ [A-E](?!\w) )  # but not B, C or B or C
        {_DECORATION} (?: [)\]}}.,:;] | \s*$ )  # and not the word A of a sentence""",
    re.IGNORECASE | re.VERBOSE,
)
_VERB = r"(?:is|was|should\ be|must\ be|would\ be)\b"
_LENIENT_LETTERS = (
    re.compile(
        rf"""(?i: \b(?: answer\b [^\w\n]*+ (?:{_VERB})?+ | (?:option|choice)\W++{_VERB} ) )
             [^\w\n]*+ (?:(?:text|boxed)\W++)*+ ([A-E])(?![\w'’])""",
        re.VERBOSE,
    ),
    re.compile(r"\\(?:boxed|fbox)\{\W*+(?:text\w*+\W*+)?+([A-E])(?!\w)"),
    re.compile(
        rf"""^[ \t>*_"'`(\[-]*+([A-E])(?:{_DECORATION}[)\].:]|{_DECORATION}[ \t]*$)|\(([A-E])\)""", re.MULTILINE
    ),
)


def grader(name: str) -> Grader:
    """The grader of that name. Raises BetastarError where it needs a package that is not installed."""
    if name == "math":
        return math_grader()
    return {"gsm8k": grade_gsm8k, "number": grade_number, "text": grade_text, "choice": grade_choice}[name]


def grade_number(response: str, gold: str) -> Grade:
    """Grade a number. Raises BetastarError where the gold text is no number and has no `#### n`."""
    right = gold_value(gold)
    stated = stated_number(response)
    lenient = stated if stated is not None else lenient_answer(_plain_numbers(response))
    return Grade(stated == right, lenient == right, stated is not None)


def grade_text(response: str, gold: str) -> Grade:
    """Grade by the words: letters and digits in order, whatever their case, spacing and punctuation. Raises
    BetastarError where the gold text has no word."""
    right = _words(gold)
    if not right:
        raise BetastarError(f"The gold answer {gold!r} has no words; give it some, or choose another task.grader.")
    stated = _after_label(response)
    if stated is not None:
        return Grade(_words(stated) == right, right in (_words(stated), _words(_first_clause(stated))), True)
    lines = [words for line in response.splitlines() if (words := _words(line))]
    return Grade(False, right in (_words(response), *lines[-1:], _words(_first_clause(response))), False)


def grade_choice(response: str, gold: str) -> Grade:
    """Grade the letter of a choice. Raises BetastarError where the gold text is not one letter from A to E."""
    right = gold.strip().strip("().").upper()
    if right not in tuple("ABCDE"):
        raise BetastarError(f"The gold answer {gold[:60]!r} is no letter from A to E; correct task.gold.")
    stated = stated_letter(response)
    return Grade(stated == right, (stated or _lenient_letter(response)) == right, stated is not None)


def stated_number(text: str) -> Decimal | None:
    r"""The number after the last `Answer:` or `####`, or in the last `\boxed{}`, whichever comes last; or None."""
    place = max((match.end() for label in (_LABEL, _HASHES) for match in label.finditer(text)), default=None)
    box = last_box(text)
    if box is not None and (place is None or box.start >= place):
        stated = box.content
    elif place is not None:
        stated = text[place:].partition("\n")[0]
    else:
        return None
    return strict_answer("####" + _plain_numbers(stated).lstrip(" \t*_\\("))


def stated_letter(text: str) -> str | None:
    """The one letter from A to E after the last `Answer:`, or None."""
    stated = _after_label(text)
    letter = _LETTER.match(stated) if stated is not None else None
    return letter[1].upper() if letter else None


def _lenient_letter(text: str) -> str | None:
    for pattern in _LENIENT_LETTERS:
        if found := list(pattern.finditer(text)):
            return next(filter(None, found[-1].groups()))
    return None


def _after_label(text: str) -> str | None:
    """The rest of the line after the last `Answer:`, or None."""
    place = max((match.end() for match in _LABEL.finditer(text)), default=None)
    return None if place is None else text[place:].partition("\n")[0]


def _first_clause(text: str) -> str:
    return re.split(r"[.,;:!?](?=\s|$)", text.strip(), maxsplit=1)[0]


def _plain_numbers(text: str) -> str:
    r"""LaTeX's ways to write a number as plain text: 1{,}234, \$5, 5\%, \frac{1}{2}."""
    text = _LATEX_SPACING.sub("", _FRACTION.sub(r"\1/\2", text))
    return text.replace("\\$", "$").replace("\\%", "%")


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())
