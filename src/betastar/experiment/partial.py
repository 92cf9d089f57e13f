"""Unfinished work, known by its parts: conditions that are grouped in another way, or taken over by another machine, go
on from where each of them was.

Beside the checkpoint of an artefact is the list of its parts. A group that has no checkpoint of its own gets one that
is put together from those of its parts, if all of them are equally far.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from betastar.disk import make_folder, read_json, read_jsonl_rows, unsealed, write_atomically, write_jsonl
from betastar.experiment.readers import ON_THE_WAY
from betastar.experiment.store import CHECKPOINT, Checkpoint, Store


class Unfinished(NamedTuple):
    """The checkpoint in `folder` after `step` steps, and its parts: `names` by key, in the order of the bank."""

    folder: Path
    step: int
    names: dict[str, str]


def steps_done(store: Store, stage: str) -> dict[str, int]:
    """How far each unfinished part of a stage is, by key; what has no checkpoint is left out."""
    return {key: found.step for key, found in _furthest(store, stage).items()}


def begin(store: Store, stage: str, artefact: str, names: Mapping[str, str]) -> None:
    """Note the parts of an artefact that is about to be made (`names` by key), and if it has no checkpoint, put one
    together from those of its parts."""
    folder = store.checkpoint(stage, artefact).folder
    if not (folder / CHECKPOINT).exists():
        furthest = _furthest(store, stage)
        sources = [furthest.get(key) for key in names]
        known = [source for source in sources if source is not None]
        if known and len(known) == len(names) and len({source.step for source in known}) == 1:
            _combine(store, folder, dict(zip(names, known, strict=True)))
    make_folder(folder.parent)
    write_atomically(_list_of(folder), json.dumps(dict(names)).encode())


def end(store: Store, stage: str) -> None:
    """Forget checkpoints all of whose parts are finished."""
    lists = list(_lists(store, stage))
    finished = store.finished(stage) if lists else set()
    for members in lists:
        names = _names(members)
        if names is not None and set(names) <= finished:
            shutil.rmtree(members.with_name(members.name[1 : -len(SUFFIX)]), ignore_errors=True)
            members.unlink(missing_ok=True)


SUFFIX = ".parts.json"


def _list_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{SUFFIX}")


def _lists(store: Store, stage: str) -> Iterator[Path]:
    yield from sorted((store.folder / "store" / "partial").glob(f".{stage}-*{SUFFIX}"))


def _names(members: Path) -> dict[str, str] | None:
    with suppress(OSError, ValueError):
        return read_json(members)
    return None


def _furthest(store: Store, stage: str) -> dict[str, Unfinished]:
    """Of each part of a stage the checkpoint in which it is furthest."""
    found: dict[str, Unfinished] = {}
    for members in _lists(store, stage):
        folder = members.with_name(members.name[1 : -len(SUFFIX)])
        names = _names(members)
        with suppress(OSError, ValueError, KeyError):
            step = unsealed(folder / CHECKPOINT)["step"]
            for key in names or {}:
                if key not in found or step > found[key].step:
                    found[key] = Unfinished(folder, step, names or {})
    return found


def _combine(store: Store, folder: Path, sources: Mapping[str, Unfinished]) -> None:
    """A checkpoint in `folder` of parts that are in `sources`, by key in the order of the new bank."""
    import torch

    loaded: dict[Path, tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]] = {}
    for source in sources.values():
        if source.folder not in loaded:
            work = Checkpoint(source.folder, store.say)
            state = work.load()
            if state is None or state[0] != source.step:  # damaged, and said so
                return
            loaded[source.folder] = state[1], {p.stem: read_jsonl_rows(p) for p in source.folder.glob("*.jsonl")}
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    tensors: dict[str, list[Any]] = {}
    logs: dict[str, list[list[dict[str, Any]]]] = {}
    for key, source in sources.items():
        state, rows = loaded[source.folder]
        place, of = list(source.names).index(key), len(source.names)
        for name, tensor in state.items():
            tensors.setdefault(name, []).append(tensor if tensor.ndim == 0 else _share(tensor, place, of))
        for log, lines in rows.items():
            logs.setdefault(log, []).append([_row(row, source.names[key], place, of) for row in lines])
        way = source.folder / ON_THE_WAY / source.names[key]
        if way.is_dir():
            shutil.copytree(way, folder / ON_THE_WAY / way.name)
    for log, parts in logs.items():
        write_jsonl(folder / f"{log}.jsonl", list(_joined(parts)))
    step = next(iter(sources.values())).step
    state = {name: parts[0] if parts[0].ndim == 0 else torch.cat(parts) for name, parts in tensors.items()}
    Checkpoint(folder, store.say).save(step, state)


def _share(values: Any, place: int, of: int) -> Any:
    """What belongs to one of `of` parts in a stack or list of all, which may hold several for each."""
    size = len(values) // of
    return values[place * size : (place + 1) * size]


def _row(row: Mapping[str, Any], name: str, place: int, of: int) -> dict[str, Any]:
    """What a row of a log says of one part; empty if it is about another one."""
    if "condition" in row:
        return dict(row) if row["condition"] == name else {}
    return {key: _share(value, place, of) if isinstance(value, list) else value for key, value in row.items()}


def _joined(parts: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """The rows of several parts as the log of one bank: those with a condition one after the other, lists of values put
    together step by step."""
    if any("condition" in row for rows in parts for row in rows):
        yield from (dict(row) for rows in parts for row in rows if row)
        return
    for rows in zip(*parts, strict=True):
        yield {
            key: [v for row in rows for v in row[key]] if isinstance(value, list) else value
            for key, value in rows[0].items()
        }
