"""The links of the paper's chain: signs and exact p-values by hand, the paper's own numbers, and what is missing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from betastar.analysis.chain import CLAIMS, chain, chains
from betastar.analysis.conditions import condition_records


def record(beta: float, seed: int = 0, variant: str = "a", **values: Any) -> dict[str, Any]:
    """A condition; every quantity is its β unless given, r(û, gap) is +0.5."""
    value = {
        name: values.get(name, beta) for name in ("entropy", "collapse", "diversity", "ood", "u", "u_centred", "augc")
    }
    return {
        "variant": variant,
        "beta": beta,
        "seed": seed,
        "policy_entropy": {"checkpoint": value["entropy"], "collapse": value["collapse"]},
        "diversity": {"start": value["diversity"], "mean": 99.0},
        "ood_distance": {"start": value["ood"], "mean": 99.0},
        "disagreement": {"start": 99.0, "mean": value["u"]},
        "disagreement_centred": {"start": 99.0, "mean": value["u_centred"]},
        "augc_standardised": value["augc"],
        "uq_gap_correlation_standardised": values.get("r", 0.5),
    }


def link(links: list[dict[str, Any]], cause: str, effect: str) -> dict[str, Any]:
    return next(found for found in links if (found["cause"], found["effect"]) == (cause, effect))


def test_the_papers_own_numbers_decide_nothing() -> None:
    # Figures 4b and 6 and Table 1, read off: entropy 0.82 to 0.81, collapse +0.004, 0, −0.0025, distance 0.175 to
    # 0.163, û 1.80, 2.03, 2.09, AUGC 31.1, 43.0, 145.8. Values between, where only the ends are printed, are ours.
    paper = [
        record(0.310, entropy=0.820, collapse=0.004, ood=0.175, u=1.80, augc=31.1),
        record(1.000, entropy=0.815, collapse=0.0, ood=0.170, u=2.03, augc=43.0),
        record(2.379, entropy=0.810, collapse=-0.0025, ood=0.163, u=2.09, augc=145.8),
    ]
    links = chain(paper)
    for found in links:
        # What we say that its numbers show is what they show.
        if found["paper_measured"] is not None:
            assert found["measured"] == found["paper_measured"], found["effect"]
    across = [found for found in links if found["statistic"] == "ρ across β"]
    assert len(across) == len(CLAIMS)
    for found in across:
        # Three points: of 3! = 6 orders, the one seen and its reverse are as extreme.
        assert abs(found["value"]) == 1
        assert found["p_two_sided"] == pytest.approx(1 / 3)
        assert found["smallest_p"] == pytest.approx(1 / 3)
        assert (found["n"], found["agreement"]) == (3, "undecided")
    # E1 and E9: where the paper states one sign and its numbers have the other, a note says so.
    against = {(f["cause"], f["effect"]) for f in links if f["paper_measured"] == -f["stated"]}
    assert against == {
        ("β", "entropy collapse"),
        ("entropy", "OOD distance"),
        ("β", "OOD distance"),
        ("OOD distance", "û"),
    }
    assert all(f["note"] for f in links if (f["cause"], f["effect"]) in against)
    assert "E1" in link(links, "β", "entropy")["note"]


def test_five_beta_can_agree_or_oppose() -> None:
    betas = [0.1, 0.3, 1.0, 3.0, 10.0]
    # Entropy falls with β as stated; distance, said to rise, falls; diversity in the order 2 1 3 4 5.
    diversity = dict(zip(betas, (2, 1, 3, 4, 5), strict=True))
    links = chain([record(b, entropy=-b, ood=-b, diversity=diversity[b]) for b in betas])
    falls = link(links, "β", "entropy")
    assert (falls["value"], falls["agreement"]) == (-1, "agrees")
    assert falls["p_two_sided"] == pytest.approx(2 / 120)  # 5! orders, this one and its reverse
    assert link(links, "β", "OOD distance")["agreement"] == "opposite"
    assert link(links, "β", "AUGC")["agreement"] == "agrees"
    # Entropy −1 … −5 in ranks against diversity: Σd² of 5 4 3 2 1 and 2 1 3 4 5 is 9 + 9 + 0 + 4 + 16 = 38,
    # ρ = 1 − 6·38/120 = −0.9. With |ρ| ≥ 0.9: the identity, four neighbour swaps, and their reverses, 10 of 120.
    swapped = link(links, "entropy", "diversity")
    assert swapped["value"] == pytest.approx(-0.9)
    assert swapped["p_two_sided"] == pytest.approx(10 / 120)
    assert swapped["agreement"] == "undecided"


def test_means_are_over_seeds_that_have_both_values_everywhere() -> None:
    # Seed 0 says AUGC rises with û; seed 1, alone at two β, would turn the means round.
    records = [record(b, seed=0) for b in (1.0, 2.0, 3.0)]
    records += [record(b, seed=1, augc=100 - 40 * b) for b in (1.0, 2.0)]
    found = link(chain(records), "β", "AUGC")
    assert (found["value"], found["n_seeds"]) == (1, 1)
    # Means of two whole seeds: 1 + 9, 2 + 4, 3 + 2 fall.
    both = [record(b, seed=0) for b in (1.0, 2.0, 3.0)]
    both += [record(b, seed=1, augc=augc) for b, augc in ((1.0, 9.0), (2.0, 4.0), (3.0, 2.0))]
    found = link(chain(both), "β", "AUGC")
    assert (found["value"], found["n_seeds"]) == (-1, 2)
    # A seed per β, none of them whole: what there is.
    single = [record(b, seed=int(b)) for b in (1.0, 2.0, 3.0)]
    assert link(chain(single), "β", "AUGC")["value"] == 1


def test_the_sign_of_the_correlation_within_runs_is_tested_over_seeds() -> None:
    # Six seeds, each with mean r of its two β below 0: 2 of 2⁶ outcomes are as extreme.
    records = [record(b, seed=s, r=-0.1 * b) for s in range(6) for b in (1.0, 3.0)]
    found = chain(records)[-1]
    assert (found["cause"], found["effect"], found["statistic"]) == ("û", "gap", "mean r within runs")
    assert found["value"] == pytest.approx(-0.2)
    assert found["p_two_sided"] == found["smallest_p"] == pytest.approx(2 / 64)
    assert (found["n"], found["agreement"]) == (6, "opposite")
    # One seed above, one below: 1.
    mixed = chain([record(1.0, seed=0, r=0.4), record(1.0, seed=1, r=-0.2)])[-1]
    assert (mixed["value"], mixed["p_two_sided"], mixed["agreement"]) == (pytest.approx(0.1), 1, "undecided")


def test_what_is_missing_is_undefined_with_a_reason() -> None:
    bare = [
        {"variant": "a", "beta": b, "seed": 0, "augc_standardised": b, "disagreement": None} for b in (1.0, 2.0, 3.0)
    ]
    links = chain(bare)
    assert link(links, "β", "AUGC")["value"] == 1
    for cause, effect, reason in (
        ("β", "entropy", "no entropy in these runs"),
        ("û", "AUGC", "no û in these runs"),
        ("û", "gap", "r(û, gap) is undefined in every run"),
    ):
        found = link(links, cause, effect)
        assert found["reason"] == reason
        assert found["agreement"] == f"undefined: {reason}"
        assert math.isnan(found["value"])
        assert found["measured"] is None
    bare[0]["policy_entropy"] = {"checkpoint": 1.0}
    assert link(chain(bare), "β", "entropy")["reason"] == "no entropy at some β"
    assert link(chain([record(1.0)]), "β", "û")["reason"] == "a correlation needs 2 pairs, there are 1"
    flat = chain([record(b, u=1.0) for b in (1.0, 2.0, 3.0)])
    assert link(flat, "β", "û")["reason"] == "one side is constant"


def test_many_beta_draw_orders_by_the_root_seed() -> None:
    records = [record(float(b)) for b in range(1, 13)]
    first, again = (link(chain(records, root_seed=3), "β", "AUGC") for _ in range(2))
    assert first == again
    assert first["smallest_p"] is None  # not exact: no closed form to tell
    assert first["agreement"] == "agrees"


def test_one_table_per_variant() -> None:
    records = [record(b, variant=v, augc=b if v == "x" else -b) for v in "xy" for b in (1.0, 2.0, 3.0)]
    tables = chains(records)
    assert {v: link(links, "β", "AUGC")["value"] for v, links in tables.items()} == {"x": 1, "y": -1}


def test_it_reads_the_records_of_evaluation_points() -> None:
    # Diversity and distance count at the checkpoint, û as the mean of the phase: û 1, 3 at β = 1 and 2, 6 at β = 2.
    points = [
        {
            "variant": "a",
            "beta": beta,
            "seed": 0,
            "step": step,
            "n": 10,
            "proxy": step * beta,
            "proxy_std": 1.0,
            "correct_strict": 5,
            "true_strict": 0.5,
            "true_lenient": 0.5,
            "disagreement": beta * (1 + 2 * step),
            "response_entropy": 1.0,
            "policy_entropy": 3.0 - beta,
            "response_tokens": 8.0,
            "at_limit": 0.0,
            "unparsable": 0.0,
            "kl": float(step),
            "ood_distance": beta - 9 * step,
            "diversity": -beta,
        }
        for beta in (1.0, 2.0, 4.0)
        for step in (0, 1)
    ]
    links = chain(condition_records(pd.DataFrame(points), {}).conditions)
    measured = {(f["cause"], f["effect"]): f["measured"] for f in links}
    assert measured["β", "entropy"] == measured["β", "û"] * -1 == -1
    assert measured["β", "OOD distance"] == measured["entropy", "diversity"] == 1
    assert measured["diversity", "û"] == -1
    assert np.isnan(link(links, "û centred", "AUGC")["value"])
