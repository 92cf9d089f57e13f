"""Every word of a verdict, from the intervals that carry it."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import pytest

from betastar.maths.verdict import WORDS, Evidence, Measured, verdict

UP, FLAT, DOWN = Measured(10.0, 6.0, 14.0), Measured(0.5, -3.0, 4.0), Measured(-12.0, -16.0, -8.0)
WIDE, UNKNOWN = Measured(1.0, -9.0, 11.0), Measured(1.0, nan, nan)
NO_LOSS, LOSS = Measured(0.0, -4.0, 4.0), Measured(13.0, 9.0, 17.0)
ROSE, STILL, FELL = Measured(1.2, 0.9, 1.5), Measured(0.1, -0.2, 0.4), Measured(-0.8, -1.1, -0.5)
CALM = Evidence(change=FLAT, regret=NO_LOSS, rise=STILL, rise_since=STILL, peak_step=70.0)


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        ({}, "unmoved"),
        ({"rise": FELL, "rise_since": FELL}, "unmoved"),
        ({"rise": ROSE, "rise_since": ROSE}, "weak proxy"),
        ({"change": UP}, "improved"),
        ({"change": UP, "rise": ROSE, "rise_since": ROSE}, "improved"),
        ({"change": UP, "regret": Measured(4.0, 1.0, 7.0), "rise": ROSE, "rise_since": ROSE}, "improved"),  # kept 10
        ({"change": UP, "regret": LOSS, "rise": ROSE, "rise_since": ROSE}, "hacked"),  # lost 13, kept 10
        ({"change": FLAT, "regret": LOSS, "rise": ROSE, "rise_since": ROSE}, "hacked"),
        ({"change": WIDE, "regret": LOSS, "rise": ROSE, "rise_since": STILL}, "hacked"),
        ({"change": FLAT, "regret": LOSS, "rise": ROSE, "rise_since": FELL}, "degraded"),  # both fell from the peak
        ({"change": DOWN, "regret": LOSS, "rise": ROSE, "rise_since": FELL}, "hacked"),  # worse truth, higher proxy
        ({"change": DOWN, "rise": ROSE, "rise_since": ROSE}, "hacked"),
        ({"change": DOWN}, "degraded"),
        ({"change": DOWN, "rise": UNKNOWN, "rise_since": UNKNOWN}, "not distinguishable"),
        ({"change": WIDE, "rise": ROSE}, "not distinguishable"),
        ({"change": FLAT, "rise": UNKNOWN}, "not distinguishable"),
        ({"change": UNKNOWN, "regret": LOSS}, "not distinguishable"),
        ({"change": FLAT, "unmoved": 2.0}, "not distinguishable"),
        # Where the proxy is the truth, only the truth counts.
        ({"change": DOWN, "rise": FELL, "rise_since": FELL, "proxy_is_truth": True}, "degraded"),
        ({"regret": LOSS, "rise": ROSE, "rise_since": ROSE, "proxy_is_truth": True}, "degraded"),
        ({"change": UP, "rise": ROSE, "proxy_is_truth": True}, "improved"),
        ({"rise": ROSE, "proxy_is_truth": True}, "unmoved"),
    ],
)
def test_words(seen: dict, word: str) -> None:
    found = verdict(replace(CALM, **seen))
    assert found.word == word
    assert word in WORDS
    if seen.get("proxy_is_truth"):
        assert found.reason.endswith("the proxy is the true reward, so nothing can be hacked")


def test_the_reason_has_the_numbers() -> None:
    hacked = verdict(replace(CALM, change=DOWN, regret=LOSS, rise=ROSE, rise_since=ROSE))
    assert hacked.reason == (
        "the truth changed by −12.0 points (95 % −16.0 to −8.0), and it has lost 13.0 points (95 % 9.0 to 17.0) since "
        "its best at step 70, while the proxy rose"
    )


def test_a_weak_proxy_is_told_from_one_that_promised() -> None:
    rose = replace(CALM, rise=ROSE, rise_since=ROSE)
    assert verdict(replace(rose, promised=1.5)).reason.endswith("it promised +1.5 points")
    assert verdict(replace(rose, promised=30.0)).reason.endswith("it promised +30.0 points, and did not keep it")
