"""Two parts of the record that come from stages of their own: best-of-n before any training, and what went on inside
the networks. See docs/mechanism.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from math import inf, nan
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from betastar.maths.best_of_n import best_of_n, best_of_n_kl, sizes
from betastar.maths.intervals import seed_mean
from betastar.maths.statistics import Interval


class Checkpoint(NamedTuple):
    """β, seed and, in a run with several methods, the method."""

    beta: float
    seed: int
    method: str = ""

    @property
    def name(self) -> dict[str, Any]:
        """How the record names it."""
        return {**_method(self.method), "beta": self.beta, "seed": self.seed}


def _method(name: str) -> dict[str, str]:
    return {"method": name} if name else {}


Json = Mapping[str, Any]
LEVEL = 0.95
MOST_ENTRIES = 50
"""of the offline log in the record"""
NETWORK = ("effective_rank", "stable_rank", "dormant_share", "update_norm", "gradient_cosine")
FRESH_GAIN = "fresh_gain"
"""of a network too, where evaluation.fresh_steps asks for it"""
RANGES = {"proxy": (-inf, inf), "truth": (0.0, 1.0), "truth_lenient": (0.0, 1.0), "truth_change": (-100.0, 100.0)}


def best_of_n_record(answers: Mapping[Any, Json], *, root_seed: int = 0) -> dict[str, Any]:
    """The record of best-of-n, by `Checkpoint`, from each one's `proxy`, `strict` and `lenient` rewards `[P, N]`: N
    answers to each of the same P problems."""
    curves = {Checkpoint(*place): _best_of(found) for place, found in answers.items()}
    first = np.asarray(next(iter(answers.values()))["proxy"])
    methods = dict.fromkeys(place.method for place in curves)
    betas = [(m, beta) for m in methods for beta in sorted({place.beta for place in curves if place.method == m})]
    return {
        "n_samples": first.shape[1],
        "n_problems": first.shape[0],
        "checkpoints": [
            {
                **place.name,
                "curve": [
                    {
                        "best_of": n,
                        "kl": best_of_n_kl(n),
                        **{name: _over_problems(values, RANGES[name]) for name, values in by_problem.items()},
                    }
                    for n, by_problem in curve.items()
                ],
            }
            for place, curve in curves.items()
        ],
        "by_beta": [
            {
                **_method(method),
                "beta": beta,
                "curve": _over_seeds(
                    [c for place, c in curves.items() if (place.method, place.beta) == (method, beta)], root_seed
                ),
            }
            for method, beta in betas
        ],
    }


Curve = dict[int, dict[str, np.ndarray]]
"""By n and quantity, the values of each problem [P]."""


def _best_of(found: Json) -> Curve:
    proxy, strict, lenient = (np.asarray(found[name], dtype=float) for name in ("proxy", "strict", "lenient"))
    curve: Curve = {}
    for n in sizes(proxy.shape[1]):
        truth = best_of_n(proxy, strict, n)
        curve[n] = {
            "proxy": best_of_n(proxy, proxy, n),
            "truth": truth,
            "truth_lenient": best_of_n(proxy, lenient, n),
            "truth_change": 100 * (truth - strict.mean(axis=1)),
        }
    return curve


def _over_seeds(curves: Sequence[Curve], root_seed: int) -> list[dict[str, Any]]:
    def mean(n: int, name: str) -> dict[str, Any]:
        values = [float(curve[n][name].mean()) for curve in curves]
        return seed_mean(values, bounds=RANGES[name], root_seed=root_seed).record()

    return [{"best_of": n, "kl": best_of_n_kl(n), **{name: mean(n, name) for name in RANGES}} for n in curves[0]]


def _over_problems(values: np.ndarray, bounds: tuple[float, float]) -> dict[str, Any]:
    """Mean of `values` [P], standard error and Student's t interval: problems are drawn anew, the checkpoint is not."""
    n, mean = len(values), float(values.mean())

    def record(error: float, interval: Interval, reason: str | None = None) -> dict[str, Any]:
        return {
            "mean": mean,
            "standard_error": error,
            "interval": interval._asdict(),
            "n": n,
            "reason": reason,
        }

    if math.isnan(mean):
        why = "a value is undefined"
        return record(nan, Interval(nan, nan, why), why)
    if n < 2:
        why = "an error over problems needs two problems"
        return record(nan, Interval(nan, nan, why), why)
    error = float(values.std(ddof=1)) / math.sqrt(n)
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        return record(error, Interval(nan, nan, f"all {n} values are equal: their spread is unknown"))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
    low, high = (float(np.clip(limit, *bounds)) for limit in (mean - reach, mean + reach))
    return record(error, Interval(low, high, None, LEVEL, "Student's t over problems"))


def inside_record(
    trained: Mapping[Any, Json],
    logs: Mapping[Any, Sequence[Json]],
    curves: Mapping[Any, Sequence[Json]],
    start: Mapping[Any, Json],
    end: Mapping[tuple[str, float, int], Json],
) -> dict[str, Any]:
    """The record of the inside. By `Checkpoint`: `trained`, metrics of the offline stage with `chosen_log_ratio` and
    `rejected_log_ratio` on held-out pairs; `logs`, its training log; `curves`, points on the way, if any; `start`, its
    network, if read. `end`: networks by online condition."""
    return {
        "n_checkpoints": len(trained),
        **({"probe": _probe(next(iter(start.values())))} if start else {}),
        "checkpoints": [
            {
                **Checkpoint(*place).name,
                "displacement": displacement(metrics),
                **({"log": _thinned(logs[place])} if logs.get(place) else {}),
                **({"curve": [dict(point) for point in curves[place]]} if place in curves else {}),
                **({"network": _network(start[place])} if place in start else {}),
            }
            for place, metrics in trained.items()
        ],
        "conditions": [
            {"variant": variant, "beta": beta, "seed": seed, "network": _network(network)}
            for (variant, beta, seed), network in end.items()
        ],
    }


def displacement(metrics: Json) -> dict[str, Any]:
    """Whether DPO lowered the likelihood of chosen and rejected responses alike (Razin et al. 2025), from means over
    held-out pairs and their standard errors."""
    sides = {side: metrics[f"{side}_log_ratio"] for side in ("chosen", "rejected")}
    alone = "a standard error needs two pairs" if metrics["test_pairs"] < 2 else None
    falls = [side["mean"] < -2 * side["standard_error"] for side in sides.values()]
    return {
        "n_pairs": metrics["test_pairs"],
        **{name: {**side, "reason": alone} for name, side in sides.items()},
        "displaced": None if alone else all(falls),
        "reason": alone,
    }


def condition_extras(metrics: Json, start: Json | None, end: Json | None) -> dict[str, float]:
    """The measures of one online condition that come from the inside, as far as they were taken: from the metrics of
    its checkpoint, and the networks at both ends."""
    found = {"displacement": metrics["chosen_log_ratio"]["mean"]}
    for when, network in (("start", start), ("end", end)):
        if network is not None:
            found |= {f"{name}_{when}": network[name] for name in (*NETWORK, FRESH_GAIN) if name in network}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _probe(network: Json) -> dict[str, Any]:
    return {
        "n_texts": network["texts"],
        "n_states": network["states"],
        "n_units": network["units"],
        "units_of": network["units_of"],
        "n_gradients": network["gradients"],
        "layers": list(network["update_norms"]),
        **({"fresh": _fresh_task(network)} if FRESH_GAIN in network else {}),
    }


def _fresh_task(network: Json) -> dict[str, Any]:
    return {
        "n_steps": len(network["fresh_loss"]) - 1,
        "n_tokens": network["fresh_tokens"],
        "learning_rate": network["fresh_learning_rate"],
    }


UNDEFINED = {
    "effective_rank": "all hidden states are 0",
    "stable_rank": "all hidden states are 0",
    "gradient_cosine": "a cosine needs two texts whose gradients are not 0",
    "fresh_loss": "the policy's loss is not a finite number",
    "fresh_gain": "the policy's loss is not a finite number",
}


def _network(network: Json) -> dict[str, Any]:
    missing = {n: why for n, why in UNDEFINED.items() if n in network and np.isnan(network[n]).any()}
    return {
        **{name: network[name] for name in NETWORK},
        "update_norms": list(network["update_norms"].values()),
        **{name: network[name] for name in ("fresh_loss", FRESH_GAIN) if name in network},
        **({"missing": missing} if missing else {}),
    }


def _thinned(log: Sequence[Json]) -> dict[str, list]:
    """At most `MOST_ENTRIES` entries, each the mean over the steps since the one before."""
    parts = np.array_split(np.arange(len(log)), min(len(log), MOST_ENTRIES))
    return {
        "step": [int(log[part[-1]]["step"]) for part in parts],
        **{
            name: [float(np.mean([log[i][name] for i in part])) for part in parts]
            for name in ("chosen_log_ratio", "rejected_log_ratio")
        },
    }
