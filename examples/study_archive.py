"""The records of a study's runs as one archive with checksums.

    python examples/study_archive.py pack ARCHIVE NAME=RUN NAME=RUN …   # the same bytes from the same records
    python examples/study_archive.py check ARCHIVE
    python examples/study_archive.py unpack ARCHIVE FOLDER              # checked first; NAME/ for each run

Of each run it holds the configuration, results.json, the evaluation points, the table of single answers and the kept
responses: all that `bs.load` and `betastar report` need, without checkpoints. `SHA256SUMS` in it is what
`sha256sum --check` reads.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

FILES = ("config.yaml", "results.json", "metrics.jsonl", "answers.parquet", "samples.jsonl")
NEEDED = ("results.json",)
SUMS = "SHA256SUMS"


def pack(archive: Path, runs: Mapping[str, Path]) -> str:
    """Write the archive of runs by name; returns its SHA256SUMS. Raises SystemExit for a run without a record."""
    for name, folder in runs.items():
        if missing := [file for file in NEEDED if not (folder / file).is_file()]:
            sys.exit(f"{folder} ({name}) has no {missing[0]}; name the folder of a finished run.")
    contents = {
        f"{name}/{file}": (folder / file).read_bytes()
        for name, folder in sorted(runs.items())
        for file in FILES
        if (folder / file).is_file()
    }
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items())
    archive.parent.mkdir(parents=True, exist_ok=True)
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, content in {SUMS: sums.encode(), **contents}.items():
            entry = tarfile.TarInfo(name)  # no owner, no time: the same bytes whoever packs it
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return sums


def check(archive: Path) -> dict[str, bytes]:
    """The files of an archive by name. Raises SystemExit where one is missing, added or not what its sum says."""
    try:
        with tarfile.open(archive) as tar:
            found = {entry.name: tar.extractfile(entry) for entry in tar if entry.isfile()}
            contents = {name: file.read() for name, file in found.items() if file is not None}
    except (OSError, EOFError, tarfile.TarError) as error:
        sys.exit(f"{archive}: not an archive that can be read ({error}); download it again.")
    expected = dict(line.split("  ", 1)[::-1] for line in contents.pop(SUMS, b"").decode().splitlines())
    wrong = sorted(
        {name for name, content in contents.items() if hashlib.sha256(content).hexdigest() != expected.get(name)}
        | (set(expected) - set(contents))
    )
    if wrong or not expected:
        sys.exit(f"{archive}: {wrong[0] if wrong else SUMS} is missing or changed; download it again.")
    return contents


def unpack(archive: Path, folder: Path) -> None:
    """Write the files of an archive into a folder, NAME/FILE for each run."""
    for name, content in check(archive).items():
        run, _, file = name.rpartition("/")
        if file not in FILES or not run or Path(run).name != run:
            sys.exit(f"{archive}: {name} is no file of a run; nothing of it was written.")
        (folder / run).mkdir(parents=True, exist_ok=True)
        (folder / run / file).write_bytes(content)


def main(arguments: Sequence[str]) -> None:
    match arguments:
        case ["pack", archive, *runs] if runs and all("=" in run for run in runs):
            print(pack(Path(archive), {name: Path(folder) for name, folder in (run.split("=", 1) for run in runs)}))
        case ["check", archive]:
            print(f"{archive}: {len(check(Path(archive)))} files, all as their sums say")
        case ["unpack", archive, folder]:
            unpack(Path(archive), Path(folder))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
