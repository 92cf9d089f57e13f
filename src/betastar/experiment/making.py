"""What a stage leaves in the store: found there, or made now."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from betastar.experiment import partial
from betastar.experiment.conditions import K, Parts
from betastar.experiment.context import Context
from betastar.experiment.memory import one_sentence_without_memory
from betastar.experiment.store import Artefact, content_key
from betastar.experiment.work import Unit, Work, in_groups, no_needs, own_log
from betastar.settings.config import Config


class NotMadeError(Exception):
    """A stage of the opening was asked for where nothing is built, and its artefact is missing."""


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
    if found is None and ctx.declared is not None:
        raise NotMadeError(stage)
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
    store.use(found.folder)
    return found


def made_parts(
    ctx: Context[Config],
    stage: str,
    keys: Mapping[K, str],
    build: Callable[[Sequence[K], Sequence[Path], str], None],
    at_once: int | None = None,
    logged: Callable[[K], Sequence[str]] = own_log,
    needs: Callable[[K], Sequence[str]] = no_needs,
) -> Parts[K]:
    """A folder for each condition: found in any artefact of the stage, or built now, `at_once` conditions in one bank,
    by `build(conditions, folders, key)`. Conditions built together become an artefact together. Where the context only
    collects what is declared, nothing is built. `logged` and `needs`: see `Work`."""
    work = Work(stage, keys, build, at_once, needs, logged)
    if ctx.declared is not None:
        ctx.declared.append(work)
        return Parts({}, keys, functools.partial(ctx.store.part, stage))
    store, reporter = ctx.store, ctx.reporter
    found = store.find_parts(stage)
    missing = [condition for condition, key in keys.items() if key not in found]
    if len(missing) < len(keys):
        some = "" if not missing else f" {len(keys) - len(missing)} of {len(keys)} conditions"
        reporter.say(f"{stage}: reused{some}")
    if not missing:  # a crash just after the last one was done leaves its list
        partial.end(store, stage)
    steps = partial.steps_done(store, stage) if missing else {}
    new = make(
        ctx,
        work,
        in_groups(missing, at_once, lambda condition: steps.get(keys[condition], 0)),
        {key: found[key].parent for key in found},
    )
    folders = {condition: (found | new)[key] for condition, key in keys.items()}
    for folder in folders.values():
        store.use(folder.parent)
    return Parts(folders, keys)


def make(
    ctx: Context[Config], work: Work[K], groups: Sequence[Sequence[K]], artefacts: Mapping[str, Path]
) -> dict[str, Path]:
    """Build groups of parts, each one artefact; returns the folder of every part, by key. `artefacts`: where parts are
    that were made before."""
    store, stage, keys = ctx.store, work.stage, work.keys
    names = {Unit(stage, tuple(keys[condition] for condition in group)).artefact: group for group in groups}
    homes = {condition: artefacts[key] for condition, key in keys.items() if key in artefacts}
    for name, group in names.items():
        homes |= dict.fromkeys(group, store.place(stage, name))
    places = {name: folder / name for condition, folder in homes.items() for name in work.logged(condition)}
    todo = [name for group in groups for condition in group for name in work.logged(condition)]
    ctx.reporter.places(stage, places, todo)
    for name, group in names.items():
        with (
            store.write(stage, name, {keys[condition]: str(condition) for condition in group}) as folder,
            one_sentence_without_memory(stage, len(group)),
        ):
            for condition in group:
                (folder / str(condition)).mkdir()
            members = {keys[condition]: str(condition) for condition in group}
            partial.begin(store, stage, name, members)
            with partial.uploaded(store, stage, name, members):
                work.build(group, [folder / str(condition) for condition in group], name)
    made_now: dict[str, Path] = {}
    for name in names:
        artefact = store.find(stage, name)
        assert artefact is not None  # it was just written
        made_now |= {key: artefact.folder / part for key, part in artefact.parts.items()}
    if names:
        partial.end(store, stage)
    return made_now
