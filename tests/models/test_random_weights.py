"""Random models of a given geometry: shapes and computation are those of transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from betastar.models.random_models import random_model


def geometry(tied: bool) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=192, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=64, tie_word_embeddings=tied,
    )  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_it_computes_what_transformers_computes_with_the_same_weights(device: torch.device, tied: bool) -> None:
    model = random_model(geometry(tied), device, torch.float32)
    plain: Any = Qwen3ForCausalLM(geometry(tied)).eval()
    plain.load_state_dict(model.state_dict())
    plain.to(device)
    tokens = torch.arange(20, device=device).view(2, 10)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, plain(tokens).logits)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in plain.parameters())


def test_with_nf4_linear_layers_are_four_bits_and_the_head_is_not(device: torch.device) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    model = random_model(geometry(False), device, torch.float32, nf4=True)
    kinds = {name.rsplit(".", 1)[-1]: type(module) for name, module in model.named_modules()}
    assert kinds["q_proj"] is kinds["down_proj"] is bnb.nn.Linear4bit
    assert kinds["lm_head"] is torch.nn.Linear
    weight = model.model.layers[0].mlp.up_proj.weight
    assert weight.numel() * weight.element_size() == 64 * 128 // 2  # half a byte each
    with torch.no_grad():
        assert model(torch.arange(10, device=device)[None]).logits.isfinite().all()
