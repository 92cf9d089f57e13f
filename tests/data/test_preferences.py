"""Preference pairs: the accepted formats, the faults, the split by prompt and the round trip."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betastar.data.preferences import (
    LoadedPreferences,
    Message,
    PreferencePair,
    load_pairs,
    read_preferences,
    split_by_prompt,
    split_of,
    write_pairs,
)
from betastar.errors import BetastarError


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


HI = (Message("user", "hi"),)


def read(tmp_path: Path, *rows: dict[str, Any], limit: int | None = None) -> LoadedPreferences:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_preferences(path, limit)


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "hi", "chosen": "a", "rejected": "b"}, "hi"),
        ({"chosen": [user("hi"), assistant("a")], "rejected": [user("hi"), assistant("b")], "score": 1}, HI),
        ({"prompt": "hi", "chosen": [user("hi"), assistant("a")], "rejected": [user("hi"), assistant("b")]}, HI),
        (
            {"prompt": [user("hi")], "chosen": [user("hi"), assistant("a")], "rejected": [user("hi"), assistant("b")]},
            HI,
        ),
        ({"prompt": [user("hi")], "chosen": [assistant("a")], "rejected": [assistant("b")]}, HI),
        ({"prompt": "hi", "chosen": [assistant("a")], "rejected": [assistant("b")]}, HI),
        ({"prompt": [user("hi")], "chosen": "a", "rejected": "b"}, HI),
    ],
)
def test_accepted_formats_give_one_record(
    tmp_path: Path, row: dict[str, Any], prompt: str | tuple[Message, ...]
) -> None:
    assert read(tmp_path, row).pairs == [PreferencePair(prompt, "a", "b")]


def test_everything_before_the_last_assistant_turn_is_the_prompt(tmp_path: Path) -> None:
    before = [{"role": "system", "content": ""}, user("1"), assistant("2"), user("3")]
    (pair,) = read(tmp_path, {"chosen": [*before, assistant("a")], "rejected": [*before, assistant("b")]}).pairs
    assert pair == PreferencePair(tuple(Message(**turn) for turn in before), "a", "b")


def test_equal_responses_are_dropped_and_repeated_pairs_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": chosen, "rejected": rejected} for chosen, rejected in ("ab", "cc", "ab", "ba", "ab")
    ]
    loaded = read(tmp_path, *rows)
    assert [pair.chosen + pair.rejected for pair in loaded.pairs] == ["ab", "ab", "ba", "ab"]
    assert loaded[1:] == (5, 1, 2)
    assert read(tmp_path, *rows, limit=2)[1:] == (3, 1, 1)


ROW = {"prompt": "p", "chosen": "a", "rejected": "b"}
BOTH = {"chosen": [user("hi"), assistant("a")], "rejected": [user("hi"), assistant("b")]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "rejected": "b"}, "no `chosen` field; give each row `chosen` and `rejected` responses."),
        ({"prompt": "p", "chosen": "a"}, "no `rejected` field; give each row `chosen` and `rejected` responses."),
        ({"chosen": "a", "rejected": "b"}, "no prompt; add a `prompt` field or the messages before the response."),
        ({"chosen": [assistant("a")], "rejected": [assistant("b")]}, "no prompt; add a `prompt` field"),
        (ROW | {"prompt": 3}, "`prompt` is a number; make it text or a list of messages with `role` and `content`."),
        (ROW | {"prompt": None}, "`prompt` is null; make it text"),
        (ROW | {"chosen": True}, "`chosen` is true or false; make it text"),
        (ROW | {"rejected": {}}, "`rejected` is an object; make it text"),
        (ROW | {"prompt": " "}, "the prompt is empty; write a prompt or remove the line."),
        (ROW | {"prompt": []}, "the prompt is empty; write a prompt or remove the line."),
        (ROW | {"chosen": "\n"}, "the `chosen` response is empty; write a response or remove the line."),
        (ROW | {"rejected": ""}, "the `rejected` response is empty; write a response or remove the line."),
        (BOTH | {"rejected": [user("hi"), assistant("")]}, "the `rejected` response is empty"),
        (BOTH | {"rejected": "b"}, "one response is text and the other a list of messages; use one form for both."),
        (
            BOTH | {"rejected": [user("ho"), assistant("b")]},
            "the messages before the last differ between `chosen` and `rejected`; both must answer the same prompt.",
        ),
        (BOTH | {"prompt": "ho"}, "the `prompt` field and the messages before the response differ; remove one or make"),
        (BOTH | {"prompt": [user("ho")]}, "the `prompt` field and the messages before the response differ; remove one"),
        (
            BOTH | {"chosen": [user("hi")]},
            "the last message of `chosen` is not the assistant's; end it with a response.",
        ),
        (BOTH | {"chosen": []}, "the last message of `chosen` is not the assistant's; end it with a response."),
        (BOTH | {"chosen": ["hi"]}, "`chosen` holds a message without text in `role` and `content`; give it both."),
        (BOTH | {"chosen": [{"role": "user"}]}, "`chosen` holds a message without text in `role` and `content`"),
        (BOTH | {"chosen": [{"role": "user", "content": [1]}]}, "`chosen` holds a message without text in `role`"),
    ],
)
def test_faults_name_file_line_and_remedy(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(BetastarError) as error:
        read(tmp_path, ROW, row)
    assert str(error.value).startswith(f"{tmp_path}/pairs.jsonl, line 2: {message}")


def test_no_usable_pair_and_bad_limit(tmp_path: Path) -> None:
    with pytest.raises(BetastarError, match="in all 1 rows `chosen` equals `rejected`; supply pairs that differ"):
        read(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "a"})
    with pytest.raises(BetastarError, match="The limit on preference pairs is 0; give at least 1"):
        read(tmp_path, ROW, limit=0)


def test_helpsteer2_is_read(shared_data: Path) -> None:
    loaded = read_preferences(shared_data / "helpsteer2" / "train.jsonl")
    assert loaded[1:] == (95, 0, 0)
    assert all(
        isinstance(pair.prompt, tuple) and [turn.role for turn in pair.prompt] == ["user"] for pair in loaded.pairs
    )
    splits = split_by_prompt(loaded.pairs)
    assert sum(map(len, splits)) == 95
    assert len(splits.train) > 60


def pair(prompt: str, chosen: str = "a", rejected: str = "b") -> PreferencePair:
    return PreferencePair(prompt, chosen, rejected)


def test_prompt_id_and_split_are_pinned() -> None:
    """Changing either would move prompts between the splits of finished runs."""
    assert pair("hi").prompt_id == "d6885d1979a714fb"
    splits = [split_of(pair(f"prompt {n}").prompt_id) for n in range(12)]
    assert splits == ["train"] * 6 + ["validation"] + ["train"] * 4 + ["test"]


def test_prompt_id_depends_on_the_prompt_alone() -> None:
    assert pair("hi", "x", "y").prompt_id == pair("hi").prompt_id
    assert PreferencePair(HI, "a", "b").prompt_id == pair("hi").prompt_id
    others = ["hi ", "Hi", (Message("system", "hi"),), (Message("user", "h"), Message("user", "i"))]
    assert len({PreferencePair(other, "a", "b").prompt_id for other in ["hi", *others]}) == 5


@given(st.lists(st.tuples(st.integers(0, 90), st.text("ab", min_size=1)), max_size=60), st.randoms())
def test_no_prompt_is_in_two_splits_whatever_the_order(drawn: list[tuple[int, str]], order: random.Random) -> None:
    pairs = [*(pair(f"prompt {n}") for n in range(50)), *(pair(f"prompt {n}", chosen, "c") for n, chosen in drawn)]
    splits, shuffled = split_by_prompt(pairs), split_by_prompt(order.sample(pairs, len(pairs)))
    prompts = [{pair.prompt for pair in split} for split in splits]
    assert sum(map(len, prompts)) == len(set.union(*prompts))
    assert prompts == [{pair.prompt for pair in split} for split in shuffled]
    assert sum(map(len, splits)) == sum(map(len, shuffled)) == len(pairs)


def test_splits_are_about_80_10_10() -> None:
    n = 10_000
    train, validation, test = (len(split) / n for split in split_by_prompt(pair(f"prompt {i}") for i in range(n)))
    assert abs(train - 0.8) < 0.016  # four standard errors: 4 · √(0.8 · 0.2 / 10 000)
    assert abs(validation - 0.1) < 0.012
    assert abs(test - 0.1) < 0.012


def test_an_empty_split_is_an_error() -> None:
    train_only = [p for n in range(20) if split_of((p := pair(f"prompt {n}")).prompt_id) == "train"][:3]
    message = (
        r"^No prompt falls into the validation and test split \(different prompts: 3\); "
        r"supply pairs with about 50 different prompts or more\.$"
    )
    with pytest.raises(BetastarError, match=message):
        split_by_prompt(train_only * 2)
    with pytest.raises(BetastarError, match=r"train and validation and test split \(different prompts: 0\)"):
        split_by_prompt([])


texts = st.text(min_size=1).filter(str.strip)
prompts = texts | st.lists(st.builds(Message, texts, texts), min_size=1).map(tuple)


@given(st.lists(st.builds(PreferencePair, prompts, texts, texts), min_size=1))
def test_written_pairs_are_loaded_equal(tmp_path_factory: pytest.TempPathFactory, pairs: list[PreferencePair]) -> None:
    path = tmp_path_factory.getbasetemp() / "written-pairs.jsonl"
    write_pairs(path, pairs)
    loaded = load_pairs(path)
    assert loaded == pairs
    assert [pair.prompt_id for pair in loaded] == [pair.prompt_id for pair in pairs]


def test_writing_is_the_same_bytes_whether_or_not_an_id_was_asked_for(tmp_path: Path) -> None:
    pairs = [PreferencePair(HI, "ä", "b")]
    write_pairs(tmp_path / "before", pairs)
    assert pairs[0].prompt_id
    write_pairs(tmp_path / "after", pairs)
    expected = '{"prompt": [{"role": "user", "content": "hi"}], "chosen": "ä", "rejected": "b"}\n'
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes() == expected.encode()
