"""What the figures in a folder were drawn from, so that those that would come out the same are not drawn again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from betastar.disk import file_digest, opened, write_atomically

FORMATS = ("svg", "pdf", "png")
DRAWINGS = ".drawings.json"  # beside the figures


class Drawing(NamedTuple):
    """The files of a figure, and digests that tell whether they would come out the same: of the specification that was
    drawn, with what drew it, and of each file by suffix."""

    of: str
    files: dict[str, str]

    def is_in(self, folder: Path, name: str) -> bool:
        """Whether all files are there as they were drawn."""
        try:
            return set(self.files) == set(FORMATS) and all(
                file_digest(folder / f"{name}.{suffix}") == found for suffix, found in self.files.items()
            )
        except OSError:
            return False


def read_drawings(folder: Path) -> dict[str, Drawing]:
    """The figures that were drawn into a folder, by name; none where that is not known."""
    try:
        with opened(folder / DRAWINGS) as file:
            found = json.loads(file.read())
        return {str(name): Drawing(str(one["of"]), dict(one["files"])) for name, one in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def write_drawings(folder: Path, found: Mapping[str, Drawing]) -> None:
    """Write what `read_drawings` reads."""
    text = json.dumps({name: drawing._asdict() for name, drawing in sorted(found.items())}, indent=1)
    write_atomically(folder / DRAWINGS, text.encode())


def digest_of(spec: Mapping[str, Any], theme: Mapping[str, Any], scale: float) -> str:
    """Of all that decides how a figure looks, the version of what draws it included."""
    return sha256(json.dumps([spec, theme, scale, version("vl-convert-python")]).encode()).hexdigest()
