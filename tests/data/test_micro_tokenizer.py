"""The micro tokenizer: nothing is unknown, nothing is lost on disk, and the chat format is the training format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from betastar.data.chat import ChatFormat
from betastar.data.micro.language import (
    ASSISTANT,
    END,
    PAD,
    SPECIAL,
    UNKNOWN,
    USER,
    Language,
    build_tokenizer,
    draw_request,
    draw_style,
    write_response,
)
from betastar.data.micro.lists import lists
from betastar.data.micro.sums import sums

SUMS = sums(20)


def demonstrations(language: Language = SUMS, n: int = 1000) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(n):
        prompt = language.problem(rng) if i % 3 else draw_request(rng)
        pairs.append((prompt.text, write_response(language, rng, prompt, draw_style(rng), i % 2 == 0)))
    return pairs


@pytest.mark.parametrize("language", [sums(2), SUMS, sums(200), lists(2), lists(6)])
def test_one_token_per_word_none_unknown_and_back(language: Language) -> None:
    tokenizer = build_tokenizer(language)
    chat = ChatFormat(tokenizer)
    texts = [text for pair in demonstrations(language) for text in pair]
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert len(ids) == len(text.split())
        assert tokenizer.unk_token_id not in ids
        assert chat.text(ids) == text


def test_special_tokens_come_first_and_are_known_as_such() -> None:
    tokenizer = build_tokenizer(SUMS)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == [0, 1, 2, 3, 4]
    assert (tokenizer.pad_token, tokenizer.unk_token, tokenizer.eos_token) == (PAD, UNKNOWN, END)
    assert set(tokenizer.all_special_tokens) == set(SPECIAL)
    assert tokenizer.decode(tokenizer("<user> 3 <assistant> 4 <end> <pad>")["input_ids"], skip_special_tokens=True) == (
        "3 4"
    )
    assert tokenizer("21 Apples")["input_ids"] == [tokenizer.unk_token_id] * 2  # beyond `largest`; another case


def test_the_chat_format_gives_exactly_the_tokens_of_a_training_text() -> None:
    tokenizer = build_tokenizer(SUMS)
    pairs = demonstrations()
    training = tokenizer([f"{USER} {prompt} {ASSISTANT} {response} {END}" for prompt, response in pairs])["input_ids"]
    chat = ChatFormat(tokenizer)
    prompts = chat.prompts([prompt for prompt, _ in pairs])
    responses = chat.responses([response for _, response in pairs])
    assert [[*p, *r] for p, r in zip(prompts, responses, strict=True)] == training
    for (prompt, response), ids in zip(pairs[:100], training, strict=False):
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        assert tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False) == ids


def test_a_saved_tokenizer_loads_as_the_same(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = build_tokenizer(SUMS)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.chat_template == tokenizer.chat_template
    assert set(loaded.all_special_tokens) == set(SPECIAL)
    assert (loaded.pad_token_id, loaded.unk_token_id, loaded.eos_token_id) == (0, 1, 4)
    pairs = demonstrations(n=300)
    texts = [f"{USER} {prompt} {ASSISTANT} {response} {END}" for prompt, response in pairs]
    ids = tokenizer(texts)["input_ids"]
    assert loaded(texts)["input_ids"] == ids
    before, after = ChatFormat(tokenizer), ChatFormat(loaded)
    assert after.prompts([p for p, _ in pairs]) == before.prompts([p for p, _ in pairs])
    assert [after.text(row) for row in ids] == [before.text(row) for row in ids]
    assert [after.text(row) for row in ids] == [f"{prompt} {response}" for prompt, response in pairs]
