"""What several parts need: timing, the card's best rates, and models of a published geometry with random weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig

from betastar.models.bank import AdapterBank, Adapters
from betastar.models.random_weights import random_model
from gpu_parts.check import Check

GEOMETRY = Path(__file__).resolve().parents[2] / "src" / "betastar" / "presets" / "models"
ADAPTER_SPREAD = 0.02  # of B: adapters that change what the base says
TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 512, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


class Rates(NamedTuple):
    """Bytes per second of a large copy (read and written), FLOP per second of a large bfloat16 product."""

    bandwidth: float
    bf16: float


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(device: str, work: Callable[[], Any], repeats: int = 1) -> float:
    """Wall time of one call, the mean of `repeats` in a row."""
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    wait(device)
    return (time.perf_counter() - start) / repeats


def peak_bytes(device: str, work: Callable[[], Any]) -> float | None:
    """The most memory that was allocated at one time during `work`; None on the CPU, where nobody counts."""
    if device != "cuda":
        work()
        return None
    wait(device)
    torch.cuda.reset_peak_memory_stats()
    work()
    wait(device)
    return torch.cuda.max_memory_allocated()


def rates(check: Check) -> Rates:
    """As the part of that name measured them, or measured now where it did not run."""
    bandwidth, bf16 = check.recorded("copy bandwidth"), check.recorded("bfloat16 product")
    if bandwidth and bf16:
        return Rates(bandwidth * 1e9, bf16 * 1e12)
    return Rates(copy_bandwidth(check), product_rate(check, torch.bfloat16))


def copy_bandwidth(check: Check) -> float:
    """Of random bytes, not zeros, counted once read and once written."""
    n = 1 << 22 if check.tiny else 1 << 31
    source = torch.randint(256, (n,), dtype=torch.uint8, device=check.device)
    target = torch.empty_like(source)
    seconds(check.device, lambda: target.copy_(source), 3)
    return 2 * n / seconds(check.device, lambda: target.copy_(source), 10)


def product_rate(check: Check, dtype: torch.dtype) -> float:
    """Of two large square matrices of random numbers."""
    side = 256 if check.tiny else 8192
    a, b = (torch.randn(side, side, device=check.device).to(dtype) for _ in range(2))
    seconds(check.device, lambda: a @ b, 2)
    return 2 * side**3 / seconds(check.device, lambda: a @ b, 5)


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
