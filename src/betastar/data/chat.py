"""How prompts and responses are put to a model: chat templates, and the plain format of models without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from betastar.data.preferences import Message
from betastar.data.sources import BadRow, MissingColumn, Row
from betastar.errors import BetastarError


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


def template(text: str, setting: str) -> Callable[[Row], str]:
    """Compile a template once; the function renders a row. Columns are variables, and `row` holds them all.

    Raises BetastarError for a text that is no template. The function raises BadRow where the row does not have what
    the template prints, or the result is empty.
    """
    import jinja2
    from jinja2.meta import find_undeclared_variables
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, finalize=_printed)
    try:
        compiled = environment.from_string(text)
        columns = sorted(find_undeclared_variables(environment.parse(text)) - {"row"})
    except jinja2.TemplateSyntaxError as error:
        raise BetastarError(f"{setting}: line {error.lineno} is not valid Jinja ({error}); correct it.") from None

    def render(row: Row) -> str:
        try:
            result = compiled.render({"row": row, **row})
        except BadRow as fault:
            raise BadRow(f"{setting} {fault}") from None
        except Exception as error:  # a template computes, so anything that Python can raise
            missing = [column for column in columns if column not in row]
            if isinstance(error, jinja2.UndefinedError) and missing:
                raise MissingColumn(missing[0], row, setting) from None
            raise BadRow(f"{setting} cannot be filled in ({error}); correct the row or the template") from None
        if not result.strip():
            raise BadRow(f"{setting} gives an empty text; correct the row or the template")
        return result

    return render


def _printed(value: Any) -> Any:
    if value is None:
        raise BadRow("prints a column that is null; fill it in or remove the row")
    return value
