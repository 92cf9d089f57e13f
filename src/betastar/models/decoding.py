"""Decoding on a GPU: a step whose shapes do not change, captured once as a CUDA graph and replayed.

One token for every row is a few thousand small kernels. Launched one by one they take 50 to 90 ms at Qwen3-14B's
geometry on an H200, and reading the weights takes 7. What makes the step fit for a graph is here: attention over a
cache of fixed size, and layers swapped for ones with fewer kernels while it is recorded, Triton's where it compiles.
The model's own code runs, and its weights are not touched. Everything but the capture also runs on a CPU, where the
tests compare it with the step that grows.
"""

from __future__ import annotations

import functools
import gc
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from betastar.models.bank import AdapterBank
from betastar.models.devices import is_out_of_memory
from betastar.models.forwards import forwards
from betastar.models.logprobs import wide_products

log = logging.getLogger(__name__)

ATTENTION = "betastar_grouped"  # its name among transformers' attention functions
BLOCK = 64  # columns: with another number, attention would copy its mask for alignment
LEAST_AHEAD = 256  # columns
RESERVE = 4 << 30  # bytes left to activations when 4-bit weights are unpacked
MOST_DIFFERENT = 0.07  # between a Triton kernel and PyTorch: two roundings of a number below 8 in bfloat16


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


class Columns(NamedTuple):
    """What each row of a step may see of the cache: the columns from `start [R]` to `last [1]`, both on the device."""

    start: Tensor
    last: Tensor


_seen: Columns | None = None  # by the step that is being computed


@contextmanager
def seeing(columns: Columns) -> Iterator[None]:
    """Within the block a step is computed that sees these columns, and need not read others."""
    global _seen
    before, _seen = _seen, columns
    try:
        yield
    finally:
        _seen = before


@contextmanager
def lean_layers(bank: AdapterBank) -> Iterator[None]:
    """Within the block, attention does not repeat keys, and an RMS norm is one kernel; where Triton compiles, so are
    attention, rotary positions and gates, and adapters are two. What a model computes in another way is left as it is.
    """
    from transformers import AttentionInterface

    model, fast = bank.model, kernels(bank.device)
    config, before = model.config, model.config._attn_implementation
    AttentionInterface.register(ATTENTION, grouped_attention if fast is None else partial(_kernel_attention, fast))
    norm = _norm if fast is None else partial(_kernel_norm, fast)
    swapped = _alike(model, "RMSNorm", _is_plain_norm, norm)
    if fast is not None:
        swapped |= _alike(model, "MLP", partial(_is_plain_gate, fast), partial(_kernel_gate, fast))
    if getattr(model, "_supports_attention_backend", False):
        config._attn_implementation = ATTENTION
    try:
        with ExitStack() as stack:
            stack.enter_context(forwards(swapped))
            if fast is not None:
                stack.enter_context(_rotary(model, fast, bank.device))
                stack.enter_context(bank.adding(fast.add_adapters))
            yield
    finally:
        config._attn_implementation = before


def _alike(
    model: nn.Module, ending: str, plain: Callable[[Any], bool], forward: Callable[..., Tensor]
) -> dict[nn.Module, Callable[..., Tensor]]:
    """Modules of the classes with this ending that compute what `forward` does, and that for each."""
    found = [m for m in model.modules() if type(m).__name__.endswith(ending)]
    known = {kind: plain(next(m for m in found if type(m) is kind)) for kind in {type(m) for m in found}}
    return {m: partial(forward, m) for m in found if known[type(m)]}


@functools.cache
def kernels(device: torch.device) -> Any:
    """`betastar.models.kernels`, where Triton compiles them for this device and they compute what PyTorch does; else
    None: Triton is missing or lacks a C compiler, or the device is no GPU."""
    if device.type != "cuda":
        return None
    try:
        from betastar.models import kernels

        difference = _difference_of_kernels(kernels, device)
    except Exception as error:  # whatever a compiler says
        log.info("decoding without Triton: %s", error)
        return None
    if difference <= MOST_DIFFERENT:
        return kernels
    log.warning("decoding without Triton, whose kernels differ from PyTorch by %.2g here", difference)
    return None


def _difference_of_kernels(kernels: Any, device: torch.device) -> float:
    """The largest difference between a kernel and the operations that it stands for, in bfloat16 and of numbers about
    as large as one."""
    draw = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(device, torch.bfloat16)

    rows, heads, shared, width, columns = 3, 10, 2, 64, 192
    query, key = some(rows, heads, 1, width), some(rows, shared, 1, width)
    keys, values = some(rows, shared, columns, width), some(rows, shared, columns, width)
    start, last = torch.tensor([0, 5, 130], device=device), torch.tensor([150], device=device)
    place = torch.arange(columns, device=device)
    hidden = (place < start[:, None]) | (place > last)
    bias = torch.zeros(hidden.shape, dtype=torch.bfloat16, device=device)
    bias = bias.masked_fill(hidden, torch.finfo(torch.bfloat16).min / 2)
    cosine, sine = some(rows, 1, width), some(rows, 1, width)
    x, weight, gate, up = some(rows, 1, 300), some(300), some(rows, 1, 300), some(rows, 1, 300)
    a, b, y = some(2, 300, 16) / 17, some(2, 16, 100) / 4, some(2, 5, 100)
    wide = some(2, 5, 300)
    norm = F.rms_norm(x.float(), weight.shape, weight.float(), 1e-6)
    attention, _ = grouped_attention(nn.Module(), query, keys, values, bias[:, None, None])
    pairs = [
        (kernels.attend(query, keys, values, bias, start, last, width**-0.5), attention),
        *zip(kernels.rotate(query, key, cosine, sine), _rotated(query, key, cosine, sine), strict=True),
        (kernels.norm(x, weight, 1e-6), norm),
        (kernels.gated(gate, up), F.silu(gate) * up),
        (kernels.add_adapters(y.clone(), wide, a, b, 0.5), torch.baddbmm(y, torch.bmm(wide, a), b, alpha=0.5)),
    ]
    return max((float((ours.float() - torchs.float()).abs().max()) for ours, torchs in pairs), default=0.0)


def _kernel_attention(
    fast: Any,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **_more: Any,
) -> tuple[Tensor, None]:
    """What `grouped_attention` computes."""
    if _seen is None or query.shape[2] > 1:
        return grouped_attention(module, query, key, value, attention_mask, scaling)
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    return fast.attend(query, key, value, attention_mask[:, 0, 0], *_seen, scaling), None


def _rotated(query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary positions as most models have them, with the two halves of a head as the two coordinates."""

    def turned(x: Tensor) -> Tensor:
        one, other = x.chunk(2, dim=-1)
        return x * cosine[:, None] + torch.cat([-other, one], dim=-1) * sine[:, None]

    return turned(query), turned(key)


@contextmanager
def _rotary(model: nn.Module, fast: Any, device: torch.device) -> Iterator[None]:
    """Within the block, rotary positions of one token are one kernel, where the model's code computes them as
    `_rotated` does: transformers keeps them as a function beside the model's classes."""
    homes = {sys.modules[type(module).__module__] for module in model.modules()}
    plain = {home: home.apply_rotary_pos_emb for home in homes if _is_plain_rotary(home, device)}
    try:
        for home, own in plain.items():
            home.apply_rotary_pos_emb = partial(_kernel_rotary, fast, own)  # pyright: ignore[reportAttributeAccessIssue]
        yield
    finally:
        for home, own in plain.items():
            home.apply_rotary_pos_emb = own  # pyright: ignore[reportAttributeAccessIssue]


def _kernel_rotary(
    fast: Any,
    own: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    cosine: Tensor,
    sine: Tensor,
    *more: Any,
    **named: Any,
) -> tuple[Tensor, Tensor]:
    simple = not more and not named and query.ndim == 4 and query.shape[2] == 1 and cosine.ndim == 3
    if not simple or cosine.shape[-1] != query.shape[-1] or query.stride(-1) != 1 or key.stride(-1) != 1:
        return own(query, key, cosine, sine, *more, **named)
    return fast.rotate(query, key, cosine, sine)


def _is_plain_rotary(home: ModuleType, device: torch.device) -> bool:
    function = getattr(home, "apply_rotary_pos_emb", None)
    if function is None:
        return False
    x = torch.linspace(-2, 3, 3 * 4 * 8, device=device).view(3, 4, 1, 8)
    angles = torch.linspace(0, 5, 3 * 8, device=device).view(3, 1, 8)
    given = x, x[:, :2], angles.cos(), angles.sin()
    try:
        return all(torch.allclose(a, b, atol=1e-4) for a, b in zip(function(*given), _rotated(*given), strict=True))
    except (TypeError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return False


def _kernel_gate(fast: Any, module: Any, x: Tensor) -> Tensor:
    return module.down_proj(fast.gated(module.gate_proj(x), module.up_proj(x)))


def _is_plain_gate(fast: Any, module: Any) -> bool:
    """Whether a module computes down(silu(gate(x)) · up(x)) and nothing else."""
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(isinstance(part, nn.Module) for part in parts) or not hasattr(parts[0], "in_features"):
        return False
    weight: Any = next(module.parameters())
    kind = weight.dtype if weight.is_floating_point() else torch.bfloat16
    x = torch.linspace(-2, 3, 2 * module.gate_proj.in_features, device=weight.device, dtype=kind).view(1, 2, -1)
    try:
        theirs, ours = module(x).float(), _kernel_gate(fast, module, x).float()
    except (TypeError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return False
    return bool((theirs - ours).norm() <= 0.02 * theirs.norm())


def _kernel_norm(fast: Any, module: Any, x: Tensor) -> Tensor:
    return fast.norm(x, module.weight, module.variance_epsilon)


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
    with forwards(swapped):
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

    `close` frees the graph. Left to the garbage collector, it could go while another is recorded, which CUDA forbids.
    """

    failed = False  # of any: what cannot be recorded once is not tried again

    def __init__(self, work: Callable[[], None], device: torch.device):
        self.work, self.device = work, device
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

    def close(self) -> None:
        """Nothing is repeated any more. The GPU must have done what was asked of it."""
        self.graph, self.work = None, _nothing

    def _record(self) -> None:
        with _no_garbage_collection():
            self._record_now()

    def _record_now(self) -> None:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        draws = torch.cuda.default_generators[
            torch.cuda.current_device() if self.device.index is None else self.device.index
        ]
        usual = draws.clone_state()
        try:
            # Another thread, such as one that writes a checkpoint, may go on using the GPU meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.work()
        except RuntimeError as error:
            self.may_record = False
            # A recording that fails leaves its own stream in use, and the global generator in a state of recording, in
            # which nothing can be drawn from it.
            torch.cuda.set_stream(stream)
            draws.graphsafe_set_state(usual)
            full = next((cause for cause in _contexts(error) if is_out_of_memory(cause)), None)
            if full is not None:
                raise full from None
            Replayed.failed = True
            reason = " ".join(str(next(iter(_contexts(error)))).strip().split("\n")[0].split())
            log.warning("decoding goes on without CUDA graphs, which is slower (%s)", reason)
            return
        self.graph = graph


def _nothing() -> None:
    raise AssertionError("closed")


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Whatever it freed on a GPU would end a recording."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _contexts(error: BaseException) -> list[BaseException]:
    """What was raised first, and what that led to: the end of a failed recording fails in turn."""
    chain = [error]
    while (before := chain[0].__cause__ or chain[0].__context__) is not None:
        chain.insert(0, before)
    return chain
