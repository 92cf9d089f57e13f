"""The paper's causal chain, link by link: β → entropy → diversity and OOD distance → û → AUGC (arXiv:2606.30627 §5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from betastar.analysis.summary import value_at
from betastar.maths.statistics import spearman_exact
from betastar.randomness import numpy_generator
from betastar.record.entries import REGISTRY

UNDEFINED = float("nan")
LEVEL = 0.05
"""A link is decided where its two-sided p is at most this."""

# The quantities of the chain beside β, and which measures of a summary they are. Diversity and OOD distance are those
# of the checkpoint, as in Algorithm 1, line 8; û is the mean over the online phase, as in Table 1.
MEASURES: Mapping[str, str] = {
    "entropy": "policy_entropy_start",
    "entropy collapse": "entropy_collapse",
    "diversity": "diversity_start",
    "OOD distance": "ood_distance_start",
    "û": "disagreement_mean",
    "û centred": "disagreement_centred_mean",
    "AUGC": "augc_standardised",
    "û–gap r": "uq_gap_correlation",
}


@dataclass(frozen=True)
class Claim:
    """A link `cause` → `effect`: the sign that the paper's text gives it (`stated`), the sign that the paper's own
    numbers have (`paper_measured`, None where it prints none), and what to know about the two."""

    cause: str
    effect: str
    stated: int
    paper_measured: int | None = None
    note: str = ""


CLAIMS = (
    Claim("β", "entropy", -1, -1, "Prop. 5.1 says falling; its proof, Eq. A.4, derives ∂H/∂β ≥ 0; both can be (E1)"),
    Claim("β", "entropy collapse", +1, -1, "section 5.1: high β collapses more; Figure 4b: it gains entropy (E17)"),
    Claim("entropy", "diversity", +1),
    Claim("entropy", "OOD distance", -1, +1, "Figure 2's caption: out of distribution; Figure 6: closer (E9)"),
    Claim("β", "OOD distance", +1, -1, "Figure 2's caption: out of distribution; Figure 6: closer (E9)"),
    Claim("β", "û", +1, +1),
    Claim("diversity", "û", -1, None, "section 5.2: low diversity, high disagreement"),
    Claim("OOD distance", "û", +1, -1, "Figure 2: far means disagreement; Figure 6: û rises where distance falls (E9)"),
    Claim("û", "AUGC", +1, +1),
    Claim("û centred", "AUGC", +1, None, "û without the arbitrary constants of the reward models"),
    Claim("β", "AUGC", +1, +1, "the paradox; the paper prints p = 0.0000 from three points (E4)"),
)
WITHIN_RUNS = Claim("û", "gap", +1, None, "Table 1 says moderate, higher, highest and prints no number")


def chain(records: Sequence[Mapping[str, Any]], *, root_seed: int = 0) -> list[dict[str, Any]]:
    """Every link of the chain as measured in the records of one variant, beside what the paper says of it.

    Across β: Spearman's ρ of the means over seeds with its permutation p (exact up to nine β, else with orders drawn
    under `root_seed`), `n` β. Last, within runs: the mean over seeds of r(û, gap) with the exact sign test, `n` seeds.
    `agreement`: "agrees" or "opposite" with the stated sign where p ≤ 0.05 two-sided, else "undecided"; `smallest_p` is
    the least that `n` can give, so three β are undecided whatever they show. What is undefined is NaN with a reason.
    """
    paths = {"β": ("beta",), **{name: REGISTRY.summary(measure).value_path for name, measure in MEASURES.items()}}
    tables = {name: _table(records, path) for name, path in paths.items()}
    links = []
    for claim in CLAIMS:
        cause, effect, n_seeds = _means(tables[claim.cause], tables[claim.effect])
        found = spearman_exact(cause, effect, numpy_generator(root_seed, "chain", claim.cause, claim.effect))
        # Of n! orders the extreme one and its reverse are the rarest; with one pair there is one order.
        smallest = min(1.0, 2 / factorial(found.n)) if found.exact else None
        reason = _absent(claim, cause, effect) or found.reason
        links.append(_link(claim, "ρ across β", found.rho, found.p_two_sided, found.n, n_seeds, smallest, reason))
    return [*links, _within_runs(tables["û–gap r"])]


def chains(records: Sequence[Mapping[str, Any]], *, root_seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """The chain of every variant."""
    variants = dict.fromkeys(record["variant"] for record in records)
    return {v: chain([r for r in records if r["variant"] == v], root_seed=root_seed) for v in variants}


def _within_runs(table: NDArray[np.float64]) -> dict[str, Any]:
    """The sign of r(û, gap) [S, B]: one value per seed, its mean over β. Without a relation it is as often above 0 as
    below, so the number of seeds above is binomial."""
    by_seed = np.array([row[np.isfinite(row)].mean() for row in table if np.isfinite(row).any()])
    n = int((by_seed != 0).sum())
    if n == 0:
        reason = "r(û, gap) is 0 in every seed" if by_seed.size else "r(û, gap) is undefined in every run"
        return _link(WITHIN_RUNS, "mean r within runs", UNDEFINED, UNDEFINED, 0, by_seed.size, None, reason)
    p = float(stats.binomtest(int((by_seed > 0).sum()), n).pvalue)
    mean = float(by_seed.mean())
    return _link(WITHIN_RUNS, "mean r within runs", mean, p, n, by_seed.size, 2.0 ** (1 - n), None)


def _link(
    claim: Claim,
    statistic: str,
    value: float,
    p: float,
    n: int,
    n_seeds: int,
    smallest_p: float | None,
    reason: str | None,
) -> dict[str, Any]:
    measured = None if np.isnan(value) else int(np.sign(value))
    if reason is not None:
        agreement = f"undefined: {reason}"
    elif p > LEVEL:
        agreement = "undecided"
    else:
        agreement = "agrees" if measured == claim.stated else "opposite"
    missing = {}
    if claim.paper_measured is None:
        missing["paper_measured"] = "the paper gives no number"
    if reason is None and smallest_p is None:
        missing["smallest_p"] = "too many orders to enumerate, so they are sampled"
    return {
        **asdict(claim),
        "statistic": statistic,
        "value": value,
        "measured": measured,
        "p_two_sided": p,
        "smallest_p": smallest_p,
        "n": n,
        "n_seeds": n_seeds,
        "agreement": agreement,
        "reason": reason,
        **({"missing": missing} if missing else {}),
    }


def _table(records: Sequence[Mapping[str, Any]], path: Sequence[str]) -> NDArray[np.float64]:
    """[S, B] values at a path of the records, NaN where there is none."""
    betas, seeds = sorted({r["beta"] for r in records}), list(dict.fromkeys(r["seed"] for r in records))
    table = np.full((len(seeds), len(betas)), np.nan)
    for record in records:
        table[seeds.index(record["seed"]), betas.index(record["beta"])] = value_at(record, path)
    return table


def _means(cause: NDArray[np.float64], effect: NDArray[np.float64]) -> tuple[NDArray, NDArray, int]:
    """[B] means of both tables [S, B] over the seeds that have both values at every β, since those are paired, and how
    many there are. Where no seed is complete, over the values that there are; NaN at a β without any."""
    complete = (np.isfinite(cause) & np.isfinite(effect)).all(axis=1)
    rows = complete if complete.any() else np.ones_like(complete)

    def mean(column: NDArray[np.float64]) -> float:
        defined = column[np.isfinite(column)]
        return float(defined.mean()) if defined.size else UNDEFINED

    first, second = (np.array([mean(column) for column in table[rows].T]) for table in (cause, effect))
    return first, second, int(rows.sum())


def _absent(claim: Claim, cause: NDArray[np.float64], effect: NDArray[np.float64]) -> str | None:
    for name, means in ((claim.cause, cause), (claim.effect, effect)):
        if np.isnan(means).any():
            return f"no {name} in these runs" if np.isnan(means).all() else f"no {name} at some β"
    return None
