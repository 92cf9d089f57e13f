"""Acting on the gap: who is stopped, where a policy goes back to, and when κ falls again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from betastar.errors import BetastarError
from betastar.experiment.acting import Acting
from betastar.models.bank import Adapters
from betastar.monitor.gaps import Start, start_of
from betastar.settings.config import load_config
from betastar.settings.phases import Act

N = 60
RIGHT = np.arange(N) % 2
QUIET = {"proxy": np.sin(np.arange(N)), "strict": RIGHT}
HACKED = {"proxy": QUIET["proxy"] + 3, "strict": 0 * RIGHT}  # the proxy rises and the truth falls


def start() -> Start:
    rng = np.random.default_rng(0)
    again = QUIET["proxy"] + rng.normal(0, 0.3, N), np.roll(RIGHT, 1)
    return start_of([(QUIET["proxy"], QUIET["strict"]), again], looks=3)


def acting(*methods: str) -> Acting:
    weights = torch.zeros(len(methods), 2, 1), torch.zeros(len(methods), 1, 2)
    adapters = Adapters({"q": weights[0]}, {"q": weights[1]}, 1.0).trainable()
    acts = [Act.model_validate({"method": m}) for m in methods]
    return Acting(acts, [None if m == "none" else start() for m in methods], adapters)


def update(found: Acting, by: float) -> None:
    with torch.no_grad():
        for weight in found.adapters.parameters():
            weight += by
    found.hold()


def values(found: Acting) -> list[float]:
    return found.adapters.a["q"][:, 0, 0].tolist()


def test_stopping_and_rolling_back() -> None:
    found = acting("none", "stop", "rollback")
    update(found, 1)
    assert [found.look(c, QUIET) for c in range(3)] == [None] * 3
    update(found, 1)
    told = [found.look(c, HACKED) for c in range(3)]
    assert told[0] is None
    assert str(told[1]).endswith("stopped")
    assert "back to the last point without an alarm" in str(told[2])
    assert values(found) == [2, 2, 1]
    update(found, 5)
    assert values(found) == [7, 2, 1]
    assert found.look(1, HACKED) is None  # nothing more to be done
    assert found.stopped.tolist() == [False, True, True]


def test_kappa_rises_at_an_alarm_and_falls_when_it_is_quiet() -> None:
    found = acting("anneal")
    assert found.look(0, HACKED) is not None
    assert found.factor.tolist() == [4]
    assert found.look(0, HACKED) is not None
    assert found.factor.tolist() == [16]
    assert found.look(0, QUIET) is not None
    assert found.look(0, QUIET) is not None
    assert found.look(0, QUIET) is None  # never below what is set
    assert found.factor.tolist() == [1]


def test_a_checkpoint_holds_all_of_it() -> None:
    before, after = acting("stop", "anneal"), acting("stop", "anneal")
    update(before, 1)
    before.look(0, HACKED)
    before.look(1, HACKED)
    after.restore(before.state())
    assert after.stopped.tolist() == [True, False]
    assert after.factor.tolist() == [1, 4]
    update(after, 3)
    assert values(after) == [1, 3]
    assert acting("none").state() == {}


def test_nothing_to_raise_is_one_sentence() -> None:
    with pytest.raises(
        BetastarError, match=r"act\.method anneal raises κ, but kl has no penalty; choose stop or rollback"
    ):
        load_config("micro", ["variants.v={act: {method: anneal}, kl: {coupling: fixed, kappa: 0}}"])
