"""Artefacts: whole or absent, verified when read, found by content; one writer; a full or read-only disk."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from betastar.disk import sealed, unsealed
from betastar.errors import BetastarError, InternalError
from betastar.experiment.store import Store

KEY = "0123456789abcdef"

# Enters the store and a write block, says so, and never leaves: the parent kills it in there.
HANGS_IN_WRITE = """
import sys, time
from pathlib import Path
from betastar.experiment.store import Store
with Store(Path(sys.argv[1])) as store, store.write("base", "0123456789abcdef") as folder:
    (folder / "half.txt").write_text("half")
    print("inside", flush=True)
    time.sleep(600)
"""


@contextmanager
def writer_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `folder` and is in the middle of writing an artefact."""
    process = subprocess.Popen([sys.executable, "-c", HANGS_IN_WRITE, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        assert process.stdout.readline() == "inside\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def leaves(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def resealed(path: Path, **changes: object) -> None:
    """A manifest of another shape, with a seal that is right."""
    manifest = unsealed(path)
    path.write_bytes(sealed({**manifest, **changes}))


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    """Something else in the place of a file."""
    path.unlink()
    make(path)


def artefact(store: Store, key: str = KEY, **files: str) -> Path:
    with store.write("base", key) as folder:
        for name, text in (files or {"numbers": "1 2 3", "words": "one two"}).items():
            (folder / f"{name}.txt").write_text(text)
    return store.folder / "store" / "base" / key


def test_a_written_artefact_is_found_with_its_files_and_a_manifest_that_describes_them(tmp_path: Path) -> None:
    with Store(tmp_path / "run") as store:
        with store.write("base", KEY) as folder:
            (folder / "model").mkdir()
            (folder / "model" / "weights.bin").write_bytes(b"abc")
        found = store.find("base", KEY)
        assert found is not None
        assert (found.stage, found.key, found.parts) == ("base", KEY, {})
        assert (found.folder / "model" / "weights.bin").read_bytes() == b"abc"
        manifest = json.loads((found.folder / "manifest.json").read_text())
        abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc", from FIPS 180
        assert manifest["files"] == {"model/weights.bin": {"bytes": 3, "sha256": abc}}
        assert store.find("base", "f" * 16) is None
        assert store.find("task", KEY) is None


def test_an_exception_inside_write_leaves_nothing(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        with pytest.raises(ZeroDivisionError), store.write("base", KEY) as folder:
            (folder / "half.txt").write_text(f"half {1 / 0}")
        assert store.find("base", KEY) is None
    assert leaves(tmp_path) == ["lock"]


def test_writing_again_replaces_what_find_returns(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for text in ("old", "new"):
            with store.write("base", KEY, {text: text}) as folder:
                (folder / text).mkdir()
                (folder / text / "value.txt").write_text(text)
            found = store.find("base", KEY)
            assert found is not None
            assert dict(found.parts) == {text: text}
        assert (found.folder / "new" / "value.txt").read_text() == "new"
        assert not (found.folder / "old").exists()


def test_a_second_process_is_refused_and_a_killed_one_holds_no_lock_and_leaves_nothing(tmp_path: Path) -> None:
    with writer_process(tmp_path) as process:
        with pytest.raises(BetastarError) as refused, Store(tmp_path):
            pass
        assert str(refused.value) == (
            f"{tmp_path}: another betastar is writing to this run directory; wait for it or give another folder with "
            "out=…."
        )
        assert refused.value.exit_code == 2
        half = f"store/base/.{KEY}.{platform.node()}-{process.pid}.tmp/half.txt"
        assert leaves(tmp_path) == ["lock", half]  # refused, it cleaned nothing up

        process.send_signal(signal.SIGKILL)
        process.wait()
        with Store(tmp_path) as store:
            assert leaves(tmp_path) == ["lock"]
            assert store.find("base", KEY) is None
            artefact(store)
            assert store.find("base", KEY)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("words.txt", lambda path: path.write_text("one owt"), "words.txt has changed"),  # of the same length
        ("words.txt", lambda path: path.write_text("one"), "words.txt has changed"),
        ("words.txt", lambda path: path.unlink(), "words.txt: No such file or directory"),
        ("manifest.json", lambda path: path.write_text(path.read_text()[:-20]), "manifest.json has changed"),
        ("manifest.json", lambda path: path.write_text("[]"), "manifest.json has changed"),
        ("manifest.json", lambda path: path.write_bytes(b"\xff\xfe"), "manifest.json has changed"),
        (
            "manifest.json",
            lambda path: path.write_text(path.read_text().replace('"finished": "2', '"finished": "3')),
            "manifest.json has changed",
        ),
        ("manifest.json", lambda path: path.unlink(), "manifest.json: No such file or directory"),
        ("manifest.json", lambda path: path.write_text("[" * 100_000), "manifest.json has changed"),
        ("manifest.json", lambda path: path.write_bytes(sealed({})), "manifest.json belongs to another artefact"),
        ("manifest.json", lambda path: resealed(path, files=[]), "manifest.json lists no files"),
        ("manifest.json", lambda path: resealed(path, files={"../../lock": {}}), "manifest.json lists no files"),
        ("manifest.json", lambda path: resealed(path, parts=["a"]), "manifest.json lists no files"),
        ("manifest.json", lambda path: resealed(path, parts={"a": 1}), "manifest.json lists no files"),
        ("manifest.json", lambda path: resealed(path, files={"words.txt": None}), "words.txt has changed"),
        ("manifest.json", lambda path: resealed(path, files={"w\0": {}}), "embedded null byte"),
        ("manifest.json", lambda path: replaced(path, os.mkfifo), "manifest.json is not a regular file"),
        ("manifest.json", lambda path: replaced(path, Path.mkdir), "manifest.json is not a regular file"),
        ("words.txt", lambda path: replaced(path, os.mkfifo), "words.txt has changed"),
        ("words.txt", lambda path: replaced(path, Path.mkdir), "words.txt has changed"),
        ("words.txt", lambda path: replaced(path, lambda p: p.symlink_to(p)), "words.txt: "),
        (".", lambda path: (shutil.rmtree(path), path.write_text("")), "not a folder"),
    ],
)
def test_a_damaged_artefact_is_named_set_aside_and_can_be_made_again(tmp_path: Path, name, damage, reason) -> None:
    with Store(tmp_path) as store:
        folder = artefact(store)
        artefact(store, "a" * 16, other="whole")
    damage(folder / name)

    said: list[str] = []
    with Store(tmp_path, said.append) as store:
        assert store.find("base", KEY) is None
        assert said[0].startswith(f"{folder}: damaged ({reason}")
        assert said[0].endswith("); set aside and rebuilt.")
        assert store.find("base", KEY) is None  # and silently so: it is gone
        assert len(said) == 1
        aside = list(folder.parent.glob(".damaged-*"))
        assert len(aside) == 1
        assert name == "." or (aside[0] / "numbers.txt").read_text() == "1 2 3"
        assert store.find("base", "a" * 16)  # its neighbour is not touched
        assert artefact(store) == folder
        assert store.find("base", KEY)


def test_an_artefact_moved_to_another_key_is_not_taken_for_that_key(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        folder = artefact(store)
    folder.rename(folder.with_name("b" * 16))
    said: list[str] = []
    with Store(tmp_path, said.append) as store:
        assert store.find("base", "b" * 16) is None
    assert "manifest.json belongs to another artefact or format" in said[0]


def test_parts_are_found_over_all_artefacts_of_a_stage_and_not_in_damaged_ones(tmp_path: Path) -> None:
    said: list[str] = []
    with Store(tmp_path, said.append) as store:
        for key, parts in (("1" * 16, {"p1": "beta-1", "p2": "beta-2"}), ("2" * 16, {"p2": "again", "p3": "beta-3"})):
            with store.write("offline", key, parts) as folder:
                for name in parts.values():
                    (folder / name).mkdir()
                    (folder / name / "name.txt").write_text(name)
        found = store.find_parts("offline")
        assert {key: (path / "name.txt").read_text() for key, path in found.items()} == {
            "p1": "beta-1",
            "p2": "beta-2",  # of two equal parts the first is taken
            "p3": "beta-3",
        }
        assert store.find_parts("online") == {}
    (tmp_path / "store" / "offline" / ("1" * 16) / "beta-1" / "name.txt").write_text("beta-9")
    with Store(tmp_path, said.append) as store:
        assert set(store.find_parts("offline")) == {"p2", "p3"}
        assert [re.sub(".*store/", "", text) for text in said] == [
            f"offline/{'1' * 16}: damaged (beta-1/name.txt has changed); set aside and rebuilt."
        ]
        assert set(store.find_parts("offline")) == {"p2", "p3"}


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_loses_nothing(tiny_disk: Path) -> None:
    import torch
    from safetensors.torch import save_file

    full = re.escape(
        f"{tiny_disk}: no space left on the disk; free some or give another folder with out=…, then run the same "
        "again: finished work is kept."
    )
    with Store(tiny_disk) as store:
        artefact(store)
        with pytest.raises(InternalError, match=full) as error, store.write("base", "f" * 16) as folder:
            (folder / "large.bin").write_bytes(bytes(100_000))
        assert error.value.exit_code == 1
        with pytest.raises(InternalError, match=full), store.write("base", "f" * 16) as folder:
            save_file({"large": torch.zeros(25_000)}, folder / "large.safetensors")  # has its own exception class

        checkpoint = store.checkpoint("online", KEY)
        checkpoint.append("log", [{"step": 1}])
        checkpoint.save(1, {"x": torch.ones(10)})
        with pytest.raises(InternalError, match="no space left on the disk"):
            checkpoint.save(2, {"x": torch.ones(25_000)})
        with pytest.raises(InternalError, match="no space left on the disk"):
            checkpoint.append("log", [{"text": "x" * 100_000}])

    with Store(tiny_disk) as store:
        assert store.find("base", KEY)
        assert store.find("base", "f" * 16) is None
        saved = store.checkpoint("online", KEY).load()
        assert saved is not None
        assert (saved[0], saved[1]["x"].tolist()) == (1, [1.0] * 10)
        assert store.checkpoint("online", KEY).log("log") == [{"step": 1}]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_whatever_call_finds_the_disk_full_nothing_is_lost(tmp_path: Path, monkeypatch, number: int) -> None:
    with Store(tmp_path) as store:
        artefact(store)
        before = leaves(tmp_path)

        def fail(*args: object, **kwargs: object) -> int:
            raise OSError(number, os.strerror(number))

        for module, call in ((os, "fsync"), (os, "replace"), (Path, "open"), (Path, "write_bytes")):
            with monkeypatch.context() as patch:
                patch.setattr(module, call, fail)
                with pytest.raises(InternalError, match=r"no space left on the disk.*finished work is kept") as error:
                    artefact(store, "f" * 16)
                assert error.value.exit_code == 1
            assert leaves(tmp_path) == before
    with Store(tmp_path) as store:
        assert store.find("base", KEY)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_named_with_a_remedy(tmp_path: Path, monkeypatch, number: int) -> None:
    # Root may write anywhere, so the refusal is played.
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(BetastarError) as error, Store(tmp_path / "run"):
        pass
    assert str(error.value) == (
        f"{tmp_path / 'run' / 'store'}: cannot be used ({os.strerror(number).lower()}); change its permissions or give "
        "another folder with out=…."
    )
    assert error.value.exit_code == 2


def test_a_run_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with (
            pytest.raises(BetastarError, match=r"file.*: not a folder; give another folder with out=…\."),
            Store(folder),
        ):
            pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize("what", ["", "manifest.json", "words.txt"])
@pytest.mark.parametrize("find", [lambda s: s.find("base", KEY), lambda s: s.find_parts("base")])
def test_what_cannot_be_read_now_is_one_sentence_and_nothing_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str, find: Callable[[Store], object]
) -> None:
    """A permission, a failing disk or too many open files cost no trained work: root reads everything, so it is
    played."""
    with Store(tmp_path) as store:
        folder = artefact(store)
    before = leaves(tmp_path)

    def refusing(call: Callable[..., object]) -> Callable[..., object]:
        def refused(path: object, *args: object, **kwargs: object) -> object:
            if path in (folder / what, str(folder / what)):
                raise OSError(number, os.strerror(number), str(path))
            return call(path, *args, **kwargs)

        return refused

    said: list[str] = []
    with Store(tmp_path, said.append) as store:
        for call in ("lstat", "stat", "open"):
            monkeypatch.setattr(os, call, refusing(getattr(os, call)))
        with pytest.raises(BetastarError) as error:
            find(store)
        monkeypatch.undo()
        assert str(error.value) == (
            f"{folder}: cannot be read ({Path(what or folder).name}: {os.strerror(number)}), and nothing was changed; "
            "make it readable, then run the same again."
        )
        assert (said, leaves(tmp_path)) == ([], before)
        assert store.find("base", KEY)


def test_a_checkpoint_that_cannot_be_read_now_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    with Store(tmp_path) as store:
        store.checkpoint("online", KEY).append("training", [{"step": 1}])
        store.checkpoint("online", KEY).save(1, {"x": torch.ones(3)})
    for name in ("checkpoint.json", "state-1.safetensors", "training.jsonl"):
        called = os.open

        def refused(path: Any, *args: Any, name: str = name, called: Any = called, **kwargs: Any) -> int:
            if str(path).endswith(name):
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return called(path, *args, **kwargs)

        with Store(tmp_path) as store:
            monkeypatch.setattr(os, "open", refused)
            with pytest.raises(BetastarError, match=rf"cannot be read \({name}: .*\), and nothing was changed"):
                store.checkpoint("online", KEY).load()
            monkeypatch.undo()
            saved = store.checkpoint("online", KEY).load()
            assert saved is not None
            assert saved[0] == 1


def test_what_a_kill_leaves_beside_the_work_is_swept_and_nothing_else(tmp_path: Path) -> None:
    import torch

    with multiprocessing.get_context("fork").Pool(1) as pool:
        dead = pool.apply(os.getpid)
    with Store(tmp_path) as store:
        artefact(store)
        store.checkpoint("base", KEY).save(1, {"x": torch.ones(3)})  # its artefact had just been renamed
        store.checkpoint("online", KEY).save(1, {"x": torch.ones(3)})
    (tmp_path / "figures").mkdir()
    left = [f".{name}.{dead}.tmp" for name in ("results.json", "metrics.jsonl", "figures/.gap.svg")]
    left = [*left[:2], f"figures/.gap.svg.{dead}.tmp", ".status.json.tmp", f"store/base/.{'f' * 16}.tmp/half"]
    own = [f".mine.txt.{dead}.tmp", "notes.tmp", "figures/.mine.tmp", f"figures/.mine.txt.{dead}.tmp"]
    for name in (*left, *own):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half")
    with Store(tmp_path) as store:
        assert store.find("base", KEY)
        found = leaves(tmp_path)
        assert not {*left} & {*found}
        assert {*own} <= {*found}
        assert [name for name in found if "partial" in name] == [
            f"store/partial/online-{KEY}/checkpoint.json",
            f"store/partial/online-{KEY}/state-1.safetensors",
        ]


@pytest.mark.parametrize("moved", ["folder", "lock", "other lock"])
@pytest.mark.parametrize("writes", ["artefact", "log", "save"])
def test_a_folder_that_is_moved_or_unlocked_under_a_run_is_one_sentence(
    tmp_path: Path, moved: str, writes: str
) -> None:
    folder = tmp_path / "run"

    def write() -> None:
        with Store(folder) as store:
            checkpoint = store.checkpoint("online", KEY)
            if moved == "folder":
                folder.rename(tmp_path / "elsewhere")
            else:
                (folder / "lock").unlink()
            if moved == "other lock":
                (folder / "lock").touch()
            {
                "artefact": lambda: artefact(store),
                "log": lambda: checkpoint.append("training", [{"step": 1}]),
                "save": lambda: checkpoint.save(1, {}),
            }[writes]()

    with pytest.raises(BetastarError, match=r"run: was moved, or its file lock removed, while [^\n]*$"):
        write()
    assert folder.exists() == (moved != "folder")  # nothing is begun anew where the folder was


def test_a_folder_moved_while_an_artefact_is_written_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def write() -> None:
        with Store(folder) as store, store.write("base", KEY) as inside:
            folder.rename(tmp_path / "elsewhere")
            (inside / "weights").write_text("1 2 3")

    with pytest.raises(BetastarError, match="was moved"):
        write()
    assert not folder.exists()


@pytest.mark.parametrize(
    "make", [lambda p: p.symlink_to("nowhere/at/all"), lambda p: p.symlink_to(p), os.mkfifo, Path.mkdir]
)
def test_a_lock_that_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "lock")
    refused = pytest.raises(BetastarError, match=r"lock: not a regular file; remove it, or give another folder")
    with refused, Store(tmp_path):
        pass
