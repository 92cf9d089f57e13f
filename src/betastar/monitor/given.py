"""The held-out answers of one evaluation as a training loop has them: lists, arrays or tensors, in any order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from betastar.errors import BetastarError
from betastar.monitor.measuring import Array, Sampled
from betastar.record.responses import Grade


class Given(NamedTuple):
    """n answers as they were given: `names` of their problems, `texts` and `prompts` (None if not given), what each is
    worth, and what else is known of them [n]."""

    names: list[str]
    texts: Sequence[str] | None
    prompts: Sequence[Any] | None
    scores: Array
    true: Array
    grades: list[Grade]
    known: dict[str, Array]

    def sampled(self, names: Sequence[str]) -> Sampled:
        """The answers ordered by problem as in `names`, which are all of them; those to one problem as they came."""
        place = {name: i for i, name in enumerate(names)}
        order = self.order(place)
        # The mean of the members (arXiv:2606.30627 Eq. 5); NaN where one gave no score.
        scores = self.scores[:, order]
        return Sampled(
            scores=scores,
            proxy=scores.mean(axis=0),
            true=self.true[order],
            grades=[self.grades[i] for i in order] if self.grades else [],
            answers=len(order) // len(names),
            **{name: values[order] for name, values in self.known.items()},
        )

    def shown(self, names: Sequence[str], count: int) -> list[dict[str, Any]]:
        """The first answers whole, in the same order, for a person to read."""
        if self.texts is None:
            return []
        return [
            {
                "problem": self.names[i],
                **({} if self.prompts is None else {"prompt": self.prompts[i]}),
                "response": self.texts[i],
                "proxy": float(self.scores[:, i].mean()),
                "true": float(self.true[i]),
            }
            for i in self.order({name: i for i, name in enumerate(names)})[:count]
        ]

    def order(self, place: dict[str, int]) -> list[int]:
        """Indices of the answers by the places of their problems."""
        return sorted(range(len(self.names)), key=lambda i: place[self.names[i]])


def given(
    where: str,
    responses: Sequence[str] | None,
    grades: Any,
    proxy: Any,
    problems: Any,
    prompts: Sequence[Any] | None,
    known: dict[str, Any],
) -> Given:
    """Check and convert what `Monitor.record` was given. Raises BetastarError where lengths differ, a grade is no
    number, or one problem has more answers than another."""
    judged = list(_plain(grades))
    n = len(judged)
    if n < 2:
        raise BetastarError(f"has {n} graded responses", where=where, remedy="give at least 2, better 100")
    of_grader = [grade for grade in judged if isinstance(grade, Grade)]
    if of_grader and len(of_grader) < n:
        raise BetastarError("some grades are numbers and others betastar grades", where=where, remedy="give one kind")
    true = np.array([float(grade.strict) for grade in of_grader]) if of_grader else _numbers(where, "grades", judged, n)
    if bad := [i for i in range(n) if not math.isfinite(true[i])]:
        raise BetastarError(
            f"grade {bad[0]} is {judged[bad[0]]!r:.40}", where=where, remedy="give a bool or a finite number for each"
        )
    rows = list(_plain(proxy))
    ensemble = bool(rows) and np.ndim(_plain(rows[0])) > 0
    members = rows if ensemble else [rows]
    scores = np.array([_numbers(where, "proxy", list(_plain(member)), n) for member in members])
    scores[~np.isfinite(scores)] = np.nan
    for name, values in (("responses", responses), ("problems", problems), ("prompts", prompts)):
        if values is not None and len(values) != n:
            raise BetastarError(f"has {n} grades, but {len(values)} {name}", where=where, remedy="give one for each")
    if responses is not None and (wrong := [r for r in responses if not isinstance(r, str)]):
        raise BetastarError(
            f"a response is {wrong[0]!r:.40}", where=where, remedy="give texts, or None to keep no responses"
        )
    names = [str(i) for i in range(n)] if problems is None else [str(_item(name)) for name in problems]
    counts = Counter(names)
    if len(set(counts.values())) > 1:
        few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        raise BetastarError(
            f"problem {few!r:.40} has {counts[few]} of the answers and {many!r:.40} has {counts[many]}",
            where=where,
            remedy="answer every problem equally often",
        )
    if len(counts) < 2:
        raise BetastarError("all answers are to one problem", where=where, remedy="give at least 2, better 100")
    more = {name: _numbers(where, name, list(_plain(v)), n) for name, v in known.items() if v is not None}
    return Given(names, responses, prompts, scores, true, of_grader, more)


def _plain(values: Any) -> Any:
    """A tensor as an array, without importing torch; anything else as it is."""
    return values.detach().cpu().float().numpy() if hasattr(values, "detach") else values


def _item(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _numbers(where: str, name: str, values: Sequence[Any], n: int) -> Array:
    if len(values) != n:
        raise BetastarError(
            f"has {n} grades, but {len(values)} numbers in {name}", where=where, remedy="give one for each"
        )
    try:
        return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
    except (TypeError, ValueError):
        bad = next(value for value in values if not _is_number(value))
        raise BetastarError(f"{name} has {bad!r:.40}", where=where, remedy="give numbers") from None


def _is_number(value: Any) -> bool:
    try:
        float(0 if value is None else value)
    except (TypeError, ValueError):
        return False
    return True
