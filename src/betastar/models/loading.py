"""Base models and tokenizers: made from a Qwen3 geometry, or loaded from a local Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from betastar.errors import BetastarError
from betastar.randomness import stream_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from betastar.config import Geometry


class Base(NamedTuple):
    """A frozen base model, its tokenizer, and where it came from (a name for adapters' `base_model_name_or_path`)."""

    model: Any  # a PreTrainedModel; transformers' types say less than its models do
    tokenizer: PreTrainedTokenizerBase
    name: str


def quiet() -> None:
    """Silence transformers' notices and bars: what a user must know, betastar says itself."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


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


def load_base(folder: Path, device: torch.device) -> Base:
    """A causal language model and its tokenizer from a local Hugging Face folder; BetastarError where that fails."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise BetastarError(f"{folder}: no Hugging Face model folder (config.json is missing); give its path.")
    quiet()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, attn_implementation="sdpa", dtype=torch.float32
        )
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).strip().split("\n")[0]
        raise BetastarError(f"{folder}: the model or its tokenizer cannot be loaded ({first}).") from error
    if tokenizer.eos_token_id is None:
        raise BetastarError(f"{folder}: the tokenizer has no end-of-text token; set eos_token in its config.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        raise BetastarError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens but the model embeds only "
            f"{model.get_input_embeddings().weight.shape[0]}; use the tokenizer that belongs to the model."
        )
    return Base(model.eval().to(device), tokenizer, str(folder))
