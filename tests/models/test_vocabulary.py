"""A model whose vocabulary is padded behaves as the same model without the padding rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from betastar.models.bank import AdapterBank
from betastar.models.generation import generate
from betastar.models.logprobs import hide_padding, lm_head, response_logprobs, token_statistics
from betastar.models.sequences import Row, right_pad

REAL = 20  # of 64 tokens


@pytest.fixture
def padded(make_model: Callable[[], Any]) -> AdapterBank:
    model = make_model()
    hide_padding(model, REAL)
    return AdapterBank(model, "attention", rank=2, alpha=2)


def test_probability_and_gradient_are_those_of_the_cut_head(padded: AdapterBank) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 32, generator=generator).to(padded.device)
    targets = torch.randint(REAL, (9,), generator=generator).to(padded.device)
    weight = padded.model.lm_head.weight[:REAL]
    logprobs = (hidden @ weight.T).log_softmax(-1)
    stats = token_statistics(hidden, targets, lm_head(padded.model))
    torch.testing.assert_close(stats.logprob, logprobs[torch.arange(9), targets])
    torch.testing.assert_close(stats.entropy, torch.distributions.Categorical(logits=logprobs).entropy())


def test_sampled_tokens_have_a_text_and_the_log_probability_of_a_whole_pass(padded: AdapterBank) -> None:
    prompts = [[3, 4, 5], [7, 8]]
    samples = generate(padded, None, [prompts * 8], [list(range(16))], end_tokens=[0], pad=0, max_new_tokens=12)[0]
    assert max(token for sample in samples for token in sample.tokens) < REAL
    rows = right_pad([Row(x, s.tokens) for x, s in zip(prompts * 8, samples, strict=True)], 0, padded.device)
    with torch.no_grad():
        whole = response_logprobs(padded.model, rows)
    torch.testing.assert_close(torch.tensor([s.logprob for s in samples]), whole.cpu(), rtol=1e-4, atol=1e-3)
    assert all(torch.isfinite(torch.tensor([s.logprob, s.entropy])).all() for s in samples)
