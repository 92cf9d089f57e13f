"""Datasets of the Hugging Face hub, and folders laid out like them, through `datasets`. No code of theirs is run."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from betastar.data.rows import Row
from betastar.errors import BetastarError
from betastar.sections import DatasetSource

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
            f"kept from before ({builder.hash}); connect, or set revision to that."
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
    return BetastarError(f"{found}; connect, or give a local file in {setting}.")


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
    choices = listed[1].replace("'", "") if listed else "those it has"
    if "is a gated dataset" in text:
        page = f"https://huggingface.co/datasets/{name}"
        return f"{start} is gated; ask for access at {page}, then log in with `hf auth login`."
    if isinstance(error, DatasetNotFoundError) and "Revision" in text:
        return f"{start} has no revision {source.revision}; correct {setting}.revision or leave it out."
    if isinstance(error, DatasetNotFoundError):
        return (
            f"{start} is no file or folder here and no public dataset of the Hugging Face hub; correct the name, or if "
            "it is private log in with `hf auth login`."
        )
    if isinstance(error, ConnectionError) or type(error).__module__.startswith("httpx"):
        return str(unreachable(source, setting))
    if "Config name is missing" in text:
        return f"{start} has several configurations; set {setting}.name to one of {choices}."
    if "BuilderConfig" in text:
        return f"{start} has no configuration {source.name}; set {setting}.name to one of {choices}."
    if "find cache" in text:
        return (
            f"{start}: configuration {source.name} is not among those kept from before ({choices}); connect to load it."
        )
    if "nknown split" in text:
        return f"{start} has no split {source.split or 'train'}; set {setting}.split to one of {choices}."
    if "scripts are no longer supported" in text:
        return (
            f"{start} is made by a script, which betastar does not run; set {setting}.revision to refs/convert/parquet "
            "if it has that branch, or give it as a file."
        )
    if isinstance(error, FileNotFoundError) or "any data files" in text:
        return f"{start} holds no data files that can be read ({text[:200]}); give a .jsonl, .csv or .parquet file."
    return f"{start} cannot be loaded ({type(error).__name__}: {text[:200]}); give it as a local file in {setting}."
