"""Unfinished work, known by its parts: conditions that are grouped in another way, or taken over by another machine, go
on from where each of them was.

Beside the checkpoint of an artefact is the list of its parts. A group that has no checkpoint of its own gets one that
is put together from those of its parts, if all of them are equally far. Where machines have a store in common,
checkpoints are uploaded there now and then, so that what a lost machine had done is found by the next.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from betastar.disk import file_digest, make_folder, read_json, read_jsonl_rows, unsealed, write_atomically, write_jsonl
from betastar.errors import BetastarError
from betastar.experiment.readers import ON_THE_WAY
from betastar.experiment.store import CHECKPOINT, WRITER, Checkpoint, Store


class Unfinished(NamedTuple):
    """The checkpoint in `folder` after `step` steps, and its parts: `names` by key, in the order of the bank. Where it
    has to be downloaded first, `path` is where it is in the common store."""

    folder: Path
    step: int
    names: dict[str, str]
    path: str | None = None


def steps_done(store: Store, stage: str) -> dict[str, int]:
    """How far each unfinished part of a stage is, by key; what has no checkpoint is left out."""
    return {key: found.step for key, found in _furthest(store, stage).items()}


def begin(store: Store, stage: str, artefact: str, names: Mapping[str, str]) -> None:
    """Note the parts of an artefact that is about to be made (`names` by key), and unless its own checkpoint is as far,
    put one together from those of its parts."""
    folder = store.checkpoint(stage, artefact).folder
    mine = -1
    with suppress(OSError, ValueError, KeyError):
        mine = unsealed(folder / CHECKPOINT)["step"]
    furthest = _furthest(store, stage)
    sources = [furthest.get(key) for key in names]
    known = [source for source in sources if source is not None]
    if known and len(known) == len(names) and len({source.step for source in known}) == 1 and known[0].step > mine:
        with _downloaded(store, known) as here:
            if here is not None:
                _combine(store, folder, dict(zip(names, here, strict=True)))
    make_folder(folder.parent)
    write_atomically(_list_of(folder), json.dumps(dict(names)).encode())


@contextmanager
def _downloaded(store: Store, sources: Sequence[Unfinished]) -> Iterator[list[Unfinished] | None]:
    """The sources with folders on this machine; None if one of them cannot be had any more."""
    copies: dict[str, Path] = {}
    try:
        for source in sources:
            if source.path is not None and source.path not in copies:
                assert store.remote is not None
                copy = source.folder.with_name(f".from-{source.folder.name}.{WRITER}.tmp")
                shutil.rmtree(copy, ignore_errors=True)
                copies[source.path] = copy
                if not store.remote.pull(source.path, copy):
                    yield None
                    return
        yield [s if s.path is None else s._replace(folder=copies[s.path]) for s in sources]
    finally:
        for copy in copies.values():
            shutil.rmtree(copy, ignore_errors=True)


@contextmanager
def uploaded(store: Store, stage: str, artefact: str, names: Mapping[str, str]) -> Iterator[None]:
    """While the block trains, upload its checkpoints to the common store, if there is one, every `upload_seconds`."""
    if store.remote is None:
        yield
        return
    checkpoint = store.checkpoint(stage, artefact)
    uploads = _Uploads(store, checkpoint.folder, names)
    checkpoint.saved = uploads.saved
    try:
        yield
        uploads.wait()
    finally:
        checkpoint.saved = lambda step: None


class _Uploads:
    """Uploads of one checkpoint, by a thread: training does not wait for the network."""

    SHARE = 5  # an upload takes at most a fifth of the time, whatever was asked for

    def __init__(self, store: Store, folder: Path, names: Mapping[str, str]):
        self.store, self.folder, self.names = store, folder, dict(names)
        self._due = time.monotonic() + store.upload_seconds
        self._thread: Thread | None = None

    def saved(self, step: int) -> None:
        """A checkpoint has been saved after `step` steps; nobody writes another before this returns."""
        if time.monotonic() < self._due or (self._thread is not None and self._thread.is_alive()):
            return
        copy = self._copied(step)
        self._thread = Thread(target=self._upload, args=(step, copy), name=f"upload {self.folder.name}", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is under way."""
        if self._thread is not None:
            self._thread.join()

    def _copied(self, step: int) -> Path:
        """The files of the save, which training will soon replace. Of a log only what belongs to it; of adapters on the
        way only those of steps that are done."""
        copy = self.folder.with_name(f".{self.folder.name}.{WRITER}.tmp")
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir(parents=True)
        record = unsealed(self.folder / CHECKPOINT)
        shutil.copy2(self.folder / CHECKPOINT, copy)
        try:
            os.link(self.folder / record["state"], copy / record["state"])
        except OSError:  # a file system without hard links
            shutil.copy2(self.folder / record["state"], copy)
        for log, known in record["logs"].items():
            with (self.folder / log).open("rb") as source, (copy / log).open("wb") as target:
                target.write(source.read(known["bytes"]))
        for way in (self.folder / ON_THE_WAY).glob("*/*"):
            if int(way.name) <= step:
                shutil.copytree(way, copy / way.relative_to(self.folder))
        return copy

    def _upload(self, step: int, copy: Path) -> None:
        started, remote = time.monotonic(), self.store.remote
        assert remote is not None
        try:
            files = {
                str(path.relative_to(copy)): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
                for path in sorted(copy.rglob("*"))
                if path.is_file()
            }
            remote.replace(_path(self.folder), copy, {"step": step, "parts": self.names, "files": files})
        except (BetastarError, OSError) as error:
            self.store.say(
                f"unfinished work could not be uploaded ({str(error).rstrip('.')}); it is kept on this machine, and "
                "the next save is tried again."
            )
        finally:
            shutil.rmtree(copy, ignore_errors=True)
            now = time.monotonic()
            self._due = now + max(self.store.upload_seconds, self.SHARE * (now - started))


PARTIAL = "store/partial"


def _path(folder: Path) -> str:
    """Where a checkpoint is in the common store."""
    return f"{PARTIAL}/{folder.name}"


def end(store: Store, stage: str) -> None:
    """Forget checkpoints all of whose parts are finished."""
    lists = list(_lists(store, stage))
    finished = store.finished(stage) if lists or store.remote is not None else set()
    for members in lists:
        names = _names(members)
        if names is not None and set(names) <= finished:
            shutil.rmtree(members.with_name(members.name[1 : -len(SUFFIX)]), ignore_errors=True)
            members.unlink(missing_ok=True)
    if store.remote is not None:
        for source in _elsewhere(store, stage):
            if source.path is not None and set(source.names) <= finished:
                store.remote.remove(source.path)


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
    """Of each part of a stage the checkpoint in which it is furthest; of several, one on this machine."""
    found: dict[str, Unfinished] = {}
    for members in _lists(store, stage):
        folder = members.with_name(members.name[1 : -len(SUFFIX)])
        names = _names(members)
        with suppress(OSError, ValueError, KeyError):
            step = unsealed(folder / CHECKPOINT)["step"]
            for key in names or {}:
                if key not in found or step > found[key].step:
                    found[key] = Unfinished(folder, step, names or {})
    for source in _elsewhere(store, stage):
        for key in source.names:
            if key not in found or source.step > found[key].step:
                found[key] = source
    return found


def _elsewhere(store: Store, stage: str) -> Iterator[Unfinished]:
    """Checkpoints of a stage in the common store."""
    if store.remote is None:
        return
    for name in store.remote.folders(PARTIAL):
        if name.startswith(f"{stage}-") and (manifest := store.remote.manifest(f"{PARTIAL}/{name}")):
            folder = store.folder / PARTIAL / name
            yield Unfinished(folder, manifest["step"], dict(manifest["parts"]), f"{PARTIAL}/{name}")


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
