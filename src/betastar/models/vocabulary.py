"""Vocabularies padded beyond their tokenizer: tokens without a text are never sampled and take no probability."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def hide_padding(model: Any, tokens: int) -> None:
    """Give logits of token ids from `tokens` on the lowest value, wherever the head is used: sampling, log-probability
    and entropy then agree on a distribution over what can be decoded."""
    head = model.get_output_embeddings()
    if head.weight.shape[0] <= tokens:
        return
    head.readable_tokens = tokens
    head.register_forward_hook(lambda module, _args, logits: hide_unreadable(module, logits))


def hide_unreadable(head: nn.Module, logits: Tensor) -> Tensor:
    """The logits `[…, V]` of a head, in place, with those of padded places hidden if `hide_padding` has been called."""
    tokens = getattr(head, "readable_tokens", None)
    if tokens is not None:
        # Half the lowest number stays finite on its way to a probability of 0, and 0 times it is 0.
        logits[..., tokens:] = torch.finfo(logits.dtype).min / 2
    return logits
