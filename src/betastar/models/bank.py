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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from betastar.errors import BetastarError
from betastar.randomness import torch_generator


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


class AdapterBank:
    """Plugs `Adapters` into the linear layers of `model` whose last name part is in `target_modules`.

    The base's own weights are frozen. Layers are hooked, not replaced, so the base can be saved, quantised or run bare
    as if the bank were not there.
    """

    def __init__(self, model: nn.Module, target_modules: Sequence[str], rank: int, alpha: float):
        self.model: Any = model  # transformers' types say less than its models do
        self.rank, self.scale = rank, alpha / rank
        self._active: Adapters | None = None
        self.shapes: dict[str, tuple[int, int]] = {}
        model.requires_grad_(False)
        for name, module in model.named_modules():
            if name.rsplit(".", 1)[-1] in target_modules and isinstance(module, nn.Linear):
                self.shapes[name] = (module.in_features, module.out_features)
                module.register_forward_hook(self._hook(name))
        missing = sorted(set(target_modules) - {name.rsplit(".", 1)[-1] for name in self.shapes})
        if missing:
            raise BetastarError(
                f"adapter.target_modules: the model has no linear layer named {', '.join(missing)}; "
                "list names that its layers have, for example q_proj, k_proj, v_proj, o_proj."
            )

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
    def use(self, adapters: Adapters | None) -> Iterator[None]:
        """Within the block the base answers as `adapters` (rows grouped by condition); None means the bare base."""
        before, self._active = self._active, adapters
        try:
            yield
        finally:
            self._active = before

    def _hook(self, name: str):
        def add_adapters(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            active = self._active
            if active is None:
                return None
            a, b = active.a[name].to(output.dtype), active.b[name].to(output.dtype)
            conditions = a.shape[0]
            x = args[0].reshape(conditions, -1, a.shape[1])
            y = output.reshape(conditions, -1, b.shape[2])
            if torch.is_grad_enabled():
                return torch.baddbmm(y, torch.bmm(x, a), b, alpha=active.scale).view(output.shape)
            return y.baddbmm_(torch.bmm(x, a), b, alpha=active.scale).view(output.shape)  # in place: nobody has read y

        return add_adapters
