"""The exactly solvable experiment, against optimisers, integrators and hand-worked cases that know nothing of it; and
what the analysis makes of it, against integrals of the exact curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

import betastar as bs
from betastar.maths.tabular import Path, World, adapt, dpo_optimum, draw_world

TIMES = np.linspace(0.0, 3.0, 7)


def small(seed: int = 0) -> World:
    return draw_world(np.random.default_rng(seed), prompts=3, answers=4, rare=1)


def test_the_optimum_minimises_dpos_loss_over_all_pairs() -> None:
    """Expected loss over every pair of answers, chosen with the annotators' Bradley-Terry probabilities."""
    beta, world = 0.7, small()
    base, reward = log_softmax(world.base[0]), world.preference[0]
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]

    def loss(logits: np.ndarray) -> float:
        ratio = log_softmax(logits) - base
        return -sum(expit(reward[i] - reward[j]) * np.log(expit(beta * (ratio[i] - ratio[j]))) for i, j in pairs)

    found = minimize(loss, world.base[0], method="BFGS", options={"gtol": 1e-9})
    assert log_softmax(found.x) == pytest.approx(dpo_optimum(world, beta)[0], abs=1e-5)


@pytest.mark.parametrize("kappa", [0.0, 0.4, 3.0])
def test_the_closed_form_solves_the_natural_gradients_flow(kappa: float) -> None:
    """d log π/dt = q − E_π q with q = proxy − κ·log(π/start), integrated by another method."""
    world = small()
    start = dpo_optimum(world, 0.5)

    def slope(_: float, log_policy: np.ndarray) -> np.ndarray:
        log_policy = log_policy.reshape(3, 4)
        worth = world.proxy - kappa * (log_policy - start)
        return (worth - (np.exp(log_policy) * worth).sum(1, keepdims=True)).ravel()

    end = solve_ivp(slope, (0, 3), start.ravel(), "LSODA", rtol=1e-10, atol=1e-10).y[:, -1].reshape(3, 4)
    path = adapt(world, start, kappa, TIMES)
    assert path.truth[-1] == pytest.approx((np.exp(end) * world.truth).sum(1).mean(), abs=1e-7)
    assert path.kl[-1] == pytest.approx((np.exp(end) * (end - start)).sum(1).mean(), abs=1e-7)


def test_the_ordinary_gradients_flow_is_the_limit_of_small_steps() -> None:
    """Plain gradient ascent by finite differences of the objective itself."""
    kappa, world = 0.3, small()
    start = dpo_optimum(world, 0.5)

    def objective(logits: np.ndarray) -> float:
        log_policy = log_softmax(logits.reshape(3, 4), axis=1)
        return float((np.exp(log_policy) * (world.proxy - kappa * (log_policy - start))).sum())

    logits, step, h = start.ravel().copy(), 0.01, 1e-5
    for _ in range(100):
        gradient = [(objective(logits + h * e) - objective(logits - h * e)) / (2 * h) for e in np.eye(12)]
        logits += step * np.array(gradient)
    path = adapt(world, start, kappa, [0.0, 1.0], "vanilla")
    by_hand = (softmax(logits.reshape(3, 4), axis=1) * world.truth).sum(1).mean()
    assert path.truth[1] == pytest.approx(by_hand, abs=2e-3)
    assert path.proxy[1] > path.proxy[0] + 0.02


def test_two_answers_by_hand() -> None:
    """Base ½ : ½, the wrong answer worth 1 more: its odds are e^t, and KL = p log 2p + (1−p) log 2(1−p)."""
    world = World(np.zeros((1, 2)), np.array([[1.0, 0.0]]), np.zeros((1, 2)), np.array([[0.0, 1.0]]))
    path = adapt(world, dpo_optimum(world, 1.0), 0.0, [0.0, 1.0, 2.0])
    wrong = np.array([1 / 2, np.e / (1 + np.e), np.e**2 / (1 + np.e**2)])
    assert path.proxy == pytest.approx(wrong)
    assert path.truth == pytest.approx(1 - wrong)
    assert path.proxy_std == pytest.approx(np.sqrt(wrong * (1 - wrong)))
    assert path.kl == pytest.approx(wrong * np.log(2 * wrong) + (1 - wrong) * np.log(2 * (1 - wrong)))
    assert path.kl_base == pytest.approx(path.kl)


def test_a_penalty_holds_the_policy_where_theory_says() -> None:
    """At rest π ∝ start·exp(proxy/κ), for both flows."""
    world = small()
    start = dpo_optimum(world, 1.0)
    rest = np.exp(log_softmax(start + world.proxy / 2.0, axis=1))
    for flow in ("natural", "vanilla"):
        path = adapt(world, start, 2.0, [0.0, 400.0], flow)
        assert path.truth[-1] == pytest.approx((rest * world.truth).sum(1).mean(), abs=1e-4)


@pytest.mark.parametrize("times", [[], [[0.0]], [-1.0, 0.0], [0.0, 0.0], [1.0, 0.5]])
def test_times_that_make_no_sense(times: list[float]) -> None:
    with pytest.raises(ValueError, match="times must be"):
        adapt(small(), dpo_optimum(small(), 1.0), 0.0, times)
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        dpo_optimum(small(), 0.0)


BETAS = (0.1, 0.3, 1.0, 3.0)
STEPS = np.arange(0, 241, 10)


def paths(
    coupling: float | None, problems: int | None, betas: tuple[float, ...] = BETAS, seeds: int = 5
) -> tuple[pd.DataFrame, dict]:
    """Logs of exact runs with κ fixed at 0.05 or `coupling` · β; with `problems`, the truth is counted on so many."""
    noise = np.random.default_rng(1)
    rows: list[tuple[Any, ...]] = []
    exact: dict[tuple[float, int], Path] = {}
    for seed in range(seeds):
        world = draw_world(np.random.default_rng(seed), 128, error=4.0)
        for beta in betas:
            kappa = 0.05 if coupling is None else coupling * beta
            path = adapt(world, dpo_optimum(world, beta), kappa, STEPS / 40)
            exact[beta, seed] = path
            truth = path.truth if problems is None else noise.binomial(problems, path.truth) / problems
            for i, step in enumerate(STEPS):
                rows.append((beta, seed, step, path.proxy[i], path.proxy_std[i], truth[i], path.kl[i]))
    return pd.DataFrame(rows, columns=["beta", "seed", "step", "proxy", "proxy_std", "true", "kl"]), exact


def test_the_analysis_recovers_what_is_known() -> None:
    logs, exact = paths(None, None)
    results = bs.analyze(logs, true="true", proxy="proxy", n=10**12)
    for _, row in results.conditions.iterrows():
        path = exact[float(row.beta), int(row.seed)]
        assert row.end_change == pytest.approx(100 * (path.truth[-1] - path.truth[0]), abs=1e-4)
        assert row.regret == pytest.approx(100 * (path.truth.max() - path.truth[-1]), abs=1e-4)
        lost = np.maximum(path.truth[0] - path.truth, 0)
        assert row.points_lost == pytest.approx(100 * np.trapezoid(lost, STEPS) / STEPS[-1], abs=1e-4)
        start = path.truth[0]
        gap = (path.proxy - path.proxy[0]) / path.proxy_std[0] - (path.truth - start) / np.sqrt(start * (1 - start))
        assert row.augc_standardised == pytest.approx(np.trapezoid(np.maximum(gap, 0), STEPS), rel=1e-4)
        assert row.turnover_step == STEPS[path.truth.argmax()]
    regret = [[100 * (exact[b, s].truth.max() - exact[b, s].truth[-1]) for b in BETAS] for s in range(5)]
    slopes = [np.polyfit(np.log10(BETAS), seed, 1)[0] for seed in regret]
    (decision,) = results.record["decision"].values()
    assert decision["effect"]["slope"]["mean"] == pytest.approx(np.mean(slopes), abs=1e-3)
    assert decision["verdict"] == "rose"
    ends = np.mean([[exact[b, s].truth[-1] for b in BETAS] for s in range(5)], axis=0)
    assert ends.argmax() == 0
    assert decision["choose"]["best"] == BETAS[0]


def test_coupling_the_penalty_to_beta_can_turn_the_answer_round() -> None:
    """Counted on ten million problems: what exact arithmetic says of regret over β, the analysis says, both ways."""
    rising, falling = (0.1, 0.2, 0.3, 0.5), (0.8, 1.2, 1.8, 2.7)
    for coupling, betas, slope, verdict in ((None, rising, 1, "rose"), (0.3, falling, -1, "fell")):
        logs, exact = paths(coupling, 10**7, betas)
        regret = [[exact[b, s].truth.max() - exact[b, s].truth[-1] for b in betas] for s in range(5)]
        assert all(slope * np.diff(np.mean(regret, axis=0)) > 0)
        (decision,) = bs.analyze(logs, true="true", proxy="proxy", n=10**7).record["decision"].values()
        assert decision["verdict"] == verdict
