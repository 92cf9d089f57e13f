"""Facts of a configuration: against the model cards' numbers, arithmetic, and the models with their weights."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, Qwen3Config

from betastar.errors import BetastarError
from betastar.models.bank import AdapterBank
from betastar.models.random_models import build_model
from betastar.models.support import model_facts
from betastar.settings.sections import Geometry

# The published configurations, so far as they say how large a model is.
QWEN3_14B = Qwen3Config(
    vocab_size=151936,
    hidden_size=5120,
    intermediate_size=17408,
    num_hidden_layers=40,
    num_attention_heads=40,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=40960,
    tie_word_embeddings=False,
)
QWEN3_1_7B = Qwen3Config(
    vocab_size=151936,
    hidden_size=2048,
    intermediate_size=6144,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=40960,
    tie_word_embeddings=True,
)


@pytest.mark.parametrize(
    ("config", "billions", "without_embeddings"),
    # As the model cards say: 14.8 and 13.2, 1.7 and 1.4 billion parameters.
    [(QWEN3_14B, 14.8, 13.2), (QWEN3_1_7B, 1.7, 1.4)],
)
def test_parameters_are_counted_exactly(config: Any, billions: float, without_embeddings: float) -> None:
    facts = model_facts(config, "attention")
    h, q, kv = config.hidden_size, config.num_attention_heads * 128, config.num_key_value_heads * 128
    layer = 2 * h * q + 2 * h * kv + 3 * h * config.intermediate_size + 2 * h + 2 * 128  # products, norms, head norms
    tables = 1 if config.tie_word_embeddings else 2
    assert facts.embedding_parameters == tables * 151936 * h
    assert facts.parameters == facts.embedding_parameters + config.num_hidden_layers * layer + h
    assert round(facts.parameters / 1e9, 1) == billions
    assert round((facts.parameters - facts.embedding_parameters) / 1e9, 1) == without_embeddings
    assert facts.adapted == ((h, q), (h, kv), (h, kv), (q, h)) * config.num_hidden_layers
    assert (facts.hidden_size, facts.layers, facts.head_dim) == (h, config.num_hidden_layers, 128)
    assert (facts.heads, facts.key_value_heads) == (config.num_attention_heads, 8)
    assert (facts.vocabulary, facts.context) == (151936, 40960)


def test_no_weights_are_made() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model_facts(QWEN3_14B, "all-linear")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024  # bytes; Linux counts in KiB
    assert grown < 14.8e9 / 100


@pytest.mark.parametrize("targets", ["attention", "all-linear", ("q_proj", "down_proj")])
def test_facts_of_a_folder_are_those_of_its_model(targets: str | tuple[str, ...], tmp_path: Path) -> None:
    geometry = Geometry(hidden_size=64, intermediate_size=96, layers=2, heads=4, key_value_heads=2, context=32)
    model = build_model(geometry, 100, root_seed=0)
    model.config.save_pretrained(tmp_path)  # config.json and no weights
    facts = model_facts(tmp_path, targets)
    assert facts.parameters == sum(weight.numel() for weight in model.parameters())
    assert facts.embedding_parameters == 128 * 64
    assert facts.adapted == tuple(AdapterBank(model, targets, rank=2, alpha=2).shapes.values())
    assert facts[:6] == (64, 2, 4, 2, 16, 128)
    assert facts.context == 32


def test_an_older_architecture_names_its_sizes_otherwise() -> None:
    """GPT-2: n_embd, n_layer, no key-value heads; Conv1D layers, whose weights are transposed."""
    facts = model_facts(GPT2Config(), "attention")
    assert facts[:6] == (768, 12, 12, 12, 64, 50257)
    assert facts.parameters == 124_439_808  # GPT-2 small, counted by many
    assert facts.adapted == ((768, 3 * 768), (768, 768)) * 12
    assert facts.context == 1024


def test_what_is_not_supported_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config

    with pytest.raises(BetastarError, match="t5: an encoder-decoder"):
        model_facts(T5Config(), "attention")
    with pytest.raises(BetastarError, match=r"config\.json is missing"):
        model_facts(tmp_path, "attention")
    with pytest.raises(BetastarError, match="no linear layer named nonsense"):
        model_facts(QWEN3_1_7B, ["nonsense"])
