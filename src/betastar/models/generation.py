"""Batched sampling for many conditions at once: KV cache, own random stream per row, finished rows leave the batch and
waiting ones enter it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from itertools import islice

import torch

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.decoding import unpacked_weights
from betastar.models.sampler import Output, Sampler
from betastar.record.responses import Response


@torch.no_grad()
def generate(
    bank: AdapterBank,
    adapters: Adapters | None,
    prompts: Sequence[Sequence[Sequence[int]]],
    row_keys: Sequence[Sequence[int]],
    *,
    end_tokens: Collection[int],
    pad: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    at_once: int | None = None,
) -> list[list[Response]]:
    """Sample one response for each prompt of a grid `[C][B]`; `adapters=None` is the bare base with C = 1.

    `row_keys [C][B]` name each row's random stream: a row's noise depends on its key alone, so its text depends on key,
    prompt and its condition's weights, not on what else is in the batch; in exact arithmetic, that is: where kernels
    change with the number of rows (on a GPU, and anywhere in bfloat16) rounding can decide a close race. Conditions
    that share a key share the noise. `temperature` 0 is greedy.

    At most `at_once` rows are in the batch, and at least one of each condition. Where steps have fixed shapes, as on a
    GPU, the others wait and enter as rows end; elsewhere they are the next batches. On a CPU, entering does not pay: a
    step costs what its rows and their columns cost, whoever they are, and prompts that enter in unequal numbers are
    padded to equal ones (docs/benchmarks.md).
    """
    from betastar.models.batch import Batch  # loads transformers, which a reused run can do without
    from betastar.models.repeated import shapes_may_be_fixed

    each = len(prompts[0])
    places = each if at_once is None else max(1, min(each, at_once // len(prompts)))
    longest = max(len(prompt) for group in prompts for prompt in group) + max_new_tokens
    fixed = shapes_may_be_fixed(bank, longest)
    ends = torch.tensor(list(end_tokens), dtype=torch.long, device=bank.device)
    answered: list[list[Response]] = [[] for _ in prompts]
    for start in range(0, each, each if fixed else places):
        part = slice(start, None if fixed else start + places)
        some, keys = [group[part] for group in prompts], [group[part] for group in row_keys]
        flat = [prompt for group in some for prompt in group]
        sampler = Sampler(bank.model, Output.blank(len(flat), max_new_tokens, bank.device), ends, temperature)
        batch = Batch(bank, adapters, sampler, some, keys, pad, min(places, len(some[0])), fixed)
        with ExitStack() as stack:
            if bank.device.type == "cuda" and not bank.plain_decoding:
                stack.enter_context(unpacked_weights(bank.model, batch.cache_bytes()))
            stack.callback(batch.close)
            batch.run()
        responses = iter(sampler.output.responses(flat, end_tokens))
        for mine, group in zip(answered, some, strict=True):
            mine += islice(responses, len(group))
    return answered
