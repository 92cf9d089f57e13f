"""Log-probabilities and entropies of responses, without logits that nobody reads.

Only response positions reach the language-model head, in chunks; log-probability and entropy come from one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.sequences import RightPadded, Row, pieces, right_pad

HEAD_ELEMENTS = 1 << 24  # most logits held at once by one chunk of the head


class TokenStatistics(NamedTuple):
    """`logprob [N]` of the target tokens and `entropy [N]` of the next-token distributions, nats, float32."""

    logprob: Tensor
    entropy: Tensor


def _head(hidden: Tensor, targets: Tensor, head: nn.Module) -> TokenStatistics:
    logprobs = head(hidden).float().log_softmax(dim=-1)
    chosen = logprobs.gather(-1, targets[:, None]).squeeze(-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return TokenStatistics(chosen, entropy)


def token_statistics(
    hidden: Tensor, targets: Tensor, head: nn.Module, most_elements: int = HEAD_ELEMENTS
) -> TokenStatistics:
    """Log-probability of `targets [N]` and entropy, from hidden states `[N, d]` through `head`, in chunks.

    With gradients and more than one chunk, each chunk's logits are recomputed in the backward pass instead of kept.
    """
    vocabulary = int(getattr(head, "out_features", 0)) or int(head.weight.shape[0])  # type: ignore[union-attr]
    size = max(1, most_elements // vocabulary)
    if len(targets) <= size:
        return _head(hidden, targets, head)
    parts = [
        checkpoint(_head, h, t, head, use_reentrant=False) if torch.is_grad_enabled() else _head(h, t, head)
        for h, t in zip(hidden.split(size), targets.split(size), strict=True)
    ]
    return TokenStatistics(*(torch.cat(part) for part in zip(*parts, strict=True)))  # type: ignore[arg-type]


class ResponseStatistics(NamedTuple):
    """Per row: `logprob [R]`, the sum over response tokens in nats, and `entropy [R]`, the mean over them."""

    logprob: Tensor
    entropy: Tensor


def response_statistics(model: nn.Module, batch: RightPadded) -> ResponseStatistics:
    """Teacher-forced statistics of each row's response under the model as it stands (see `AdapterBank.use`)."""
    hidden = backbone(model)(input_ids=batch.tokens, use_cache=False).last_hidden_state
    target_at = batch.response[:, 1:]
    stats = token_statistics(hidden[:, :-1][target_at], batch.tokens[:, 1:][target_at], lm_head(model))
    rows = target_at.nonzero()[:, 0]
    count = target_at.sum(dim=1).clamp(min=1)
    zeros = torch.zeros(len(target_at), device=hidden.device)
    return ResponseStatistics(zeros.index_add(0, rows, stats.logprob), zeros.index_add(0, rows, stats.entropy) / count)


@torch.no_grad()
def grid_logprobs(
    bank: AdapterBank,
    adapters: Adapters | None,
    grid: Sequence[Sequence[Row]],
    pad: int,
    most_tokens: int,
) -> Tensor:
    """Response log-probabilities `[C, B]` of a grid of rows, no gradients; `adapters=None` is the bare base."""
    device = bank.device
    result = torch.empty(len(grid), len(grid[0]), device=device)
    with bank.use(adapters):
        for index, rows in pieces([[(row,) for row in rows] for rows in grid], most_tokens):
            stats = response_statistics(bank.model, right_pad(rows, pad, device))
            result.scatter_(1, index.to(device), stats.logprob.view(index.shape))
    return result


@torch.no_grad()
def prompt_entropy(
    bank: AdapterBank, adapters: Adapters | None, prompts: Sequence[Sequence[int]], pad: int, most_tokens: int
) -> Tensor:
    """Policy entropy per condition `[C]`: mean over prompts of the mean over prompt positions of the next-token
    entropy, nats (arXiv:2606.30627 Eq. 11). Position t's distribution is that of the token after x_1..x_t."""
    conditions = 1 if adapters is None else len(adapters)
    device = bank.device
    result = torch.zeros(conditions, device=device)
    with bank.use(adapters):
        for index, rows in pieces([[(Row((), prompt),) for prompt in prompts]] * conditions, most_tokens):
            batch = right_pad(rows, pad, device)
            hidden = backbone(bank.model)(input_ids=batch.tokens, use_cache=False).last_hidden_state
            at = batch.response
            stats = token_statistics(hidden[at], batch.tokens[at], lm_head(bank.model))
            mean = torch.zeros(len(at), device=device).index_add(0, at.nonzero()[:, 0], stats.entropy) / at.sum(dim=1)
            result += mean.view(index.shape).sum(dim=1)
    return result / len(prompts)


def backbone(model: nn.Module) -> nn.Module:
    """The part of a causal language model below its head."""
    return model.base_model  # type: ignore[return-value]


def lm_head(model: nn.Module) -> nn.Module:
    """The language-model head, hidden state → logits."""
    return model.get_output_embeddings()  # type: ignore[operator]
