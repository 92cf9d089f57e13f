"""An evaluation of more problems than are sampled at once: rows that wait enter as others end, against batch after
batch. What each way computes is counted, besides its time.

The geometry is the micro world's, with random weights and adapters; some tokens end a response, so that lengths vary.
On a CPU steps usually grow, and only steps of fixed shape let rows enter, so both are shown; on a GPU, whose steps have
fixed shapes, the last two lines count.

    python benchmarks/entering.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from bank import VOCABULARY, micro_bank, random_adapters

from betastar.models import repeated
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.generation import generate
from betastar.models.logprobs import backbone
from betastar.randomness import numpy_generator, stream_key
from betastar.record.responses import Response


class Work(NamedTuple):
    """`problems` for each condition, at most `at_once` rows sampled together."""

    prompts: list[list[int]]
    ends: Sequence[int]
    limit: int
    at_once: int


class Computed(NamedTuple):
    """What sampling computed: steps, rows in them, cache columns that a row of them read on average, and prompt tokens
    with padding."""

    steps: int
    rows: int
    columns: float
    prompt_tokens: int


def entering(bank: AdapterBank, adapters: Adapters, work: Work) -> list[list[Response]]:
    """All problems in one call, in which rows that wait enter where shapes are fixed."""
    return _sampled(bank, adapters, work, range(len(work.prompts)))


def batches(bank: AdapterBank, adapters: Adapters, work: Work) -> list[list[Response]]:
    """As many problems as fit, and when the last response has ended, the next."""
    count, size = len(work.prompts), max(1, work.at_once // len(adapters))
    parts = [_sampled(bank, adapters, work, range(count)[i : i + size]) for i in range(0, count, size)]
    return [[response for part in parts for response in part[c]] for c in range(len(adapters))]


def _sampled(bank: AdapterBank, adapters: Adapters, work: Work, chosen: Sequence[int]) -> list[list[Response]]:
    keys = [[stream_key(0, "benchmark", i) for i in chosen]] * len(adapters)
    prompts = [[work.prompts[i] for i in chosen]] * len(adapters)
    options: Any = {"end_tokens": work.ends, "pad": 0, "max_new_tokens": work.limit, "at_once": work.at_once}
    return generate(bank, adapters, prompts, keys, **options)


@contextmanager
def counting(bank: AdapterBank) -> Iterator[Callable[[], Computed]]:
    """Within the block, what the bank's model computes is counted. Replayed steps are not seen."""
    rows: list[int] = []
    seen: list[int] = []
    prompts: list[int] = []

    def note(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        if given["input_ids"].shape[1] > 1:
            prompts.append(given["input_ids"].numel())
        else:
            rows.append(len(given["input_ids"]))
            seen.append(len(given["input_ids"]) * given["attention_mask"].shape[-1])

    hook = backbone(bank.model).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield lambda: Computed(len(rows), sum(rows), sum(seen) / max(1, sum(rows)), sum(prompts))
    finally:
        hook.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conditions", type=int, default=14)
    parser.add_argument("--problems", type=int, default=128)
    parser.add_argument("--at-once", type=int, default=224, help="rows of all conditions (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=40, help="tokens of a response (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bank = micro_bank(device)
    adapters = random_adapters(bank, arguments.conditions)
    rng = numpy_generator(0, "benchmark", "entering")
    prompts = [rng.integers(1, VOCABULARY, n).tolist() for n in rng.integers(20, 41, arguments.problems)]
    work = Work(prompts, range(100, 107), arguments.limit, arguments.at_once)  # 7 of 128 tokens end a response

    ways = {
        "batch after batch, steps that grow": (batches, False),
        "batch after batch, fixed shapes": (batches, True),
        "rows enter, fixed shapes": (entering, True),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    computed: dict[str, Computed] = {}
    lengths: list[int] = []
    for repeat in range(arguments.repeats + 1):
        for name, (sample, fixed) in ways.items():
            repeated.FIXED_SHAPES = fixed
            with counting(bank) as count:
                start = time.perf_counter()
                made = sample(bank, adapters, work)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if repeat:  # the first warms up, and tries whether shapes may be fixed
                    took[name].append(time.perf_counter() - start)
                computed[name] = count()
            lengths = [len(response.tokens) for group in made for response in group]
    print(f"{arguments.conditions} × {arguments.problems} responses, {arguments.at_once} at once, {device}")
    print(f"tokens of a response: {statistics.mean(lengths):.1f} on average, {max(lengths)} at most")
    for name, counted in computed.items():
        print(
            f"{name:36} {1e3 * statistics.median(took[name]):6.0f} ms  {counted.steps:4} steps  {counted.rows:6} rows  "
            f"{counted.columns:5.1f} columns  {counted.prompt_tokens:6} prompt tokens"
        )


if __name__ == "__main__":
    main()
