"""What can be said of runs whose true reward is unknown: what the policy did, never whether it hacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean
from typing import Any, NamedTuple

from betastar.report.words.numbers import defined, minus

Json = Mapping[str, Any]


class Told(NamedTuple):
    """A measure of what a policy did: its field, the head of its column, its place in a sentence, and its format."""

    field: str
    head: str
    words: str
    digits: str


TOLD = (
    Told("proxy", "proxy: start → end", "the proxy from {} to {}", ".3g"),
    Told("response_tokens", "tokens per response", "the length of responses from {} to {} tokens", ".0f"),
    Told("response_entropy", "entropy, nats", "the entropy of responses from {} to {} nats", ".2f"),
    Told("disagreement", "disagreement û", "the reward models' disagreement from {} to {}", ".2g"),
    Told("at_limit", "at the length limit", "the share of responses at the length limit from {} to {}", ".0%"),
)


def untold(runs: Sequence[Json]) -> bool:
    """Whether no run has a true reward at any point."""
    return not any(defined(run["true_strict"][end]) for run in runs for end in ("start", "end"))


def _ends(runs: Sequence[Json], told: Told) -> tuple[str, str] | None:
    """Start and end, means over the runs that have both."""
    both = [run[told.field] for run in runs]
    both = [found for found in both if defined(found["start"]) and defined(found["end"])]
    if not both:
        return None
    start, end = (minus(format(fmean(found[name] for found in both), told.digits)) for name in ("start", "end"))
    return start, end


def end_distances(runs: Sequence[Json]) -> list[float]:
    """√KL of the last point from the checkpoint, of the runs that have it."""
    return [sqrt(max(run["kl"]["end"], 0.0)) for run in runs if defined(run["kl"]["end"])]


def _distance(runs: Sequence[Json]) -> str | None:
    found = end_distances(runs)
    return f"{fmean(found):.3g}" if found else None


def course(runs: Sequence[Json]) -> str:
    """One sentence: from where to where everything known went, from the first point to the last."""
    parts = [told.words.format(*ends) for told in TOLD if (ends := _ends(runs, told))]
    parts += [f"√KL from the start to {distance}"] if (distance := _distance(runs)) else []
    if not parts:
        return ""
    mean = f" (means over {len(runs)} runs)" if len(runs) > 1 else ""
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"Training moved {listed}{mean}."


def columns(runs: Sequence[Json]) -> list[str]:
    """Heads of the table of `cells`: what any of the runs of a variant has."""
    return [*(told.head for told in TOLD if _ends(runs, told)), *(["√KL, end"] if _distance(runs) else [])]


def cells(runs: Sequence[Json], every: Sequence[Json]) -> list[str]:
    """Cells of the row of `runs`, some of `every` run of the variant."""
    ends = (_ends(runs, told) for told in TOLD if _ends(every, told))
    distance = [_distance(runs) or "–"] if _distance(every) else []
    return [*(" → ".join(found) if found else "–" for found in ends), *distance]
