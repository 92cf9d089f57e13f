"""What sets the strength of the KL penalty of each online condition, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from betastar.maths.algorithms import adapted_coefficient, coefficient_by_uncertainty
from betastar.maths.objectives import kl_coefficient
from betastar.settings.phases import Kl


class Penalty:
    """The coefficients κ of C conditions with these `settings`: β `betas [C]` of their checkpoints, and the `noise [C]`
    of log-ratios there, nats."""

    def __init__(self, settings: Sequence[Kl], betas: Sequence[float], noise: Sequence[float], device: torch.device):
        self.settings, self.betas, self.noise = settings, betas, noise
        self.adapted = torch.tensor([kl.kappa for kl in settings], device=device)
        self.start = torch.zeros(len(settings), device=device)  # û₀, 0 before the first step

    def coefficients(self, log_ratio: Tensor, disagreement: Tensor) -> Tensor:
        """κ `[C]` of a batch with log-ratios `[C, B]` to the checkpoint, and mean `disagreement [C]` of its rewards."""
        self.start = torch.where(self.start == 0, disagreement, self.start)
        return torch.stack([self._of(c, log_ratio[c], disagreement[c]) for c in range(len(self.settings))])

    def _of(self, c: int, log_ratio: Tensor, disagreement: Tensor) -> Tensor:
        kl = self.settings[c]
        if kl.place == "none":
            return torch.zeros_like(log_ratio[0])
        if kl.coupling == "paper":
            beta = torch.tensor(self.betas[c], device=log_ratio.device)
            return kl_coefficient(log_ratio, beta, kl.percentile, self.noise[c])
        if kl.coupling == "uncertainty":
            return coefficient_by_uncertainty(kl.kappa, self.start[c], disagreement, kl.power)
        return self.adapted[c]  # κ itself, if it is fixed

    def step_taken(self, log_ratio: Tensor) -> None:
        """After the update on a batch: move κ where KL has a target."""
        for c, kl in enumerate(self.settings):
            if kl.target is not None:
                kls, count = log_ratio[c].mean(), log_ratio.shape[1]
                self.adapted[c] = adapted_coefficient(self.adapted[c], kls, kl.target, kl.horizon, count)

    def state(self) -> dict[str, Tensor]:
        """What later coefficients depend on, for a checkpoint."""
        return {"penalty.adapted": self.adapted, "penalty.start": self.start}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`, which may hold other tensors too."""
        if "penalty.adapted" in state:  # a checkpoint from before there were such couplings has none
            self.adapted = state["penalty.adapted"].to(self.adapted.device)
            self.start = state["penalty.start"].to(self.start.device)
