"""Online adaptation: properties of Eq. 8-10 on the smallest real run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_pipeline import TINY

from betastar import pipeline
from betastar.config import load_config

VARIANTS = "variants={free: {kl: {coupling: fixed, kappa: 0}}, paper: {kl: {coupling: paper}}}"


def weights(folder: Path, condition: str) -> torch.Tensor:
    tensors = load_file(folder / "adapters" / "online" / condition / "adapter_model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.fixture(scope="module")
def one_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.report, "run", lambda ctx, results: None)  # nobody looks at it here
        pipeline.run(load_config("micro", [*TINY, VARIANTS, "variants.fixed=null", "online.steps=1"]), folder)
    return folder


def test_the_penalty_does_not_act_on_the_first_step(one_step: Path) -> None:
    """At the checkpoint d = 0, so κ·d² has no gradient, however large κ = β / (0 + ε) is. This holds only where the
    policy's and the reference's passes agree to the last bit."""
    for condition in ("beta-0.1-seed-0", "beta-1-seed-1"):
        free, paper = (weights(one_step, f"{variant}-{condition}") for variant in ("free", "paper"))
        torch.testing.assert_close(paper, free, rtol=1e-4, atol=1e-7)
