"""The Goodhart gap of a run while it trains: `Monitor` for any training, `GoodhartMonitor` for TRL, `watch` in
`betastar.monitor.verl` for verl."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from betastar.monitor.callback import GoodhartMonitor
    from betastar.monitor.core import Monitor, State

__all__ = ["GoodhartMonitor", "Monitor", "State"]

_HOMES = {"GoodhartMonitor": "callback", "Monitor": "core", "State": "core"}


def __getattr__(name: str) -> Any:
    """Loaded when first asked for: `GoodhartMonitor` alone needs transformers."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"betastar.monitor.{_HOMES[name]}"), name)
