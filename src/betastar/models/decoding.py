"""Decoding on a GPU: a step whose shapes do not change, captured once as a CUDA graph and replayed.

One token for every row is a few thousand small kernels. Launched one by one they take 50 to 90 ms at Qwen3-14B's
geometry on an H200, and reading the weights takes 7. What makes the step fit for a graph is here: attention over a
cache of fixed size, and layers swapped for ones with fewer kernels while it is recorded. The model's own code runs, and
its weights are not touched. Everything but the capture also runs on a CPU, where the tests compare it with the step
that grows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from betastar.models.devices import is_out_of_memory
from betastar.models.logprobs import wide_products

log = logging.getLogger(__name__)

ATTENTION = "betastar_grouped"  # its name among transformers' attention functions
BLOCK = 64  # columns: with another number, attention would copy its mask for alignment
LEAST_AHEAD = 256  # columns
RESERVE = 4 << 30  # bytes left to activations when 4-bit weights are unpacked


def rounded_up(columns: int) -> int:
    """A cache's room, as attention likes it."""
    return -(-columns // BLOCK) * BLOCK


def columns_ahead(filled: int, room: int) -> int:
    """How many columns of the cache a step reads that may be repeated, `filled` being in use: attention pays for those
    that are still empty, and each new width for a capture."""
    return min(room, rounded_up(filled + max(LEAST_AHEAD, filled // 2)))


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **_more: Any,
) -> tuple[Tensor, None]:
    """Attention of one new token of each row, `query [R, heads, 1, d]`, to `key` and `value [R, key-value heads, L, d]`
    under `attention_mask [R, 1, 1, L]`: `[R, 1, heads, d]`. The heads that share keys stand where a text's tokens
    would, so keys and values are read once and never repeated.

    Two batched products with the scores in between, in float32. On an H200 torch's fused kernels take 1.06 to 1.45
    times as long for one token of a row (docs/benchmarks.md): they are made for many.
    """
    rows, heads, _, width = query.shape
    shared, columns = key.shape[1:3]
    scaling = width**-0.5 if scaling is None else scaling
    packed, keys = query.reshape(rows * shared, heads // shared, width), key.flatten(0, 1).transpose(1, 2)
    if wide_products(query.device, query.dtype):
        scores = torch.bmm(packed, keys, out_dtype=torch.float32)
    else:
        scores = torch.bmm(packed, keys).float()
    scores = torch.add(attention_mask, scores.view(rows, shared, heads // shared, columns), alpha=scaling)
    weights = scores.softmax(dim=-1).to(value.dtype)
    output = torch.bmm(weights.flatten(0, 1), value.flatten(0, 1))
    return output.view(rows, 1, heads, value.shape[-1]), None


@contextmanager
def lean_layers(model: Any) -> Iterator[None]:
    """Within the block, attention does not repeat keys and RMS norms are one kernel each, where the model allows it."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, grouped_attention)
    config, before = model.config, model.config._attn_implementation
    norms = [m for m in model.modules() if type(m).__name__.endswith("RMSNorm")]
    plain = {kind: _is_plain_norm(next(m for m in norms if type(m) is kind)) for kind in {type(m) for m in norms}}
    swapped: dict[nn.Module, Callable[..., Tensor]] = {m: partial(_norm, m) for m in norms if plain[type(m)]}
    if getattr(model, "_supports_attention_backend", False):
        config._attn_implementation = ATTENTION
    try:
        with _forwards(swapped):
            yield
    finally:
        config._attn_implementation = before


def _norm(module: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)


def _is_plain_norm(module: Any) -> bool:
    """Whether a module computes weight · x / RMS(x) and nothing else (Gemma's adds 1 to the weight)."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not hasattr(module, "variance_epsilon"):
        return False
    x = torch.linspace(-2, 3, weight.numel(), device=weight.device, dtype=weight.dtype)[None]
    try:
        return torch.allclose(module(x).float(), _norm(module, x).float(), rtol=0.02, atol=1e-3)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return False


@contextmanager
def _forwards(swapped: dict[nn.Module, Callable[..., Tensor]]) -> Iterator[None]:
    """Within the block these modules compute with other functions; their hooks stay."""
    before = {module: vars(module).get("forward") for module in swapped}
    try:
        for module, forward in swapped.items():
            module.forward = forward
        yield
    finally:
        for module, own in before.items():
            if own is not None:
                module.forward = own
            else:
                vars(module).pop("forward", None)


@contextmanager
def unpacked_weights(model: nn.Module, others: int) -> Iterator[bool]:
    """Within the block, 4-bit linear layers compute with their weights unpacked once to the dtype in which they
    compute; yields whether they do. bitsandbytes unpacks the same numbers at every call, in kernels that take longer
    than the product. Not done on a GPU whose free memory is too small for them, `others` bytes and activations."""
    layers: list[Any] = [module for module in model.modules() if type(module).__name__ == "Linear4bit"]
    needed = sum(m.in_features * m.out_features * _computes_in(m).itemsize for m in layers)
    if not layers or needed + others + RESERVE > _free(layers[0].weight.device):
        yield False
        return
    from bitsandbytes.functional import dequantize_4bit

    swapped: dict[nn.Module, Callable[..., Tensor]] = {}
    for module in layers:
        # The numbers that bitsandbytes' own product uses, rounded as it rounds them.
        dense = dequantize_4bit(module.weight.data, module.weight.quant_state).to(_computes_in(module))
        bias = None if module.bias is None else module.bias.to(dense.dtype)
        swapped[module] = partial(_dense, dense, bias)
    with _forwards(swapped):
        yield True


def _dense(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return F.linear(x.to(weight.dtype), weight, bias).to(x.dtype)


def _computes_in(layer: Any) -> torch.dtype:
    return layer.compute_dtype or layer.weight.quant_state.dtype


def _free(device: torch.device) -> float:
    """Bytes that a GPU has free or holds in reserve; of other devices nobody asks."""
    if device.type != "cuda":
        return float("inf")
    free = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


class Replayed:
    """Work that changes tensors in place, takes nothing and always has the same shapes. On a GPU the first call
    computes it, which loads whatever it needs, the second records it, and it is replayed from then on. Where recording
    fails, one warning is logged and every call computes it. Raises torch.OutOfMemoryError if the memory is too small.
    """

    failed = False  # of any: what cannot be recorded once is not tried again

    def __init__(self, work: Callable[[], None], device: torch.device):
        self.work = work
        self.may_record = device.type == "cuda" and not Replayed.failed
        self.graph: torch.cuda.CUDAGraph | None = None
        self.computed = False

    def __call__(self) -> None:
        if self.graph is None and self.computed and self.may_record:
            self._record()
        if self.graph is not None:
            self.graph.replay()
        else:
            self.work()
            self.computed = True

    def _record(self) -> None:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Another thread, such as one that writes a checkpoint, may go on using the GPU meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.work()
        except RuntimeError as error:
            self.may_record = False
            torch.cuda.set_stream(stream)  # a recording that fails leaves its own stream in use
            full = next((cause for cause in _contexts(error) if is_out_of_memory(cause)), None)
            if full is not None:
                raise full from None
            Replayed.failed = True
            reason = " ".join(str(next(iter(_contexts(error)))).strip().split("\n")[0].split())
            log.warning("decoding goes on without CUDA graphs, which is slower (%s)", reason)
            return
        self.graph = graph


def _contexts(error: BaseException) -> list[BaseException]:
    """What was raised first, and what that led to: the end of a failed recording fails in turn."""
    chain = [error]
    while (before := chain[0].__cause__ or chain[0].__context__) is not None:
        chain.insert(0, before)
    return chain
