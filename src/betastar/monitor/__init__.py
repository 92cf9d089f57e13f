"""`GoodhartMonitor`: the Goodhart gap of a TRL run while it trains, in its own logs and in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from betastar.monitor.callback import GoodhartMonitor

__all__ = ["GoodhartMonitor"]


def __getattr__(name: str) -> Any:
    """`GoodhartMonitor`, loaded when it is first asked for: it needs transformers."""
    if name == "GoodhartMonitor":
        from betastar.monitor.callback import GoodhartMonitor

        return GoodhartMonitor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
