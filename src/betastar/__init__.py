"""betastar: does conservative offline preference training make online reward hacking worse? Measure it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`betastar.analyze` and `betastar.GoodhartMonitor`, loaded when first asked for: `import betastar` stays light."""
    if name == "analyze":
        return import_module("betastar.analysis.analyze").analyze
    if name == "GoodhartMonitor":
        return import_module("betastar.monitor").GoodhartMonitor
    raise AttributeError(f"module 'betastar' has no attribute {name!r}")
