"""A store that machines share through fsspec: commits in order, torn and failing uploads, damage, twins, one driver."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from experiment.small import Listener, a_worker, all_done, same_results, small

from betastar.disk import sealed, unseal
from betastar.errors import BetastarError, InternalError
from betastar.experiment import pipeline
from betastar.experiment.place import MANIFEST, Place
from betastar.experiment.store import Store

KEY = "0123456789abcdef"
PATH = f"store/base/{KEY}"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server that speaks S3, with an empty bucket."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }.items():
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("runs")
        yield "s3://runs"
    server.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    return f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path / 'shared'}"


def place(uri: str, writer: str = "here-1", **options: Any) -> Place:
    return Place(uri, writer, wait=0.001, **options)


def artefact(folder: Path, at: Place, text: str = "abc", key: str = KEY) -> Path:
    with (
        Store(folder, shared=True, place=at) as store,
        store.write("base", key, {"p" + key: "part"}) as made,
    ):
        (made / "part" / "deep").mkdir(parents=True)
        (made / "part" / "deep" / "words.txt").write_text(text)
        (made / "numbers.txt").write_text("1 2 3")
    return store.place("base", key)


def test_what_one_machine_writes_another_reads_verified(uri: str, tmp_path: Path) -> None:
    place(uri).check()
    artefact(tmp_path / "one", place(uri))
    with Store(tmp_path / "two", shared=True, place=place(uri, "there-2")) as store:
        assert store.finished("base") == {"p" + KEY}
        assert not (tmp_path / "two" / PATH).exists()  # by the manifest alone
        assert (store.part("base", "p" + KEY) / "deep" / "words.txt").read_text() == "abc"
        assert set(store.find_parts("base")) == {"p" + KEY}
        assert store.find("base", "f" * 16) is None
        assert store.find_parts("probe") == {}
    with Store(tmp_path / "two", shared=True) as store:  # and it is a whole artefact of its own
        assert store.find("base", KEY)


def test_the_manifest_is_written_last_and_is_the_commit(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, order = place(uri), []
    put, pipe = at.fs.put_file, at.fs.pipe_file

    def put_file(local: str, remote: str) -> None:
        order.append(Path(remote).name)
        assert place(uri).manifest(PATH) is None
        put(local, remote)

    def pipe_file(path: str, data: bytes) -> None:
        order.append("manifest.json" if "manifest.json" in path else path)
        pipe(path, data)

    monkeypatch.setattr(at.fs, "put_file", put_file)
    monkeypatch.setattr(at.fs, "pipe_file", pipe_file)
    artefact(tmp_path / "one", at)
    assert order == ["numbers.txt", "words.txt", "manifest.json"]


def test_a_torn_upload_is_not_there_and_is_made_again(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine dies after one of two files."""
    at = place(uri)
    put = at.fs.put_file

    def put_file(local: str, remote: str) -> None:
        if "words" in remote:
            raise KeyboardInterrupt
        put(local, remote)

    monkeypatch.setattr(at.fs, "put_file", put_file)
    with pytest.raises(KeyboardInterrupt):
        artefact(tmp_path / "one", at)
    other = place(uri, "there-2")
    assert other.keys("base") == [KEY]
    with Store(tmp_path / "two", shared=True, place=other) as store:
        assert store.find("base", KEY) is None
        assert store.finished("base") == set()
    artefact(tmp_path / "two", other, "again")
    with Store(tmp_path / "three", shared=True, place=place(uri, "third-3")) as store:
        assert (store.part("base", "p" + KEY) / "deep" / "words.txt").read_text() == "again"


def test_a_failing_upload_is_tried_again_and_one_that_keeps_failing_is_one_sentence(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    at = place(uri, say=said.append)
    put, calls = at.fs.put_file, []

    def put_file(local: str, remote: str) -> None:
        calls.append(remote)
        if len(calls) < 4:
            raise ConnectionResetError("connection reset by peer")
        put(local, remote)

    monkeypatch.setattr(at.fs, "put_file", put_file)
    artefact(tmp_path / "one", at)
    assert len(calls) == 5  # the first file three times in vain
    assert said == [
        f"{uri}: ConnectionResetError: connection reset by peer; trying again in {wait} s."
        for wait in ("0.001", "0.002", "0.004")
    ]
    with Store(tmp_path / "two", shared=True, place=place(uri, "there-2")) as store:
        assert store.find("base", KEY)

    calls.extend([""] * -len(calls))
    monkeypatch.setattr(at.fs, "put_file", lambda *args: (_ for _ in ()).throw(TimeoutError("timed out")))
    with pytest.raises(InternalError) as error:
        artefact(tmp_path / "one", at, key="f" * 16)
    assert str(error.value) == (
        f"{uri}: the store failed 5 times (TimeoutError: timed out); run the same again: finished work is kept."
    )
    assert place(uri).manifest(f"store/base/{'f' * 16}") is None


def test_a_store_without_rights_is_one_sentence_at_once(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at, calls = place(uri), []

    def refuse(path: str, data: bytes) -> None:
        calls.append(path)
        raise PermissionError("Access Denied")

    monkeypatch.setattr(at.fs, "pipe_file", refuse)
    with pytest.raises(BetastarError) as error:
        at.check()
    assert len(calls) == 1
    assert str(error.value) == (
        f"{uri}: no right to read or write there (PermissionError: Access Denied); check the credentials of this "
        "machine, or give another store."
    )


def test_damage_is_named_set_aside_and_made_again(uri: str, tmp_path: Path) -> None:
    at = place(uri)
    artefact(tmp_path / "one", at)
    name = f"{at.root}/{PATH}/here-1/numbers.txt"
    at.fs.pipe_file(name, b"1 3 2")
    said: list[str] = []
    other = place(uri, "there-2", say=said.append)
    with Store(tmp_path / "two", shared=True, place=other) as store:
        assert store.find("base", KEY) is None
        assert said == [f"{uri}/{PATH}: damaged (numbers.txt has changed); set aside and rebuilt."]
        assert store.finished("base") == set()
    artefact(tmp_path / "two", other, "again")
    with Store(tmp_path / "three", shared=True, place=place(uri, "third-3")) as store:
        assert store.find("base", KEY)
    other.write(f"{PATH}/{MANIFEST}", b"{}")
    assert other.manifest(PATH) is None
    assert said[1] == f"{uri}/{PATH}: damaged ({MANIFEST} has changed); set aside and rebuilt."


def test_of_twins_the_first_stays_and_the_second_machine_takes_it_too(uri: str, tmp_path: Path) -> None:
    one, two = place(uri), place(uri, "there-2")
    artefact(tmp_path / "one", one, "first")
    folder = artefact(tmp_path / "two", two, "second")
    assert (folder / "part" / "deep" / "words.txt").read_text() == "first"
    manifest = one.manifest(PATH)
    assert manifest is not None
    assert manifest["at"] == "here-1"


def test_one_driver_at_a_time(uri: str, tmp_path: Path) -> None:
    mine, theirs = place(uri, f"host-a-{os.getpid()}"), place(uri, "host-b-1")
    with Store(tmp_path / "one", place=mine):
        with pytest.raises(BetastarError) as error, Store(tmp_path / "two", place=theirs):
            pass
        assert str(error.value) == (
            f"{uri}: another betastar drives this store (process {os.getpid()} on host-a); wait for it, or give "
            "another store; one that has died is forgotten after 90 s."
        )
    with Store(tmp_path / "two", place=theirs):  # the first has ended
        pass
    dead = {"writer": "host-a-4194303", "at": time.time()}  # a number that no process has
    mine.write("driver.json", json.dumps(dead).encode())
    with Store(tmp_path / "one", place=mine):  # of this host, so that it is known to be gone
        pass
    mine.write("driver.json", json.dumps(dead).encode())
    with pytest.raises(BetastarError, match="another betastar drives"), Store(tmp_path / "two", place=theirs):
        pass
    mine.write("driver.json", json.dumps({**dead, "at": time.time() - 91}).encode())
    with Store(tmp_path / "two", place=theirs):
        pass
    assert mine.read("driver.json") is None


def test_a_run_that_began_without_a_place_can_be_shared(uri: str, tmp_path: Path) -> None:
    with Store(tmp_path / "one") as store, store.write("base", KEY, {"k": "part"}) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "x.txt").write_text("x")
    with Store(tmp_path / "one", place=place(uri)) as store:
        store.upload_all()
    with Store(tmp_path / "two", shared=True, place=place(uri, "there-2")) as store:
        assert store.finished("base") == {"k"}
        assert store.part("base", "k")


def test_an_address_that_is_none_is_one_sentence() -> None:
    with pytest.raises(BetastarError, match=r"^store: nofs://x is not an address of a store \(.*\); write s3://BUCKET"):
        Place("nofs://x", "me-1")


def test_a_seal_is_read_from_bytes_too() -> None:
    assert unseal(sealed({"a": 1})) == {"a": 1}
    with pytest.raises(ValueError, match="has changed"):
        unseal(b"")


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_two_machines_with_nothing_in_common_but_the_place_make_the_run(uri: str, local: Path, tmp_path: Path) -> None:
    """Two workers, each with a directory of its own, take turns; a third machine analyses."""
    config = small()
    with (
        a_worker(config, tmp_path / "one", at=place(uri)) as one,
        a_worker(config, tmp_path / "two", at=place(uri, "there-2")) as two,
    ):
        turn, done = [one, two], []
        while ready := turn[0].ready(2):
            turn[0].do(ready[0])
            done.append(ready[0])
            turn.reverse()
        assert turn[1].ready(2) == all_done(one, 2) == []
        assert len(done) == len(set(done))
    listener = Listener()
    pipeline.run(small(f"compute.engine.store={uri}"), tmp_path / "three", listener)
    assert {"base: reused", "online: reused", "plasticity: reused"} <= set(listener.said)
    assert same_results(tmp_path / "three", local)
