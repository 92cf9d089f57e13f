"""What a stage leaves in the store: found there, or made now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from betastar.experiment.conditions import K, Parts
from betastar.experiment.context import Context
from betastar.experiment.memory import one_sentence_without_memory
from betastar.experiment.store import Artefact, content_key
from betastar.settings.config import Config


def made(
    ctx: Context[Config],
    stage: str,
    settings: Any,
    inputs: list[str],
    build: Callable[[Path, str], None],
    members: Sequence[str] = (),
) -> Artefact:
    """The artefact of a stage with these settings and input keys: found, or built now by `build(folder, key)`.
    `members` are subfolders with logs of their own."""
    store, reporter = ctx.store, ctx.reporter
    key = content_key(stage, settings, inputs)
    found = store.find(stage, key)
    folder = store.place(stage, key)
    places = {name: folder / name for name in members} or {key: folder}
    reporter.places(stage, places, [] if found else list(places))
    if found is None:
        with store.write(stage, key) as folder, one_sentence_without_memory(stage):
            build(folder, key)
        found = store.find(stage, key)
        assert found is not None  # it was just written
    else:
        reporter.say(f"{stage}: reused")
    return found


def made_parts(
    ctx: Context[Config],
    stage: str,
    keys: Mapping[K, str],
    build: Callable[[Sequence[K], Sequence[Path], str], None],
    at_once: int | None = None,
    logged: Callable[[K], Sequence[str]] = lambda condition: [str(condition)],
) -> Parts[K]:
    """A folder for each condition: found in any artefact of the stage, or built now, `at_once` conditions in one bank,
    by `build(conditions, folders, key)`. Conditions built together become an artefact together. `logged`: the names of
    the folders, beside each other in the artefact, that have a log of their own."""
    store, reporter = ctx.store, ctx.reporter
    found = store.find_parts(stage)
    missing = [condition for condition, key in keys.items() if key not in found]
    if len(missing) < len(keys):
        some = "" if not missing else f" {len(keys) - len(missing)} of {len(keys)} conditions"
        reporter.say(f"{stage}: reused{some}")
    size = at_once or max(1, len(missing))
    groups: dict[str, list[K]] = {}
    for start in range(0, len(missing), size):
        todo = missing[start : start + size]
        groups[content_key(stage, [keys[condition] for condition in todo])] = todo
    artefacts = {condition: found[key].parent for condition, key in keys.items() if key in found}
    for group, todo in groups.items():
        artefacts |= dict.fromkeys(todo, store.place(stage, group))
    places = {name: folder / name for condition, folder in artefacts.items() for name in logged(condition)}
    reporter.places(stage, places, [name for condition in missing for name in logged(condition)])
    for group, todo in groups.items():
        with (
            store.write(stage, group, {keys[condition]: str(condition) for condition in todo}) as folder,
            one_sentence_without_memory(stage, len(todo)),
        ):
            for condition in todo:
                (folder / str(condition)).mkdir()
            build(todo, [folder / str(condition) for condition in todo], group)
    if missing:
        found = store.find_parts(stage)
    return Parts({condition: found[key] for condition, key in keys.items()}, keys)
