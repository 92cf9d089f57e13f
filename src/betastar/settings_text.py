"""A configuration as commented YAML: every field with its value and meaning, readable by `betastar run`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from betastar.config import Config


def described(config: Config) -> str:
    """YAML of all settings, each with its description as a comment."""
    return "\n".join(_lines(config, ""))


def _lines(section: BaseModel, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        comment = f"  # {field.description}" if field.description else ""
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:{comment}"
            yield from _lines(value, indent + "  ")
        else:
            plain: Any = section.model_dump(mode="json").get(name)  # None may be left out
            text = yaml.safe_dump(plain, default_flow_style=True, width=10**6).strip().removesuffix("\n...").strip()
            yield f"{indent}{name}: {text}{comment}"
