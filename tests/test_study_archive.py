"""The archive of a study: the same bytes again, and nothing in it changed unseen."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from scripts import script


@pytest.fixture(scope="module")
def archive() -> Any:
    return script("examples/study_archive.py")


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for name in ("b", "a"):
        found[name] = tmp_path / f"run-{name}"
        found[name].mkdir()
        (found[name] / "results.json").write_text(f'{{"name": "{name}"}}')
        (found[name] / "answers.parquet").write_bytes(bytes(range(256)))
        (found[name] / "store").mkdir()
    return found


def test_it_comes_back_whole_and_sha256sum_agrees(archive: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    one, other = tmp_path / "one.tar.gz", tmp_path / "deep" / "other.tar.gz"
    sums = archive.pack(one, runs)
    archive.pack(other, dict(reversed(runs.items())))
    assert one.read_bytes() == other.read_bytes()
    archive.unpack(one, tmp_path / "out")
    for name, run in runs.items():
        for file in ("results.json", "answers.parquet"):
            assert (tmp_path / "out" / name / file).read_bytes() == (run / file).read_bytes()
    assert not (tmp_path / "out" / "a" / "store").exists()
    (tmp_path / "out" / "SHA256SUMS").write_text(sums)
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path / "out", capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        f"{run}/{file}: OK" for run in "ab" for file in ("results.json", "answers.parquet")
    ]


def rewritten(path: Path, change: Any) -> Path:
    """An archive whose files `{name: content}` were changed."""
    with tarfile.open(path) as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    change(files)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda files: files.update({"a/results.json": b"{}"}), "a/results.json"),
        (lambda files: files.pop("b/answers.parquet"), "b/answers.parquet"),
        (lambda files: files.update({"a/more.txt": b""}), "a/more.txt"),
        (lambda files: files.pop("SHA256SUMS"), "a/answers.parquet"),
    ],
)
def test_what_was_changed_is_named(
    archive: Any, runs: dict[str, Path], tmp_path: Path, change: Any, named: str
) -> None:
    path = tmp_path / "study.tar.gz"
    archive.pack(path, runs)
    with pytest.raises(SystemExit, match=rf"{named} is missing or changed; download it again"):
        archive.unpack(rewritten(path, change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_that_leads_elsewhere_is_not_written(archive: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "study.tar.gz"
    archive.pack(path, {"../up": runs["a"]})
    with pytest.raises(SystemExit, match=r"\.\./up/results.json is no file of a run"):
        archive.unpack(path, tmp_path / "out" / "deep")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00cut"])
def test_what_is_no_archive_is_one_sentence(archive: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.tar.gz").write_bytes(content)
    with pytest.raises(SystemExit, match=r"study.tar.gz: not an archive that can be read"):
        archive.check(tmp_path / "study.tar.gz")


def test_a_folder_without_a_record_is_one_sentence(archive: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no results.json; name the folder of a finished run"):
        archive.main(["pack", str(tmp_path / "x.tar.gz"), f"a={tmp_path}"])
    assert not (tmp_path / "x.tar.gz").exists()
