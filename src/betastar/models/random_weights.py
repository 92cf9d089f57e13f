"""A model of any published geometry with random weights, made directly on the device: to measure speed and memory
without a download."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

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
