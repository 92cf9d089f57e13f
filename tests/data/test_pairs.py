"""One preference pair: the accepted forms against TRL's own prompt extraction, UltraFeedback's columns, the faults."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from trl.data_utils import extract_prompt, is_conversational, maybe_extract_prompt

from betastar.data.preferences import Message, PreferencePair, parse_pair, shared_length
from betastar.data.sources import BadRow, MissingColumn
from betastar.models.random_models import build_byte_tokenizer
from betastar.settings.sections import PairColumns


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


HI = (Message("user", "hi"),)
PLAIN = PairColumns()

ULTRAFEEDBACK = {
    "prompt": "how can i develop a habit of drawing daily",
    "prompt_id": "086b3e24f29b8956a01059f79c56db35d118a06fb6b844b095737d042795cd43",
    "chosen": [user("how can i develop a habit of drawing daily"), assistant("Set aside ten minutes.")],
    "rejected": [user("how can i develop a habit of drawing daily"), assistant("Just draw.")],
    "messages": [user("how can i develop a habit of drawing daily"), assistant("Set aside ten minutes.")],
    "score_chosen": 8.5,
    "score_rejected": 8.0,
}
"""A row of HuggingFaceH4/ultrafeedback_binarized, split train_prefs: its columns, with shorter texts."""


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "hi", "chosen": "a", "rejected": "b"}, "hi"),
        ({"prompt": [user("hi")], "chosen": [assistant("a")], "rejected": [assistant("b")]}, HI),
        ({"chosen": [user("hi"), assistant("a")], "rejected": [user("hi"), assistant("b")], "score": 1}, HI),
        ({"prompt": "hi", "chosen": [user("hi"), assistant("a")], "rejected": [user("hi"), assistant("b")]}, HI),
        # beyond TRL
        ({"prompt": "hi", "chosen": [assistant("a")], "rejected": [assistant("b")]}, HI),
        ({"prompt": [user("hi")], "chosen": "a", "rejected": "b"}, HI),
        (
            {"prompt": [user("hi")], "chosen": [user("hi"), assistant("a")], "rejected": [user("hi"), assistant("b")]},
            HI,
        ),
    ],
)
def test_accepted_forms_give_one_pair(row: dict[str, Any], prompt: str | tuple[Message, ...]) -> None:
    assert parse_pair(row, PLAIN) == PreferencePair(prompt, "a", "b")


def test_ultrafeedback_binarized_reads_right() -> None:
    prompt = (Message("user", "how can i develop a habit of drawing daily"),)
    expected = PreferencePair(prompt, "Set aside ten minutes.", "Just draw.")
    assert parse_pair(ULTRAFEEDBACK, PLAIN) == expected
    found = maybe_extract_prompt(dict(ULTRAFEEDBACK))
    assert tuple(Message(**turn) for turn in found["prompt"]) == prompt
    assert (found["chosen"], found["rejected"]) == ([assistant(expected.chosen)], [assistant(expected.rejected)])


def test_implicit_prompts_of_text_and_of_conversations() -> None:
    row = {
        "chosen": "\n\nHuman: Hi!\n\nAssistant: Hello there.",
        "rejected": "\n\nHuman: Hi!\n\nAssistant: Go away.",
    }
    # the space before the responses belongs to them
    assert parse_pair(row, PLAIN) == PreferencePair("\n\nHuman: Hi!\n\nAssistant:", " Hello there.", " Go away.")
    before = [system(""), user("1"), assistant("2"), user("3")]
    row = {"chosen": [*before, assistant("a")], "rejected": [*before, assistant("b")]}
    assert parse_pair(row, PLAIN) == PreferencePair(tuple(Message(**turn) for turn in before), "a", "b")


def trl_pair(row: dict[str, Any]) -> PreferencePair:
    """What TRL makes of a row, in our form."""
    found: dict[str, Any] = maybe_extract_prompt(dict(row))
    if is_conversational({"chosen": found["chosen"]}):
        (chosen,), (rejected,) = found["chosen"], found["rejected"]
        return PreferencePair(
            tuple(Message(**turn) for turn in found["prompt"]), chosen["content"], rejected["content"]
        )
    return PreferencePair(found["prompt"], found["chosen"], found["rejected"])


texts = st.text("ab ", min_size=1, max_size=12)
words = texts.filter(str.strip)
turns = st.lists(st.builds(user, words), min_size=1, max_size=3)


@given(texts, texts, texts)
@example("", "a ", "b")  # TRL steps back over the last character of a text that shares nothing: idx becomes -1
def test_the_implicit_prompt_of_texts_is_trl_s(shared: str, chosen: str, rejected: str) -> None:
    row = {"chosen": shared + chosen, "rejected": shared + rejected}
    if row["chosen"][0] != row["rejected"][0]:
        assert shared_length(row["chosen"], row["rejected"]) == 0
    else:
        found = extract_prompt(dict(row))
        length = shared_length(row["chosen"], row["rejected"])
        assert row["chosen"][:length] == found["prompt"]
        assert (row["chosen"][length:], row["rejected"][length:]) == (found["chosen"], found["rejected"])


@given(turns, words, words, st.sampled_from(["none", "text", "messages"]))
def test_pairs_are_trl_s_wherever_both_read_the_row(before: list, chosen: str, rejected: str, prompt: str) -> None:
    whole = {"chosen": [*before, assistant(chosen)], "rejected": [*before, assistant(rejected)]}
    row: dict[str, Any] = {
        "none": whole,
        "text": whole | {"prompt": "label"},  # TRL does not read it beside conversations
        "messages": {"prompt": before, "chosen": [assistant(chosen)], "rejected": [assistant(rejected)]},
    }[prompt]
    assert parse_pair(row, PLAIN) == trl_pair(row)


@given(words, words, words)
def test_explicit_texts_are_taken_as_they_are(prompt: str, chosen: str, rejected: str) -> None:
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    assert parse_pair(row, PLAIN) == trl_pair(row) == PreferencePair(prompt, chosen, rejected)


def parts(message: dict[str, str], *cuts: int) -> dict[str, Any]:
    """The message with its content as parts, cut at these places. Some tables hold every key in every part."""
    text, edges = message["content"], [0, *cuts, len(message["content"])]
    found = [{"type": "text", "text": text[a:b], "image": None} for a, b in pairwise(edges)]
    return message | {"content": found}


def test_content_in_parts_is_the_text_that_a_template_prints() -> None:
    """As TRL accepts it: a model's chat template prints the parts one after the other."""
    before, answers = [system("Be brief."), user("Hello there")], (assistant("Hi."), assistant("Go away"))
    plain = {"prompt": before, "chosen": [answers[0]], "rejected": [answers[1]]}
    whole = {"prompt": [*map(parts, before)], "chosen": [parts(answers[0])], "rejected": [parts(answers[1])]}
    cut = {"prompt": [before[0], parts(before[1], 3, 6)], "chosen": [answers[0]], "rejected": [parts(answers[1], 2)]}
    assert parse_pair(whole, PLAIN) == parse_pair(cut, PLAIN) == parse_pair(plain, PLAIN) == trl_pair(plain)
    # What a template for parts prints of them, as Qwen2-VL's does.
    template = (
        "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
        "{% endfor %}"
    )
    tokenizer = build_byte_tokenizer()
    for row in (whole, cut):
        printed = tokenizer.apply_chat_template(row["prompt"], chat_template=template, tokenize=False)
        assert printed == "<system>Be brief.<user>Hello there"
    implicit = {
        side: [*map(parts, before), parts(turn)] for side, turn in zip(("chosen", "rejected"), answers, strict=True)
    }
    assert parse_pair(implicit, PLAIN) == parse_pair(plain, PLAIN)


def test_columns_may_have_other_names() -> None:
    row = {"question": "hi", "best": "a", "worst": "b", "prompt": 3}
    assert parse_pair(row, PairColumns(prompt="question", chosen="best", rejected="worst")).prompt == "hi"
    with pytest.raises(MissingColumn) as error:
        parse_pair(row, PLAIN)
    expected = "no column `chosen` (columns: question, best, worst, prompt); correct preferences.columns"
    assert str(error.value) == expected


ROW = {"prompt": "p", "chosen": "a", "rejected": "b"}
BOTH = {"chosen": [user("hi"), assistant("a")], "rejected": [user("hi"), assistant("b")]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "a"}, "no column `rejected` (columns: prompt, chosen); correct preferences"),
        ({"chosen": "a", "rejected": "b"}, "no prompt; add a `prompt` column, or begin both responses with it"),
        ({"chosen": [assistant("a")], "rejected": [assistant("b")]}, "no prompt; add a `prompt` column"),
        (ROW | {"prompt": 3}, "`prompt` is a number; it must be text or a list of messages with `role` and `content`"),
        (ROW | {"prompt": None}, "`prompt` is null; it must be text"),
        (ROW | {"chosen": True}, "`chosen` is true or false; it must be text"),
        (ROW | {"rejected": {}}, "`rejected` is an object; it must be text"),
        (ROW | {"rejected": b"x"}, "`rejected` is bytes; it must be text"),
        (ROW | {"prompt": " "}, "the prompt is empty; write a prompt or remove the row"),
        (ROW | {"prompt": []}, "the prompt is empty; write a prompt or remove the row"),
        (ROW | {"chosen": "\n"}, "the `chosen` response is empty; write a response or remove the row"),
        (ROW | {"rejected": ""}, "the `rejected` response is empty; write a response or remove the row"),
        (BOTH | {"rejected": [user("hi"), assistant("")]}, "the `rejected` response is empty"),
        (BOTH | {"rejected": "b"}, "one response is text and the other a list of messages; use the same form for both"),
        (
            BOTH | {"rejected": [user("ho"), assistant("b")]},
            "no prompt; add a `prompt` column",
        ),
        (
            BOTH | {"rejected": [user("hi"), assistant("b"), user("and?"), assistant("c")]},
            "after the prompt, `rejected` has assistant user assistant instead of one assistant message; the "
            "conversations must differ only in their last turn",
        ),
        (
            BOTH | {"prompt": [user("ho")]},
            "after the prompt, `chosen` has user assistant instead of one assistant message",
        ),
        (BOTH | {"chosen": [user("hi")]}, "no prompt"),
        (
            BOTH | {"prompt": "hi", "chosen": []},
            "after the prompt, `chosen` has nothing instead of one assistant message",
        ),
        (BOTH | {"chosen": ["hi"]}, "`chosen` has a message without text in `role` or `content`; fill in both"),
        (BOTH | {"chosen": [{"role": "user"}]}, "`chosen` has a message without text in `role` or `content`"),
        (BOTH | {"chosen": [{"role": "user", "content": None}]}, "`chosen` has a message without text in `role`"),
        *(
            (BOTH | {"chosen": [{"role": "user", "content": parts}]}, "`chosen` has a message whose content is a list")
            for parts in ([], [1], ["hi"], [{"text": "hi"}], [{"type": "text"}], [{"type": "text", "text": None}])
        ),
        *(
            (
                BOTH | {"chosen": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]},
                "`chosen` has a message with image, and betastar reads text alone; remove such rows",
            )
            for image in ({"type": "image"}, {"type": "image", "image": "cat.png", "text": None})
        ),
    ],
)
def test_faults_say_reason_and_remedy(row: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRow) as error:
        parse_pair(row, PLAIN)
    assert str(error.value).startswith(message)


def test_prompt_id_is_pinned_and_depends_on_the_prompt_alone() -> None:
    """Changing it would move prompts between the splits of finished runs."""
    pair = PreferencePair("hi", "a", "b")
    assert pair.prompt_id == "d6885d1979a714fb"
    assert PreferencePair("hi", "x", "y").prompt_id == pair.prompt_id
    assert PreferencePair(HI, "a", "b").prompt_id == pair.prompt_id
    others = ["hi ", "Hi", (Message("system", "hi"),), (Message("user", "h"), Message("user", "i"))]
    assert len({PreferencePair(other, "a", "b").prompt_id for other in ["hi", *others]}) == 5
