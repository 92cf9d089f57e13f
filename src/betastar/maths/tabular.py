"""A policy over a few answers per prompt whose whole experiment is known exactly: DPO's optimum, gradient flow online,
and every reward and divergence along the way. What the measures say of it can be checked against the truth.

Shapes: P prompts, M answers to each, T times. Rewards and logits are `[P, M]`; prompts are equally likely.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp
from scipy.special import log_softmax

Array = NDArray[np.float64]
Flow = Literal["natural", "vanilla"]
PRECISION = 1e-9  # relative error of the integrated flow


class World(NamedTuple):
    """`base`: logits of the base policy. `truth`: the true reward. `preference`: the reward by which annotators choose
    (Bradley-Terry). `proxy`: the reward model's score. All `[P, M]`."""

    base: Array
    truth: Array
    preference: Array
    proxy: Array


class Path(NamedTuple):
    """Exact means over prompts and answers, each `[T]`: the rewards, the standard deviation of the proxy over all
    responses, and KL(π_t‖π^(β)) and KL(π_t‖π⁽⁰⁾) in nats."""

    times: Array
    proxy: Array
    proxy_std: Array
    truth: Array
    kl: Array
    kl_base: Array


def draw_world(
    rng: np.random.Generator,
    prompts: int = 64,
    answers: int = 8,
    *,
    rare: int = 4,
    rarity: float = 6.0,
    style: float = 1.0,
    error: float = 2.0,
    covered: bool = True,
) -> World:
    """A random world. Of the `answers` to a prompt, `rare` are nonsense: wrong, and e^rarity times less likely under
    the base policy; about a third of the others are right.

    Annotators prefer right answers by 2 nats, nonsense less than anything else by 2, and the rest by style, whose
    standard deviation is `style` nats. The proxy knows their taste up to 0.3 nats, but not for nonsense, of which its
    training pairs had next to none: there its score has an error of standard deviation `error`. With `covered` false
    neither does the offline step know that annotators dislike nonsense, as its pairs are the same.
    """
    shape = (prompts, answers)
    nonsense = np.arange(answers) >= answers - rare
    truth = np.where(nonsense, 0.0, rng.random(shape) < 0.35)
    base = rng.normal(0.0, 1.0, shape) - rarity * nonsense
    taste = 2.0 * truth + style * rng.normal(0.0, 1.0, shape) - 2.0 * nonsense
    proxy = taste + np.where(nonsense, error, 0.3) * rng.normal(0.0, 1.0, shape)
    return World(base, truth, np.where(nonsense & (not covered), 0.0, taste), proxy)


def dpo_optimum(world: World, beta: float) -> Array:
    """log π^(β), `[P, M]`: π⁽⁰⁾·exp(preference/β), normalised, the minimum of DPO's loss over all policies with as many
    pairs as one likes (Rafailov et al. 2023, Eq. 4). Raises ValueError unless β is positive."""
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    return log_softmax(world.base + world.preference / beta, axis=1)


def adapt(world: World, start: Array, kappa: float, times: ArrayLike, flow: Flow = "natural") -> Path:
    """Gradient flow on E_π[proxy] − κ·KL(π‖start), from `start` = log π^(β), observed at `times` `[T]`, which begin at
    0 or later and rise.

    "natural" follows the natural gradient (the limit of exact policy-mirror-descent steps), which has a closed form:
    π_t ∝ start·exp(s·proxy) with s = (1 − e^(−κt))/κ, or t without a penalty. "vanilla" follows the ordinary gradient
    of the logits, integrated to a relative error of 1e-9.
    """
    when = np.asarray(times, dtype=np.float64)
    if when.ndim != 1 or not when.size or when[0] < 0 or np.any(np.diff(when) <= 0):
        raise ValueError("times must be [T], not negative, and strictly increase")
    if flow == "natural":
        tilt = when if kappa == 0 else -np.expm1(-kappa * when) / kappa
        log_policy = log_softmax(start + tilt[:, None, None] * world.proxy, axis=2)
    else:
        log_policy = _vanilla(world.proxy, start, kappa, when)
    return _observe(world, start, log_policy, when)


def _vanilla(proxy: Array, start: Array, kappa: float, when: Array) -> Array:
    """log π `[T, P, M]`. The gradient of logit a is π_a·(q_a − Σ π·q) with q = proxy − κ·log(π/start)."""

    def slope(_: float, logits: Array) -> Array:
        log_policy = log_softmax(logits.reshape(proxy.shape), axis=1)
        policy = np.exp(log_policy)
        worth = proxy - kappa * (log_policy - start)
        return (policy * (worth - (policy * worth).sum(axis=1, keepdims=True))).ravel()

    found = solve_ivp(slope, (0.0, when[-1]), start.ravel(), "DOP853", when, rtol=PRECISION, atol=PRECISION)
    return log_softmax(found.y.T.reshape(-1, *proxy.shape), axis=2)


def _observe(world: World, start: Array, log_policy: Array, when: Array) -> Path:
    policy = np.exp(log_policy)

    def mean(values: Array) -> Array:
        return (policy * values).sum(axis=2).mean(axis=1)

    base = log_softmax(world.base, axis=1)
    proxy = mean(world.proxy)
    variance = mean((world.proxy - proxy[:, None, None]) ** 2)
    return Path(
        when,
        proxy,
        np.sqrt(variance),
        mean(world.truth),
        mean(log_policy - start),
        mean(log_policy - base),
    )
