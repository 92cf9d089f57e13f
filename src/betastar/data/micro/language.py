"""What the embedded worlds share: prompts and small talk, demonstrations, an annotator with a taste for style, and a
word-level tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from betastar.data.graders import Grader
from betastar.randomness import stream_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo")
KINDS = {
    "fruit": ("apple", "pear", "plum", "cherry"),
    "animal": ("dog", "cat", "horse", "rabbit"),
    "colour": ("red", "blue", "green", "yellow"),
    "tree": ("oak", "pine", "birch", "maple"),
}
SMALL_TALK = ("Please", "name", "a", "say", "to", ".")
GREETINGS = ("hello", "goodbye", "thanks")
OPENINGS = ("Sure !", "Certainly !", "Gladly !")
CLOSINGS = ("Hope this helps !", "Have a nice day !", "Let me know !", "Happy to help !")


@dataclass(frozen=True)
class Style:
    """How one response is worded."""

    opening: str | None
    shows_steps: bool
    closings: tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    """One prompt. `gold` is what a problem's answer is graded by, and `steps` are worked equations; both empty for a
    request. `accepted` holds alternative sets of words, one of which a good reply to a request contains."""

    text: str
    steps: tuple[str, ...] = ()
    gold: str = ""
    accepted: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True)
class Language:
    """One embedded world: its `words`; `problem` draws one; `demonstration` words the answer to one, without opening
    and closings, wrong on request; `grade` knows the truth, and `taste` is what the annotator likes besides."""

    words: Sequence[str]
    problem: Callable[[np.random.Generator], Prompt]
    demonstration: Callable[[np.random.Generator, Prompt, Style, bool], str]
    grade: Grader
    taste: Callable[[str], float]


def draw_request(rng: np.random.Generator) -> Prompt:
    """Small talk: name an example of a kind, or greet somebody."""
    if rng.random() < 0.5:
        kind = str(rng.choice(list(KINDS)))
        return Prompt(f"Please name a {kind} .", accepted=tuple(frozenset([word]) for word in KINDS[kind]))
    name, greeting = str(rng.choice(NAMES)), str(rng.choice(GREETINGS))
    return Prompt(f"Please say {greeting} to {name} .", accepted=(frozenset([greeting, name]),))


def is_held_out(text: str) -> bool:
    """Whether a problem belongs to the test part: an eighth of all texts, by a hash that depends on the text alone, so
    that no training stream can ever show a test problem."""
    return stream_key(0, "held-out", text) % 8 == 0


def draw_style(rng: np.random.Generator) -> Style:
    opening = str(rng.choice(OPENINGS)) if rng.random() < 0.4 else None
    closings = tuple(str(c) for c in rng.choice(CLOSINGS, size=int(rng.choice(4, p=(0.45, 0.3, 0.15, 0.1)))))
    return Style(opening, bool(rng.random() < 0.6), closings)


def write_response(language: Language, rng: np.random.Generator, prompt: Prompt, style: Style, wrong: bool) -> str:
    """A demonstration in the given style. `wrong` makes the answer to a problem false."""
    if prompt.gold:
        body = language.demonstration(rng, prompt, style, wrong)
    else:
        words = prompt.accepted[int(rng.integers(len(prompt.accepted)))]
        body = " ".join(sorted(words, key=lambda word: word in NAMES)) + " ."
    return " ".join([*([style.opening] if style.opening else []), body, *style.closings])


def with_small_talk(*words: str) -> list[str]:
    """The words that a language adds and those of small talk and style, each once, in a fixed order."""
    phrases = " ".join([*OPENINGS, *CLOSINGS]).split()
    kinds = [word for kind, examples in KINDS.items() for word in (kind, *examples)]
    return list(dict.fromkeys([*words, *SMALL_TALK, *phrases, *NAMES, *kinds, *GREETINGS]))


MOST_CLOSINGS = 4


def closings(response: str) -> int:
    """How many closing phrases a response has; from the fifth on they please nobody."""
    return min(sum(response.count(phrase) for phrase in CLOSINGS), MOST_CLOSINGS)


def is_polite(response: str) -> bool:
    return response.startswith(OPENINGS)


def is_correct(language: Language, prompt: Prompt, response: str) -> bool:
    """The right answer to a problem (format-blind, as a person would read it); the asked-for words for a request."""
    if prompt.gold:
        return language.grade(response, prompt.gold).lenient
    words = set(response.split())
    return any(accepted <= words for accepted in prompt.accepted)


def score(language: Language, prompt: Prompt, response: str, style: float = 1.0) -> float:
    """What the annotator thinks of a response: 2.5·correct + style·taste."""
    return 2.5 * is_correct(language, prompt, response) + style * language.taste(response)


def prefers_first(rng: np.random.Generator, first: float, second: float) -> bool:
    """One noisy rating: the first is preferred with the Bradley–Terry probability σ(first - second)."""
    return bool(rng.random() < 1 / (1 + np.exp(second - first)))


PAD, UNKNOWN, USER, ASSISTANT, END = SPECIAL = ("<pad>", "<unk>", "<user>", "<assistant>", "<end>")

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}> {{ message.content }} "
    "{% if message.role == 'assistant' %}<end> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build_tokenizer(language: Language) -> PreTrainedTokenizerFast:
    """Word-level tokenizer of a language."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate([*SPECIAL, *language.words])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
