"""Pretrained bases: any Hugging Face causal language model with its tokenizer, quantised or not, on one device."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from betastar.errors import BetastarError
from betastar.models.devices import computes_bfloat16, is_out_of_memory
from betastar.models.gguf_files import check_all_read, check_file, read_tokenizer, smoothed
from betastar.models.hub import Location, explained, fetch_weights, gguf_path, locate, read_config
from betastar.models.logprobs import hide_padding
from betastar.models.support import (
    check_agreement,
    check_finite,
    check_quantisable,
    context_length,
    empty_model,
    guard_context,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from betastar.settings.sections import PretrainedBase


class Base(NamedTuple):
    """A frozen base model, its tokenizer, and where it came from (a name for adapters' `base_model_name_or_path`).

    `vocabulary`: how many token ids the tokenizer can read; the model's logits may have more places, which mean
    nothing. `context`: most tokens of a sequence, None without a limit.
    """

    model: Any  # a PreTrainedModel; transformers' types say less than its models do
    tokenizer: PreTrainedTokenizerBase
    name: str
    vocabulary: int
    context: int | None


def quiet() -> None:
    """Silence transformers' notices and bars: what a user must know, betastar says itself."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on a CPU it advises a package that runs hub code


def hidden_size(model: Any) -> int:
    """The width of a model's hidden states."""
    return model.config.get_text_config().hidden_size


def load_base(choice: PretrainedBase, device: torch.device) -> Base:
    """A causal language model and its tokenizer from a folder or the hub, frozen, in eval mode, all on `device`.

    Weights go there one by one, so the CPU never holds a copy of the whole; a GGUF file's are all unpacked on the CPU
    first, to `dtype`. What cannot work is refused with a BetastarError, before any weights are fetched where the
    configuration shows it.
    """
    quiet()
    location = locate(choice.model, choice.revision, choice.gguf_file)
    name, config = location.where, read_config(location)
    empty = empty_model(config, name)
    if choice.quantization == "nf4":
        _check_bitsandbytes(name)
        check_quantisable(empty, name)
    tokenizer = load_tokenizer(location)
    vocabulary, places = max(tokenizer.get_vocab().values()) + 1, empty.get_input_embeddings().weight.shape[0]
    if vocabulary > places:
        raise BetastarError(
            f"{name}: the tokenizer has {vocabulary} tokens but the model embeds only {places}; use the tokenizer that "
            "belongs to the model."
        )
    fetch_weights(location)
    if location.gguf_file is not None:
        path = gguf_path(location)
        with explained(str(path), None, location.gguf_file):
            check_all_read(path, check_file(path)["general.architecture"], empty)
    dtype = weights_dtype(choice.dtype, device)
    compute_dtype = dtype if choice.compute_dtype == "auto" else weights_dtype(choice.compute_dtype, device)
    model = _load_model(location, config, device, dtype, _nf4(choice, compute_dtype))
    check_finite(model, name)
    check_agreement(model, min(dtype, compute_dtype, key=lambda d: d.itemsize), name)
    hide_padding(model, vocabulary)
    context = context_length(config)
    if context is not None:
        guard_context(model, context, name)
    return Base(model, tokenizer, name, vocabulary, context)


def load_tokenizer(location: Location) -> PreTrainedTokenizerBase:
    """A model's tokenizer; without a padding token, the end-of-text token pads. BetastarError where there is none."""
    from transformers import AutoTokenizer

    if location.gguf_file is not None:
        path = gguf_path(location)
        check_file(path)
        with explained(str(path), None, location.gguf_file):
            tokenizer = read_tokenizer(path)
    else:
        with explained(location.where, location.commit):
            tokenizer = AutoTokenizer.from_pretrained(location.where, **location.options())
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # what transformers makes of no files at all
        raise BetastarError(f"{location.where}: there is no tokenizer; put the model's tokenizer files next to it.")
    if tokenizer.eos_token_id is None:
        raise BetastarError(f"{location.where}: the tokenizer has no end-of-text token; set eos_token in its config.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _check_bitsandbytes(name: str) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BetastarError(
            f"{name}: quantization nf4 needs bitsandbytes; pip install 'betastar[gpu]', or set quantization: none."
        )


def _load_model(
    location: Location, config: PreTrainedConfig, device: torch.device, dtype: torch.dtype, quantization: Any
) -> Any:
    from transformers import AutoModelForCausalLM

    where, commit = location.where, location.commit
    if location.gguf_file is not None:
        from transformers import GgufConfig

        # Unpacked: packed weights cannot be adapted, and leave a quantization_config that forbids saving the model.
        where, commit, quantization = str(gguf_path(location).parent), None, GgufConfig(dequantize=True)
    try:
        with explained(where, commit, location.gguf_file), smoothed() if location.gguf_file else nullcontext():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                where,
                config=config,
                dtype=dtype,
                device_map={"": device},
                attn_implementation="sdpa",
                use_safetensors=True,
                quantization_config=quantization,
                output_loading_info=True,
                **location.options(),
            )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        smaller = "choose a smaller model" if quantization else "set quantization: nf4 or choose a smaller model"
        raise BetastarError(f"{location.where}: the weights do not fit in the memory of {device}; {smaller}.") from None
    model, report = loaded
    if report["missing_keys"]:
        raise BetastarError(
            f"{location.where}: its weights lack {min(report['missing_keys'])}; give a complete causal language model."
        )
    unread = [] if location.gguf_file else _unread_in_layers(report["unexpected_keys"], model.config)
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        raise BetastarError(
            f"{location.where}: {unread[0]}{more} of its weights have no place in a model of type "
            f"{config.model_type} with this configuration; correct config.json (model_type, number of layers)."
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise BetastarError(
            f"{location.where}: it contains a PEFT adapter; merge it into the model first (merge_and_unload)."
        )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes would repack 4-bit weights at the first pass without gradients, in a form that later passes
            # with gradients cannot use.
            module.support_avx512bf16_for_cpu = False
    return model.eval().requires_grad_(False)


def _unread_in_layers(names: Iterable[str], config: Any) -> list[str]:
    """The weights of a decoder's layers that its model does not read, such as q_norm of Qwen3 under the name of
    llama: the model would run, and be another one. Constants that old checkpoints hold, and layers that predict further
    tokens, are read by nobody."""
    text = config.get_text_config()
    own = text.num_hidden_layers
    further = range(own, own + (getattr(text, "num_nextn_predict_layers", None) or 0))
    return sorted(
        name
        for name in names
        if (match := re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", f".{name}"))
        and int(match[1]) not in further
        and not name.endswith((".inv_freq", ".masked_bias", ".attn.bias", ".attention.bias"))
    )


def weights_dtype(setting: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU that computes in it, not one that emulates it, else float32."""
    if setting == "auto":
        return torch.bfloat16 if device.type == "cuda" and computes_bfloat16() else torch.float32
    return getattr(torch, setting)


def _nf4(choice: PretrainedBase, compute_dtype: torch.dtype) -> Any:
    """QLoRA's quantisation, which leaves embeddings and head as they are; None where none is wanted."""
    if choice.quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=choice.double_quantization,
        bnb_4bit_compute_dtype=compute_dtype,
    )
