"""What is measured at an evaluation point, a row of `metrics.jsonl`, and a kept response, a row of `samples.jsonl`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import inf, isnan, nan
from typing import Any

from betastar.record.measures import EXTREMES, LEVEL, Kind, Level, Measure


def _measured(level: Level, meaning: str, *, default: Any = nan, kind: Kind = "number", **entry: Any) -> Any:
    """A field with its entry in the registry, which takes its name from the field."""
    told = {"level": level, "meaning": meaning, "kind": kind, **entry}
    return field(default=default, metadata={"measure": told})


def _point(meaning: str, **entry: Any) -> Any:
    return _measured("point", meaning, **entry)


def _response(meaning: str, **entry: Any) -> Any:
    return _measured("response", meaning, **entry)


@dataclass(frozen=True, kw_only=True)
class EvaluationPoint:
    """One policy on the held-out problems at one step: means over its n responses, the same number to each problem. NaN
    and None are what was not measured. Every field is an entry in the registry of measures."""

    step: int = _point("online steps taken; 0 is the checkpoint", default=0, kind="count", unit="steps", low=0)
    n: int | None = _point("number of responses, over all problems", default=None, kind="count", low=1)
    answers: int | None = _point(
        "responses to each problem; n divided by it is the number of problems", default=None, kind="count", low=1
    )
    proxy: float = _point(
        "proxy reward, which adaptation optimises: the ensemble's mean score",
        symbol="proxy reward",
        source="Eq. 9",
        kept=EXTREMES,
    )
    true_strict: float = _point(
        "true reward: share of responses whose stated answer is exactly right",
        symbol="true reward",
        better="higher",
        low=0,
        high=1,
        kept=EXTREMES,
    )
    true_lenient: float = _point(
        "the same with a lenient grader that ignores formatting",
        symbol="true reward, lenient",
        better="higher",
        low=0,
        high=1,
        needs="a second, lenient grading",
        refinement=True,
        kept=EXTREMES,
    )
    proxy_std: float = _point(
        "standard deviation of the proxy reward over responses",
        symbol="proxy sd",
        low=0,
        in_series=True,
        warns=-1,
        warns_because="not in the paper; the direction (narrower) is our choice",
    )
    disagreement: float = _point(
        "û: standard deviation of the members' scores, mean over responses",
        symbol="û",
        better="lower",
        source="Eq. 13",
        needs="an ensemble of reward models",
        low=0,
        kept=LEVEL,
        warns=1,
        warns_because="paper, Figure 2 and section 5.3: high û is the exploitable gap",
    )
    disagreement_centred: float = _point(
        "û after subtracting each member's mean on validation pairs: a Bradley–Terry reward is defined up to a "
        "constant, and raw û also measures how far apart those constants happen to lie",
        symbol="û centred",
        better="lower",
        needs="the scores of every member on validation pairs",
        refinement=True,
        low=0,
        kept=LEVEL,
        warns=1,
        warns_because="as û, without the members' arbitrary constants",
    )
    response_entropy: float = _point(
        "entropy of the policy at the sampled tokens, mean over a response's tokens",
        symbol="response entropy",
        unit="nats",
        low=0,
        kept=LEVEL,
        warns=-1,
        warns_because="paper, Figure 2 and section 5.1: entropy is compressed",
    )
    ood_distance: float = _point(
        "cosine distance of responses from the centroid of the reward models' training data",
        symbol="OOD distance",
        source="Eq. 12",
        needs="embeddings of responses",
        low=0,
        high=2,
        kept=LEVEL,
        warns=1,
        warns_because="paper, Figure 2: out of distribution; its section 5.2 measures closer (errata E9)",
    )
    diversity: float = _point(
        "mean pairwise cosine distance between the responses to all problems; that of the problems is in it",
        symbol="diversity",
        needs="embeddings of responses",
        low=0,
        high=2,
        kept=LEVEL,
        warns=-1,
        warns_because="paper, Figure 2 and section 5.2: low diversity",
    )
    prompt_diversity: float = _point(
        "mean pairwise cosine distance between responses to the same problem, mean over problems",
        symbol="diversity within a prompt",
        needs="two responses or more to each problem (evaluation.answers)",
        refinement=True,
        low=0,
        high=2,
        kept=LEVEL,
    )
    distinct_bigrams: float = _point(
        "distinct pairs of neighbouring tokens over all such pairs in the responses",
        symbol="distinct-2",
        source="arXiv:1510.03055",
        needs="the responses' tokens",
        refinement=True,
        low=0,
        high=1,
        kept=LEVEL,
    )
    response_tokens: float = _point(
        "tokens in a response",
        symbol="response length",
        unit="tokens",
        low=0,
        kept=LEVEL,
        warns=1,
        warns_because="not in the paper; the direction (longer) is our choice",
    )
    policy_entropy: float = _point(
        "entropy of the next token on the fixed probe prompts",
        symbol="policy entropy",
        unit="nats",
        source="Eq. 11",
        low=0,
        kept=("checkpoint", "end", "collapse"),
    )
    kl: float = _point(
        "log π_θ − log π_ref of a response, mean over responses; π_ref is the checkpoint",
        symbol="KL",
        title="KL to the checkpoint",
        unit="nats",
        needs="a reference policy",
        kept=("end", "highest"),
        warns=1,
        warns_because="paper, section 2.2: drift from the reference",
    )
    kl_error: float = _point(
        "standard error of the KL to the checkpoint, over problems",
        symbol="error of KL",
        unit="nats",
        needs="log-ratios of single responses",
        refinement=True,
        low=0,
        in_series=True,
    )
    kl_k3: float = _point(
        "the same KL by k3, the mean of exp(−d) − 1 + d with d = log π_θ − log π_ref of the policy's own responses: "
        "never negative, and as unbiased",
        symbol="KL, k3",
        unit="nats",
        source="Schulman 2020",
        needs="log-ratios of single responses",
        refinement=True,
        low=0,
        in_series=True,
    )
    kl_base: float = _point(
        "log π_θ − log π⁽⁰⁾ of a response, mean over responses; π⁽⁰⁾ is the base. At the start: how far the offline "
        "phase went, which is how conservative the checkpoint is",
        symbol="KL from the base",
        title="KL from the base",
        unit="nats",
        needs="the base policy",
        refinement=True,
        kept=("start", "end", "highest"),
    )
    kl_base_error: float = _point(
        "standard error of the KL from the base, over problems",
        symbol="error of KL from the base",
        unit="nats",
        needs="log-ratios of single responses to the base",
        refinement=True,
        low=0,
        in_series=True,
    )
    kl_base_k3: float = _point(
        "the KL from the base by k3",
        symbol="KL from the base, k3",
        unit="nats",
        source="Schulman 2020",
        needs="log-ratios of single responses to the base",
        refinement=True,
        low=0,
        in_series=True,
    )
    ranking: float = _point(
        "area under the ROC of the proxy for right against wrong responses to the same problem, mean over the problems "
        "with both; ½ is chance",
        symbol="ranking within problems",
        better="higher",
        needs="two responses or more to each problem (evaluation.answers)",
        refinement=True,
        low=0,
        high=1,
        kept=LEVEL,
    )
    at_limit: float = _point(
        "share of responses that hit the length limit",
        symbol="at length limit",
        low=0,
        high=1,
        kept=("start", "end"),
        warns=1,
        warns_because="not in the paper; the direction (more) is our choice",
    )
    unparsable: float = _point(
        "share of responses without a stated answer", symbol="unparsable", low=0, high=1, kept=("start", "end")
    )
    correct_strict: int | None = _point(
        "number of responses that are exactly right", default=None, kind="count", better="higher", low=0
    )
    true_std: float = _point(
        "standard deviation of the true reward over responses, if it is a score rather than a share", low=0
    )
    members: tuple[float, ...] | None = _point("mean score of each reward model", default=None, kind="numbers")

    def row(self, always: Collection[str] = ()) -> dict[str, Any]:
        """The row of `metrics.jsonl`. What was not measured is left out, or None where it is named in `always`."""
        row: dict[str, Any] = {}
        for name, value in vars(self).items():
            if not _is_absent(value):
                row[name] = list(value) if isinstance(value, tuple) else value
            elif name in always:
                row[name] = None
        return row

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> EvaluationPoint:
        """The point in a row; fields of others, such as the condition or a monitor's thresholds, are passed over.
        Raises ValueError where a field is not what it should be."""
        given: dict[str, Any] = {}
        for place in fields(cls):
            value = row.get(place.name)
            if value is not None:
                given[place.name] = _checked(place.name, place.metadata["measure"]["kind"], value)
        return cls(**given)


@dataclass(frozen=True, kw_only=True)
class KeptResponse:
    """A whole response to a held-out problem, where the hack can be read."""

    problem: int | str = _response("number of the problem", default="", kind="text")
    question: str = _response("the problem's text", default="", kind="text")
    gold: str = _response("its gold answer", default="", kind="text")
    response: str = _response("the full response", default="", kind="text")
    proxy: float = _response("proxy reward: the ensemble's mean score", symbol="proxy reward", source="Eq. 9")
    disagreement: float = _response(
        "û: standard deviation of the members' scores", symbol="û", source="Eq. 13", better="lower", low=0
    )
    strict: bool | None = _response("whether the stated answer is exactly right", default=None, kind="flag")
    lenient: bool | None = _response("the same for the lenient grader", default=None, kind="flag")
    tokens: int | None = _response("tokens in the response", default=None, kind="count", unit="tokens", low=1)

    def row(self) -> dict[str, Any]:
        """The row of `samples.jsonl`, without the condition and step."""
        return dict(vars(self))


def counted(conditions: Sequence[Any]) -> list[Any]:
    """The records of conditions whose training did not diverge; all of them, if there are no others."""
    return [record for record in conditions if "diverged" not in record] or list(conditions)


def measures_of(kind: type[EvaluationPoint] | type[KeptResponse]) -> list[Measure]:
    """The entries of a type's fields."""
    return [Measure(name=f.name, **f.metadata["measure"]) for f in fields(kind)]


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and isnan(value))


def _checked(name: str, kind: Kind, value: Any) -> Any:
    if kind == "numbers":
        if isinstance(value, list | tuple) and all(v is None or _is_number(v) for v in value):
            return tuple(nan if v is None else float(v) for v in value)
        raise ValueError(f"{name} should be a list of numbers, is {value!r:.60}")
    if not _is_number(value) or abs(value) == inf or (kind == "count" and value != int(value)):
        raise ValueError(f"{name} should be a {'whole ' if kind == 'count' else ''}number, is {value!r:.60}")
    return int(value) if kind == "count" else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
