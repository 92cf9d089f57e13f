"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Details = Annotated[bool, typer.Option("--details", help="Also the tables of the warning signs and of the chain.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, for example online.steps=40."),
]
