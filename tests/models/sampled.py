"""Sampling by steps that grow or have fixed shapes, and what must be equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from betastar.models import repeated
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.generation import generate
from betastar.randomness import stream_key
from betastar.record.responses import Response

ENDS = list(range(40, 48))  # one token in eight ends a response
LIMIT = 20


def sampled(
    bank: AdapterBank, adapters: Adapters | None, prompts: list[list[list[int]]], fixed: bool, **settings: Any
) -> list[list[Response]]:
    """Conditions share the noise of a prompt's place, at whatever step of the batch they come to it."""
    keys = [[stream_key(0, "row", b) for b in range(len(group))] for group in prompts]
    settings = {"end_tokens": ENDS, "pad": 0, "max_new_tokens": LIMIT, **settings}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeated, "FIXED_SHAPES", fixed)
        return generate(bank, adapters, prompts, keys, **settings)


def assert_same(ours: list[list[Response]], theirs: list[list[Response]]) -> None:
    for mine, its in zip((r for g in ours for r in g), (r for g in theirs for r in g), strict=True):
        assert mine.prompt == its.prompt
        assert mine.tokens == its.tokens
        assert mine.hit_limit == its.hit_limit
        assert mine.logprob == pytest.approx(its.logprob, rel=1e-4, abs=1e-4)
        assert mine.entropy == pytest.approx(its.entropy, rel=1e-4, abs=1e-4)


def model_of(config: PreTrainedConfig, device: torch.device) -> Any:
    """Random weights, large enough for distributions to be peaked."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        for weight in model.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.25)
    return model.eval().to(device)
