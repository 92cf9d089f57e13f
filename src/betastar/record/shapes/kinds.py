"""Numbers and texts that may be null with a reason, intervals, and means over seeds."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

Finite = Annotated[float, Field(allow_inf_nan=False)]
Number = Finite | Literal["inf", "-inf"] | None
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["inf"] | None
Share = Annotated[float, Field(ge=0, le=1)] | None
Correlation = Annotated[float, Field(ge=-1, le=1)] | None
Count = Annotated[int, Field(ge=0)]
Natural = Annotated[int, Field(ge=1)]
Setting = int | Finite
Beta = Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
Sign = Literal[-1, 1]
Text = Annotated[str, Field(min_length=1)]
Reason = Annotated[
    Text | None,
    Field(description="why a neighbouring field is null, or what supports it; null if there is nothing to say"),
]
Missing = Annotated[
    dict[str, Text],
    Field(min_length=1, description="field → why it is null, in whole or in part, here or further in"),
]
Pointer = Annotated[
    Annotated[str, Field(pattern="^/")] | None, Field(description="JSON pointer (RFC 6901) into this record")
]

CLOSED = ConfigDict(extra="forbid")


def _unless(*names: str) -> dict[str, Any]:
    """JSON Schema for: where one of these is null, there is a reason."""
    return {
        "if": {"anyOf": [{"properties": {name: {"type": "null"}}} for name in names]},
        "then": {"properties": {"reason": {"type": "string"}}},
    }


def _bounds() -> dict[str, Any]:
    none = {"low": {"type": "null"}, "high": {"type": "null"}, "reason": {"type": "string"}}
    return {**_unless("low", "high"), "then": {"properties": none}}


@with_config(ConfigDict(extra="forbid", json_schema_extra=_bounds()))
class Interval(TypedDict):
    """`level` says of which probability, `method` how it was found."""

    low: Number
    high: Number
    reason: Reason
    level: Annotated[float, Field(gt=0, le=1)]
    method: str | None


@with_config(ConfigDict(extra="forbid", json_schema_extra=_unless("mean", "standard_error")))
class SeedMean(TypedDict):
    """Mean over n seeds, its standard error and interval."""

    mean: Number
    standard_error: Size
    interval: Interval
    n: Count
    n_minus: NotRequired[Annotated[Count, Field(description="of an unpaired difference: seeds of the other side")]]
    reason: Reason
