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

    def hide(_module: nn.Module, _args: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        # Half the lowest number stays finite on its way to a probability of 0, and 0 times it is 0.
        logits[..., tokens:] = torch.finfo(logits.dtype).min / 2
        return logits

    head.register_forward_hook(hide)
