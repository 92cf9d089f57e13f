"""Every moment at which a process that writes a folder can die, and what it leaves there: killed, or with the machine.

`record` follows a call in a fork of this process. Before each of its file operations it notes the folder as a SIGKILL
would leave it, and as a machine would that loses power: a file has what it had when it was last fsynced, a folder the
names it had when *it* was. A file system may have written more than it was asked to, so there is also the folder with
all names but only fsynced contents, and mixtures in which each unsynced change is there or not.

Writes that no Python code makes (safetensors, Arrow) are seen as files that have grown between two operations; they are
also cut in half, as are all others.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

FORK = multiprocessing.get_context("fork")
KILLED = 137
END = "the end"
KINDS = ("killed", "cut", "power", "names", "mixed")
"""Killed; killed within a write; power lost; power lost with all names but only fsynced contents; mixtures of the last
two and of what was written."""
WATCHED = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.symlink", "os.link"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
Tree = dict[str, bytes | str | None]
"""What a folder holds, by path: contents of a file, target of a link, None for a folder."""


class Moment(NamedTuple):
    """The folder as it is found after a death before operation `number` (from 1), called `operation`."""

    number: int
    operation: str
    kind: str
    tree: Tree


@dataclass
class _Node:
    """A file or folder on the disk: what it held when it was last fsynced. `handle` keeps its number from reuse."""

    handle: int
    is_folder: bool
    content: bytes | str = b""
    entries: dict[str, _Node] = field(default_factory=dict)


class _Disk:
    """What of a folder would survive the power being cut."""

    def __init__(self, folder: Path):
        self.folder, self.nodes = folder, {}
        self.root = self.node(folder)

    def node(self, path: Path) -> _Node:
        found = os.lstat(path)
        if found.st_ino not in self.nodes:
            handle = os.open(path, os.O_PATH | os.O_NOFOLLOW)
            node = _Node(handle, stat.S_ISDIR(found.st_mode))
            if stat.S_ISLNK(found.st_mode):  # in its folder's entry
                node.content = os.readlink(path)
            self.nodes[found.st_ino] = node
        return self.nodes[found.st_ino]

    def fsynced(self, path: Path) -> None:
        node = self.node(path)
        if node.is_folder:
            node.entries = {name: self.node(path / name) for name in os.listdir(path)}
        else:
            node.content = path.read_bytes()

    def has(self, name: str) -> bool:
        """Whether all of a file was fsynced."""
        try:
            return self.node(self.folder / name).content == (self.folder / name).read_bytes()
        except FileNotFoundError:
            return True

    def tree(self, names: Callable[[], bool], contents: Callable[[], bool]) -> Tree:
        """The folder after a crash: of each change that was not fsynced, to the names in a folder or to the contents of
        a file, these say whether it is there."""
        tree: Tree = {}
        self._add(tree, self.root, self.folder, "", names, contents)
        return tree

    def _add(
        self,
        tree: Tree,
        node: _Node,
        now: Path | None,
        prefix: str,
        names: Callable[[], bool],
        contents: Callable[[], bool],
    ) -> None:
        """Add what is in a folder; `now`: where it is at this moment, None if it has been removed."""
        present = {name: self.node(now / name) for name in sorted(os.listdir(now))} if now is not None else {}
        for name in sorted(present.keys() | node.entries.keys()):
            here, before = present.get(name), node.entries.get(name)
            child = here if here is before or names() else before
            if child is None:
                continue
            path = prefix + name
            where = now / name if now is not None and child is here else None
            if child.is_folder:
                tree[path] = None
                self._add(tree, child, where, path + "/", names, contents)
            elif isinstance(child.content, str):
                tree[path] = child.content
            else:
                written = where.read_bytes() if where is not None else child.content
                if written != child.content and contents():
                    kept = len(child.content) if written.startswith(child.content) else 0
                    tree[path] = written if contents() else written[: kept + (len(written) - kept) // 2]
                else:
                    tree[path] = child.content


class _Recorder:
    """Notes the moments of this process, or ends it at operation number `last`."""

    def __init__(self, folder: Path, wanted: Callable[[int], bool], last: int | None = None):
        self.folder, self.wanted, self.last = folder, wanted, last
        self.moments: list[Moment] = []
        self.number = 0
        self.disk, self.before = _Disk(folder), live(folder)
        self._busy, self._lock, self._fsync = threading.local(), threading.RLock(), os.fsync

    def begin(self) -> None:
        os.fsync = self.fsync  # in a fork: nobody sets it back
        sys.addaudithook(self.audited)

    def audited(self, event: str, given: tuple[Any, ...]) -> None:
        if getattr(self._busy, "now", False):
            return
        if event == "open" and isinstance(given[2], int) and given[2] & WRITES and self.is_inside(given[0]):
            self.note(f"open {os.path.basename(os.fsdecode(given[0]))}")
        elif event in WATCHED and any(self.is_inside(path) for path in given[:2]):
            self.note(f"{event} {os.path.basename(os.fsdecode(given[0]))}")

    def is_inside(self, path: Any) -> bool:
        """Relative paths are names in a folder that `rmtree` has open."""
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        path = os.fsdecode(path)
        return not os.path.isabs(path) or path.startswith(str(self.folder))

    def fsync(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if not self.is_inside(path):
            self._fsync(descriptor)
            return
        self.note(f"fsync {os.path.basename(path)}")
        with self._alone():
            self.disk.fsynced(Path(path))

    def note(self, operation: str) -> None:
        with self._alone():
            self.number += 1
            if self.last is not None:
                if self.number >= self.last:
                    os._exit(KILLED)
                return
            if not self.wanted(self.number) and operation != END:
                if self.wanted(self.number + 1):
                    self.before = live(self.folder)
                return
            tree = live(self.folder)
            self.moments.append(Moment(self.number, operation, "killed", tree))
            for name, content in tree.items():  # a write that was under way
                old = self.before.get(name)
                if isinstance(content, bytes) and content != old and len(content) > 1 and not self.disk.has(name):
                    start = len(old) if isinstance(old, bytes) and content.startswith(old) else 0
                    cut = content[: start + (len(content) - start) // 2]
                    self.moments.append(Moment(self.number, operation, "cut", {**tree, name: cut}))
            self.before = tree
            coin = random.Random(self.number)
            for kind, names, contents in (
                ("power", lambda: False, lambda: False),
                ("names", lambda: True, lambda: False),
                ("mixed", lambda: coin.random() < 0.5, lambda: coin.random() < 0.5),
            ):
                self.moments.append(Moment(self.number, operation, kind, self.disk.tree(names, contents)))

    def _alone(self) -> Any:
        return _Alone(self._busy, self._lock)


class _Alone:
    """One thread at a time, whose own operations are not noted."""

    def __init__(self, busy: threading.local, lock: Any):
        self.busy, self.lock = busy, lock

    def __enter__(self) -> None:
        self.lock.acquire()
        self.busy.now = True

    def __exit__(self, *exc: object) -> None:
        self.busy.now = False
        self.lock.release()


def live(folder: Path) -> Tree:
    """What a folder holds now. Files that go while it is read are left out."""
    tree: Tree = {}
    for place, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = os.path.join(place, name)
            relative = os.path.relpath(path, folder)
            try:
                if os.path.islink(path):
                    tree[relative] = os.readlink(path)
                else:
                    tree[relative] = None if os.path.isdir(path) else Path(path).read_bytes()
            except FileNotFoundError:
                pass
    return tree


def laid_out(tree: Tree, folder: Path) -> Path:
    """A folder that holds it."""
    folder.mkdir(parents=True)
    for name, content in tree.items():
        path = folder / name
        if content is None:
            path.mkdir(exist_ok=True)
        elif isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
    return folder


def record(
    call: Callable[[], object], folder: Path, wanted: Callable[[int], bool] = lambda number: True
) -> list[Moment]:
    """The moments of `call()`, which writes in an empty folder, that leave different things there: before operations of
    `wanted` numbers, and after its end."""
    ours, theirs = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_recording, args=(call, folder, wanted, theirs))
    child.start()
    theirs.close()
    moments = ours.recv()
    child.join()
    assert child.exitcode == 0
    return list(_different(moments))


def _recording(call: Callable[[], object], folder: Path, wanted: Callable[[int], bool], pipe: Any) -> None:
    recorder = _Recorder(folder, wanted)
    recorder.begin()
    call()
    recorder.note(END)
    pipe.send(recorder.moments)


def _different(moments: list[Moment]) -> Iterator[Moment]:
    seen = set()
    for moment in moments:
        text = repr(sorted(moment.tree.items(), key=lambda item: item[0])).encode()
        if (digest := hashlib.sha256(text).digest()) not in seen:
            seen.add(digest)
            yield moment


def dies_at(call: Callable[[], object], folder: Path, number: int) -> bool:
    """Whether a fork of this process that calls `call()` came to operation `number` in the folder, and died there."""
    child = FORK.Process(target=_dying, args=(call, folder, number))
    child.start()
    child.join()
    assert child.exitcode in (0, KILLED), child.exitcode
    return child.exitcode == KILLED


def _dying(call: Callable[[], object], folder: Path, number: int) -> None:
    _Recorder(folder, lambda _: False, number).begin()
    call()
