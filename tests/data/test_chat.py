"""Chat formats: transformers' own rendering of a template, the plain format, cutting, and thinking mode."""

from __future__ import annotations

import resource
import signal
import time
from types import SimpleNamespace
from typing import Any

import pytest

from betastar.data import chat as chat_module
from betastar.data.chat import ChatFormat, end_tokens
from betastar.data.micro.language import build_tokenizer
from betastar.data.micro.sums import sums
from betastar.data.preferences import Message
from betastar.errors import BetastarError
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
    made = build_tokenizer(sums(20))
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


# As Gemma's, the first Mistral's and Llama 2's: no system role, or a system message inside the first user's.
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{{ m.role }}: {{ m.content | trim }}\n"
    "{% endfor %}"
)
FOLDED = (
    "{% if messages[0].role == 'system' %}<<{{ messages[0].content }}>>{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)
SILENT = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
PARTS = (
    "{% for m in messages %}{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}:{% endfor %}"
)


def test_a_template_may_fold_the_system_message_into_the_first_turn() -> None:
    assert spoken(ChatFormat(tokenizer(FOLDED), system="Be brief."), "Hello") == "<<Be brief.>>Hello"
    assert spoken(ChatFormat(tokenizer(NO_SYSTEM)), "Hello") == "user: Hello\n"


@pytest.mark.parametrize(
    ("template", "system", "prompt", "sentence"),
    [
        (
            NO_SYSTEM,
            "Be brief.",
            "Hello",
            "takes no system message (System role not supported); remove chat.system, or write what it says into the "
            "user's message.",
        ),
        (
            NO_SYSTEM,
            None,
            (Message("system", "Be brief."), Message("user", "Hello")),
            "takes no system message (System role not supported); remove the system messages from the prompts, or",
        ),
        (
            NO_SYSTEM,
            None,
            (Message("user", "Hello"), Message("user", "You there?")),
            "cannot render messages by user, user (Conversation roles must alternate); correct the template, or give",
        ),
        (SILENT, "Be brief.", "Hello", "leaves out the system message; remove chat.system"),
        (PARTS, None, "Hello", "leaves out the user's message; choose a model for chats in text"),
        ("Hello!", None, "Hello", "leaves out the user's message"),
        ("{{ raise_exception('no') }}", None, "Hello", "cannot render messages by user (no); correct the template"),
        ("{{ messages.__class__ }}", None, "Hello", "gives no text; correct it."),
        (
            "{{ ''.__class__.__mro__[1].__subclasses__() }}",
            None,
            "Hello",
            "(access to attribute '__class__' of 'str' object is unsafe)",
        ),
        ("{{ cycler.__init__.__globals__ }}", None, "Hello", "(access to attribute '__init__' of 'type' object is"),
        ("{{ messages.append(1) }}", None, "Hello", "(access to attribute 'append' of 'list' object is unsafe)"),
        ("{% include '/etc/passwd' %}", None, "Hello", "(no loader for this environment specified)"),
        ("{{ nothing.at_all }}", None, "Hello", "('nothing' is undefined)"),
        ("{{", None, "Hello", "(unexpected 'end of template')"),
        ("{{" + "[" * 5000 + "]" * 5000 + "}}", None, "Hello", "(maximum recursion depth exceeded"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", None, "Hello", "(maximum recursion depth exceeded"),
        (5, None, "Hello", "cannot render messages by user"),
        (True, None, "Hello", "cannot render messages by user"),
        (["{{ messages }}"], None, "Hello", "cannot render messages by user"),
        ({"tool_use": QWEN3}, None, "Hello", "multiple chat templates with no default"),
        # without end
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", None, "Hello", "seconds;"),
        ("{{ lipsum(n=1000000000) }}", None, "Hello", "takes more than 0.3 seconds; correct it or choose another"),
        ("{% set x = 7 ** 3000000 %}{% set y = x ** 3000 %}", None, "Hello", "takes more than"),
        ("{{ 'a' * 10 ** 11 }}", None, "Hello", "takes more than 256 MiB of memory; correct it or choose another"),
        ("{{ messages[0].content | center(10 ** 12) }}", None, "Hello", "takes more than 256 MiB of memory"),
        ("{{ '%0999999999d' % 1 }}", None, "Hello", "takes more than 256 MiB of memory"),
        (
            "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
            None,
            "Hello",
            "takes more than",
        ),
        ("{{ messages[0].content * 2000000 }}", None, "Hello", "gives more than 10000000 characters for one prompt"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    template: Any,
    system: str | None,
    prompt: str | tuple[Message, ...],
    sentence: str,
) -> None:
    monkeypatch.setattr(chat_module, "RENDER_SECONDS", 0.3)
    monkeypatch.setattr(chat_module, "RENDER_MEMORY", 1 << 28)
    limits, started = resource.getrlimit(resource.RLIMIT_AS), time.perf_counter()
    handler = signal.getsignal(signal.SIGALRM)
    with pytest.raises(BetastarError) as error:
        ChatFormat(tokenizer(template), system=system).prompts([prompt])
    assert sentence in str(error.value)
    assert str(error.value).startswith("tokenizer: its chat template ")
    assert "\n" not in str(error.value)
    assert time.perf_counter() - started < 10
    # and what came after it would run as before
    assert resource.getrlimit(resource.RLIMIT_AS) == limits
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) is handler
