"""Tiny random models and banks. Weights and adapters are large on purpose: distributions are peaked and differ.

BETASTAR_TEST_DEVICE puts the models on another device than the CPU: `BETASTAR_TEST_DEVICE=cuda pytest tests/models`.
What a test file needs beyond betastar's own dependencies may be missing on a GPU machine; such files are left out, and
the header says so.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from betastar.models import batch, decoding
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.random_models import build_model
from betastar.models.sequences import Row
from betastar.randomness import torch_generator
from betastar.settings.sections import Geometry

VOCABULARY = 64
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
NEEDS = {"test_sequences.py": "hypothesis", "test_tiny.py": "hypothesis", "test_trl_engine.py": "trl"}
collect_ignore = [name for name, package in NEEDS.items() if importlib.util.find_spec(package) is None]


def pytest_report_header() -> list[str]:
    return [f"{name} is left out: {NEEDS[name]} is not installed" for name in collect_ignore]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where models and batches are."""
    return torch.device(os.environ.get("BETASTAR_TEST_DEVICE", "cpu"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Products of this size gain nothing from threads and lose much to them when the cores are shared."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_model(device: torch.device) -> Callable[[], Any]:
    """Fresh copies of one and the same tiny model; also what PEFT wraps, so that no bank is plugged into it."""
    geometry = Geometry(
        hidden_size=32,
        intermediate_size=48,
        layers=2,
        heads=4,
        key_value_heads=2,
        context=128,
        initializer_range=0.25,
    )
    return lambda: build_model(geometry, VOCABULARY, root_seed=0).to(device)


@pytest.fixture
def bank(make_model: Callable[[], Any]) -> AdapterBank:
    return AdapterBank(make_model(), TARGETS, rank=4, alpha=6)


@pytest.fixture(scope="session")
def random_adapters() -> Callable[..., Adapters]:
    """`random_adapters(bank, C)`: adapters of which each changes the base in its own way, the same on every device."""

    def make(bank: AdapterBank, conditions: int, seed: int = 0) -> Adapters:
        adapters = bank.create(range(conditions))
        for name, b in adapters.b.items():
            b.copy_(torch.empty(b.shape).normal_(std=0.3, generator=torch_generator(seed, name)))
        return adapters

    return make


@pytest.fixture
def adapters(bank: AdapterBank, random_adapters: Callable[..., Adapters]) -> Adapters:
    return random_adapters(bank, 3)


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., list[Row]]:
    """`make_rows(n, seed)`: rows of random tokens and lengths; token 0 is left for padding."""

    def make(n: int, seed: int = 0) -> list[Row]:
        rng = np.random.default_rng(seed)
        return [
            Row(*(rng.integers(1, VOCABULARY, length).tolist() for length in rng.integers(2, 12, size=2)))
            for _ in range(n)
        ]

    return make


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and widths of a few columns, so that responses pass through several and a batch runs out of them."""
    monkeypatch.setattr(decoding, "LEAST_AHEAD", 3)
    for module in (decoding, batch):
        monkeypatch.setattr(module, "BLOCK", 4)
