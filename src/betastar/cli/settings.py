"""`betastar presets` and `betastar config`: what can be run, and every setting of it."""

from __future__ import annotations

from typing import Annotated

import typer

from betastar.cli.options import Overrides


def presets() -> None:
    """List the built-in settings."""
    from betastar.config import PRESETS, preset_names

    for name in preset_names():
        first = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").split("\n", 1)[0]
        print(f"{name:14}{first.lstrip('# ')}")


def config(
    source: Annotated[str, typer.Argument(metavar="[PRESET | FILE.yaml]", help="Whose settings to show.")] = "micro",
    overrides: Overrides = None,
) -> None:
    """Show every setting with its value and meaning, as YAML that `betastar run` reads."""
    from betastar.config import load_config
    from betastar.settings_text import described

    print(described(load_config(source, overrides or [])))
