"""Estimates of memory against the bytes of real tensors, counted on small models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen3Config

from betastar.models.bank import AdapterBank, Dropout, checkpoint_layers
from betastar.models.cache import roomy_cache
from betastar.models.logprobs import pair_states
from betastar.models.random_models import random_model
from betastar.models.sequences import Pair, pair_pad
from betastar.models.support import model_facts
from betastar.planning import memory
from betastar.planning.derive import trainable
from betastar.planning.memory import Piece, Precision

CONDITIONS, RANK = 2, 4


def geometry(layers: int = 2, tied: bool = True, **changes: Any) -> Qwen3Config:
    """Wide enough that what grows with the width decides, and not the adapters' few numbers."""
    shape: dict[str, Any] = {
        "hidden_size": 256, "intermediate_size": 640, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64, "vocab_size": 512, "num_hidden_layers": layers, "tie_word_embeddings": tied,
    }  # fmt: skip
    return Qwen3Config(**shape | changes)


def bytes_of(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_in_full_precision(dtype: torch.dtype) -> None:
    config = geometry(tied=False)
    estimated = memory.weights(model_facts(config, "attention"), Precision(dtype.itemsize))
    assert estimated == {"weights": bytes_of(random_model(config, "cpu", dtype))}


def test_weights_in_four_bits() -> None:
    """Packed weights and 8-bit constants with their own constants, as bitsandbytes holds them."""
    pytest.importorskip("bitsandbytes")
    config = geometry(tied=False)
    model = random_model(config, "cpu", torch.bfloat16, nf4=True)
    packed = constants = other = 0
    for weight in model.parameters():
        state = getattr(weight, "quant_state", None)
        if state is None:
            other += weight.numel() * weight.element_size()
            continue
        packed += weight.numel() * weight.element_size()
        parts = [state.absmax, state.state2.absmax]
        constants += sum(part.numel() * part.element_size() for part in parts)
    estimated = memory.weights(model_facts(config, "attention"), Precision(2, nf4=True))
    assert estimated["NF4 layers"] == pytest.approx(packed, rel=0.005)  # norms count as layers in the estimate
    assert estimated["NF4 constants"] == pytest.approx(constants, rel=0.02)
    assert estimated["embeddings, head"] == pytest.approx(other, rel=0.02)


def test_constants_of_a_float32_each_take_four_times_the_room() -> None:
    facts = model_facts(geometry(), "attention")
    single, double = (memory.weights(facts, Precision(2, True, twice))["NF4 constants"] for twice in (False, True))
    # Of 64 weights: 4 bytes, or 1 byte and a 256th of 4.
    assert single / double == pytest.approx(4 / (1 + 4 / 256))


def test_the_key_value_cache() -> None:
    config, rows, room = geometry(), 3, 20
    cache: Any = roomy_cache(config.num_hidden_layers, room)
    for layer in cache.layers:
        layer.update(torch.zeros(rows, 2, 5, 64), torch.zeros(rows, 2, 5, 64))
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert memory.key_value_cache(model_facts(config, "attention"), rows, room, 4) == held


def test_adapters() -> None:
    config = geometry()
    bank = AdapterBank(random_model(config, "cpu", torch.float32), "attention", RANK, 8)
    weights = sum(w.numel() for w in bank.create([0]).parameters())
    assert trainable(model_facts(config, "attention"), RANK) == weights


def kept_per_token(layers: int, dtype: torch.dtype, targets: str, *, dropout: bool, checkpointing: bool) -> float:
    """Bytes per token that autograd holds after a forward pass, weights aside."""
    bank = AdapterBank(random_model(geometry(layers), "cpu", dtype), targets, RANK, 8)
    if checkpointing:
        checkpoint_layers(bank)
    pairs = [Pair([1] * 64, [2] * 64, [3] * 64) for _ in range(CONDITIONS)]
    batch = pair_pad(pairs, 0, "cpu")
    adapters = bank.create(range(CONDITIONS)).trainable()
    weights = [*bank.model.parameters(), *adapters.parameters(), *batch]
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    held: dict[int, torch.Tensor] = {}  # by storage, so that views of one tensor count once

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    drop = Dropout(0.1, [0, 1], [192, 192]) if dropout else None
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), bank.use(adapters, drop):
        pair_states(bank.model, batch, batch.source)
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values()) / batch.tokens.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("targets", "dropout"), [("attention", False), ("attention", True), ("all-linear", False), ("all-linear", True)]
)
def test_activations_of_a_layer(dtype: torch.dtype, targets: str, dropout: bool) -> None:
    one, three = (kept_per_token(n, dtype, targets, dropout=dropout, checkpointing=False) for n in (1, 3))
    estimated = memory.layer_activations(model_facts(geometry(), targets), dtype.itemsize, dropout)
    assert estimated == pytest.approx((three - one) / 2, rel=0.06)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_checkpointing_a_layer_keeps_its_input(dtype: torch.dtype) -> None:
    one, three = (kept_per_token(n, dtype, "attention", dropout=False, checkpointing=True) for n in (1, 3))
    assert (three - one) / 2 == pytest.approx(256 * dtype.itemsize, rel=0.02)
    facts = model_facts(geometry(3), "attention")
    layer = memory.layer_activations(facts, dtype.itemsize, dropout=False)
    estimated = memory.activations(facts, dtype.itemsize, Piece(10, checkpointing=True), dropout=False)
    assert estimated == pytest.approx(10 * (3 * 256 * dtype.itemsize + 2 * layer))


def test_the_width_of_the_feed_forward_follows_from_the_parameters() -> None:
    assert memory.feed_forward_width(model_facts(geometry(), "attention")) == pytest.approx(640, rel=0.002)


def test_qwen3_14b_by_hand() -> None:
    """13.2 billion weights in linear layers, half a byte each; two embeddings of 151 936 · 5120 in bfloat16."""
    from betastar.planning.sources import GEOMETRY

    facts = model_facts(Qwen3Config.from_pretrained(GEOMETRY / "Qwen3-14B.json"), "attention")
    parts = memory.weights(facts, Precision(2, nf4=True))
    assert parts["embeddings, head"] == 2 * 2 * 151_936 * 5120
    assert parts["NF4 layers"] == (14_768_307_200 - 2 * 151_936 * 5120) / 2
    # QLoRA, section 3: 8/64 + 32/(64 · 256) = 0.127 bits per weight
    assert parts["NF4 constants"] * 8 / (2 * parts["NF4 layers"]) == pytest.approx(0.127, abs=5e-4)
    # 40 layers of 2 · 8 · 128 numbers of 2 bytes per token
    assert memory.key_value_cache(facts, 1, 1, 2) == 163_840
