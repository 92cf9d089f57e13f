"""The embedded worlds, and which one a task names."""

from __future__ import annotations

from betastar.data.micro.language import Language
from betastar.data.micro.lists import lists
from betastar.data.micro.sums import sums
from betastar.settings.sections import BuiltInTask, MicroTask


def language(task: BuiltInTask) -> Language:
    """The language that a task is written in."""
    return sums(task.largest) if isinstance(task, MicroTask) else lists(task.longest)
