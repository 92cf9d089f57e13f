"""Prompts and responses as token ids, in the model's own chat format where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from betastar.data.preferences import Message


@dataclass(frozen=True)
class ChatFormat:
    """How a model is spoken to.

    `thinking` is handed to the chat template as `enable_thinking`, which Qwen3's reads; None leaves it out. `system` is
    put before every prompt that does not begin with a system message.
    """

    tokenizer: Any  # transformers' types say less than its tokenizers do
    thinking: bool | None = None
    system: str | None = None

    def prompts(self, prompts: Sequence[str | tuple[Message, ...]], longest: int | None = None) -> list[list[int]]:
        """Token ids of prompts, up to where the assistant begins to answer. A text is one user message.

        A tokenizer without a chat template gets a plain format: each turn as `User: …` or `Assistant: …`, turns
        separated by blank lines, ending in `Assistant:`. A prompt over `longest` tokens loses its beginning.
        """
        ids = self.tokenizer([self._text(prompt) for prompt in prompts], add_special_tokens=False)["input_ids"]
        return [row if longest is None else row[-longest:] for row in ids]

    def responses(self, responses: Sequence[str], longest: int | None = None) -> list[list[int]]:
        """Token ids of responses with the end-of-text token; cut to `longest` tokens, the end token then being lost."""
        end = self.tokenizer.eos_token_id
        ids = self.tokenizer(list(responses), add_special_tokens=False)["input_ids"]
        return [[*row, end][:longest] for row in ids]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of a response."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True).strip()

    def _text(self, prompt: str | tuple[Message, ...]) -> str:
        turns = [("user", prompt)] if isinstance(prompt, str) else [(m.role, m.content) for m in prompt]
        if self.system is not None and turns[0][0] != "system":
            turns.insert(0, ("system", self.system))
        if not self.tokenizer.chat_template:
            plain = "".join(f"{role.capitalize()}: {content}\n\n" for role, content in turns) + "Assistant:"
            return (self.tokenizer.bos_token or "") + plain
        options = {} if self.thinking is None else {"enable_thinking": self.thinking}
        messages = [{"role": role, "content": content} for role, content in turns]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a response: the tokenizer's, and those of the model's generation settings."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *(token for token in several if token is not None)})
