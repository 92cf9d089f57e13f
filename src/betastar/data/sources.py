"""Opening a dataset wherever it is: a local file, a local folder, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

from betastar.data.files import READERS
from betastar.data.hub import HUB_ID, builder_rows, open_builder
from betastar.data.rows import Rows
from betastar.disk import file_digest
from betastar.errors import BetastarError
from betastar.sections import DatasetSource
from betastar.sections.data import FILE_ENDINGS


def open_rows(source: DatasetSource, setting: str) -> Rows:
    """The rows of a dataset, not read yet. `setting` is the key that names it, for messages.

    What exists on disk is taken from there; else a name like `openai/gsm8k` is one of the hub. The digest is the
    SHA-256 of a file's bytes, or of a folder's names and bytes; for the hub it is the commit.
    Raises BetastarError where there is no such dataset or it cannot be opened.
    """
    path = Path(source.dataset).expanduser()
    ending = next((end for end in READERS if path.name.lower().endswith(end)), None)
    if path.is_dir():
        if source.revision:
            raise BetastarError(f"{setting}: {path} is a folder, which has no revisions; leave revision out.")
        return _prepared(source, setting, _folder_digest(path))
    if path.is_file() and ending is None:
        raise BetastarError(f"{path}: unknown kind of file; give one of {', '.join(READERS)} in {setting}.")
    if path.is_file():
        unit, reader = READERS[ending or ""]
        try:
            return Rows(str(path), unit, file_digest(path), lambda: reader(path))
        except OSError as error:
            raise BetastarError(f"{path}: cannot be read ({error.strerror}); change its permissions.") from None
    if ending or not HUB_ID.fullmatch(source.dataset):
        raise BetastarError(f"{path}: no such file; correct {setting} (relative paths start at {Path.cwd()}).")
    return _prepared(source, setting)


def is_local(source: DatasetSource) -> bool:
    """Whether a dataset is a file or folder, or is meant to be one."""
    return source.dataset.lower().endswith(FILE_ENDINGS) or Path(source.dataset).expanduser().exists()


def _prepared(source: DatasetSource, setting: str, digest: str | None = None) -> Rows:
    builder = open_builder(source, setting)
    part = ", ".join(part for part in (source.name, source.split or "train") if part)
    return Rows(
        f"{source.dataset} ({part})", "row", digest or builder.hash, lambda: builder_rows(builder, source, setting)
    )


def _folder_digest(folder: Path) -> str:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    visible = [name for name in names if not any(part.startswith(".") for part in Path(name).parts)]
    return hashlib.sha256("".join(f"{name} {file_digest(folder / name)}\n" for name in visible).encode()).hexdigest()
