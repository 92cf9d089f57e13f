"""The grader of GSM8K-style answers: which number does a response give, and is it the gold one?

A gold text ends in `#### n`. Two readings of a response are kept apart, because a policy that only forgot the format
has not forgotten the arithmetic:

- *strict*: the number that stands directly after the last `####`, on the same line;
- *lenient* (format-blind): that of the last `####` followed by a number, else the last number in the text.

What a number is, for both:

- An optional sign and currency sign in either order, digits, thousands commas, a decimal point, an exponent:
  `-$1,234.50`, `$-5`, `.5`, `1.8e1`. Commas must group by threes, and only commas do: `1,234` is one number, `1,2` and
  `1 234` are two.
- Decimal digits of any script, and the full-width and Unicode forms of `#`, comma, point, signs, `$`, `%` and `/`.
- What follows is a unit and is not read: `18%`, `18 apples` and `18.` are 18, and `3 million` is 3.
- A hyphen is a minus only where nothing stands before it that it could join or subtract from: in `16-18` it is none.
- Arithmetic is not done for the policy: fractions (`1/2`, `2½`), powers (`10^3`, `5²`) and `1.2.3` have no value and
  are passed over whole. So are digits that belong to a name (`H2O`) and numbers of more than 100 digits.
- After `####` exactly one number may stand: a range, a list, a mixed number or a sum (`16-18`, `1, 2`, `3 + 4 = 7`)
  is no strict answer. The lenient reading takes the last of such numbers.

Values are compared as exact decimals, so `18.00` is 18 and no rounding can make two numbers equal. Reading takes time
linear in the text: every repetition in the patterns is possessive, and none overlaps the next.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

from betastar.errors import BetastarError

MAX_DIGITS = 100
"""Longest number that is read, in digits; also the largest exponent. Longer ones are noise, and costly to compare."""

_SAME_MEANING = str.maketrans("＃，٬．٫＋－−＄￥％／⁄∕", "#,,..+--$¥%///")
_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d")

_BLANKS = r"[^\S\r\n]*+"
_CURRENCY = rf"[$€£¥₹]{_BLANKS}"
_DIGITS = r"[0-9]++(?:[.,][0-9]++)*+"
_OTHER_NUMERALS = "²³¹¼-¾⁰-₟⅐-↋"  # superscripts, subscripts and vulgar fractions: numerals, but no decimal digits
_NUMBER = rf"""
    (?: (?P<name>[A-Za-z_^])
    |   (?P<sign>(?<![0-9A-Za-z_)\]}}%.+-])[-+])?+ (?:{_CURRENCY}(?P<inner_sign>[-+])?+)?+ )
    (?P<digits>{_DIGITS} | (?<![0-9A-Za-z_.])\.{_DIGITS})
    (?P<exponent>[eE][-+]?+[0-9]++)?+
    (?P<valueless>(?:[/^]-?+{_DIGITS})++ | [{_OTHER_NUMERALS}])?+
"""
_ANOTHER_NUMBER = rf"""
    %?+ {_BLANKS} (?:[-+*/×x÷=:^~–—,]{_BLANKS})?+ [-+]?+ (?:{_CURRENCY})?+ [-+]?+ [0-9{_OTHER_NUMERALS}]
"""
_ANY_NUMBER = re.compile(_NUMBER, re.VERBOSE)
_MARKER = re.compile(rf"\#{{4,}}+ (?:{_BLANKS} {_NUMBER} (?!{_ANOTHER_NUMBER}))?+", re.VERBOSE)
_GROUPED = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})++(?:\.[0-9]++)?+")


class Grade(NamedTuple):
    """Whether one response is right: by its `#### n` alone, by either reading, and whether it has a `#### n` at all."""

    strict: bool
    lenient: bool
    parsable: bool


Grader = Callable[[str, str], Grade]
"""Grades a response, the first argument, against a gold answer."""


def strict_answer(text: str) -> Decimal | None:
    """The number directly after the last `####` of `text`, or None."""
    text = _normalise(text)
    last = text.rfind("####")
    return _marked_value(_MARKER.match(text, last)) if last >= 0 else None


def lenient_answer(text: str) -> Decimal | None:
    """The number after the last `####` that has one, else the last number in `text`, or None."""
    text = _normalise(text)
    answer = None
    for marker in _MARKER.finditer(text):
        if (value := _marked_value(marker)) is not None:
            answer = value
    if answer is None:
        for number in _ANY_NUMBER.finditer(text):
            if values := _values(number):
                answer = values[-1]
    return answer


def grade_gsm8k(response: str, gold: str) -> Grade:
    """Grade `response` against `gold`, a text ending in `#### n` or a bare number.

    Raises BetastarError where the gold text has no answer.
    """
    right = gold_value(gold)
    strict = strict_answer(response)
    lenient = strict if strict is not None else lenient_answer(response)
    return Grade(strict == right, lenient == right, strict is not None)


def gold_value(gold: str) -> Decimal:
    """The answer of a gold text: its `#### n`, or the whole text where it is a bare number.

    Raises BetastarError where there is none.
    """
    value = strict_answer(gold)
    if value is None and (match := _ANY_NUMBER.fullmatch(_normalise(gold).strip().rstrip("%."))):
        values = _values(match)
        value = values[0] if len(values) == 1 else None
    if value is None:
        shown = gold if len(gold) <= 60 else f"…{gold[-60:]}"
        raise BetastarError(f"The gold answer {shown!r} has no number; end it with `#### n`, for example `#### 18`.")
    return value


def _normalise(text: str) -> str:
    if text.isascii():
        return text
    return _FOREIGN_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text.translate(_SAME_MEANING))


def _marked_value(marker: re.Match[str] | None) -> Decimal | None:
    """The value after a `####`; None without a number there, or with several."""
    values = _values(marker) if marker and marker["digits"] else []
    return values[0] if len(values) == 1 else None


def _values(match: re.Match[str]) -> list[Decimal]:
    """The values of a matched number: usually one, several for a list such as `1,2`, none for what has no value."""
    if match["name"] or match["valueless"] or (match["sign"] and match["inner_sign"]):
        return []
    digits: str = match["digits"]
    parts = [digits.replace(",", "")] if _GROUPED.fullmatch(digits) else digits.split(",")
    exponent: str = match["exponent"] or ""
    if len(exponent) > 5 or abs(int(exponent[1:] or 0)) > MAX_DIGITS:
        return []
    if any(part.count(".") > 1 or len(part) > MAX_DIGITS for part in parts):
        return []
    parts[0] = (match["sign"] or match["inner_sign"] or "") + parts[0]
    parts[-1] += exponent
    return [Decimal(part) for part in parts]
