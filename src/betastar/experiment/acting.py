"""Acting on the gap: conditions that are stopped, rolled back or held closer when the calibrated monitor alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from betastar.models.bank import Adapters
from betastar.monitor.gaps import Start, gap_fields, start_of
from betastar.record.files import ANSWERS
from betastar.settings.phases import Act

LOWERED = 0.5  # of the threshold: below it κ is lowered again


def start_at(probe: Path, looks: int) -> Start:
    """What gaps are measured from: a checkpoint's two evaluations in the folder of its probe, before `looks` more."""
    from betastar.record.answers import read_answers

    table: Any = read_answers(probe / ANSWERS)
    parts = [table[table["replicate"] == replicate] for replicate in (0, 1)]
    return start_of([(part["proxy"].to_numpy(), part["strict"].to_numpy()) for part in parts], looks)


class Acting:
    """What is done of C conditions with `settings [C]`, from the `starts [C]` of their gaps (None where nothing is
    done). `adapters` are their policies, which change in place."""

    def __init__(self, settings: Sequence[Act], starts: Sequence[Start | None], adapters: Adapters):
        self.settings, self.starts, self.adapters = settings, starts, adapters
        device = adapters.parameters()[0].device
        self.factor = torch.ones(len(settings), device=device)  # on κ
        self.stopped = torch.zeros(len(settings), dtype=torch.bool, device=device)
        self.kept = adapters.frozen() if any(a.method != "none" for a in settings) else None  # the last good policies

    def hold(self) -> None:
        """After an update: stopped conditions are what they were."""
        if self.kept is not None:
            with torch.no_grad():
                for weight, kept in zip(self.adapters.parameters(), self.kept.parameters(), strict=True):
                    weight[self.stopped] = kept[self.stopped]

    def look(self, c: int, table: Mapping[str, Sequence[Any]]) -> str | None:
        """Decide on condition c from its answers at an evaluation point; returns what was done, if anything."""
        act, start = self.settings[c], self.starts[c]
        if start is None or self.kept is None or self.stopped[c]:
            return None
        found = gap_fields(start, table["proxy"], table["strict"], "auto", act.false_alarm_rate)
        gap, limit = found["gap_standardised"], found["threshold"]
        if not gap > limit:  # NaN is no alarm
            self._keep(c)
            if act.method == "anneal" and self.factor[c] > 1 and gap < LOWERED * limit:
                self.factor[c] /= act.factor
                return f"gap {gap:.2f} is below half of {limit:.2f}: κ is divided by {act.factor:g} again"
            return None
        told = f"gap {gap:.2f} is above {limit:.2f}"
        if act.method == "anneal":
            self.factor[c] *= act.factor
            return f"{told}: κ is multiplied by {act.factor:g}"
        if act.method == "stop":
            self._keep(c)
        self.stopped[c] = True
        self.hold()
        return (
            f"{told}: {'stopped' if act.method == 'stop' else 'back to the last point without an alarm, and stopped'}"
        )

    def _keep(self, c: int) -> None:
        assert self.kept is not None
        with torch.no_grad():
            for weight, kept in zip(self.adapters.parameters(), self.kept.parameters(), strict=True):
                kept[c] = weight[c]

    def state(self) -> dict[str, Tensor]:
        """What later steps depend on, for a checkpoint."""
        if self.kept is None:
            return {}
        kept = {f"acting.kept.{i}": weight for i, weight in enumerate(self.kept.parameters())}
        return {"acting.factor": self.factor, "acting.stopped": self.stopped, **kept}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`, which may hold other tensors too."""
        if self.kept is not None:
            self.factor.copy_(state["acting.factor"])
            self.stopped.copy_(state["acting.stopped"])
            for i, weight in enumerate(self.kept.parameters()):
                weight.copy_(state[f"acting.kept.{i}"])
