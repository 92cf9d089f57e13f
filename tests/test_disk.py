"""Content keys that last, files written in one step, records that notice a changed character."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from betastar.disk import (
    content_key,
    file_digest,
    leftover_of,
    plain_disk_errors,
    sealed,
    unsealed,
    write_atomically,
)
from betastar.errors import BetastarError, InternalError


def test_content_keys_are_pinned() -> None:
    # A key that changes orphans every finished run. These come from sha256sum of the text after the #.
    assert content_key() == "4f53cda18c2baa0c"  # []
    assert content_key("base", {"b": 1, "a": [0.1, None, True]}, ["β"]) == "109d229d702653f9"
    #                  ["base",{"a":[0.1,null,true],"b":1},["\u03b2"]]
    assert content_key(1) != content_key(1.0) != content_key("1")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), json_values), st.randoms(use_true_random=False))
def test_content_keys_do_not_depend_on_the_order_of_a_dict(values: dict, random) -> None:
    items = list(values.items())
    random.shuffle(items)
    assert content_key(dict(items)) == content_key(values)
    assert content_key(json.loads(json.dumps(values))) == content_key(values)


@settings(max_examples=50)
@given(st.dictionaries(st.text() | st.integers(), json_values))
def test_a_sealed_record_comes_back_as_json_does(tmp_path_factory, record: dict) -> None:
    path = tmp_path_factory.getbasetemp() / "sealed.json"
    path.write_bytes(sealed(record))
    assert unsealed(path) == json.loads(json.dumps(record))


def meaning(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return None


def test_any_changed_character_of_a_sealed_record_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    written = sealed({"step": 12, "state": "state-12"})
    for place in range(len(written)):
        for character in b"0 ":
            changed = written[:place] + bytes([character]) + written[place + 1 :]
            path.write_bytes(changed)
            if meaning(changed) != meaning(written):  # white space alone may change
                with pytest.raises(ValueError, match=r"^record\.json has changed$"):
                    unsealed(path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch, call: str) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "results.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(InternalError, match="no space left on the disk"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_pass_through_unchanged(tmp_path: Path) -> None:
    for error in (OSError(errno.EPIPE, "Broken pipe"), KeyError("x"), BetastarError("one sentence")):
        with pytest.raises(type(error)) as caught, plain_disk_errors(tmp_path):
            raise error
        assert caught.value is error


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE])
def test_a_failing_disk_or_an_impossible_path_is_one_sentence(tmp_path: Path, number: int) -> None:
    path = number in (errno.ENAMETOOLONG, errno.ELOOP)
    remedy = "give another path with out=" if path else "check the disk, then run the same again"
    one_sentence = pytest.raises(
        BetastarError if path else InternalError, match=rf"/x: cannot be used \(.*\); {remedy}"
    )
    with one_sentence, plain_disk_errors(tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / "x"))


def test_what_a_killed_write_leaves_is_known_by_its_name(tmp_path: Path) -> None:
    """A process that still runs is left to its work; a link is nobody's leftover."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        dead = pool.apply(os.getpid)
    for name, expected in (
        (f".results.json.{dead}.tmp", "results.json"),
        (f".results.json.{os.getpid()}.tmp", "results.json"),
        (f".results.json.{os.getppid()}.tmp", None),
        (".results.json.tmp", None),
        (f"results.json.{dead}.tmp", None),
    ):
        (tmp_path / name).write_text("half")
        assert leftover_of(tmp_path / name) == expected
    (tmp_path / f".link.{dead}.tmp").symlink_to(tmp_path / f".results.json.{dead}.tmp")
    assert leftover_of(tmp_path / f".link.{dead}.tmp") is None


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "manifest.json"
    {"pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero"), "folder": path.mkdir}[kind]()
    for read in (file_digest, unsealed):
        with pytest.raises(ValueError, match=r"^manifest\.json is not a regular file$"):
            read(path)


def test_a_file_in_the_place_of_a_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for broken in (lambda: (tmp_path / "file").mkdir(), lambda: (tmp_path / "file" / "in").mkdir()):
        with (
            pytest.raises(BetastarError, match=r"file(/in)?: not a folder; give another folder with out=…"),
            plain_disk_errors(tmp_path),
        ):
            broken()
    with pytest.raises(BetastarError, match="is a folder; give a file with out=…"):
        write_atomically(tmp_path, b"x")
