"""The adapter bank: C LoRA adapters on one frozen base, as a batch axis.

Rows of a batch are grouped by condition: with C active adapters, row `c * B + b` belongs to condition c. A target
linear layer's input `[C·B, T, d_in]` is viewed as `[C, B·T, d_in]` and meets the stacked `A [C, d_in, r]` and
`B [C, r, d_out]` in two batched products; the base product stays one ordinary matmul over all rows. So one base serves
every policy condition, their frozen references and all reward members, and C conditions decode for little more than
the price of one. Batched products keep conditions apart exactly: a condition that diverges to NaN harms no other.

The bank only plugs adapters into the base. The weights are plain data, `Adapters`, which can be sliced without
copying, frozen, saved and loaded; `with bank.use(adapters):` makes the base answer as those conditions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from betastar.errors import BetastarError
from betastar.models.last_layer import know_last_layer, places_read, reading
from betastar.randomness import torch_generator

STRIDE = 0x9E3779B97F4A7C15  # far apart: keys of neighbouring layers do not meet


def adapted_layers(model: Any, target_modules: str | Sequence[str]) -> dict[str, tuple[int, int]]:
    """Names of the linear layers that are adapted, in the model's order, with `(d_in, d_out)`.

    `attention`: those inside an attention block (its projections); `all-linear`: all but the head; else those whose
    last name part is listed. Raises BetastarError where there is none, or a listed name does not occur.
    """
    head = model.get_output_embeddings()
    layers: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        *blocks, last = name.split(".")
        chosen = (
            any("attn" in block or "attention" in block for block in blocks)
            if target_modules == "attention"
            else target_modules == "all-linear" or last in target_modules
        )
        if chosen and module is not head and (isinstance(module, nn.Linear) or _is_conv1d(module)):
            linear: Any = module
            d_in, d_out = linear.weight.shape if _is_conv1d(linear) else (linear.in_features, linear.out_features)
            layers[name] = (d_in, d_out)
    wanted = () if isinstance(target_modules, str) else target_modules
    missing = sorted(set(wanted) - {name.rsplit(".", 1)[-1] for name in layers})
    if missing or not layers:
        what = f"named {', '.join(missing)}" if missing else "in an attention block"
        raise BetastarError(
            f"adapter.target_modules: the model has no linear layer {what}; "
            "list names that its layers have, for example q_proj, k_proj, v_proj, o_proj."
        )
    return layers


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"  # transformers' class, which only GPT-2 and its kin need


@dataclass(frozen=True)
class Adapters:
    """LoRA weights of C conditions. For each target module, `a[name]` is `[C, d_in, r]`, `b[name]` is `[C, r, d_out]`;
    the adapted layer computes `base(x) + scale · x A B` (PEFT's `lora_A` and `lora_B` are our `A` and `B` transposed,
    its `lora_alpha / r` our `scale`)."""

    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    scale: float

    def __len__(self) -> int:
        return next(iter(self.a.values())).shape[0]

    def __getitem__(self, index: slice | Sequence[int]) -> Adapters:
        """A subset of the conditions: a slice is a view of the same weights, a list of indices a copy."""
        return self._map(lambda weight: weight[index])

    def parameters(self) -> list[Tensor]:
        """All weight tensors in a fixed order: every A, then every B, by module name."""
        return [*self.a.values(), *self.b.values()]

    def trainable(self) -> Adapters:
        """A copy whose weights collect gradients."""
        return self._map(lambda weight: weight.detach().clone().requires_grad_(True))

    def frozen(self) -> Adapters:
        """A detached copy: a reference that later training does not move."""
        return self._map(lambda weight: weight.detach().clone())

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Adapters:
        """The same weights, detached, in another precision or place; no copy where nothing changes."""
        return self._map(lambda weight: weight.detach().to(dtype=dtype, device=device))

    def state(self) -> dict[str, Tensor]:
        """Flat name → tensor mapping for a safetensors file; `Adapters.from_state` reads it back."""
        return {f"{side}.{name}": w.detach() for side in "ab" for name, w in getattr(self, side).items()}

    @staticmethod
    def from_state(state: Mapping[str, Tensor], scale: float) -> Adapters:
        sides = {side: {n[2:]: w for n, w in state.items() if n.startswith(f"{side}.")} for side in "ab"}
        return Adapters(sides["a"], sides["b"], scale)

    @staticmethod
    def concatenate(parts: Sequence[Adapters]) -> Adapters:
        """All conditions of `parts`, which share shapes and scale, in order."""
        first = parts[0]
        stack = {side: {n: torch.cat([getattr(p, side)[n] for p in parts]) for n in first.a} for side in "ab"}
        return Adapters(stack["a"], stack["b"], first.scale)

    def _map(self, change) -> Adapters:
        return Adapters(
            {n: change(w) for n, w in self.a.items()}, {n: change(w) for n, w in self.b.items()}, self.scale
        )


class Dropout(NamedTuple):
    """LoRA dropout: each adapted layer's input to the adapter loses a share `p` of its numbers and the rest grow by
    1 / (1 - p). What a row loses depends on its key of `keys [R]` and the layer alone, not on its batch: a bank drops
    what separate runs would, and a pass computed again drops the same. `lengths [R]`: tokens that are not padding."""

    p: float
    keys: Sequence[int]
    lengths: Sequence[int]

    def factors(self, x: Tensor, place: int) -> Tensor:
        """Factors on the input `x [R, T, d]` of the adapted layer number `place`: 0 or 1 / (1 - p)."""
        drawn = torch.ones_like(x, dtype=torch.float32)
        generator = torch.Generator(x.device)
        for row, key, length in zip(drawn, self.keys, self.lengths, strict=True):
            torch.rand(
                length, x.shape[-1], generator=generator.manual_seed((key + place * STRIDE) % 2**63), out=row[:length]
            )
        return ((drawn >= self.p) / (1 - self.p)).to(x.dtype)


class AdapterBank:
    """Plugs `Adapters` into linear layers of `model`: see `adapted_layers` for `target_modules`.

    The base's own weights are frozen. Layers are hooked, not replaced, so the base can be saved, quantised or run bare
    as if the bank were not there.
    """

    def __init__(self, model: nn.Module, target_modules: str | Sequence[str], rank: int, alpha: float):
        self.model: Any = model  # transformers' types say less than its models do
        self.rank, self.scale = rank, alpha / rank
        self.active: Adapters | None = None
        self.plain_decoding = False  # on a GPU: sample without graphs and without unpacking 4-bit weights
        self._dropout: Dropout | None = None
        self._add: Callable[..., Tensor] = _add_in_place
        self.shapes = adapted_layers(model, target_modules)
        model.requires_grad_(False)
        know_last_layer(model)
        for place, name in enumerate(self.shapes):
            model.get_submodule(name).register_forward_hook(self._hook(name, place))

    @property
    def conv1d(self) -> bool:
        """Whether the adapted layers are GPT-2's Conv1D, whose weights are transposed (PEFT's `fan_in_fan_out`)."""
        return any(_is_conv1d(self.model.get_submodule(name)) for name in self.shapes)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def create(self, seeds: Sequence[int]) -> Adapters:
        """Fresh float32 adapters, one per entry of `seeds`: A uniform as PEFT draws it (Kaiming with a = √5, a bound of
        1/√d_in), B zero, so each starts as the bare base. Equal seeds give equal adapters."""
        device = self.device
        a, b = {}, {}
        for name, (d_in, d_out) in self.shapes.items():
            draws = [torch.rand(d_in, self.rank, generator=torch_generator(s, "lora", name)) for s in seeds]
            a[name] = ((2 * torch.stack(draws) - 1) / math.sqrt(d_in)).to(device)
            b[name] = torch.zeros(len(seeds), self.rank, d_out, device=device)
        return Adapters(a, b, self.scale)

    @contextmanager
    def use(self, adapters: Adapters | None, dropout: Dropout | None = None) -> Iterator[None]:
        """Within the block the base answers as `adapters` (rows grouped by condition); None means the bare base. With
        `dropout`, the adapters see a thinned input, as in training."""
        before = self.active, self._dropout
        self.active, self._dropout = adapters, dropout
        try:
            yield
        finally:
            self.active, self._dropout = before

    @contextmanager
    def adding(self, add: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]) -> Iterator[None]:
        """Within the block, where no gradients are collected, `add(y, x, a, b, scale)` adds `scale · x A B` to `y`."""
        before, self._add = self._add, add
        try:
            yield
        finally:
            self._add = before

    def present(self) -> Callable[[], AbstractContextManager[None]]:
        """What is in use now, to be put to use again: by a backward pass that computes activations a second time."""
        adapters, dropout = self.active, self._dropout
        return lambda: self.use(adapters, dropout)

    def _hook(self, name: str, place: int):
        def add_adapters(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            active = self.active
            if active is None:
                return None
            a, b = active.a[name].to(output.dtype), active.b[name].to(output.dtype)
            conditions = a.shape[0]
            x = args[0] if self._dropout is None else args[0] * self._dropout.factors(args[0], place)
            x = x.to(output.dtype).reshape(conditions, -1, a.shape[1])
            y = output.reshape(conditions, -1, b.shape[2])
            if torch.is_grad_enabled():
                return torch.baddbmm(y, torch.bmm(x, a), b, alpha=active.scale).view(output.shape)
            return self._add(y, x, a, b, active.scale).view(output.shape)  # in place: nobody has read y

        return add_adapters


def _add_in_place(y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return y.baddbmm_(torch.bmm(x, a), b, alpha=scale)


def checkpoint_layers(bank: AdapterBank) -> None:
    """Keep only each decoder layer's input for the backward pass, wherever gradients are collected. When a layer is
    computed again, the base answers with the adapters and the dropout of the first time, for this bank and any other
    on the same model that this was called with. Raises BetastarError for a model whose layers cannot be found."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    model = bank.model
    if hasattr(model, "checkpointed_banks"):
        model.checkpointed_banks.append(bank)
        return
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise BetastarError(
            f"compute.gradient_checkpointing: not supported for {model.config.model_type}; set it to false."
        )
    model.checkpointed_banks = [bank]
    for layer in layers:
        layer.forward = _checkpointed(layer.forward, model.checkpointed_banks)


def _checkpointed(forward: Callable[..., Any], banks: Sequence[AdapterBank]) -> Callable[..., Any]:
    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        """For the first computation, and for the second, which comes when the banks may be in another state."""
        model = banks[0].model
        return nullcontext(), _entered(
            [*(bank.present() for bank in banks), partial(reading, model, places_read(model))]
        )

    def computed_again(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # Nothing is drawn from the global generator: the base is in eval mode, a bank's dropout has keys of its own.
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts, **kwargs)

    return computed_again


@contextmanager
def _entered(states: Sequence[Callable[[], AbstractContextManager]]) -> Iterator[None]:
    with ExitStack() as stack:
        for state in states:
            stack.enter_context(state())
        yield
