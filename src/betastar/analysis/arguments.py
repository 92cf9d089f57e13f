"""Arguments of `betastar.analyze` that are of another kind than it takes: one sentence each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from betastar.errors import BetastarError

WHOLE = ("n", "until", "truth_distance", "max_runs")
CHOICES = {"true_unit": ("share", "percent", "score"), "kl_per": ("response", "token")}


def check_kinds(given: Mapping[str, Any]) -> None:
    """Raises BetastarError for an argument of `analyze` of another kind than it takes, which the command line refuses
    before."""
    for name in WHOLE:
        value, least = given[name], 0 if name == "truth_distance" else 1
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
            raise BetastarError(f"{name}={value!r}: not a whole number of at least {least}; give one.")
    for name, choices in CHOICES.items():
        if given[name] is not None and given[name] not in choices:
            raise BetastarError(f"{name}={given[name]!r}: not known; choose {' or '.join(choices)}.")
    if not isinstance(given["columns"], Mapping | type(None)):
        raise BetastarError('columns=…: not a dictionary; give one, for example columns={"kl": "my_kl"}.')


def paths_of(source: Any) -> list[str | Path]:
    """What `analyze` was given that is no frame. Raises BetastarError unless it is paths."""
    several = isinstance(source, Iterable) and not isinstance(source, Mapping | bytes)
    listed: list[Any] = list(source) if several else [source]
    for place in listed:
        if not isinstance(place, str | Path):
            kind = type(source if len(listed) == 1 or isinstance(source, Mapping) else place).__name__
            raise BetastarError(
                f"a {kind} cannot be analysed; give one data frame (pandas.DataFrame(…), pandas.concat([…]) of "
                "several), or paths of logs."
            )
    return listed
