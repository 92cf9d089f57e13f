"""Log-probabilities and entropies of responses, without logits that nobody reads.

Only response positions reach the language-model head, in chunks; log-probability and entropy come from one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.sequences import Pair, PairBatch, RightPadded, Row, pair_pad, pieces, right_pad

HEAD_ELEMENTS = 1 << 24  # most logits held at once by one chunk of the head


class TokenStatistics(NamedTuple):
    """`logprob [N]` of the target tokens and `entropy [N]` of the next-token distributions, nats, float32."""

    logprob: Tensor
    entropy: Tensor


@torch.no_grad()
def token_statistics(
    hidden: Tensor, targets: Tensor, head: nn.Module, most_elements: int = HEAD_ELEMENTS
) -> TokenStatistics:
    """Log-probability of `targets [N]` and entropy, from hidden states `[N, d]` through `head`, in chunks."""
    parts = []
    for h, t in zip(*_chunks(hidden, targets, head, most_elements), strict=True):
        logprobs = head(h).float().log_softmax(dim=-1)
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
        parts.append((logprobs.gather(-1, t[:, None]).squeeze(-1), entropy))
    return TokenStatistics(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _chunks(hidden: Tensor, targets: Tensor, head: nn.Module, most_elements: int) -> tuple[Any, Any]:
    size = max(1, most_elements // head.weight.shape[0])  # type: ignore[union-attr, operator]
    return hidden.split(size), targets.split(size)


class _TokenLogprob(torch.autograd.Function):
    """log softmax(W h)[target] for a frozen head W.

    Its gradient by h is W[target] - Σ_v p_v W[v], which is computed with the logits at hand and scaled in the backward
    pass: logits are neither kept for it nor computed a second time.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: nn.Module, most_elements: int) -> Tensor:
        weight: Any = head.weight
        logprobs, slopes = [], []
        for h, t in zip(*_chunks(hidden, targets, head, most_elements), strict=True):
            logits = head(h).float()
            highest = logits.amax(dim=-1, keepdim=True)
            chosen = logits.gather(-1, t[:, None]) - highest
            likelihood = logits.sub_(highest).exp_()  # in place: the one large tensor here
            total = likelihood.sum(dim=-1, keepdim=True)
            logprobs.append((chosen - total.log()).squeeze(-1))
            slopes.append(weight[t] - (likelihood.to(weight.dtype) @ weight) / total.to(weight.dtype))
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * grads[0][:, None].to(slopes.dtype), None, None, None


def token_logprobs(hidden: Tensor, targets: Tensor, head: nn.Module, most_elements: int = HEAD_ELEMENTS) -> Tensor:
    """Log-probability `[N]` of `targets [N]`, nats, float32, with gradient to `hidden [N, d]`; the head is frozen."""
    return _TokenLogprob.apply(hidden, targets, head, most_elements)  # type: ignore[return-value]


class ResponseStatistics(NamedTuple):
    """Per row: `logprob [R]`, the sum over response tokens in nats, and `entropy [R]`, the mean over them."""

    logprob: Tensor
    entropy: Tensor


def response_logprobs(model: nn.Module, batch: RightPadded) -> Tensor:
    """Log-probability `[R]` of each row's response under the model as it stands (see `AdapterBank.use`), with
    gradient."""
    hidden, targets, rows = _response_states(model, batch)
    logprob = token_logprobs(hidden, targets, lm_head(model))
    return torch.zeros(len(batch.tokens), device=hidden.device).index_add(0, rows, logprob)


@torch.no_grad()
def response_statistics(model: nn.Module, batch: RightPadded) -> ResponseStatistics:
    """Teacher-forced statistics of each row's response under the model as it stands, no gradients."""
    hidden, targets, rows = _response_states(model, batch)
    stats = token_statistics(hidden, targets, lm_head(model))
    zeros = torch.zeros(len(batch.tokens), device=hidden.device)
    count = zeros.index_add(0, rows, torch.ones_like(stats.logprob)).clamp(min=1)
    return ResponseStatistics(zeros.index_add(0, rows, stats.logprob), zeros.index_add(0, rows, stats.entropy) / count)


def _response_states(model: nn.Module, batch: RightPadded) -> tuple[Tensor, Tensor, Tensor]:
    """States that predict response tokens `[N, d]`, those tokens `[N]`, and the row of each `[N]`."""
    hidden = backbone(model)(input_ids=batch.tokens, use_cache=False).last_hidden_state
    target_at = batch.response[:, 1:]
    return hidden[:, :-1][target_at], batch.tokens[:, 1:][target_at], target_at.nonzero()[:, 0]


def pair_states(model: nn.Module, batch: PairBatch) -> Tensor:
    """Hidden states of a batch of pairs, flattened: `[R · T, d]`."""
    output = backbone(model)(
        input_ids=batch.tokens, attention_mask=batch.mask, position_ids=batch.position, use_cache=False
    )
    return output.last_hidden_state.flatten(0, 1)


def pair_logprobs(model: nn.Module, batch: PairBatch) -> Tensor:
    """Log-probabilities `[R, 2]` of the chosen and the rejected response of each pair under the model as it stands,
    with gradient."""
    logprob = token_logprobs(pair_states(model, batch)[batch.source], batch.target, lm_head(model))
    return torch.zeros(len(batch.last), device=logprob.device).index_add(0, batch.owner, logprob).view(-1, 2)


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
    for part, index, rows in pieces(grid, most_tokens):
        with bank.use(adapters and adapters[part]):
            logprob = response_logprobs(bank.model, right_pad(rows, pad, device))
        result[part].scatter_(1, index.to(device), logprob.view(index.shape))
    return result


@torch.no_grad()
def grid_pair_logprobs(
    bank: AdapterBank, adapters: Adapters | None, grid: Sequence[Sequence[Pair]], pad: int, most_tokens: int
) -> Tensor:
    """Log-probabilities `[2, C, B]` of chosen and rejected responses of a grid of pairs, no gradients."""
    device = bank.device
    result = torch.empty(2, len(grid), len(grid[0]), device=device)
    for part, index, pairs in pieces(grid, most_tokens):
        with bank.use(adapters and adapters[part]):
            both = pair_logprobs(bank.model, pair_pad(pairs, pad, device))
        for side in (0, 1):
            result[side, part].scatter_(1, index.to(device), both[:, side].view(index.shape))
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
    for part, index, rows in pieces([[Row((), prompt) for prompt in prompts]] * conditions, most_tokens):
        batch = right_pad(rows, pad, device)
        with bank.use(adapters and adapters[part]):
            hidden = backbone(bank.model)(input_ids=batch.tokens, use_cache=False).last_hidden_state
        at = batch.response
        stats = token_statistics(hidden[at], batch.tokens[at], lm_head(bank.model))
        mean = torch.zeros(len(at), device=device).index_add(0, at.nonzero()[:, 0], stats.entropy) / at.sum(dim=1)
        result[part] += mean.view(index.shape).sum(dim=1)
    return result / len(prompts)


def backbone(model: nn.Module) -> nn.Module:
    """The part of a causal language model below its head."""
    return model.base_model  # type: ignore[return-value]


def lm_head(model: nn.Module) -> nn.Module:
    """The language-model head, hidden state → logits."""
    return model.get_output_embeddings()  # type: ignore[operator]
