"""How prompts and responses are put to a model: chat templates, and the plain format of models without one."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from betastar.data.preferences import Message
from betastar.data.sources import BadRow, MissingColumn, Row
from betastar.errors import BetastarError

RENDER_SECONDS = 10.0
"""Longest time for one text. The templates of real models take under a millisecond; one that loops for ever would hold
up the run without a word."""

RENDER_MEMORY = 1 << 30
"""Bytes that one text may take while it is made. A line such as `'a' * 10 ** 11` would end the process instead."""

RENDER_CHARACTERS = 10_000_000
"""Longest text. It is some two million tokens, more than any context; a tokenizer would work on more for minutes."""


class TooCostly(Exception):
    """A template went beyond a limit; the message says which."""


class _OutOfTime(BaseException):
    """Raised from the timer's signal; not an Exception, so that nothing in a template's way can take it for its own."""


@contextmanager
def limited() -> Iterator[None]:
    """Run a template under limits of time (in the main thread, which alone gets signals) and memory (where /proc tells
    what is in use). Raises TooCostly. Both are lifted again afterwards."""
    timed = threading.current_thread() is threading.main_thread()
    ceiling, before = _ceiling(), resource.getrlimit(resource.RLIMIT_AS)

    def stop(*_: object) -> None:
        raise _OutOfTime

    handler = signal.signal(signal.SIGALRM, stop) if timed else None
    try:
        if ceiling is not None:
            resource.setrlimit(resource.RLIMIT_AS, (ceiling, before[1]))
        if timed:
            signal.setitimer(signal.ITIMER_REAL, RENDER_SECONDS)
        yield
    except _OutOfTime:
        raise TooCostly(f"takes more than {RENDER_SECONDS:g} seconds") from None
    except MemoryError:
        raise TooCostly(f"takes more than {RENDER_MEMORY >> 20} MiB of memory") from None
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
        if ceiling is not None:
            resource.setrlimit(resource.RLIMIT_AS, before)


def _ceiling() -> int | None:
    """Limit of the address space while a template runs; None where there is no telling, or a lower one is set."""
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
        ceiling = pages * os.sysconf("SC_PAGE_SIZE") + RENDER_MEMORY
        lowest = [limit for limit in resource.getrlimit(resource.RLIMIT_AS) if limit != resource.RLIM_INFINITY]
        return None if lowest and min(lowest) <= ceiling else ceiling
    return None


PROBE = "2 + 2 = ?"


@dataclass(frozen=True)
class ChatFormat:
    """How a model is spoken to.

    `thinking` is handed to the chat template as `enable_thinking`, which Qwen3's reads; None leaves it out. `system` is
    put before every prompt that does not begin with a system message. Raises BetastarError, when it is made and for
    every prompt, where the chat template fails, goes beyond the limits above, or leaves out what was said.
    """

    tokenizer: Any  # transformers' types say less than its tokenizers do
    thinking: bool | None = None
    system: str | None = None

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            return
        text = self._text(PROBE)
        # A template for several kinds of input may look for parts of a message, and pass over a plain text.
        if PROBE not in text:
            raise BetastarError(
                f"{self._name}: its chat template leaves out the user's message; choose a model for chats in text, or "
                "correct the template."
            )
        if self.system is not None and self.system.strip() not in text:
            raise BetastarError(
                f"{self._name}: its chat template leaves out the system message; remove chat.system, or write it into "
                "the prompts."
            )

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
        try:
            with limited():
                text = self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True, **options
                )
        except Exception as error:  # a template computes, so anything that Python can raise
            raise self._refused([role for role, _ in turns], error) from error
        if not isinstance(text, str) or not text:
            raise BetastarError(f"{self._name}: its chat template gives no text; correct it.")
        if len(text) > RENDER_CHARACTERS:
            raise self._refused([], TooCostly(f"gives more than {RENDER_CHARACTERS} characters for one prompt"))
        return text

    @property
    def _name(self) -> str:
        return getattr(self.tokenizer, "name_or_path", "") or "tokenizer"

    def _refused(self, roles: list[str], error: Exception) -> BetastarError:
        if isinstance(error, TooCostly):
            return BetastarError(f"{self._name}: its chat template {error}; correct it or choose another model.")
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        if roles[0] == "system" and self._renders("user"):
            remedy = "remove chat.system" if self.system is not None else "remove the system messages from the prompts"
            return BetastarError(
                f"{self._name}: its chat template takes no system message ({reason}); {remedy}, or write what it says "
                "into the user's message."
            )
        return BetastarError(
            f"{self._name}: its chat template cannot render messages by {', '.join(roles)} ({reason}); correct the "
            "template, or give prompts that it takes."
        )

    def _renders(self, role: str) -> bool:
        """Whether the template renders one message by that role."""
        try:
            with limited():
                return bool(self.tokenizer.apply_chat_template([{"role": role, "content": PROBE}], tokenize=False))
        except Exception:
            return False


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a response: the tokenizer's, and those of the model's generation settings. Raises BetastarError
    where these are not token ids."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [] if configured is None else [configured]
    if not all(isinstance(token, int) for token in several):
        name = getattr(tokenizer, "name_or_path", "") or "the model"
        raise BetastarError(
            f"{name}: generation_config.json has eos_token_id {configured!r:.60}; give one token id or a list of them."
        )
    return sorted({tokenizer.eos_token_id, *several})


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
            with limited():
                result = compiled.render({"row": row, **row})
        except TooCostly as fault:
            raise BadRow(f"{setting} {fault}; correct the template") from None
        except BadRow as fault:
            raise BadRow(f"{setting} {fault}") from None
        except Exception as error:  # a template computes, so anything that Python can raise
            missing = [column for column in columns if column not in row]
            if isinstance(error, jinja2.UndefinedError) and missing:
                raise MissingColumn(missing[0], row, setting) from None
            raise BadRow(f"{setting} cannot be filled in ({error}); correct the row or the template") from None
        if len(result) > RENDER_CHARACTERS:
            raise BadRow(f"{setting} gives more than {RENDER_CHARACTERS} characters; correct the template")
        if not result.strip():
            raise BadRow(f"{setting} gives an empty text; correct the row or the template")
        return result

    return render


def _printed(value: Any) -> Any:
    if value is None:
        raise BadRow("prints a column that is null; fill it in or remove the row")
    return value
