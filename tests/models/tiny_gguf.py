"""Writes small GGUF files of known weights with the package `gguf`, as llama.cpp's converter lays them out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen3Config

from betastar.errors import BetastarError
from betastar.models.gguf_files import check_readers

try:
    check_readers(Path("tests of GGUF files"))
except BetastarError as error:  # what imports this is skipped: there is nothing that could read the files
    pytest.skip(str(error), allow_module_level=True)

TOKENS = 300
END, PAD = 1, 2
CHAT = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|bot|>{% endif %}"
MERGES = ["Ċ Ċ", "Ġ Ġ", "1 2", "h e"]  # Ċ and Ġ are how byte-level BPE spells a line break and a space
PARTS = {  # name in a Hugging Face layer → name in a GGUF block
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def vocabulary() -> list[str]:
    """Three special tokens, the 256 bytes, the merged tokens, and unused places."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    found = ["<|text|>", "<|end|>", "<|pad|>", *bytes_to_unicode().values(), *(m.replace(" ", "") for m in MERGES)]
    return [*found, *(f"[{i}]" for i in range(len(found), TOKENS))]


def make_model(architecture: str = "llama", tied: bool = True, context: int = 128, head_dim: int = 128) -> Any:
    """A random model of two layers in float32. `head_dim` is that of `qwen3`: 128 in all published ones, which is what
    Transformers assumes."""
    shape: dict[str, Any] = {
        "vocab_size": TOKENS, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": context, "rms_norm_eps": 1e-5,
        "initializer_range": 0.1, "tie_word_embeddings": tied, "eos_token_id": END, "bos_token_id": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    }  # fmt: skip
    config: PreTrainedConfig = {
        "llama": lambda: LlamaConfig(**shape),
        "qwen3": lambda: Qwen3Config(**shape, head_dim=head_dim),
    }[architecture]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for name, weight in model.named_parameters():
            if "norm" in name:
                torch.nn.init.normal_(weight, 1.0, 0.1)
    return model.eval()


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in llama.cpp's order for `llama`, which turns neighbours `(0, 1), (2, 3), …` of
    a head where Hugging Face turns `(0, d/2), (1, d/2 + 1), …`."""
    rows = np.arange(weight.shape[0]).reshape(heads, 2, -1).swapaxes(1, 2)
    return weight[rows.reshape(-1)]


def write_gguf(
    path: Path,
    model: Any,
    store: Callable[[np.ndarray], tuple[np.ndarray, gguf.GGMLQuantizationType | None]] = lambda w: (w, None),
    pre: str = "smollm",
    change: Callable[[gguf.GGUFWriter], object] = lambda writer: None,
    tokenizer: bool = True,
    architecture: str | None = None,
) -> None:
    """Write `model` to `path`. `store` says how a matrix is kept: its bytes, and their type where they are not plain
    numbers; `change` adds what a test wants."""
    config = model.config
    name = architecture or config.model_type
    writer = gguf.GGUFWriter(path, name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_key_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(TOKENS)
    if tokenizer:
        kinds = gguf.TokenType
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(vocabulary())
        used = TOKENS - sum(token.startswith("[") and token != "[" for token in vocabulary())
        writer.add_token_types([kinds.CONTROL] * 3 + [kinds.NORMAL] * (used - 3) + [kinds.UNUSED] * (TOKENS - used))
        writer.add_token_merges(MERGES)
        writer.add_eos_token_id(END)
        writer.add_pad_token_id(PAD)
        writer.add_chat_template(CHAT)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        part, _, suffix = key.rpartition(".")
        weight = tensor.float().numpy()
        if name == "llama" and part.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if part.endswith("q_proj") else config.num_key_value_heads
            weight = interleaved(weight, heads)
        if part in TOP:
            place = TOP[part]
        else:
            layer, _, inner = part.removeprefix("model.layers.").partition(".")
            place = f"blk.{layer}.{PARTS[inner]}"
        data, kind = store(weight) if weight.ndim == 2 else (weight, None)
        writer.add_tensor(f"{place}.{suffix}", data, raw_dtype=kind)
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
