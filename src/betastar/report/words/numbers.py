"""Numbers as a sentence or a cell has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple, TypeGuard

Json = Mapping[str, Any]


def defined(value: float | str | None) -> TypeGuard[float]:
    """A finite number: neither null or "inf", as in `results.json`, nor NaN, as before it was written."""
    return isinstance(value, int | float) and isfinite(value)


def count(n: int, noun: str) -> str:
    """`1 seed`, `3 seeds`; β has no plural."""
    return f"{n} {noun}{'s' * (n != 1 and noun != 'β')}"


def minus(text: str) -> str:
    """With a true minus sign."""
    return text.replace("-", "−")


def places(*values: float) -> int:
    """Decimals that give the largest of several numbers two digits, at most two."""
    largest = max((abs(v) for v in values if defined(v)), default=0.0)
    return 0 if largest >= 9.95 else 1 if largest >= 0.95 else 2


def listed(names: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f" {last} ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def p_value(p: float) -> str:
    """`p = 0.03`; never 0."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.1g}" if p >= 0.1 else f"p = {p:.2g}"


class Unit(NamedTuple):
    """What a number is divided by before it is shown, and the word behind it."""

    divisor: float
    word: str

    def plain(self, value: float, sign: str = "", digits: int | None = None) -> str:
        """The number alone."""
        shown = value / self.divisor
        return minus(f"{shown:{sign}z.{places(shown) if digits is None else digits}f}")

    def of(self, value: float, sign: str = "", digits: int | None = None) -> str:
        """The number with its unit."""
        number = self.plain(value, sign, digits)
        word = self.word[:-1] if self.word == "points" and number.strip("+−") in ("1", "1.0") else self.word
        return f"{number} {word}".rstrip()

    def bounds(self, low: float, high: float, digits: int | None = None) -> str:
        """`5 to 21`."""
        digits = places(low / self.divisor, high / self.divisor) if digits is None else digits
        return f"{self.plain(low, '', digits)} to {self.plain(high, '', digits)}"

    def with_interval(self, value: float, interval: Json, sign: str = "", per: str = "") -> str:
        """`+6 points per tenfold β (95 % interval 2 to 10)`, all with the same number of decimals."""
        low, high = interval["low"], interval["high"]
        known = defined(low) and defined(high)
        digits = places(*(v / self.divisor for v in ((value, low, high) if known else (value,))))
        bounds = f"95 % interval {self.bounds(low, high, digits)}" if known else f"no interval: {_why(interval)}"
        return f"{self.of(value, sign, digits)}{per} ({bounds})"


POINTS = Unit(1.0, "points")
SCORE = Unit(1.0, "")
HUNDREDTHS = Unit(100.0, "")
"""Of a true reward that is a score: the record gives its changes in hundredths."""


def unit_of_changes(decision: Json) -> Unit:
    """Of what the record gives in percentage points: changes of truth, regret, points lost."""
    return POINTS if decision["truth_unit"] == "pp" else HUNDREDTHS


def unit_of_truth(decision: Json) -> Unit:
    """Of the end truth in a decision: percentage points of a share, or a score as it is."""
    return POINTS if decision["truth_unit"] == "pp" else SCORE


def unit_of_measure(decision: Json) -> Unit:
    """Of the primary measure."""
    return unit_of_changes(decision) if decision["unit"] == "pp" else Unit(1.0, decision["unit"])


def _why(interval: Json) -> str:
    return interval["reason"] or "undefined"


def beta_name(beta: float | None) -> str:
    """A β, or `unknown`."""
    return "unknown" if beta is None else f"{beta:.3g}"


def method_of(results: Json, variant: str) -> str | None:
    """The offline method behind a variant of the record; None in a run that has DPO alone."""
    methods = results.get("methods") or {}
    return next((name for name, method in methods.items() if variant in method["variants"]), None)


def strength_symbol(results: Json, variant: str) -> str:
    """What the knob of a variant's offline objective is called: β but for objectives such as IPO (τ) and ORPO (λ)."""
    method = method_of(results, variant)
    return "β" if method is None else results["methods"][method]["strength"]


def mean_error(entry: Json, digits: int | None = None) -> str:
    """Mean ± standard error; a dash where the mean is undefined."""
    mean, error = entry["mean"], entry["standard_error"]
    if not defined(mean):
        return "–"
    shape = (lambda v: f"{v:.3g}") if digits is None else (lambda v: f"{v:z.{digits}f}")
    if not defined(error):
        return minus(shape(mean))
    spread = shape(error) if digits is not None else f"{error:.0f}" if error >= 100 else f"{error:.2g}"
    return minus(f"{shape(mean)} ± {spread}")


def mean_interval(entry: Json, sign: str = "") -> str:
    """Mean and 95 % interval; a dash where the mean is undefined."""
    if not defined(entry["mean"]):
        return "–"
    low, high = entry["interval"]["low"], entry["interval"]["high"]
    return f"{entry['mean']:{sign}.3g}" + (f" [{low:{sign}.3g}, {high:{sign}.3g}]" if defined(low) else "")
