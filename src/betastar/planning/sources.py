"""Where a plan takes its inputs from: models from their configuration alone, data from what is already here, from
published sizes, or from what the user or this page assumes. Weights are never read."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from betastar.data.chat import ChatFormat
from betastar.data.preferences import read_preferences, sequence_lengths, split_by_prompt
from betastar.data.sources import is_local, open_rows
from betastar.errors import BetastarError
from betastar.models.hub import locate, read_config
from betastar.models.loading import load_tokenizer
from betastar.models.random_models import build_byte_tokenizer, build_model
from betastar.randomness import numpy_generator
from betastar.record.files import read_results, read_settings
from betastar.settings.config import PRESETS, Config
from betastar.settings.sections import (
    BaseModelChoice,
    BuiltInTask,
    DatasetPreferences,
    DatasetSource,
    DatasetTask,
    PretrainedBase,
    RandomBase,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

GEOMETRY = PRESETS / "models"  # published configurations of the presets' models: planning them needs no network
PUBLISHER = "Qwen/"
ROWS = {  # of public datasets, so that planning them needs no network either
    ("HuggingFaceH4/ultrafeedback_binarized", "train_prefs"): 61_135,
    ("HuggingFaceH4/ultrafeedback_binarized", "test_prefs"): 2_000,
    ("openai/gsm8k", "train"): 7_473,
    ("openai/gsm8k", "test"): 1_319,
}
ASSUMED = (256, 512)  # tokens of prompt and response where nothing is known
TRAIN = 0.8  # share of the pairs that are trained on


class Tokens(NamedTuple):
    """Limits of prompt, response and sampled response, and how they are known."""

    prompt: int
    response: int
    generated: int
    source: str


class Pairs(NamedTuple):
    """How many pairs are trained on, and how that is known."""

    train: int
    source: str


def model_config(choice: BaseModelChoice, config: Config) -> PreTrainedConfig:
    """The configuration of a base, as transformers reads it."""
    import torch
    from transformers import AutoConfig

    if isinstance(choice, PretrainedBase):
        published = GEOMETRY / f"{choice.model.removeprefix(PUBLISHER)}.json"
        known = choice.model.startswith(PUBLISHER) and published.is_file() and choice.gguf_file is None
        if known and not Path(choice.model).exists():
            return AutoConfig.from_pretrained(published)
        return read_config(locate(choice.model, choice.revision, choice.gguf_file))
    with torch.device("meta"):
        return build_model(choice.geometry, len(_own_tokenizer(choice, config)), 0).config


def data(config: Config, tokens: tuple[int, int] | None, pairs: int | None, folder: Path) -> tuple[Pairs, Tokens]:
    """Training pairs and token limits. What the user says counts, then a finished run of the same data and model in
    `folder`, then local data; then published sizes and an assumption. Raises BetastarError where the number of pairs
    cannot be known."""
    done = _finished(config, folder)
    if done is None and (tokens is None or pairs is None):
        done = _local(config)
    known_pairs, known_tokens = done or (None, None)
    counted = Pairs(pairs, "as given") if pairs is not None else known_pairs or _published(config)
    if tokens is not None:
        found = Tokens(*tokens, tokens[1], "as given")
    else:
        found = known_tokens or Tokens(*ASSUMED, ASSUMED[1], "assumed; set them with --tokens PROMPT,RESPONSE")
    return counted, _as_set(config, found)


def problems(config: Config) -> int:
    """Problems answered at an evaluation point: as set, or all there are. Raises BetastarError where the task's local
    files are not there."""
    task, wanted = config.task, config.evaluation.problems
    if isinstance(task, BuiltInTask):
        return min(wanted, task.test_problems)
    if not isinstance(task, DatasetTask):
        return wanted
    if is_local(task.train):
        open_rows(task.train, "task.train")
    if is_local(task.test):
        rows = open_rows(task.test, "task.test").read()
        return sum(1 for _ in islice(rows, min(wanted, task.test.limit or wanted)))
    return min(wanted, _rows(task.test) or wanted)


def _as_set(config: Config, found: Tokens) -> Tokens:
    """Limits that are numbers in the configuration in place of those found."""
    lengths = config.lengths
    prompt = found.prompt if lengths.prompt == "auto" else lengths.prompt
    response = found.response if lengths.response == "auto" else lengths.response
    generated = response if lengths.generated == "auto" else lengths.generated
    known = "auto" not in (lengths.prompt, lengths.response)
    return Tokens(prompt, response, generated, "as configured" if known else found.source)


def _finished(config: Config, folder: Path) -> tuple[Pairs, Tokens] | None:
    """From the results of a run whose data and model are those of `config`."""
    try:
        ran, results = read_settings(folder), read_results(folder)
        here = config.model_dump(mode="json")
        same = ("base", "preferences", "data", "chat", "root_seed", "task")
        if "data" not in results or "rewards" not in results or any(ran[name] != here[name] for name in same):
            return None
        lengths, checked = results["data"]["lengths"], results["rewards"]
        train = results["data"]["coverage"]["pairs"] - checked["validation"]["pairs"] - checked["test"]["pairs"]
        return Pairs(train, f"as in {folder}"), Tokens(
            lengths["prompt"], lengths["response"], lengths["response"], f"as in {folder}"
        )
    except (BetastarError, KeyError):
        return None  # no finished run, or one of another version


def _local(config: Config) -> tuple[Pairs, Tokens | None] | None:
    """From local preference data, as the run will read them; tokens where the tokenizer is local, too."""
    source = config.preferences
    if not isinstance(source, DatasetPreferences) or not is_local(source.source):
        return None
    rows = open_rows(source.source, "preferences.source")
    found = read_preferences(rows, source.columns, source.source.limit, config.data.max_bad_share).pairs
    where = f"counted in {source.source.dataset}"
    train = Pairs(len(split_by_prompt(found).train), where)
    base = config.base
    if isinstance(base, PretrainedBase) and not Path(base.model).expanduser().is_dir():
        return train, None
    if isinstance(base, PretrainedBase):
        tokenizer = load_tokenizer(locate(base.model, gguf_file=base.gguf_file))
    else:
        tokenizer = build_byte_tokenizer()
    chat = ChatFormat(tokenizer, config.chat.thinking, config.chat.system)
    prompts = [len(row) for row in chat.prompts([pair.prompt for pair in found])]
    responses = [len(r) for side in ("chosen", "rejected") for r in chat.responses([getattr(p, side) for p in found])]
    limits = sequence_lengths(prompts, responses, numpy_generator(config.root_seed, "lengths"))
    return train, Tokens(limits.prompt, limits.response, limits.response, where)


def _published(config: Config) -> Pairs:
    source = config.preferences
    if not isinstance(source, DatasetPreferences):
        return Pairs(
            int(TRAIN * source.prompts), f"at most, from {source.prompts} prompts whose two answers may be equal"
        )
    rows = _rows(source.source)
    if rows is None:
        raise BetastarError(
            f"preferences.source: the number of pairs in {source.source.dataset} is unknown until it is read; give the "
            "number to train on with --pairs NUMBER."
        )
    known = ROWS.get((source.source.dataset, source.source.split or "train")) == rows
    how = f"80 % of {rows} rows of {source.source.dataset}"
    return Pairs(int(TRAIN * rows), how if known else f"at most {how}")


def _rows(source: DatasetSource) -> int | None:
    rows = ROWS.get((source.dataset, source.split or "train"))
    return source.limit if rows is None else min(rows, source.limit or rows)


def _own_tokenizer(choice: BaseModelChoice, config: Config):
    """The tokenizer of a base that is made here."""
    from betastar.data.micro import language
    from betastar.data.micro.language import build_tokenizer

    if isinstance(choice, RandomBase):
        return build_byte_tokenizer()
    assert isinstance(config.task, BuiltInTask)  # the configuration sees to it
    return build_tokenizer(language(config.task))
