"""Prompts and responses as token ids, in the model's own chat format where it has one."""

# transformers' types say less than its tokenizers do: they are Any here.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from betastar.data.preferences import Message


def prompt_tokens(
    tokenizer: Any, prompts: Sequence[str | tuple[Message, ...]], longest: int | None = None
) -> list[list[int]]:
    """Token ids of prompts, up to where the assistant begins to answer. A text is one user message.

    A tokenizer without a chat template gets a plain format: each turn as `User: …` or `Assistant: …`, turns separated
    by blank lines, ending in `Assistant:`. A prompt over `longest` tokens loses its beginning.
    """
    texts = []
    for prompt in prompts:
        turns = [("user", prompt)] if isinstance(prompt, str) else [(m.role, m.content) for m in prompt]
        if tokenizer.chat_template:
            messages = [{"role": role, "content": content} for role, content in turns]
            texts.append(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        else:
            plain = "".join(f"{role.capitalize()}: {content}\n\n" for role, content in turns) + "Assistant:"
            texts.append((tokenizer.bos_token or "") + plain)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [row if longest is None else row[-longest:] for row in ids]


def response_tokens(tokenizer: Any, responses: Sequence[str], longest: int | None = None) -> list[list[int]]:
    """Token ids of responses with the end-of-text token; cut to `longest` tokens, the end token then being lost."""
    end = tokenizer.eos_token_id
    ids = tokenizer(list(responses), add_special_tokens=False)["input_ids"]
    return [[*row, end][:longest] for row in ids]


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a response: the tokenizer's, and those of the model's generation settings."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *(token for token in several if token is not None)})


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of a response."""
    return tokenizer.decode(list(tokens), skip_special_tokens=True).strip()
