"""Models with random weights: of a small Qwen3 geometry with a tokenizer that reads bytes, and of any published
geometry, made directly on the device, to measure speed and memory without a download.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from betastar.randomness import stream_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from betastar.settings.sections import Geometry


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


SPREAD = 0.02  # standard deviation of the weights, as models are initialised


def random_model(config: Any, device: torch.device | str, dtype: torch.dtype, *, nf4: bool = False) -> Any:
    """A causal language model of a transformers `config` with random weights of `dtype`. With `nf4` its linear layers,
    all but the head, are quantised one by one, so that the unquantised model never has to fit."""
    from transformers import AutoModelForCausalLM

    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    # What is computed and not learnt, such as rotary frequencies, has no weights to draw: make those modules again.
    for name, module in list(model.named_modules()):
        own = dict(module.named_buffers(recurse=False))
        if own and not list(module.parameters()):
            _replace(model, name, type(module)(config).to(device))
    generator = torch.Generator(device).manual_seed(0)
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if nf4 and isinstance(module, nn.Linear) and module is not head:
            _replace(model, name, _quantised(module, device, dtype, generator))
            continue
        for key, weight in list(module.named_parameters(recurse=False)):
            if weight.ndim < 2:  # norms
                drawn = torch.ones(weight.shape, device=device, dtype=dtype)
            else:
                drawn = torch.empty(weight.shape, device=device, dtype=dtype).normal_(0, SPREAD, generator=generator)
            setattr(module, key, nn.Parameter(drawn, requires_grad=False))
    model.tie_weights()
    return model.eval()


def _quantised(linear: nn.Linear, device: torch.device | str, dtype: torch.dtype, generator: torch.Generator) -> Any:
    import bitsandbytes

    drawn = torch.empty(linear.weight.shape, device=device, dtype=dtype).normal_(0, SPREAD, generator=generator)
    kinds: Any = bitsandbytes.nn  # its annotations name fewer arguments than it takes
    made = kinds.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    made.weight = kinds.Params4bit(drawn, requires_grad=False, compress_statistics=True, quant_type="nf4", module=made)
    if linear.bias is not None:
        made.bias = nn.Parameter(torch.zeros(linear.out_features, device=device, dtype=dtype), requires_grad=False)
    made.support_avx512bf16_for_cpu = False  # a repacking at the first pass that would leave no way for gradients
    return made.to(device)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
