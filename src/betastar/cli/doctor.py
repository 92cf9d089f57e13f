"""`betastar doctor`: what this machine can do, and what to do where it cannot."""

from __future__ import annotations

from typing import Annotated

import typer

from betastar.cli.options import Overrides

MARKS = {"ok": "ok     ", "warning": "warning", "failure": "FAILURE"}


def doctor(
    source: Annotated[str | None, typer.Argument(metavar="[PRESET | FILE.yaml]", help="For what.")] = None,
    overrides: Overrides = None,
) -> None:
    """Check versions, devices, disk, quantisation and the hub. Exit code 1 where something needed is missing."""
    from betastar import api

    config = api.load_config(source, overrides or []) if source else None
    failed = False
    for finding in api.examined(config):
        print(f"{MARKS[finding.level]}  {finding.what:14}{finding.found}")
        if finding.remedy:
            print(f"{'':9}{'':14}→ {finding.remedy}")
        failed |= finding.level == "failure"
    if failed:
        raise SystemExit(1)
