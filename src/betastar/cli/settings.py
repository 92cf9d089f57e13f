"""`betastar presets` and `betastar config`: what can be run, and every setting of it."""

from __future__ import annotations

from typing import Annotated

import typer

from betastar.cli.options import Overrides


def presets() -> None:
    """List the built-in settings."""
    from betastar import api

    for name, what in api.presets().items():
        print(f"{name:14}{what}")


def config(
    source: Annotated[str, typer.Argument(metavar="[PRESET | FILE.yaml]", help="Whose settings to show.")] = "micro",
    overrides: Overrides = None,
) -> None:
    """Show every setting with its value and meaning, as YAML that `betastar run` reads."""
    from betastar import api

    print(api.settings_text(api.load_config(source, overrides or [])))
