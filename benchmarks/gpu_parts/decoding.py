"""Sampling at Qwen3-14B geometry: ragged prompts, many conditions, bfloat16 and NF4; against `transformers.generate`
with left padding on the same rows and adapters, and against what the memory's bandwidth would allow."""

from __future__ import annotations

import functools
import gc
from typing import Any, NamedTuple

import torch

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.devices import is_out_of_memory
from betastar.models.generation import generate
from gpu_parts.check import Check
from gpu_parts.device import Rates, rates, seconds, seconds_and_peak
from gpu_parts.models import (
    geometry,
    layer_parameters,
    layers_that_fit,
    make_adapters,
    make_model,
    parameters,
    weight_bytes,
)

DELIVERS = ("tokens per second", "first pass", "prompts", "peak memory")
RANK = 64


class Case(NamedTuple):
    """`conditions` × `rows` prompts of up to `prompt` tokens. `seconds`: an estimate, on an H100."""

    conditions: int
    rows: int
    prompt: int
    seconds: float


CASES = (
    Case(3, 4, 300, 10),
    Case(14, 4, 300, 12),
    Case(12, 16, 300, 30),
    Case(3, 4, 700, 10),
    Case(14, 4, 700, 17),
    Case(12, 16, 700, 48),
)
NF4_CASES = (Case(14, 4, 300, 14), Case(3, 4, 300, 10))
TINY_CASES = (Case(2, 2, 12, 0),)


def run(check: Check) -> None:
    found, new = rates(check), 4 if check.tiny else 32
    for kind, cases in (("bf16", CASES), ("NF4", NF4_CASES)):
        if kind == "NF4" and check.lacks("bitsandbytes", "decoding from an NF4 base"):
            continue
        if not check.room_for(cases[-1].seconds, f"{kind}: all"):
            continue
        config = geometry("Qwen3-14B", check.tiny)
        most = max(case.conditions * case.rows * (case.prompt + new) for case in cases)
        cache = 4 * config.num_key_value_heads * config.head_dim * most  # keys and values of a layer, 2 bytes each
        weights = layer_parameters(config) * (2 if kind == "bf16" else 0.57)
        embeddings = 4 * config.vocab_size * config.hidden_size
        layers = layers_that_fit(check, config, weights + cache, embeddings + 10e9, f"{kind} weights")
        model = make_model(check, geometry("Qwen3-14B", check.tiny, layers), nf4=kind == "NF4")
        bank = AdapterBank(model, "attention", RANK, 2 * RANK)
        adapters = make_adapters(bank, 2 if check.tiny else max(case.conditions for case in cases))
        warm_up(check, bank, adapters[:1])
        for case in TINY_CASES if check.tiny else cases:
            name = f"{kind}, {case.conditions} × {case.rows} rows, prompts up to {case.prompt}, {new} new"
            if check.room_for(case.seconds, name):
                try:
                    decode(check, name, case, new, bank, adapters[: case.conditions], found)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    check.record("tokens per second", None, case=name, compared="out of memory")
                    torch.cuda.empty_cache()
        del model, bank, adapters
        gc.collect()  # the bank's hooks and the model point to one another
        if check.device == "cuda":
            torch.cuda.empty_cache()


def warm_up(check: Check, bank: AdapterBank, adapters: Adapters) -> None:
    """Load libraries, in a shape that no case has."""
    generate(bank, adapters, [[[1] * 7]], [[0]], end_tokens=[-1], pad=0, max_new_tokens=2)
    generate_of_transformers(check, bank, adapters, [[1] * 7], 2)


def decode(check: Check, name: str, case: Case, new: int, bank: AdapterBank, adapters: Adapters, found: Rates) -> None:
    """One case. The first pass meets every length for the first time, as `transformers.generate` does on its only one;
    of the second, a pass of one new token is taken off to get the time of a step."""
    model, config, count = bank.model, bank.model.config, case.conditions * case.rows
    draw = torch.Generator().manual_seed(case.prompt + count)
    lengths = torch.randint(case.prompt // 2, case.prompt + 1, (count,), generator=draw)
    lengths[0] = case.prompt
    flat = [torch.randint(1, config.vocab_size, (n,), generator=draw).tolist() for n in lengths.tolist()]
    prompts = [flat[c * case.rows : (c + 1) * case.rows] for c in range(case.conditions)]
    keys = [[c * case.rows + i for i in range(case.rows)] for c in range(case.conditions)]

    def ours(new: int) -> None:
        samples = generate(bank, adapters, prompts, keys, end_tokens=[-1], pad=0, max_new_tokens=new)
        assert all(len(sample.tokens) == new for group in samples for sample in group)

    first, peak = seconds_and_peak(check.device, lambda: ours(new))
    prompt_seconds = seconds(check.device, lambda: ours(1))
    again = seconds(check.device, lambda: ours(new))
    theirs = generate_of_transformers(check, bank, adapters, flat, new)

    step = (again - prompt_seconds) / (new - 1)
    real = int(lengths.sum())
    kept = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * model.dtype.itemsize
    least = (weight_bytes(model) + kept * (real + count * new / 2)) / found.bandwidth
    their_rate = "out of memory" if theirs is None else f"{count * new / theirs:.0f} tokens/s"
    check.record(
        "tokens per second",
        count * new / first,
        "tokens/s",
        case=f"{name}; first pass, prompts included",
        compared=f"transformers.generate: {their_rate}",
        limit="as fast as transformers.generate",
        ok=None if check.tiny else theirs is None or first <= theirs,
    )
    check.record(
        "step",
        1e3 * step if step > 0 else None,
        "ms per token",
        case=name,
        compared=f"{count / step:.0f} tokens/s" if step > 0 else "",
        limit=f"bandwidth limit {1e3 * least:.3g} ms; {least / step:.0%} of it reached" if step > 0 else "",
    )
    check.record(
        "first pass",
        first,
        "s",
        case=name,
        compared=f"{again:.3g} s once every length has been seen",
        limit="1.5 × that" if not check.tiny else "",
        ok=None if check.tiny else first <= 1.5 * again + 1,
    )
    share = 2 * parameters_read(bank) * real / prompt_seconds / found.bf16
    check.record("prompts", real / prompt_seconds, "tokens/s", case=name, compared=f"{share:.0%} of the matrix rate")
    planned = weight_bytes(model) + kept * count * (case.prompt + new)
    check.record(
        "peak memory",
        None if peak is None else peak / 1e9,
        "GB",
        case=name,
        compared=f"{planned / 1e9:.1f} GB of weights read and key-value cache",
    )


def parameters_read(bank: AdapterBank) -> int:
    """Weights that every prompt token meets: all but embedding and head."""
    tables = 1 if bank.model.config.tie_word_embeddings else 2
    return parameters(bank.model) - tables * bank.model.config.vocab_size * bank.model.config.hidden_size


def generate_of_transformers(
    check: Check, bank: AdapterBank, adapters: Adapters, prompts: list[list[int]], new: int
) -> float | None:
    """Seconds of `transformers.generate` on all rows at once, left-padded, with the same adapters; None where the
    memory is too small for it."""
    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(row)) + row for row in prompts], device=check.device)
    seen = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=check.device)
    cast = adapters.to(bank.model.dtype)

    @torch.no_grad()
    def work(new: int) -> Any:
        with bank.use(cast):
            made = bank.model.generate(
                input_ids=tokens, attention_mask=seen, max_new_tokens=new, do_sample=True, top_k=0, pad_token_id=0
            )
        assert made.shape[1] == width + new
        return made

    try:
        return seconds(check.device, functools.partial(work, new))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    return None
