"""The schema of `results.json`: the fixed parts of `shapes`, put together with what the registry of measures says."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import inf
from typing import Annotated, Any, Literal, NotRequired, get_args, get_origin, get_type_hints

from pydantic import Field, TypeAdapter, with_config
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict, is_typeddict

from betastar.record.entries import REGISTRY
from betastar.record.measures import Measure
from betastar.record.shapes import analysis, decision, protocol
from betastar.record.shapes.comparison import ComparisonRecord
from betastar.record.shapes.kinds import CLOSED, Beta, Missing, Number, Reason, SeedMean
from betastar.record.shapes.results import SCHEMA_VERSION, ResultsRecord

FORMS = ("standardised", "paper")
"""Of the gap, those whose AUGC is followed over β."""
SCALES = (*FORMS, "common")
"""All forms of the gap."""
BASELINES = ("constant", "step", "true_strict", "proxy")
"""What a warning sign is compared with: nothing, the clock, current accuracy, and the reward being maximised."""
BETWEEN_VARIANTS = ("true_end", "regret", "true_lowest", "augc_standardised", "augc_paper")
"""The measures of a summary whose differences between variants and runs are kept, the truth first."""


class _Untitled(GenerateJsonSchema):
    """pydantic's JSON Schema without a title that repeats each field's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of this version of `results.json`, from the registry as it is."""
    made = checker().json_schema(schema_generator=_Untitled)
    made["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:betastar:results:{SCHEMA_VERSION}",
        **_without_titles(made),
        "title": f"results.json of betastar, schema version {SCHEMA_VERSION}",
        "description": "Every number of a run or analysis. Every null is explained: by a text in `reason` in the "
        "innermost object around it that has that field, or by `missing` in an object around it, which names a field "
        'on the way to the null. Infinite bounds are the texts "inf" and "-inf". Log-probabilities, entropies and KL '
        "are in nats, AUGC in gap × steps. β is null if unknown. What each field means: docs/results.md.",
        "dependentRequired": {"grid": ["root_seed", "variants"]},
    }


def comparison_schema() -> dict[str, Any]:
    """The JSON Schema of this version of `comparison.json`."""
    return _without_titles(comparison_checker().json_schema(schema_generator=_Untitled))


def checker() -> TypeAdapter[Any]:
    """What checks a record of this version, with the registry as it is."""
    return _checker(tuple(REGISTRY))


@lru_cache(maxsize=1)
def comparison_checker() -> TypeAdapter[Any]:
    """What checks a comparison."""
    return TypeAdapter(ComparisonRecord)


def record_fields() -> dict[str, str]:
    """The fields of the record with what they mean."""
    return {name: kind.__metadata__[-1].description for name, kind in _required(_hints(ResultsRecord)).items()}


def decision_fields() -> dict[str, str]:
    """The fields of a decision with what they mean; of a part, the sentence of its type and its own fields."""
    return _meanings(decision.Decision, "")


def _meanings(shape: Any, before: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, kind in _required(_hints(shape)).items():
        notes = [note.description for note in getattr(kind, "__metadata__", ()) if getattr(note, "description", None)]
        inner = get_args(kind)[0] if notes else kind
        parts = [p for p in (inner, *get_args(inner)) if getattr(p, "__module__", "") == decision.__name__]
        part = parts[0] if parts and is_typeddict(parts[0]) else None
        found[f"{before}{name}"] = notes[-1] if notes else _sentence(part) if part else ""
        if part is not None:
            found |= _meanings(part, f"{before}{name}.")
    return found


def _sentence(shape: Any) -> str:
    """A docstring as a cell has it: no full stop, and a small letter but for a name."""
    text = " ".join((shape.__doc__ or "").split()).rstrip(".")
    return text if text.startswith("Page") else text[:1].lower() + text[1:]


def summary_fields() -> dict[str, Any]:
    """The fields of a variant's summary with their types; `by_beta` is a row for each β."""
    return _summary(tuple(REGISTRY))


def condition_fields() -> dict[str, Any]:
    """The fields of a condition with their types."""
    return _condition(tuple(REGISTRY))


@lru_cache(maxsize=2)
def _checker(measures: tuple[Measure, ...]) -> TypeAdapter[Any]:
    signs = _closed("Signs", {**_hints(analysis.Signs), "signals": _signals(measures)})
    warning = {"by_variant": dict[str, signs], "pooled": signs}
    metrics = _closed("ProtocolMetrics", protocol.PROTOCOL_METRICS)
    parts = {
        "conditions": list[_closed("Condition", _condition(measures), analysis.Condition)],
        "summary": dict[str, _closed("Summary", _summary(measures), analysis.Summary)],
        "differences": list[_difference(measures)],
        "warning_signs": _closed("WarningSigns", {**_hints(analysis.WarningSigns), **warning}, analysis.WarningSigns),
        "protocol": _closed("Protocol", {**_hints(protocol.Protocol), "metrics": metrics}, protocol.Protocol),
    }
    fields = _hints(ResultsRecord)
    told = {name: Annotated[kind, *fields[name].__metadata__] for name, kind in parts.items()}
    return TypeAdapter(_closed("Results", {**fields, **told}))


def _condition(measures: tuple[Measure, ...]) -> dict[str, Any]:
    fixed = _hints(analysis.Condition)
    own = {m.name: _told(_value(m), m) for m in measures if m.level == "condition"}
    parts = {
        m.name: _told(_closed(f"PartsOf_{'_'.join(m.kept)}", dict.fromkeys(m.kept, Number)), m)
        for m in measures
        if m.level == "point" and m.kept
    }
    numbers = Annotated[list[Number], Field(min_length=1)]
    series: dict[str, Any] = {"step": Annotated[list[int], Field(min_length=1)]}
    series |= {m.name: numbers for m in measures if m.level == "point" and (m.kept or m.in_series)}
    last = ("missing", "series")
    return {
        **{name: kind for name, kind in fixed.items() if name not in last},
        **own,
        **parts,
        "missing": fixed["missing"],
        "series": NotRequired[
            Annotated[
                _closed("Series", series),
                Field(description="one entry per evaluation point; absent if they are in `points`"),
            ]
        ],
    }


def _summary(measures: tuple[Measure, ...]) -> dict[str, Any]:
    averaged = _averaged(measures)
    beta = {"beta": Beta}
    onset = Annotated[
        list[int | None],
        Field(description="one per seed that has this β, in the order of `seeds`; null: no onset"),
    ]
    row = _closed("ByBeta", {**beta, **averaged, "onset_steps": onset, "missing": NotRequired[Missing]})
    minus = _closed("MinusSmallest", {**beta, **averaged})
    smallest = _closed("MinusSmallestBeta", {"smallest_beta": Beta, "by_beta": list[minus], "reason": Reason})
    return {
        **_hints(analysis.Summary),
        "by_beta": Annotated[list[row], Field(min_length=1)],
        "minus_smallest_beta": Annotated[
            smallest, Field(description="every quantity minus the same at the smallest β, within seeds")
        ],
    }


def _difference(measures: tuple[Measure, ...]) -> Any:
    averaged = {name: kind for name, kind in _averaged(measures).items() if name in BETWEEN_VARIANTS}
    over = _closed("DifferenceOverBeta", averaged)
    row = _closed("DifferenceAtBeta", {"beta": Beta, **averaged})
    fields = {**_hints(analysis.Difference), "by_beta": list[row]}
    fields["over_beta"] = Annotated[over, Field(description="of each seed's mean over β")]
    return _closed("Difference", fields, analysis.Difference)


def _averaged(measures: tuple[Measure, ...]) -> dict[str, Any]:
    return {
        m.name: _told(SeedMean, m)
        for m in measures
        if m.level == "summary" or (m.level == "condition" and m.over_seeds)
    }


def _signals(measures: tuple[Measure, ...]) -> Any:
    names = [m.name for m in measures if m.level == "point" and m.warns is not None]
    return _closed("Signals", dict.fromkeys([*names, *BASELINES], analysis.Signal))


def _value(measure: Measure) -> Any:
    """The type of a condition's own measure, which may be null."""
    bounds: Any = {name: end for name, end in (("ge", measure.low), ("le", measure.high)) if abs(end) < inf}
    kinds: dict[str, Any] = {
        "number": Annotated[float, Field(allow_inf_nan=False, **bounds)],
        "count": Annotated[int, Field(**bounds)],
        "step": int,
        "flag": bool,
        "text": str,
    }
    kind = kinds[measure.kind]
    words: Any = tuple(text for text, end in (("-inf", measure.low), ("inf", measure.high)) if abs(end) == inf)
    return kind | Literal[words] | None if words and measure.kind == "number" else kind | None


def _told(kind: Any, measure: Measure) -> Any:
    source = f" ({measure.source})" if measure.source else ""
    return Annotated[kind, Field(description=f"{measure.meaning}{source}")]


def _closed(name: str, fields: Mapping[str, Any], like: Any = None) -> Any:
    """An object with these fields and no others."""
    made: Any = TypedDict(name, dict(fields))  # pyright: ignore[reportArgumentType]
    if like is not None:
        made.__doc__ = like.__doc__
    return with_config(CLOSED)(made)


@lru_cache(maxsize=32)
def _hints(shape: Any) -> dict[str, Any]:
    """The fields of a shape, `NotRequired` and notes kept."""
    found = get_type_hints(shape, include_extras=True)
    return {name: found[name] for name in shape.__annotations__}


def _required(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields without whether they may be absent."""
    return {name: get_args(kind)[0] if get_origin(kind) is NotRequired else kind for name, kind in fields.items()}


def _without_titles(part: Any) -> Any:
    """A JSON Schema without the names of types, which `$defs` has already."""
    if isinstance(part, dict):
        return {
            key: {name: _without_titles(field) for name, field in value.items()}
            if key in ("properties", "$defs")
            else _without_titles(value)
            for key, value in part.items()
            if key != "title" or not isinstance(value, str)
        }
    return [_without_titles(value) for value in part] if isinstance(part, list) else part
