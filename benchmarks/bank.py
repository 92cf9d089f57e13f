"""What more conditions cost: decoding and training time of a bank of C adapters, against one of a single adapter; and
what offline methods gain by sharing a bank.

The geometry is the micro world's; weights and adapters are random, and decoding gets no end token, so that every row
lives to the limit and all C do the same work per condition. Repeats of all C are interleaved, so that a busy machine
slows them alike; medians are compared.

    python benchmarks/bank.py --conditions 1 12 24
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from betastar.experiment.objective import BatchTerms, ConditionLoss, pair_losses
from betastar.maths.objectives import Pairs
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.generation import generate
from betastar.models.logprobs import pair_logprobs, response_logprobs
from betastar.models.random_models import build_model
from betastar.models.sequences import Pair, Row, pair_pad, right_pad
from betastar.randomness import numpy_generator, stream_key, torch_generator
from betastar.settings.phases import Offline
from betastar.settings.sections import Geometry

GOALS = {12: 3.2, 24: 5.0}  # decoding time as a multiple of one condition's
GEOMETRY = Geometry(hidden_size=128, intermediate_size=256, layers=2, heads=4, key_value_heads=4, context=256)
VOCABULARY, PAD = 128, 0
SHORTEST_PROMPT, LONGEST_PROMPT = 20, 40


def micro_bank(device: torch.device | str = "cpu") -> AdapterBank:
    """A bank on a model of the micro world's geometry with random weights."""
    model = build_model(GEOMETRY, VOCABULARY, root_seed=0).to(device)
    return AdapterBank(model, ("q_proj", "k_proj", "v_proj", "o_proj"), rank=8, alpha=16)


def random_adapters(bank: AdapterBank, conditions: int) -> Adapters:
    """Adapters of which every one changes the base."""
    adapters = bank.create(range(conditions))
    for name, b in adapters.b.items():
        b.normal_(std=0.02, generator=torch_generator(0, "benchmark", name))
    return adapters


def interleaved_medians(jobs: dict[int, Callable[[], object]], repeats: int) -> dict[int, float]:
    """Median seconds of each job, after one warm-up of each."""
    times: dict[int, list[float]] = {conditions: [] for conditions in jobs}
    for repeat in range(repeats + 1):
        for conditions, job in jobs.items():
            start = time.perf_counter()
            job()
            if repeat > 0:
                times[conditions].append(time.perf_counter() - start)
    return {conditions: statistics.median(values) for conditions, values in times.items()}


def decoding(bank: AdapterBank, conditions: int, prompts: int, tokens: int) -> Callable[[], object]:
    """Sampling one response to each of `prompts` prompts by every condition."""
    adapters = random_adapters(bank, conditions)
    rng = numpy_generator(0, "benchmark", "prompts")
    lengths = rng.integers(SHORTEST_PROMPT, LONGEST_PROMPT + 1, prompts)
    grid = [[rng.integers(1, VOCABULARY, n).tolist() for n in lengths]] * conditions
    keys = [[stream_key(0, "benchmark", i) for i in range(prompts)]] * conditions
    return lambda: generate(bank, adapters, grid, keys, end_tokens=[], pad=PAD, max_new_tokens=tokens)


def training(bank: AdapterBank, conditions: int, rows: int, tokens: int) -> Callable[[], object]:
    """Forward and backward of the response log-probabilities of `rows` responses of `tokens` tokens per condition."""
    adapters = random_adapters(bank, conditions).trainable()
    rng = numpy_generator(0, "benchmark", "rows")
    group = [Row(*(rng.integers(1, VOCABULARY, n).tolist() for n in (LONGEST_PROMPT, tokens))) for _ in range(rows)]
    batch = right_pad(group * conditions, PAD, bank.device)

    def step() -> None:
        with bank.use(adapters):
            response_logprobs(bank.model, batch).sum().backward()

    return step


METHODS = ("dpo", "ipo", "kto", "chipo", "simpo", "orpo")


def methods(bank: AdapterBank, names: Sequence[str], strengths: int, pairs: int, tokens: int) -> Callable[[], object]:
    """A step's losses and gradients of `strengths` conditions of each method in one bank, KTO's z₀ included."""
    of = [ConditionLoss(Offline(objective=name), 0.5) for name in names for _ in range(strengths)]
    adapters = random_adapters(bank, len(of)).trainable()
    rng = numpy_generator(0, "benchmark", "pairs")
    sizes = (LONGEST_PROMPT, tokens, tokens)
    group = [Pair(*(rng.integers(1, VOCABULARY, n).tolist() for n in sizes)) for _ in range(pairs)]
    batch, lengths = pair_pad(group * len(of), PAD, bank.device), torch.full((len(of), pairs), float(tokens))
    reference = torch.full((len(of), pairs), -float(tokens))
    terms = BatchTerms(of, bank, adapters, PAD, torch.zeros(2, pairs)) if BatchTerms.wanted(of) else None
    which = torch.arange(pairs).expand(len(of), pairs)

    def step() -> None:
        z = torch.zeros(len(of)) if terms is None else terms.read([group] * len(of), which, 1 << 16)["mismatch"]
        with bank.use(adapters):
            chosen, rejected = pair_logprobs(bank.model, batch).view(len(of), pairs, 2).unbind(-1)
        seen = Pairs(chosen, rejected, reference, reference, lengths, lengths, z[:, None])
        pair_losses(of, seen, torch.full((len(of), 1), 0.5)).mean(dim=1).sum().backward()

    return step


def sharing(bank: AdapterBank, pairs: int, tokens: int, repeats: int) -> None:
    """Prints the time of a step of all methods in one bank against that of a bank for each, one after the other."""
    print(f"\n{'methods':<10}{'strengths':>10}{'one bank':>10}{'apart':>10}{'gain':>8}")
    for strengths in (1, 3):
        one = methods(bank, METHODS, strengths, pairs, tokens)
        apart = [methods(bank, [name], strengths, pairs, tokens) for name in METHODS]
        medians = interleaved_medians({0: one, 1: lambda apart=apart: [step() for step in apart]}, repeats)
        together, separate = medians[0], medians[1]
        print(
            f"{len(METHODS):<10}{strengths:>10}{1000 * together:>10.1f}{1000 * separate:>10.1f}"
            f"{separate / together:>8.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of C conditions against one, decoding and training.")
    parser.add_argument("--conditions", type=int, nargs="+", default=[1, 12, 24], help="bank sizes, the first is 1 ×")
    parser.add_argument("--prompts", type=int, default=16, help="prompts (rows) per condition")
    parser.add_argument("--tokens", type=int, default=40, help="new tokens per response")
    parser.add_argument("--repeats", type=int, default=9, help="interleaved repeats; medians are shown")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    options = parser.parse_args()

    bank = micro_bank(options.device)
    print(f"{options.device}, {torch.get_num_threads()} threads, medians of {options.repeats}")
    print(f"per condition {options.prompts} prompts × {options.tokens} new tokens; no end token, so no row ends early")
    for kind, make in {"decoding": decoding, "training": training}.items():
        jobs = {c: make(bank, c, options.prompts, options.tokens) for c in options.conditions}
        medians = interleaved_medians(jobs, options.repeats)
        first = medians[options.conditions[0]]
        print(f"\n{kind:<10}{'C':>4}{'ms':>10}{'ratio':>8}{'goal':>8}{'ms per token':>15}")
        for c, seconds in medians.items():
            goal = f"≤ {GOALS[c]}" if kind == "decoding" and c in GOALS else ""
            per_token = f"{1000 * seconds / options.tokens:.2f}" if kind == "decoding" else ""
            print(f"{'':<10}{c:>4}{1000 * seconds:>10.1f}{seconds / first:>8.2f}{goal:>8}{per_token:>15}")
    sharing(bank, 8, options.tokens, options.repeats)


if __name__ == "__main__":
    main()
