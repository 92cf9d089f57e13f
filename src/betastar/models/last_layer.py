"""The last layer computes only what is read of it.

What comes after the last layer's attention concerns each token alone, and of most tokens nobody reads it: a response's
log-probability needs the states at its own tokens, a reward one state, sampling that of the prompt's end. Within
`reading(model, places)` the last layer's queries, output projection and feed-forward block are computed at these
places alone, and are zero elsewhere. Keys and values are computed everywhere, so what is read is what it would be.

It saves up to two thirds of a layer: much in a model of two layers, little in one of forty.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from betastar.models.devices import is_out_of_memory
from betastar.models.forwards import forwards
from betastar.models.probes import probe_tokens

log = logging.getLogger(__name__)

PARTS = ("mlp", "self_attn.q_proj", "self_attn.o_proj")  # of a layer; its name in most models
TOLERANCE = 0.02  # of a state's size: products of fewer rows may be rounded in another way


class _LastLayer:
    """`places [N]`: those of the flattened batch that are computed, in order and each once; None: all of them."""

    def __init__(self, layer: nn.Module):
        self.places: Tensor | None = None
        parts = [part for part in (_part(layer, name) for name in PARTS) if part is not None]
        self.forwards = {part: partial(self._compute, part, part.forward) for part in parts}

    def _compute(self, part: nn.Module, forward: Callable[..., Tensor], x: Tensor) -> Tensor:
        if self.places is None or _is_watched_within(part):
            return forward(x)
        read = forward(x.flatten(0, -2)[self.places][None])[0]
        everywhere = read.new_zeros(x.shape[:-1].numel(), read.shape[-1])
        return everywhere.index_copy(0, self.places, read).view(*x.shape[:-1], -1)


_KNOWN: WeakKeyDictionary[nn.Module, _LastLayer | None] = WeakKeyDictionary()


@contextmanager
def reading(model: nn.Module, places: Tensor | None) -> Iterator[None]:
    """Within the block only the final states of a batch `[R, T]` at `places [N]` are right: numbers `row · T + column`,
    in order and each once. None: all are. Of a model that `know_last_layer` has not seen, all are computed."""
    last = _KNOWN.get(model)
    if last is None:
        yield
        return
    before, last.places = last.places, places
    try:
        yield
    finally:
        last.places = before


def places_read(model: nn.Module) -> Tensor | None:
    """The places of the `reading` block that is entered; None outside of one."""
    last = _KNOWN.get(model)
    return None if last is None else last.places


@torch.no_grad()
def know_last_layer(model: Any) -> None:
    """Find a model's last layer, and see on a short text that what is read stays the same when nothing else is
    computed; where it does not, or there is no layer of a known make, `reading` has no effect on it. Call it while no
    adapters are in use."""
    if model in _KNOWN:
        return
    _KNOWN[model] = None
    try:
        layer = next((m for m in reversed(list(model.modules())) if _part(m, PARTS[0]) is not None), None)
        if layer is None:
            return
        tokens = probe_tokens(model, 12).view(2, 6)
        places = torch.tensor([1, 5, 8], device=tokens.device)

        def states() -> Tensor:
            return model.base_model(input_ids=tokens, use_cache=False).last_hidden_state.flatten(0, 1)[places].float()

        whole, last = states(), _LastLayer(layer)
        last.places = places
        with forwards(last.forwards):
            error = float(((states() - whole).norm() / whole.norm()).nan_to_num(torch.inf))
        if error > TOLERANCE:
            raise ValueError(f"states differ by {error:.2g} of their size")
        last.places = None
        for part, forward in last.forwards.items():
            part.forward = forward
        _KNOWN[model] = last
    except Exception as reason:  # whatever an unknown architecture does with what it does not expect
        if is_out_of_memory(reason):
            raise
        log.info("the last layer of %s is computed everywhere: %s", type(model).__name__, reason)


def _part(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def _is_watched_within(part: nn.Module) -> bool:
    """Whether something below a part expects whole batches: an adapter, which belongs to some of the rows, or whoever
    counts activations."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in part.modules() if m is not part)
