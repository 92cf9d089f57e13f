"""Batched sampling for many conditions at once: KV cache, own random stream per row, finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from betastar.maths.distributions import entropy
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.cache import RoomyLayer, roomy_cache
from betastar.models.logprobs import backbone, lm_head
from betastar.randomness import exponential_noise

COMPACT_BELOW = 0.8  # rows are dropped when the fullest condition has at most this share of its places still live


class Sample(NamedTuple):
    """One sampled response. `tokens` end with the end token unless `hit_limit`; `logprob` (sum, nats) and `entropy`
    (mean over response tokens, nats) are those of the policy at temperature 1."""

    tokens: list[int]
    hit_limit: bool
    logprob: float
    entropy: float


@torch.no_grad()
def generate(
    bank: AdapterBank,
    adapters: Adapters | None,
    prompts: Sequence[Sequence[Sequence[int]]],
    row_keys: Sequence[Sequence[int]],
    *,
    end_tokens: Sequence[int],
    pad: int,
    max_new_tokens: int,
    temperature: float = 1.0,
) -> list[list[Sample]]:
    """Sample one response for each prompt of a grid `[C][B]`; `adapters=None` is the bare base with C = 1.

    `row_keys [C][B]` name each row's random stream: a row's text depends on its key, its prompt and its condition's
    weights, not on what else is in the batch. Conditions that share a key share the noise. `temperature` 0 is greedy.
    """
    model, device = bank.model, bank.device
    active = None if adapters is None else adapters.to(model.dtype)  # cast once, not at every token
    conditions, per_condition = len(prompts), len(prompts[0])
    rows = conditions * per_condition
    flat = [prompt for group in prompts for prompt in group]
    width = max(map(len, flat))
    tokens = torch.full((rows, width), pad, dtype=torch.long)
    for index, prompt in enumerate(flat):
        tokens[index, width - len(prompt) :] = torch.tensor(list(prompt))
    starts = torch.tensor([width - len(prompt) for prompt in flat])
    tokens, starts = tokens.to(device), starts.to(device)
    keys = torch.tensor([key - (1 << 64) if key >> 63 else key for group in row_keys for key in group], device=device)
    ends = torch.tensor(list(end_tokens), device=device)

    out_tokens = torch.full((rows, max_new_tokens), pad, dtype=torch.long, device=device)
    out_logprob, out_entropy, out_length, finished = (torch.zeros(rows, device=device) for _ in range(4))

    # Left padding: prompts end together, so that one cache position serves all rows at every step.
    past = torch.arange(width + max_new_tokens, device=device)
    visible = past[None, :] >= starts[:, None]  # [R, width + new]: what is not padding
    causal = past[:width, None] >= past[None, :width]
    # A padding query sees itself, so that no softmax is over nothing.
    mask = (visible[:, None, None, :width] | torch.eye(width, dtype=torch.bool, device=device)) & causal
    cache = roomy_cache(model.config.get_text_config().num_hidden_layers, width + max_new_tokens)
    where = torch.arange(rows, device=device)  # the row of the output that each row of the batch writes to
    live = torch.ones(rows, dtype=torch.bool, device=device)
    position = (past[None, :width] - starts[:, None]).clamp(min=0)
    inputs = tokens

    for step in range(max_new_tokens):
        with bank.use(active):
            hidden = backbone(model)(
                input_ids=inputs,
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
        logprobs = lm_head(model)(hidden[:, -1]).float().log_softmax(dim=-1)
        if temperature > 0:
            noise = exponential_noise(keys, step, logprobs.shape[-1])
            chosen = (logprobs / temperature - noise.log()).argmax(dim=-1)
        else:
            chosen = logprobs.argmax(dim=-1)
        at = where[live]
        out_tokens[at, step] = chosen[live]
        out_logprob[at] += logprobs.gather(-1, chosen[:, None]).squeeze(-1)[live]
        out_entropy[at] += entropy(logprobs)[live]
        out_length[at] = step + 1
        ended = torch.isin(chosen, ends) & live
        finished[where[ended]] = 1
        live = live & ~ended

        width_now = width + step + 1
        if step + 1 == max_new_tokens:
            break
        counts = live.view(conditions, -1).sum(dim=1)
        fullest = int(counts.max())
        if fullest == 0:
            break
        if fullest <= COMPACT_BELOW * live.numel() / conditions or int(counts.min()) == 0:
            keep, staying = _compact(live.view(conditions, -1), fullest)
            if active is not None and len(staying) < conditions:
                active = active[staying.tolist()]
            conditions = len(staying)
            for layer in cache.layers:
                assert isinstance(layer, RoomyLayer)
                layer.keep_rows(keep)
            where, live, keys, chosen = where[keep], live[keep], keys[keep], chosen[keep]
            starts, visible = starts[keep], visible[keep]
        inputs = chosen[:, None]
        mask = visible[:, None, None, :width_now]
        position = (width_now - 1 - starts)[:, None]

    lengths, hit = out_length.long().tolist(), (finished == 0).tolist()
    flat_tokens, flat_logprob, flat_entropy = out_tokens.tolist(), out_logprob.tolist(), out_entropy.tolist()
    samples = [
        Sample(flat_tokens[i][: lengths[i]], hit[i], flat_logprob[i], flat_entropy[i] / max(lengths[i], 1))
        for i in range(rows)
    ]
    return [samples[c * per_condition : (c + 1) * per_condition] for c in range(len(prompts))]


def _compact(live: Tensor, fullest: int) -> tuple[Tensor, Tensor]:
    """Batch rows to keep, condition-major, and the conditions that stay, given `live [C, B]`.

    Every staying condition keeps `fullest` rows, its live ones first and finished ones as filler (the bank needs
    groups of equal size; a filler row is computed and not written anywhere).
    """
    staying = live.any(dim=1).nonzero()[:, 0]
    order = live[staying].int().argsort(dim=1, descending=True, stable=True)[:, :fullest]
    return (order + staying[:, None] * live.shape[1]).flatten(), staying
