"""Templates over a row: what they may use, and that what is not there is a fault with its name."""

from __future__ import annotations

import time

import pytest

from betastar.data import chat
from betastar.data.chat import template
from betastar.data.sources import BadRow, MissingColumn
from betastar.errors import BetastarError


def test_columns_are_variables_and_row_holds_them_all() -> None:
    row = {"a b": 1, "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "key": "2", "right": True, "ä": "<&>"}
    for text, result in (
        ("{{ row['a b'] }} {{ ä }}", "1 <&>"),  # no HTML: nothing is escaped
        ("{% for text in choices.text %}{{ 'AB'[loop.index0] }}. {{ text }}\n{% endfor %}", "A. x\nB. y\n"),
        ("{{ 'AB'[choices.label.index(key)] }}", "B"),
        ("{{ 'yes' if right else 'no' }}", "yes"),
        ("{{ missing if missing is defined else key }}", "2"),
    ):
        assert template(text, "task.prompt")(row) == result


def test_a_missing_column_is_named_with_those_that_exist() -> None:
    with pytest.raises(MissingColumn) as error:
        template("{{ a }} {{ b.c }}", "task.gold")({"a": 1, "d": 2})
    assert str(error.value) == "no column `b` (columns: a, d); correct task.gold"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ a.b }}", "task.gold cannot be filled in ('str object' has no attribute 'b'); correct the row or the"),
        ("{{ a + 1 }}", 'task.gold cannot be filled in (can only concatenate str (not "int") to str); correct the'),
        ("{{ row.b }}", "task.gold cannot be filled in ('dict object' has no attribute 'b')"),
        ("{{ none_ }}", "task.gold prints a column that is null; fill it in or remove the row"),
        ("{% if a %} {% endif %}", "task.gold gives an empty text; correct the row or the template"),
        # the sandbox
        ("{{ a.__class__.__mro__ }}", "task.gold cannot be filled in (access to attribute '__class__' of 'str' object"),
        ("{% for i in range(10**9) %}{% endfor %}", "task.gold cannot be filled in (Range too big."),
        # its limits
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "task.gold takes more than"),
        ("{{ 'a' * 10 ** 11 }}", "task.gold takes more than 1024 MiB of memory; correct the template"),
        ("{{ 'a' * 10000001 }}", "task.gold gives more than 10000000 characters; correct the template"),
    ],
)
def test_what_cannot_be_filled_in_is_a_malformed_row(monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.setattr(chat, "RENDER_SECONDS", 0.3)
    with pytest.raises(BadRow) as error:
        template(text, "task.gold")({"a": "x", "none_": None})
    assert str(error.value).startswith(message)
    assert not isinstance(error.value, MissingColumn)


def test_a_text_that_is_no_template_is_refused_with_its_line() -> None:
    with pytest.raises(BetastarError, match=r"^task\.prompt: line 2 is not valid Jinja \(.*\); correct it\.$"):
        template("{{ a }}\n{{ b ", "task.prompt")


def test_a_template_is_compiled_once() -> None:
    render, started = template("{{ question }}\n\nThink.", "task.prompt"), time.perf_counter()
    for i in range(20_000):
        render({"question": f"{i}?"})
    assert time.perf_counter() - started < 10  # 1 s; compiling anew for each row, a minute
