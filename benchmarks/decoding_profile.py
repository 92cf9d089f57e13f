"""Where sampling on a CPU spends its time as conditions are added, and what the machine allows: multiplications at the
rate of a large product, and the bytes of weights and cache at the rate of a copy.

The geometry is the micro world's, weights and adapters are random, and no row ends early. Each part's time is its own,
without the parts that it calls.

    python benchmarks/decoding_profile.py --conditions 1 12 18 24 140
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from bank import GEOMETRY, decoding, micro_bank
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from betastar.models import bank as banks
from betastar.models import batch, sampler
from betastar.models.bank import AdapterBank

PROMPT = 30  # tokens of a prompt on average, see `bank.py`
PARTS = ("prompts", "base products", "adapters", "attention", "rest of the layers", "head", "noise", "rest")


class Clock:
    """Seconds of each part, without those of the parts within it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inside: list[str] = ["rest"]
        self.since = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Within the block, time is that of `name`; of prompts, whatever is called there."""
        name = "prompts" if "prompts" in self.inside else name
        self._to_now()
        self.inside.append(name)
        try:
            yield
        finally:
            self._to_now()
            self.inside.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def work(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return work

    def _to_now(self) -> None:
        now = time.perf_counter()
        self.seconds[self.inside[-1]] += now - self.since
        self.since = now


def profile(bank: AdapterBank, work: Callable[[], object]) -> dict[str, float]:
    """Seconds of each part of `work`, which samples."""
    clock, model = Clock(), bank.model
    attention, before = clock.timed("attention", sdpa_attention_forward), model.config._attn_implementation
    AttentionInterface.register("timed", attention)
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Linear) and module is not model.lm_head:
                stack.enter_context(patch.object(module, "forward", clock.timed("base products", module.forward)))
        for home, name, part in (
            (batch, "read_prompts", "prompts"),
            (batch, "read", "rest of the layers"),
            (sampler, "head_logits", "head"),
            (sampler, "choose", "noise"),
        ):
            stack.enter_context(patch.object(home, name, clock.timed(part, getattr(home, name))))
        stack.enter_context(bank.adding(clock.timed("adapters", banks._add_in_place)))
        model.config._attn_implementation = "timed"
        try:
            with clock.part("rest"):
                work()
        finally:
            model.config._attn_implementation = before
    return dict(clock.seconds)


def limits(bank: AdapterBank, conditions: int, rows: int, tokens: int) -> tuple[float, float]:
    """Seconds that the multiplications of all steps, and their reading of weights, adapters, keys and values, take at
    this machine's rates."""
    model, g = bank.model, GEOMETRY
    weights = sum(p.numel() for p in model.parameters())
    adapters = conditions * sum(bank.rank * (d_in + d_out) for d_in, d_out in bank.shapes.values())
    columns = PROMPT + tokens / 2
    everyone, steps = conditions * rows, tokens - 1
    cache = 2 * g.layers * g.hidden_size * columns  # numbers of a row
    operations = everyone * (2 * weights + 2 * adapters / conditions + 2 * cache)
    return steps * operations / matrix_rate(), steps * 4 * (weights + adapters + everyone * cache) / copy_rate()


@functools.cache
def matrix_rate() -> float:
    """Floating-point operations per second of a product of 1 024 × 1 024."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / _best(lambda: a @ a)


@functools.cache
def copy_rate() -> float:
    """Bytes per second that are read and written when 256 MB are copied."""
    a = torch.randn(1 << 26)
    b = torch.empty_like(a)
    return 2 * 4 * a.numel() / _best(lambda: b.copy_(a))


def _best(work: Callable[[], object], times: int = 7) -> float:
    def once() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return min(once() for _ in range(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conditions", type=int, nargs="+", default=[1, 12, 18, 24, 140])
    parser.add_argument("--prompts", type=int, default=16, help="prompts (rows) per condition")
    parser.add_argument("--tokens", type=int, default=40, help="new tokens per response")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bank = micro_bank()
    jobs = {c: decoding(bank, c, options.prompts, options.tokens) for c in options.conditions}
    made: dict[int, list[dict[str, float]]] = {c: [] for c in jobs}
    for repeat in range(options.repeats + 1):
        for conditions, work in jobs.items():
            found = profile(bank, work)
            if repeat:
                made[conditions].append(found)
    print(f"{options.threads} threads; products {matrix_rate() / 1e9:.0f} GFLOP/s, copies {copy_rate() / 1e9:.1f} GB/s")
    print("conditions | ms | ms each | " + " | ".join(PARTS) + " | limit of products | of bytes, ms")
    for conditions, runs in made.items():
        total = statistics.median(sum(run.values()) for run in runs)
        shares = [statistics.median(run.get(part, 0.0) / sum(run.values()) for run in runs) for part in PARTS]
        products, read = limits(bank, conditions, options.prompts, options.tokens)
        print(
            f"{conditions} | {1e3 * total:.0f} | {1e3 * total / conditions:.1f} | "
            + " | ".join(f"{share:.0%}" for share in shares)
            + f" | {1e3 * products:.0f} | {1e3 * read:.0f}"
        )


if __name__ == "__main__":
    main()
