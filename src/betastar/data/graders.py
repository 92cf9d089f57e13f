"""Graders: whether a response's final answer is right, strictly and leniently, for each kind of task."""

from __future__ import annotations

import functools
import logging
import re
import threading
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from betastar.errors import BetastarError
from betastar.record.responses import Grade

TIMEOUT = 5
"""Seconds for reading or comparing one formula; one that takes longer counts as wrong. A model can write 9^9^9^9."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*+\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


class Box(NamedTuple):
    """Where a `\boxed{…}` begins, and what is in it."""

    start: int
    content: str


def last_box(text: str) -> Box | None:
    r"""The last `\boxed{…}` of `text`; None without one, or where it does not close."""
    boxes = list(_BOX.finditer(text))
    depth = 1
    for brace in _BRACE.finditer(text, boxes[-1].end()) if boxes else ():
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if not depth:
            return Box(boxes[-1].start(), text[boxes[-1].end() : brace.start()])
    return None


def math_grader() -> Grader:
    """A grader that takes a box for the stated answer, else, leniently, the last formula or number of the response.

    A gold text is a formula, or a solution that ends in a box. Raises BetastarError where math-verify is not installed;
    the grader raises it for a gold text without a formula.
    """
    try:
        import math_verify
    except ImportError:
        raise BetastarError(
            "task.grader: math needs the package math-verify; install it with `pip install 'betastar[math]'`."
        ) from None
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of every formula that takes too long

    def limit() -> int | None:  # its timeouts are signals, which reach the main thread alone
        return TIMEOUT if threading.current_thread() is threading.main_thread() else None

    def parsed(text: str) -> list[Any]:
        return math_verify.parse(text, parsing_timeout=limit())  # type: ignore[arg-type]

    right = functools.lru_cache(maxsize=100_000)(parsed)

    def grade(response: str, gold: str) -> Grade:
        formula, box = _gold_formula(gold), last_box(response)
        answer = parsed(response if box is None else f"\\boxed{{{box.content}}}")
        same = bool(answer) and math_verify.verify(right(f"\\boxed{{{formula}}}"), answer, timeout_seconds=limit())
        return Grade(same and box is not None, same, box is not None)

    return grade


def _gold_formula(gold: str) -> str:
    box = last_box(gold)
    formula = gold if box is None else box.content
    if not formula.strip():
        shown = gold if len(gold) <= 60 else f"…{gold[-60:]}"
        raise BetastarError(f"The gold answer {shown!r} has no formula; end it with \\boxed{{…}}.")
    return formula


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
    %?+ [*_`}}]*+ {_BLANKS} (?:[-+*/×x÷=:^~–—,]{_BLANKS})?+
    [*_`]*+ [-+]?+ (?:{_CURRENCY})?+ [-+]?+ [0-9{_OTHER_NUMERALS}]
"""
_ANY_NUMBER = re.compile(_NUMBER, re.VERBOSE)
_MARKER = re.compile(rf"\#{{4,}}+ (?:{_BLANKS} {_NUMBER} (?!{_ANOTHER_NUMBER}))?+", re.VERBOSE)
_GROUPED = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})++(?:\.[0-9]++)?+")


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


# From the task gsm8k of lm-evaluation-harness 0.4.13: the patterns of its filters strict-match and flexible-extract,
# and what its metric exact_match takes out of both texts, in this order.
_LM_EVAL_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_LM_EVAL_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_LM_EVAL_IGNORED = (",", r"\$", r"(?s).*#### ", r"\.$")


def grade_lm_eval(response: str, gold: str) -> Grade:
    """Grade as the task gsm8k of lm-evaluation-harness does, so that a share of right answers is its `exact_match`:
    strict by its filter `strict-match`, lenient by its `flexible-extract`. Neither implies the other, and answers are
    compared as texts: "18.0" is not "18".

    Raises BetastarError where the gold text has no answer.
    """
    gold_value(gold)
    stated = _LM_EVAL_STRICT.search(response)  # the first one
    numbers = _LM_EVAL_FLEXIBLE.findall(response)
    last = max(numbers[-1]) if numbers else None  # of the two groups the one that is not empty
    right, strict, lenient = map(_lm_eval_text, (gold, stated and stated[1], last))
    return Grade(strict == right, lenient == right, stated is not None)


def _lm_eval_text(text: str | None) -> str | None:
    for pattern in _LM_EVAL_IGNORED if text else ():
        text = re.sub(pattern, "", text or "")
    return text


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


_MARKUP = re.compile(  # between #### and a number: a colon, emphasis, \boxed{, an escaped dollar
    rf"(?<=\#\#\#\#){_BLANKS}:?+{_BLANKS}(?:\*{{1,3}}+|_{{1,3}}+|`)?+{_BLANKS}(?:\\\(|\$(?=\\))?+{_BLANKS}"
    rf"(?:\\(?:boxed|fbox){_BLANKS}\{{)?+{_BLANKS}\\?+(?=[-+]?+{_BLANKS}(?:[$€£¥₹]{_BLANKS})?+[-+]?+[0-9.])"
)


def _normalise(text: str) -> str:
    return _MARKUP.sub(" ", _plain_characters(text)) if "####" in text else _plain_characters(text)


def _plain_characters(text: str) -> str:
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
    return {
        "gsm8k": grade_gsm8k,
        "gsm8k-lm-eval": grade_lm_eval,
        "number": grade_number,
        "text": grade_text,
        "choice": grade_choice,
    }[name]


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
        raise BetastarError(
            f"The gold answer {gold!r} contains no words; write the answer in words, or choose another task.grader."
        )
    stated = _after_label(response)
    if stated is not None:
        return Grade(_words(stated) == right, right in (_words(stated), _words(_first_clause(stated))), True)
    lines = [words for line in response.splitlines() if (words := _words(line))]
    return Grade(False, right in (_words(response), *lines[-1:], _words(_first_clause(response))), False)


def grade_choice(response: str, gold: str) -> Grade:
    """Grade the letter of a choice. Raises BetastarError where the gold text is not one letter from A to E."""
    right = gold.strip().strip("().").upper()
    if right not in tuple("ABCDE"):
        raise BetastarError(f"The gold answer {gold[:60]!r} is not a letter from A to E; correct task.gold.")
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
