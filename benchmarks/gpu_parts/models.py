"""Models of a published geometry with random weights, made on the device, and adapters for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, Qwen3ForCausalLM  # noqa: F401  (loaded while the part before is at work)

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.random_models import random_model
from gpu_parts.check import Check

GEOMETRY = Path(__file__).resolve().parents[2] / "src" / "betastar" / "presets" / "models"
ADAPTER_SPREAD = 0.02  # of B: adapters that change what the base says
TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 512, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def geometry(name: str, tiny: bool, layers: int | None = None) -> Any:
    """A published configuration, or a toy of the same architecture; `layers` of it where not all fit."""
    settings = json.loads((GEOMETRY / f"{name}.json").read_text())
    settings.pop("_comment", None)
    kind = settings.pop("model_type")
    if tiny:
        settings |= TINY
    elif layers is not None:
        settings["num_hidden_layers"] = layers
        settings.pop("layer_types", None)
    return AutoConfig.for_model(kind, **settings)


def layers_that_fit(check: Check, config: Any, bytes_per_layer: float, other_bytes: float, numbers: str) -> int:
    """All layers, or as many as this card's memory holds beside `other_bytes`; fewer are recorded."""
    whole = config.num_hidden_layers
    if check.device != "cuda":
        return whole
    free = torch.cuda.mem_get_info()[0]
    fitting = max(1, min(whole, int((0.95 * free - other_bytes) / bytes_per_layer)))
    if fitting < whole:
        check.record("layers", fitting, "", case=numbers, compared=f"{whole} of the model; more do not fit this card")
    return fitting


def layer_parameters(config: Any) -> int:
    """Weights of one decoder layer of Qwen3's kind, without its norms."""
    queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    return config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)


def make_model(check: Check, config: Any, dtype: torch.dtype = torch.bfloat16, nf4: bool = False) -> Any:
    model = random_model(config, check.device, dtype, nf4=nf4)
    model.requires_grad_(False)
    model.generation_config.eos_token_id = None  # every row has all its tokens
    return model


def make_adapters(bank: AdapterBank, conditions: int) -> Adapters:
    """Float32 adapters of which each changes the base, drawn on the device: `bank.create` draws on the CPU."""
    draw = torch.Generator(bank.device).manual_seed(1)

    def normal(*shape: int, spread: float) -> torch.Tensor:
        return torch.empty(shape, device=bank.device).normal_(0, spread, generator=draw)

    a = {n: normal(conditions, d, bank.rank, spread=d**-0.5) for n, (d, _) in bank.shapes.items()}
    b = {n: normal(conditions, bank.rank, d, spread=ADAPTER_SPREAD) for n, (_, d) in bank.shapes.items()}
    return Adapters(a, b, bank.scale)


def parameters(model: Any) -> int:
    """Number of weights; a 4-bit one counts as one, not as half a byte."""
    linear = {id(m.weight): m.in_features * m.out_features for m in model.modules() if isinstance(m, nn.Linear)}
    return sum(int(linear.get(id(weight)) or weight.numel()) for weight in model.parameters())


def weight_bytes(model: Any) -> int:
    """Bytes that one decoding step reads: all weights but an embedding that is not the head too."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    total = 0
    for weight in model.parameters():
        total += weight.numel() * weight.element_size()
        state = getattr(weight, "quant_state", None)
        if state is not None:
            total += state.absmax.numel() * state.absmax.element_size()
    return total - (0 if embedding is head else embedding.numel() * embedding.element_size())
