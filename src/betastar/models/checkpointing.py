"""Activation checkpointing: a decoder layer keeps its input alone and is computed again in the backward pass.

transformers' own does so only in training mode, in which a base with dropout would be another model, and knows nothing
of a bank, whose adapters are usually no longer in use when the backward pass comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from betastar.errors import BetastarError
from betastar.models.bank import AdapterBank


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
            f"compute.gradient_checkpointing: the layers of {model.config.model_type} are not known; set it to false."
        )
    model.checkpointed_banks = [bank]
    for layer in layers:
        layer.forward = _checkpointed(layer.forward, model.checkpointed_banks)


def _checkpointed(forward: Callable[..., Any], banks: Sequence[AdapterBank]) -> Callable[..., Any]:
    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        """For the first computation, and for the second, which comes when the banks may be in another state."""
        return nullcontext(), _entered([bank.present() for bank in banks])

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
