"""The grader: what counts as a number, which one is the answer, and that neither format nor length can fool it."""

from __future__ import annotations

import re
import sys
import unicodedata
from decimal import Decimal, localcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betastar.data.graders import MAX_DIGITS, Grade, gold_value, grade_gsm8k, grader, lenient_answer, strict_answer
from betastar.data.sources import read_jsonl
from betastar.errors import BetastarError

RIGHT = Grade(strict=True, lenient=True, parsable=True)
FULL_WIDTH = str.maketrans("0123456789#,.-$%", "０１２３４５６７８９＃，．－＄％")
ARABIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("#### 18", "18"),
        ("####18", "18"),
        ("##### 18", "18"),
        ("####\t18", "18"),
        ("####\u00a018", "18"),
        ("#### 18.", "18"),
        ("#### 18.00", "18"),
        ("#### 018", "18"),
        ("#### +18", "18"),
        ("#### .5", "0.5"),
        ("#### 0.50", "0.5"),
        ("#### 1,234,567", "1234567"),
        ("#### 1,234.5", "1234.5"),
        ("#### $18", "18"),
        ("#### $ 18", "18"),
        ("#### €18", "18"),
        ("#### 18%", "18"),
        ("#### -5", "-5"),
        ("#### \u22125", "-5"),
        ("#### -$5", "-5"),
        ("#### $-5", "-5"),
        ("#### \u2212$1,234.50", "-1234.5"),
        ("#### -.5", "-0.5"),
        ("#### **18**", "18"),
        ("#### **18.**", "18"),
        ("####**18**", "18"),
        ("#### *18* apples", "18"),
        ("#### __18__", "18"),
        ("#### `18`", "18"),
        ("#### **$1,234.50**", "1234.5"),
        ("#### **-5**", "-5"),
        ("#### \\boxed{18}", "18"),
        ("#### $\\boxed{18}$", "18"),
        ("#### **\\boxed{-5}**", "-5"),
        ("#### \\$18", "18"),
        ("#### **\\$18**", "18"),
        ("#### \\(18\\)", "18"),
        ("####: 18", "18"),
        ("#### : **$18**", "18"),
        ("#### 18 apples", "18"),
        ("#### 18kg", "18"),
        ("#### 18, as shown", "18"),
        ("#### 18 (9 + 9)", "18"),
        ("#### 18-year-old", "18"),
        ("#### 3 million", "3"),
        ("#### 1.8e1", "18"),
        ("#### 18E+0", "18"),
        ("#### 180e-1", "18"),
        ("#### 18\n5 more lines", "18"),
        ("#### 3\nno: #### 18", "18"),
        ("＃＃＃＃ １，２３４．５", "1234.5"),
        ("#### －＄５", "-5"),
        ("#### ١٢٬٣٤٥٫٥", "12345.5"),
    ],
)
def test_strict_reads_the_number_after_the_last_marker_and_lenient_agrees(answer: str, value: str) -> None:
    assert strict_answer(f"2 + 3 = 5\n{answer}") == Decimal(value)
    assert lenient_answer(f"2 + 3 = 5\n{answer}") == Decimal(value)


@pytest.mark.parametrize(
    ("text", "lenient"),
    [
        ("", None),
        ("no number", None),
        ("The answer is 18.", "18"),
        ("### 18", "18"),
        ("#### 3\n####", "3"),
        ("#### 18 ####", "18"),
        ("####\n18", "18"),
        ("#### The answer is 18", "18"),
        ("#### **x** 18", "18"),
        ("#### \\boxed{x = 18}", "18"),
        ("#### **16** - **18**", "18"),
        ("#### :: 18", "18"),
        # exactly one number may follow the marker
        ("#### 16-18", "18"),
        ("#### 16 - 18", "18"),
        ("#### $16–$18", "18"),
        ("#### 1,2", "2"),
        ("#### 1, 2", "2"),
        ("#### 1 234", "234"),
        ("#### 12,34", "34"),
        ("#### 1234,567", "567"),
        ("#### 0,123", "123"),
        ("#### 3 + 4 = 7", "7"),
        ("#### 10:30", "30"),
        ("#### 2 x 9", "9"),
        ("#### 16%-18%", "18"),
        # no value: fractions, powers, versions, names
        ("#### 1/2", None),
        ("#### 36/2", None),
        ("#### 2½", None),
        ("#### ½", None),
        ("#### 5²", None),
        ("#### ²", None),
        ("#### 10^3", None),
        ("#### 1.2.3", None),
        ("#### -$-5", None),
        ("#### H2O", None),
        ("#### ①", None),
        ("1/2 of 36 is 18", "18"),
        ("18, which is 1/2 of them", "18"),
        ("18 on 12/25/2024", "18"),
        ("18 m², or 18 m2 of H2O", "18"),
        # signs
        ("from 16-18", "18"),
        ("from $16-$18", "18"),
        ("x-18", "18"),
        ("20 - 2", "2"),
        ("x = -18", "-18"),
        ("(-18)", "-18"),
        ("答案是-18", "-18"),
        # several, and what stands around them
        ("3 and 4 make 7.", "7"),
        ("Total...18", "18"),
        ("US$18", "18"),
        ("it costs $.50", "0.5"),
        ("the pair 3,4", "4"),
    ],
)
def test_without_a_strict_answer_lenient_reads_the_last_number(text: str, lenient: str | None) -> None:
    assert strict_answer(text) is None
    assert lenient_answer(text) == (None if lenient is None else Decimal(lenient))


def test_lenient_prefers_a_marked_answer_to_a_later_number() -> None:
    assert lenient_answer("#### 18\nThat took 3 steps.") == 18
    assert lenient_answer("#### 18\n#### Step 3") == 18
    assert strict_answer("#### 18\n#### Step 3") is None


def test_grade_tells_format_from_arithmetic() -> None:
    gold = "16 - 3 - 4 = <<16-3-4=9>>9\n9 * 2 = 18\n#### 18"
    assert grade_gsm8k("#### $18.00", gold) == RIGHT
    assert grade_gsm8k("So it is 18.", gold) == Grade(strict=False, lenient=True, parsable=False)
    assert grade_gsm8k("#### 17", gold) == Grade(strict=False, lenient=False, parsable=True)
    assert grade_gsm8k("It is 18, so\n#### 17", gold) == Grade(strict=False, lenient=False, parsable=True)
    assert grade_gsm8k("I do not know.", gold) == Grade(strict=False, lenient=False, parsable=False)
    assert grade_gsm8k("", "18") == Grade(strict=False, lenient=False, parsable=False)


@pytest.mark.parametrize("gold", ["18", " 18 ", "18.00", "$18", "18.", "18%", "… #### 18", "#### 18\n"])
def test_gold_is_a_gold_text_or_a_bare_number(gold: str) -> None:
    assert gold_value(gold) == 18


@pytest.mark.parametrize("gold", ["", "eighteen", "18 apples", "16 and 18", "16-18", "1,2", "x18", "1/2", "#### ?"])
def test_gold_without_one_number_is_refused(gold: str) -> None:
    with pytest.raises(BetastarError, match=r"The gold answer '.*' has no number; end it with `#### n`") as error:
        grade_gsm8k("#### 18", gold)
    assert "\n" not in str(error.value)


def test_comparison_is_exact_beyond_float_and_beyond_the_decimal_context() -> None:
    long = "1" * MAX_DIGITS
    assert grade_gsm8k(f"#### {long}", long) == RIGHT
    assert not grade_gsm8k(f"#### {long[:-1]}2", long).strict
    assert not grade_gsm8k("#### 0.1000000000000000055511151231257827", "0.1").strict  # the float nearest to 0.1
    with localcontext() as context:
        context.prec = 2
        assert not grade_gsm8k("#### 12346", "12345").strict
        assert not grade_gsm8k("#### -12346", "-12345").strict


def test_overlong_numbers_and_exponents_are_passed_over() -> None:
    assert lenient_answer("18 " + "9" * (MAX_DIGITS + 1)) == 18
    assert strict_answer("#### " + "9" * (MAX_DIGITS + 1)) is None
    assert strict_answer("#### 1e100") == Decimal("1e100")
    assert strict_answer("#### 1e101") is None
    assert lenient_answer("18 1e999999999999") == 18


def formats(number: Decimal) -> list[str]:
    """The same number as models write it."""
    plain, commas = f"{number:f}", f"{number:,f}"
    digits, sign = plain.removeprefix("-"), "-" if number < 0 else ""
    point = "" if "." in plain else "."
    written = [
        plain,
        commas,
        f"{sign}${digits}",
        f"${sign}{digits}",
        f"{plain}%",
        f"{plain}{point}",
        f"{plain}{point}00",
    ]
    written += [plain.replace("-", "\u2212"), plain.translate(ARABIC), commas.translate(FULL_WIDTH), f"{plain} apples"]
    return [*written, f"{plain}e0", f"+{plain}" if number >= 0 else plain]


numbers = st.decimals(-(10**12), 10**12, allow_nan=False, places=2) | st.integers(-(10**9), 10**9).map(Decimal)


@given(numbers, st.integers(1, 5), st.sampled_from(["#### ", "####", "＃＃＃＃ ", "2 + 2 = 4\n####  "]))
def test_grading_ignores_how_a_number_is_written(number: Decimal, difference: int, marker: str) -> None:
    wrong = Grade(strict=False, lenient=False, parsable=True)
    for written in formats(number):
        assert grade_gsm8k(f"{marker}{written}", f"#### {number:f}") == RIGHT, written
        assert grade_gsm8k(f"{marker}{written}", f"{number + difference:f}") == wrong, written
        assert lenient_answer(f"First 3, then 4: the answer is {written}") == number, written


@given(st.text() | st.text("0123456789#,.-−$%/^eE ½²xX\n５，＃"))
def test_any_text_is_graded_and_strictly_right_is_leniently_right(text: str) -> None:
    strict, lenient = strict_answer(text), lenient_answer(text)
    assert strict is None or strict == lenient
    assert lenient is None or lenient.is_finite()


def test_every_numeral_of_unicode_is_read_or_refused() -> None:
    for code in range(sys.maxunicode + 1):
        if (numeral := chr(code)).isnumeric():
            digit = unicodedata.decimal(numeral, None)
            expected = None if digit is None else Decimal(digit)
            assert strict_answer(f"#### {numeral}") == expected, hex(code)


HOSTILE = [
    "1",
    "1,",
    "1.",
    "1/",
    "1e",
    "#",
    "####",
    "####1",
    "#### ",
    "####1, ",
    "$",
    "$ ",
    "-",
    "-$",
    "a1",
    " ",
    "５，",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_megabyte_of_hostile_text_is_read(piece: str) -> None:
    text = "#### 18\n" + piece * (1_000_000 // len(piece))  # quadratic time would take hours
    assert grade_gsm8k(text, "17") in {Grade(False, False, True), Grade(False, False, False)}


def test_ten_kilobytes_of_ordinary_text_are_read_to_the_end() -> None:
    text = "She buys 3 bags at $4.50 each, 2/3 of 120,000 grams. " * 200 + "\n#### 18"
    assert len(text) > 10_000
    assert grade_gsm8k(text, "18") == RIGHT


@pytest.mark.parametrize("split", ["train", "test"])
def test_gsm8k_gold_answers_are_right_and_wrong_numbers_wrong(shared_data: Path, split: str) -> None:
    n_graded = 0
    for number, row in read_jsonl(shared_data / "gsm8k" / f"{split}.jsonl"):
        gold: str = row["answer"]
        value = gold_value(gold)
        assert value == Decimal(gold.rpartition("#### ")[2].replace(",", "")), number
        assert grade_gsm8k(gold, gold) == RIGHT, number
        assert grade_gsm8k(f"The answer is {value}.", gold) == Grade(False, True, False), number
        assert grade_gsm8k(f"{gold}.5", gold) == Grade(False, False, True), number
        assert grade_gsm8k(f"#### {value + 1}", gold) == Grade(False, False, True), number
        n_graded += 1
    assert n_graded == {"train": 7473, "test": 1319}[split]


# What lm-evaluation-harness 0.4's filters take from a response, and whether it is then right: strict-match, the first
# "#### n"; flexible-extract, the last number.
LM_EVAL = [
    ("9 + 9 = 18\n#### 18", True, True),
    ("#### 18.", True, True),
    ("#### 18,", True, True),
    ("####18", False, True),
    ("#### $18", False, True),
    ("#### **18**", False, True),
    ("The answer is $18.", False, True),
    ("#### 18.0", False, False),
    ("#### 18 and then 7", True, False),
    ("#### 7 no: #### 18", False, True),
    ("#### -18", False, False),
    ("#### 1,8", True, True),
    ("#### 18.,", True, True),
    ("eighteen", False, False),
    ("", False, False),
]


@pytest.mark.parametrize(("response", "strict", "flexible"), LM_EVAL)
def test_a_response_is_graded_as_by_lm_evaluation_harness(response: str, strict: bool, flexible: bool) -> None:
    grade = grader("gsm8k-lm-eval")(response, "9 + 9 = <<9+9=18>>18\n#### 18")
    assert (grade.strict, grade.lenient) == (strict, flexible)
    assert grade.parsable == bool(re.search(r"#### -?[0-9.,]", response))
