"""Preference data: what is used and left out, the split by prompt and the round trip."""

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
from betastar.data.sources import Malformed, open_rows
from betastar.errors import BetastarError
from betastar.settings.sections import DatasetSource, PairColumns

HI = (Message("user", "hi"),)
ROW = {"prompt": "p", "chosen": "a", "rejected": "b"}


def read(tmp_path: Path, *rows: dict[str, Any], **settings: Any) -> LoadedPreferences:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_preferences(open_rows(DatasetSource(dataset=str(path)), "preferences.source"), **settings)


def test_equal_responses_are_dropped_and_the_limit_counts_what_is_left(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": chosen, "rejected": rejected} for chosen, rejected in ("ab", "cc", "ab", "ba", "ab")
    ]
    loaded = read(tmp_path, *rows)
    assert [pair.chosen + pair.rejected for pair in loaded.pairs] == ["ab", "ab", "ba", "ab"]
    assert loaded[1:] == (1, Malformed(0, 5))
    assert read(tmp_path, *rows, limit=2)[1:] == (1, Malformed(0, 3))


def test_columns_are_mapped_and_a_wrong_one_names_those_that_exist(tmp_path: Path) -> None:
    row = {"question": "p", "best": "a", "worst": "b"}
    columns = PairColumns(prompt="question", chosen="best", rejected="worst")
    assert read(tmp_path, row, columns=columns).pairs == [PreferencePair("p", "a", "b")]
    with pytest.raises(BetastarError) as error:
        read(tmp_path, row, row, columns=columns.model_copy(update={"chosen": "bests"}))
    assert str(error.value) == (
        f"{tmp_path}/pairs.jsonl: no column `bests` (columns: question, best, worst); correct preferences.columns."
    )


def test_malformed_rows_are_refused_or_left_out(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"chosen": 3}, ROW | {"chosen": "b"}, ROW]
    with pytest.raises(BetastarError) as error:
        read(tmp_path, *rows)
    assert str(error.value).startswith(
        f"{tmp_path}/pairs.jsonl, line 2: `chosen` is a number; it must be text or a list"
    )
    assert str(error.value).endswith("data.max_bad_share from 0 to skip malformed rows (1 of 4, 25 %).")
    loaded = read(tmp_path, *rows, max_bad_share=0.25)
    assert (len(loaded.pairs), loaded.n_equal_dropped, loaded.malformed.n, loaded.malformed.of) == (2, 1, 1, 4)
    assert loaded.malformed.examples[0].startswith(f"{tmp_path}/pairs.jsonl, line 2: `chosen` is a number")


def test_no_usable_pair(tmp_path: Path) -> None:
    with pytest.raises(BetastarError, match="in all 1 rows `chosen` equals `rejected`; give pairs that differ"):
        read(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "a"})


def test_helpsteer2_is_read(shared_data: Path) -> None:
    source = DatasetSource(dataset=str(shared_data / "helpsteer2" / "train.jsonl"))
    loaded = read_preferences(open_rows(source, "preferences.source"))
    assert loaded[1:] == (0, Malformed(0, 95))
    assert all(
        isinstance(pair.prompt, tuple) and [turn.role for turn in pair.prompt] == ["user"] for pair in loaded.pairs
    )
    splits = split_by_prompt(loaded.pairs)
    assert sum(map(len, splits)) == 95
    assert len(splits.train) > 60


def pair(prompt: str, chosen: str = "a", rejected: str = "b") -> PreferencePair:
    return PreferencePair(prompt, chosen, rejected)


def test_the_split_is_pinned() -> None:
    """Changing it would move prompts between the splits of finished runs."""
    splits = [split_of(pair(f"prompt {n}").prompt_id) for n in range(12)]
    assert splits == ["train"] * 6 + ["validation"] + ["train"] * 4 + ["test"]


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
        r"^preferences\.source: no prompt falls into the validation and test split \(different prompts: 3\); "
        r"give pairs with about 50 different prompts or more\.$"
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
