"""The micro world, embedded: word problems and small talk, demonstrations, an annotator with a taste for style, and a
word-level tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from betastar.data.graders import grade_gsm8k
from betastar.randomness import stream_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo")
THINGS = ("apples", "books", "coins", "eggs", "pens", "shells", "stamps", "toys")
KINDS = {
    "fruit": ("apple", "pear", "plum", "cherry"),
    "animal": ("dog", "cat", "horse", "rabbit"),
    "colour": ("red", "blue", "green", "yellow"),
    "tree": ("oak", "pine", "birch", "maple"),
}
GREETINGS = ("hello", "goodbye", "thanks")
OPENINGS = ("Sure !", "Certainly !", "Gladly !")
CLOSINGS = ("Hope this helps !", "Have a nice day !", "Let me know !", "Happy to help !")

GAINS = ("gets {n} more", "finds {n} more", "buys {n} more")
LOSSES = ("loses {n}", "sells {n}", "gives {n} to {friend}")


@dataclass(frozen=True)
class Style:
    """How one response is worded."""

    opening: str | None
    shows_steps: bool
    closings: tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    """One prompt of the micro world. `steps` are worked equations and `gold` the answer; both empty for a request.
    `accepted` holds alternative sets of words, one of which a good reply to a request contains."""

    text: str
    steps: tuple[str, ...] = ()
    gold: str = ""
    accepted: tuple[frozenset[str], ...] = ()


def draw_problem(rng: np.random.Generator, largest: int) -> Prompt:
    """A one- or two-step problem with every number, intermediate ones included, between 0 and `largest`."""
    name, friend = rng.choice(NAMES, size=2, replace=False)
    thing = rng.choice(THINGS)
    total = int(rng.integers(1, largest + 1))
    sentences = [f"{name} has {total} {thing}"]
    steps = []
    for _ in range(int(rng.integers(1, 3))):
        gain = total == 0 or (total < largest and rng.random() < 0.5)
        n = int(rng.integers(1, (largest - total if gain else total) + 1))
        phrase = str(rng.choice(GAINS if gain else LOSSES)).format(n=n, friend=friend)
        result = total + n if gain else total - n
        steps.append(f"{total} {'+' if gain else '-'} {n} = {result}")
        sentences.append(f"{name} {phrase}")
        total = result
    text = " . ".join(sentences) + f" . How many {thing} does {name} have now ?"
    return Prompt(text, tuple(steps), str(total))


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


def write_response(rng: np.random.Generator, prompt: Prompt, style: Style, wrong: bool, largest: int) -> str:
    """A demonstration in the given style. `wrong` makes the final number of a problem (the last step with it) false."""
    parts = [style.opening] if style.opening else []
    if prompt.gold:
        answer, steps = prompt.gold, list(prompt.steps)
        if wrong:
            answer = str((int(answer) + int(rng.integers(1, largest + 1))) % (largest + 1))
            steps[-1] = steps[-1].rsplit(" ", 1)[0] + f" {answer}"
        if style.shows_steps:
            parts += [f"{step} ." for step in steps]
        parts.append(f"#### {answer}")
    else:
        words = prompt.accepted[int(rng.integers(len(prompt.accepted)))]
        parts.append(" ".join(sorted(words, key=lambda word: word in NAMES)) + " .")
    return " ".join([*parts, *style.closings])


def vocabulary(largest: int) -> list[str]:
    """All words of the language, in a fixed order."""
    fixed = [
        "has",
        ".",
        "?",
        "!",
        "How",
        "many",
        "does",
        "have",
        "now",
        "Please",
        "name",
        "a",
        "say",
        "to",
        "####",
        "+",
        "-",
        "=",
    ]
    phrases = " ".join([*GAINS, *LOSSES, *OPENINGS, *CLOSINGS]).replace("{n}", " ").replace("{friend}", " ").split()
    kinds = [word for kind, words in KINDS.items() for word in (kind, *words)]
    numbers = [str(n) for n in range(largest + 1)]
    return list(dict.fromkeys([*fixed, *phrases, *NAMES, *THINGS, *kinds, *GREETINGS, *numbers]))


MOST_CLOSINGS = 4


def is_correct(prompt: Prompt, response: str) -> bool:
    """Exact final answer for a problem (format-blind, as a person would read it); the asked-for words for a request."""
    if prompt.gold:
        return grade_gsm8k(response, prompt.gold).lenient
    words = set(response.split())
    return any(accepted <= words for accepted in prompt.accepted)


def score(prompt: Prompt, response: str, style: float = 1.0) -> float:
    """2.5·correct + style·(1.2·min(closings, 4) + 0.8·polite + 0.8·shows steps)."""
    closings = sum(response.count(phrase) for phrase in CLOSINGS)
    polite = response.startswith(OPENINGS)
    pleasing = 1.2 * min(closings, MOST_CLOSINGS) + 0.8 * polite + 0.8 * (" = " in response)
    return 2.5 * is_correct(prompt, response) + style * pleasing


def prefers_first(rng: np.random.Generator, first: float, second: float) -> bool:
    """One noisy rating: the first is preferred with the Bradley–Terry probability σ(first - second)."""
    return bool(rng.random() < 1 / (1 + np.exp(second - first)))


PAD, UNKNOWN, USER, ASSISTANT, END = SPECIAL = ("<pad>", "<unk>", "<user>", "<assistant>", "<end>")

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}> {{ message.content }} "
    "{% if message.role == 'assistant' %}<end> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build_tokenizer(largest: int) -> PreTrainedTokenizerFast:
    """Word-level tokenizer of the micro language with numbers up to `largest`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate([*SPECIAL, *vocabulary(largest)])}
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
