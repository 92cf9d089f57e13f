"""Chat formats: transformers' own rendering of a template, the plain format, cutting, and thinking mode."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from betastar.data.chat import ChatFormat, end_tokens
from betastar.data.micro import build_tokenizer
from betastar.data.preferences import Message
from betastar.models.random_models import build_byte_tokenizer

# What Qwen3's template does with these inputs, without tools and earlier thoughts: with thinking switched off the
# answer begins after an empty thought.
QWEN3 = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
ASKED = "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
DIALOGUE = (Message("user", "2 + 2?"), Message("assistant", "4"), Message("user", "Sure?"))


def tokenizer(template: str | None):
    made = build_byte_tokenizer()
    made.chat_template = template
    return made


def spoken(chat: ChatFormat, prompt: str | tuple[Message, ...]) -> str:
    """What the model reads, as text: one byte is one token."""
    [ids] = chat.prompts([prompt])
    return chat.tokenizer.decode(ids)


@pytest.mark.parametrize(("thinking", "end"), [(None, ""), (True, ""), (False, EMPTY_THOUGHT)])
def test_thinking_is_a_setting_of_the_template(thinking: bool | None, end: str) -> None:
    chat = ChatFormat(tokenizer(QWEN3), thinking)
    assert spoken(chat, "2 + 2?") == ASKED + end
    assert spoken(chat, DIALOGUE).endswith("<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n" + end)


def test_a_template_without_thinking_ignores_it() -> None:
    made = build_tokenizer(20)
    prompts = ["How many apples does Clara have now ?"]
    assert ChatFormat(made, thinking=False).prompts(prompts) == ChatFormat(made).prompts(prompts)


def test_a_prompt_with_a_template_is_what_transformers_gives() -> None:
    made = tokenizer(QWEN3)
    messages = [{"role": m.role, "content": m.content} for m in DIALOGUE]
    expected = made.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert ChatFormat(made).prompts([DIALOGUE]) == [expected]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (QWEN3, "<|im_start|>system\nBe brief.<|im_end|>\n" + ASKED),
        (None, "System: Be brief.\n\nUser: 2 + 2?\n\nAssistant:"),
    ],
    ids=["template", "plain"],
)
def test_a_system_message_comes_first_where_there_is_none(template: str | None, expected: str) -> None:
    made = tokenizer(template)
    chat = ChatFormat(made, system="Be brief.")
    assert spoken(chat, "2 + 2?") == expected
    own = (Message("system", "Be brief."), Message("user", "2 + 2?"))
    assert spoken(chat, own) == spoken(ChatFormat(made), own) == expected


def test_the_plain_format_of_a_base_model() -> None:
    made = tokenizer(None)
    assert spoken(ChatFormat(made), DIALOGUE) == "User: 2 + 2?\n\nAssistant: 4\n\nUser: Sure?\n\nAssistant:"
    made.add_special_tokens({"bos_token": "<start>"})
    made.split_special_tokens = False
    [ids] = ChatFormat(made).prompts(["2 + 2?"])
    assert ids[0] == made.bos_token_id
    assert made.decode(ids[1:]) == "User: 2 + 2?\n\nAssistant:"


def test_a_response_ends_with_the_end_token_and_comes_back() -> None:
    made = tokenizer(None)
    chat = ChatFormat(made)
    [ids] = chat.responses([" 4"])
    assert ids == [*made(" 4")["input_ids"], made.eos_token_id]
    assert chat.text(ids) == "4"


def test_long_prompts_lose_their_beginning_and_long_responses_their_end() -> None:
    chat = ChatFormat(tokenizer(None))
    [whole], [cut] = chat.prompts(["2 + 2?"]), chat.prompts(["2 + 2?"], longest=12)
    assert cut == whole[-12:]
    [whole], [cut], [fitting] = (chat.responses(["four"], longest) for longest in (None, 3, 5))
    assert cut == whole[:3]
    assert fitting == whole


def test_tokens_that_end_a_response_are_the_tokenizers_and_the_models() -> None:
    def model(eos: int | list[int] | None) -> SimpleNamespace:
        return SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=eos))

    made = build_byte_tokenizer()
    assert end_tokens(model(None), made) == [1]
    assert end_tokens(model(7), made) == [1, 7]
    assert end_tokens(model([9, 7, 1]), made) == [1, 7, 9]
