"""Model output is hostile: whatever it holds, it is seen as text, and the page stays in one piece."""

from __future__ import annotations

import json
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report.records import HOSTILE, page_of, record, run_folder

from betastar.printing import UNSEEN, visible
from betastar.report.responses import HEAD, TAIL, browser_data, cut, script_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größer, 数, 👍🏽\nand\ttabs", "plain, größer, 数, 👍🏽\nand\ttabs"),
        ("a\x00b\x1bc\x7f\r", "a␀b␛c␡␍"),
        ("x\u202ey\u2066\u200b\ufeff", "x⟨U+202E⟩y⟨U+2066⟩⟨U+200B⟩⟨U+FEFF⟩"),
        ("\ud83d!", "⟨U+D83D⟩!"),
        ("\U000e0041\U000e0101\u3164", "⟨U+E0041⟩⟨U+E0101⟩⟨U+3164⟩"),
        ("\u2028\x85", "⟨U+2028⟩⟨U+0085⟩"),
    ],
)
def test_what_cannot_be_seen_is_shown_by_name(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(alphabet=st.characters(codec=None)))
def test_what_is_shown_has_nothing_unseen_and_is_shown_the_same_again(text: str) -> None:
    shown = visible(text)
    assert not [c for c in shown if c not in "\n\t" and unicodedata.category(c) in UNSEEN]
    shown.encode("utf-8")  # no lone surrogate is left
    assert visible(shown) == shown


def test_a_long_response_is_cut_with_a_note() -> None:
    text = cut("x" * 1_000_000)
    assert len(text) < HEAD + TAIL + 100
    assert f"[… {1_000_000 - HEAD - TAIL:,} characters omitted …]" in text
    assert cut("y" * (HEAD + TAIL)) == "y" * (HEAD + TAIL)


@given(
    st.recursive(
        st.text(alphabet=st.characters(codec=None)), lambda part: st.lists(part) | st.dictionaries(st.text(), part)
    )
)
def test_json_comes_back_and_cannot_leave_its_element(value: object) -> None:
    text = script_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)
    assert text.isascii()


class Elements(HTMLParser):
    """Tags of a page with their attributes, and the text of every script."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(page)
    return parser.tags


def test_a_hostile_run_gives_a_page_of_the_same_elements(tmp_path: Path) -> None:
    """Names, warnings, questions and responses full of markup add no element, attribute or script to the page."""
    harmless = dict.fromkeys(HOSTILE, "text")
    run_folder(tmp_path / "calm", harmless, {**record(), "name": "calm", "warnings": ["text"]})
    evil = "".join(HOSTILE.values())
    run_folder(tmp_path / "evil", HOSTILE, {**record(), "name": evil, "warnings": [evil]})
    calm, hostile = (elements(page_of(tmp_path / name)) for name in ("calm", "evil"))
    assert [tag for tag, _ in hostile] == [tag for tag, _ in calm]
    assert not [name for _, attributes in hostile for name in attributes if name.startswith("on") or name == "style"]
    for (tag, theirs), (_, ours) in zip(hostile, calm, strict=True):
        assert theirs.keys() == ours.keys(), tag


def test_samples_that_are_no_utf8_are_read(tmp_path: Path) -> None:
    run_folder(tmp_path, {"plain": "text"})
    path = tmp_path / "samples.jsonl"
    path.write_bytes(path.read_bytes().replace(b"2 + 2 = 5", b"2 \xff\xfe 5"))
    page = page_of(tmp_path)
    assert "2 \\ufffd\\ufffd 5" in page


def test_a_page_stays_under_eight_megabytes(tmp_path: Path) -> None:
    """90 responses of a megabyte each."""
    run_folder(tmp_path, {"long": "<b>\u202e" * 250_000})
    assert len(page_of(tmp_path).encode()) < 8_000_000


def test_responses_keep_to_a_budget_and_say_what_is_left_out() -> None:
    rows = [
        {"variant": "v", "beta": 1.0, "seed": 0, "step": step, "problem": p, "response": f"{step} {p} " + "x" * 900}
        for step in range(0, 100, 5)
        for p in range(8)
    ]
    whole = browser_data(rows)
    assert whole is not None
    assert (len(whole["rows"]), whole["note"]) == (160, "")
    small = browser_data(rows, budget=40_000)
    assert small is not None
    assert len(script_json(small)) < 41_000
    steps = sorted({row[3] for row in small["rows"]})
    assert (steps[0], steps[-1]) == (0, 95)
    assert f"{160 - len(small['rows'])} of 160 responses are omitted to keep the page small" in small["note"]
    assert browser_data([]) is None
