"""What all sections of the configuration are made of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def positive(description: str, default: Any = ..., **more: Any) -> Any:
    return Field(default, gt=0, description=description, **more)


def _home_expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("there is no such home folder; write the whole path") from None


LocalPath = Annotated[Path, AfterValidator(_home_expanded)]


def local_path(description: str) -> Any:
    """A file or folder, meant as on a command line also where a configuration file in another folder names it."""
    return Field(description=f"{description}; relative to the current directory, ~ is the home folder")


def _or_auto(what: str, lowest: float, *, whole: bool, included: bool = True) -> BeforeValidator:
    """Accepts `auto` or a number in range, and says in one sentence what else it is not."""
    kind = int if whole else float

    def check(value: Any) -> Any:
        if value == "auto":
            return value
        try:  # YAML takes 1e-4 for text
            number = kind(value) if isinstance(value, str) else value
            fits = not isinstance(number, bool) and number == kind(number) and number < math.inf
            if fits and (number >= lowest if included else number > lowest):
                return kind(number)
        except (TypeError, ValueError, OverflowError):
            pass
        raise ValueError(f"should be {what}, or auto")

    return BeforeValidator(check)


Auto = Literal["auto"]
Tokens = Annotated[int | Auto, _or_auto("a number of tokens from 1", 1, whole=True)]
CountOrAuto = Annotated[int | Auto, _or_auto("a whole number from 1", 1, whole=True)]
PositiveOrAuto = Annotated[float | Auto, _or_auto("a number above 0", 0, whole=False, included=False)]
WholeFromZeroOrAuto = Annotated[int | Auto, _or_auto("a whole number from 0", 0, whole=True)]
FromZeroOrAuto = Annotated[float | Auto, _or_auto("a number from 0", 0, whole=False)]
