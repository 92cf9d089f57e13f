"""Models made from a Qwen3 geometry with random weights, and a tokenizer that reads bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from betastar.randomness import stream_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from betastar.sections import Geometry


def build_model(geometry: Geometry, vocabulary_size: int, root_seed: int) -> Any:
    """A Qwen3-architecture causal model with random weights, the same for the same seed. The vocabulary is padded to a
    multiple of 64."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=-(-vocabulary_size // 64) * 64,
        hidden_size=geometry.hidden_size,
        intermediate_size=geometry.intermediate_size,
        num_hidden_layers=geometry.layers,
        num_attention_heads=geometry.heads,
        num_key_value_heads=geometry.key_value_heads,
        head_dim=geometry.hidden_size // geometry.heads,
        max_position_embeddings=geometry.context,
        tie_word_embeddings=True,
        initializer_range=geometry.initializer_range,
    )
    config._attn_implementation = "sdpa"
    # transformers initialises from the global generator; the fork keeps that from leaking in or out.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(root_seed, "base", "weights") % 2**63)
        model = Qwen3ForCausalLM(config)
    return model.eval()


def build_byte_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer with one token per UTF-8 byte, for any text, with the plain chat format."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<end>"]
    vocabulary = {token: index for index, token in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        split_special_tokens=True,  # "<end>" in a text is five bytes, not the end of it
        clean_up_tokenization_spaces=False,
    )
