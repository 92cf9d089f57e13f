"""Texts on which two ways of computing the same model are compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def probe_tokens(model: Any, count: int) -> Tensor:
    """Token ids `[count]` from all over the vocabulary, for texts on which two ways of computing are compared. The
    first ids will not do: they are often special tokens that were never trained, after which a model in bfloat16 can
    be further from itself in float32 than any mistake would put it (SmolLM2-135M after tokens 6, 7, 8: 1.3 of its
    size)."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    return (2 * torch.arange(count, device=model.device) + 1) * vocabulary // (2 * count)
