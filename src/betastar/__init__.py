"""betastar: does conservative offline preference training make online reward hacking worse? Measure it.

import betastar as bs

results = bs.run("micro", seeds=[0, 1, 2], out="runs/micro")
results = bs.load("runs/micro")
results.points, results.conditions, results.summary, results.responses  # pandas
results.plot.rewards()  # an altair chart
bs.analyze("my_run.csv", proxy="reward", true="accuracy")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from betastar import stats
    from betastar.api import Comparison, Results, analyze, clean, compare, load, plan, presets, run, schema
    from betastar.errors import BetastarError
    from betastar.monitor import GoodhartMonitor, Monitor
    from betastar.settings.config import Config, load_config

__version__ = "0.1.0"

__all__ = [
    "BetastarError",
    "Comparison",
    "Config",
    "GoodhartMonitor",
    "Monitor",
    "Results",
    "analyze",
    "clean",
    "compare",
    "load",
    "load_config",
    "plan",
    "presets",
    "run",
    "schema",
    "stats",
]

# Loaded when first asked for: `import betastar` takes milliseconds.
_HOMES = {
    "BetastarError": "betastar.errors",
    "Config": "betastar.settings.config",
    "GoodhartMonitor": "betastar.monitor",
    "Monitor": "betastar.monitor",
    "load_config": "betastar.settings.config",
}

if not TYPE_CHECKING:  # a type checker would take every name for one that exists

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'betastar' has no attribute {name!r}")
        if name == "stats":
            return import_module("betastar.stats")
        value = getattr(import_module(_HOMES.get(name, "betastar.api")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", *(name for name in globals() if name.startswith("__"))})
