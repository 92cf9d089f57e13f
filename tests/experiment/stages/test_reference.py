"""The β of a run from the base's log-ratios."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from betastar.experiment.stages.reference import beta_grid
from betastar.experiment.store import Artefact
from betastar.settings.phases import Grid


def test_percentiles_may_be_listed_in_any_order(tmp_path: Path) -> None:
    """|Δ| of 1, 2, 3, 4, 5: the median 3, so percentiles 25, 50 and 75 are 2/3, 1 and 4/3."""
    chosen = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    save_file({"train": torch.stack([chosen, torch.zeros(5)])}, tmp_path / "logprobs.safetensors")
    reference = Artefact("reference", "key", tmp_path, {})
    for percentiles in ((25.0, 50.0, 75.0), (75.0, 25.0, 50.0)):
        grid = beta_grid(Grid(method="percentiles", percentiles=percentiles), reference)
        assert grid == [0.666667, 1.0, 1.33333]
