"""Rows of data sets: of local files (JSON Lines, CSV, Parquet) or of the Hugging Face hub, what is wrong in
them counted.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import logging
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from betastar.disk import file_digest
from betastar.errors import BetastarError
from betastar.settings.sections import FILE_ENDINGS, DatasetSource

T = TypeVar("T")
Row = dict[str, Any]

EXAMPLES = 3
"""How many malformed rows are shown."""


class BadRow(Exception):
    """Why one row cannot be used and what to do, as `reason; remedy` without a full stop."""


class MissingColumn(BadRow):
    """A row without a column that was asked for. `asked_by` names the setting."""

    def __init__(self, column: str, row: Mapping[str, Any], asked_by: str):
        columns = ", ".join(map(str, row)) or "none"
        super().__init__(f"no column `{column}` (columns: {columns}); correct {asked_by}")
        self.column = column


@dataclass(frozen=True)
class Rows:
    """An opened dataset. `read` yields (number, row) or, for what is no row, (number, reason)."""

    name: str  # what messages call it
    unit: str  # what is numbered from 1: "line" or "row"
    digest: str  # equal for equal content
    read: Callable[[], Iterator[tuple[int, Row | BadRow]]]


class Malformed(NamedTuple):
    """Rows left out because they cannot be used: how many of how many, and the first few with place and reason."""

    n: int = 0
    of: int = 0
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.n} of {self.of} rows are malformed and skipped: {' | '.join(self.examples)}"

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"malformed_dropped": self.n, "malformed_examples": list(self.examples)}

    def together(self, other: Malformed) -> Malformed:
        examples = (self.examples + other.examples)[:EXAMPLES]
        return Malformed(self.n + other.n, self.of + other.of, examples)


class Usable(NamedTuple, Generic[T]):
    """What `parse` made of the rows, how many rows were read, and which could not be used."""

    items: list[T]
    n_rows: int
    malformed: Malformed


def usable_rows(
    rows: Rows, parse: Callable[[Row], T | None], max_bad_share: float, limit: int | None = None
) -> Usable[T]:
    """Parse rows until `limit` items are made. `parse` returns None for a sound row that is not wanted, and raises
    BadRow for a malformed one.

    Raises BetastarError where more than `max_bad_share` of the rows read are malformed, and where a column that was
    asked for is in none of them.
    """
    items: list[T] = []
    bad: list[tuple[str, BadRow]] = []
    n_rows = 0
    for number, row in rows.read():
        n_rows += 1
        try:
            if isinstance(row, BadRow):
                raise row
            item = parse(row)
        except BadRow as fault:
            bad.append((f"{rows.unit} {number}", fault))
            continue
        if item is not None:
            items.append(item)
        if len(items) == limit:
            break
    if not n_rows:
        raise BetastarError(f"{rows.name}: the dataset is empty; give one with rows.")
    missing = {getattr(fault, "column", None) for _, fault in bad}
    if len(bad) == n_rows and len(missing) == 1 and None not in missing:
        raise BetastarError(f"{rows.name}: {bad[0][1]}.")
    if len(bad) > max_bad_share * n_rows:
        raise BetastarError(_too_many(rows.name, bad, n_rows, max_bad_share))
    examples = tuple(f"{rows.name}, {where}: {fault}" for where, fault in bad[:EXAMPLES])
    return Usable(items, n_rows, Malformed(len(bad), n_rows, examples))


def _too_many(name: str, bad: list[tuple[str, BadRow]], n_rows: int, max_bad_share: float) -> str:
    (where, fault), others = bad[0], [place for place, _ in bad[1:EXAMPLES]]
    also = f", also {' and '.join(others)}" if others else ""
    share = f"{len(bad)} of {n_rows}, {100 * len(bad) / n_rows:.3g} %{also}"
    remedy = f"or raise data.max_bad_share from {max_bad_share:g} to skip malformed rows ({share})."
    return f"{name}, {where}: {fault}, {remedy}"


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_jsonl(path: Path | str) -> Iterator[tuple[int, Row]]:
    """Yield (line number from 1, object) for every line of `path` that is not blank; `.gz` is unpacked.

    Nothing is opened before the first item is asked for. Raises BetastarError for a file that is missing, a folder,
    unreadable, without any object or not UTF-8, and for a line that is not a JSON object.
    """
    for number, row in jsonl_rows(path):
        if isinstance(row, BadRow):
            raise BetastarError(f"{path}, line {number}: {row}.")
        yield number, row


def jsonl_rows(path: Path | str) -> Iterator[tuple[int, Row | BadRow]]:
    """As `read_jsonl`, but a line that is not JSON object is yielded as a BadRow."""
    path = Path(path)
    found = False
    for number, line in _numbered_lines(path):
        if line.strip():
            found = True
            try:
                yield number, parse_object(line)
            except BadRow as fault:
                yield number, fault
    if not found:
        raise BetastarError(f"{path} is empty; it must hold one JSON object on each line.")


def parse_object(line: bytes) -> Row:
    """The object in a line of JSON. Raises BadRow."""
    try:
        row = json.loads(line.decode("utf-8"))
        if _SURROGATE_ESCAPE.search(line):  # half an escaped pair is legal JSON, but no text: it cannot be encoded
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8 text (byte {error.start + 1} of the line); save the file as UTF-8") from None
    except UnicodeEncodeError:
        raise BadRow("an unpaired \\uD800 surrogate escape; fix or remove the line") from None
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise BadRow(f"not valid JSON ({reason}); put one complete JSON object on each line") from None
    return as_object(row, "put one object such as {...} on each line")


def as_object(value: Any, remedy: str) -> Row:
    """A JSON value that must be an object. Raises BadRow."""
    if not isinstance(value, dict):
        kind = {list: "an array", str: "a string", type(None): "null", bool: "true or false"}
        raise BadRow(f"{kind.get(type(value), 'a number')} instead of a JSON object; {remedy}")
    return value


def _numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
    except FileNotFoundError:
        raise BetastarError(f"{path} does not exist; check the path (relative paths start at {Path.cwd()}).") from None
    except IsADirectoryError:
        raise BetastarError(f"{path} is a folder; name the JSON Lines file inside it.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        where = f"{path}, after line {number}"
        raise BetastarError(f"{where}: broken gzip data ({error}); compress or download the file again.") from None
    except OSError as error:
        reason = error.strerror or error
        raise BetastarError(
            f"{path} cannot be read ({reason}); check the path, its permissions and the disk."
        ) from None


RowReader = Callable[[Path], Iterator[tuple[int, Row | BadRow]]]


def json_rows(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    """The objects of a JSON list, numbered from 1. A file that begins with `{` is read as JSON Lines.

    Raises BetastarError where it is neither.
    """
    text = path.read_bytes()
    if text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        yield from ((number, row) for number, (_, row) in enumerate(jsonl_rows(path), start=1))
        return
    try:
        rows = json.loads(text)
        if not isinstance(rows, list):
            raise ValueError("it holds one value")
    except (ValueError, RecursionError) as error:
        raise BetastarError(f"{path}: not a list of JSON objects ({error}); give [{{...}}, {{...}}].") from None
    for number, row in enumerate(rows, start=1):
        try:
            # Written and parsed again, a row meets the same checks as a line of JSON Lines.
            yield number, parse_object(json.dumps(as_object(row, "put objects such as {...} into the list")).encode())
        except BadRow as fault:
            yield number, fault


def csv_rows(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    """Rows of a comma-separated file with a heading, as text, numbered by the line on which they end.

    Raises BetastarError for a file that is not UTF-8, without a heading, or whose quotes do not close.
    """
    csv.field_size_limit(sys.maxsize)  # the module's own limit, 131 072 characters, is shorter than some responses
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            heading = next(reader, [])
            if not any(heading) or len(set(heading)) < len(heading):
                raise BetastarError(f"{path}: the first line must name the columns, each once; correct the file.")
            for fields in reader:
                line = reader.line_num
                if len(fields) == len(heading):
                    yield line, dict(zip(heading, fields, strict=True))
                elif fields:
                    yield line, BadRow(f"{len(fields)} fields under {len(heading)} columns; quote fields with commas")
    except UnicodeDecodeError as error:
        raise BetastarError(f"{path}, after line {line}: not UTF-8 text ({error.reason}); save it as UTF-8.") from None
    except csv.Error as error:
        raise BetastarError(f"{path}, after line {line}: not valid CSV ({error}); correct the quotes.") from None


def parquet_rows(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    """Rows of a Parquet file, numbered from 1. Raises BetastarError where it is damaged or none."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0]
        raise BetastarError(
            f"{path}, after row {number}: not a readable Parquet file ({reason}); write it again."
        ) from None


READERS: Mapping[str, tuple[str, RowReader]] = {
    ".jsonl": ("line", jsonl_rows),
    ".jsonl.gz": ("line", jsonl_rows),
    ".json": ("row", json_rows),
    ".csv": ("line", csv_rows),
    ".parquet": ("row", parquet_rows),
}
"""By the end of a file's name: what is numbered in it, and what reads it."""


HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
BATCH = 1000


def open_builder(source: DatasetSource, setting: str) -> Any:
    """The `DatasetBuilder` of a hub dataset or a local folder; its `hash` is the commit that `revision` stands for.

    A dataset that was loaded before is found in the cache when the hub cannot be reached. Raises BetastarError where
    dataset, configuration or revision do not exist, or may not be read.
    """
    import datasets
    from datasets.packaged_modules.cache.cache import Cache

    _quiet()
    path = str(Path(source.dataset).expanduser()) if Path(source.dataset).expanduser().is_dir() else source.dataset
    try:
        builder = datasets.load_dataset_builder(path, source.name, revision=source.revision)
    except Exception as error:  # of many kinds, from four libraries
        raise BetastarError(_fault(error, source, setting)) from error
    if isinstance(builder, Cache) and source.revision and builder.hash != source.revision:
        raise BetastarError(
            f"{setting}: the hub cannot be reached, and revision {source.revision} of {source.dataset} is not the one "
            f"cached here ({builder.hash}); connect to the internet, or set revision to the cached one."
        )
    return builder


def may_be_kept(name: str) -> bool:
    """Whether a hub dataset may have been loaded here before: if not, it certainly was not. Looks at folders alone, as
    importing `datasets` takes half a second."""
    from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

    prepared = Path(os.environ.get("HF_DATASETS_CACHE", Path(HF_HOME, "datasets"))).expanduser()
    owner, slash, _ = name.partition("/")
    downloaded = Path(HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}")
    return downloaded.exists() or any(prepared.glob(f"{owner}___*" if slash else "*"))


def unreachable(source: DatasetSource, setting: str) -> BetastarError:
    """The hub cannot be reached, and the dataset is not kept from before."""
    found = f"{setting}: {source.dataset}: the Hugging Face hub cannot be reached"
    return BetastarError(f"{found}; connect to the internet, or give a local file in {setting}.")


def builder_rows(builder: Any, source: DatasetSource, setting: str) -> Iterator[tuple[int, Row]]:
    """The rows of one split, numbered from 1, downloaded first if need be. Raises BetastarError where that fails."""
    try:
        builder.download_and_prepare()
        dataset = builder.as_dataset(split=source.split or "train").with_format("arrow")
    except Exception as error:
        raise BetastarError(_fault(error, source, setting)) from error
    number = 0
    for batch in dataset.iter(batch_size=BATCH):
        for row in batch.to_pylist():
            number += 1
            yield number, row


def _quiet() -> None:
    """Silence notices and bars of the libraries: what a user must know, betastar says itself."""
    import datasets
    from huggingface_hub.utils import logging as hub_logging

    datasets.utils.logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    hub_logging.set_verbosity(logging.CRITICAL)


def _fault(error: Exception, source: DatasetSource, setting: str) -> str:
    """What is wrong, as one sentence with its remedy."""
    from datasets.exceptions import DatasetNotFoundError

    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    name, start = source.dataset, f"{setting}: {source.dataset}"
    listed = re.search(r"\['(.*?)'\]", text)
    choices = listed[1].replace("'", "") if listed else "one that exists"
    if "is a gated dataset" in text:
        page = f"https://huggingface.co/datasets/{name}"
        return f"{start} is gated; ask for access at {page}, then log in with `hf auth login`."
    if isinstance(error, DatasetNotFoundError) and "Revision" in text:
        return f"{start} has no revision {source.revision}; correct or remove {setting}.revision."
    if isinstance(error, DatasetNotFoundError):
        return (
            f"{start} is neither a local file or folder nor a public dataset on the Hugging Face hub; correct the "
            "name, or log in with `hf auth login` if it is private."
        )
    if isinstance(error, ConnectionError) or type(error).__module__.startswith("httpx"):
        return str(unreachable(source, setting))
    if "Config name is missing" in text:
        return f"{start} has several configurations; set {setting}.name to one of {choices}."
    if "BuilderConfig" in text:
        return f"{start} has no configuration {source.name}; set {setting}.name to one of {choices}."
    if "find cache" in text:
        found = f"{start}: configuration {source.name} is not cached (cached: {choices})"
        return f"{found}; connect to the internet to download it."
    if "nknown split" in text:
        return f"{start} has no split {source.split or 'train'}; set {setting}.split to one of {choices}."
    if "scripts are no longer supported" in text:
        return (
            f"{start} uses a loading script, which betastar does not run; set {setting}.revision to "
            "refs/convert/parquet if that branch exists, or give a local file."
        )
    if isinstance(error, FileNotFoundError) or "any data files" in text:
        return f"{start} has no readable data files ({text[:200]}); give a .jsonl, .csv or .parquet file."
    return f"{start} cannot be loaded ({type(error).__name__}: {text[:200]}); give it as a local file in {setting}."


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
            raise BetastarError(f"{setting}: {path} is a folder, which has no revisions; remove revision.")
        return _prepared(source, setting, _folder_digest(path))
    if path.is_file() and ending is None:
        raise BetastarError(f"{path}: unknown file type; give one of {', '.join(READERS)} in {setting}.")
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
