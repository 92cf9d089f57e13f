"""Laying some settings over others: a file over its preset, `--set` over both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TAGS = ("train", "random", "pretrained", "micro", "dataset", "custom")  # what `kind` and `source` choose
CHOICES = ("kind", "source", "method", "dataset")  # keys whose value decides what the others of a section mean
DATASETS = ("source", "train", "test")  # keys that hold {dataset: text} or the text alone


def merged(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`override` laid over `base`, nested mappings merged; a mapping that names another of what it may be (its `kind`,
    `source`, `method`, `dataset` or `preset`) starts afresh."""
    result = dict(base)
    for key, value in override.items():
        old = result.get(key)
        old = {"dataset": old} if key in DATASETS and isinstance(old, str) else old
        if isinstance(value, dict) and isinstance(old, dict):
            fresh = "preset" in value or ("preset" in old and "kind" in value)
            # The source of a base is one of TAGS, that of preferences is a dataset.
            tags = [tag for tag in CHOICES if tag in value and (tag != "source" or value[tag] in TAGS)]
            fresh |= any(value[tag] != old.get(tag, value[tag]) for tag in tags)
            result[key] = value if fresh else merged(old, value)
        else:
            result[key] = value
    return result
