"""Every setting says what it means and refuses what it cannot mean, in one line with its key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from betastar.errors import BetastarError
from betastar.settings.config import Config, load_config
from betastar.settings.sections import (
    CustomTask,
    DatasetPreferences,
    DatasetSource,
    DatasetTask,
    PretrainedBase,
    TrainedBase,
)


def sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """All models that a field of this type may hold, of every kind and source."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from sections(field.annotation)
    for part in getattr(annotation, "__args__", ()):
        yield from sections(part)


def test_every_field_of_every_section_says_what_it_means() -> None:
    found = set(sections(Config))
    expected = {TrainedBase, PretrainedBase, DatasetTask, CustomTask, DatasetPreferences, DatasetSource}
    assert expected | {Config} <= found
    silent = [f"{s.__name__}.{name}" for s in found for name, field in s.model_fields.items() if not field.description]
    assert silent == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("online.steps=-3", "online.steps: input should be greater than 0 (given: -3)"),
        ("online.steps=2.5", "online.steps: input should be a valid integer, got a number with a fractional part"),
        ("online.steps=true", "online.steps: input should be a valid integer"),  # not 1
        ("seeds=[0, yes]", "seeds.1: input should be a valid integer"),
        ("seeds=0,1", "seeds: should be a list, as in [a, b] (given: '0,1')"),
        ("seeds=[0, 1, 0]", "seeds: the same seed is listed twice; list each seed once"),
        ("offline.learning_rate=.nan", "offline.learning_rate: should be a number above 0, or auto (given: nan)"),
        ("online.clip=.inf", "online.clip: should be a number above 0, or auto (given: inf)"),
        ("evaluation.temperature=-.inf", "evaluation.temperature: input should be a finite number (given: -inf)"),
        ("lengths.prompt=0", "lengths.prompt: should be a number of tokens of at least 1, or auto (given: 0)"),
        (
            "lengths.response=none",
            "lengths.response: should be a number of tokens of at least 1, or auto (given: 'none')",
        ),
        ("evaluation.best_of=1", "evaluation: best_of must be at least 2, because the best of 1 answer is that answer"),
        ("evaluation={fresh_steps: 5, plasticity: 1}", "fresh_steps exchanges responses between the texts of"),
        ("evaluation.best_of_problems=0", "evaluation.best_of_problems: input should be greater than 0 (given: 0)"),
        (
            "offline={engine: trl, evaluate_every: 5}",
            "offline: evaluate_every needs engine bank, because TRL's trainer",
        ),
        ("name=a/b", "name: should consist of letters, digits, dots, hyphens and underscores, and start with a"),
        ("name=..", "name: should consist of letters"),
        ("online=3", "online: should hold settings, as in `name: {key: value}` (given: 3)"),
        ("online=", "online: should hold settings, as in `name: {key: value}` (given: None)"),
        ("task.kind=math", "task.kind: should be one of 'micro', 'lists', 'dataset', 'custom' (given: 'math')"),
        ("task.train=x", "task.train: unknown key; it belongs to another kind or source"),
        ("online.kl.kapa=1", "online.kl.kapa: unknown key; did you mean kappa?"),
        ("online.kappa=1", "online.kappa: unknown key; did you mean online.kl.kappa?"),
        ("online.xyz=1", "online.xyz: unknown key; `betastar config` lists all keys"),
        ("base.geometry.heads=3", "base.geometry: hidden_size must be a multiple of heads, and heads of"),
        ("base.geometry={hidden_size: 24, heads: 8, key_value_heads: 8}", "base.geometry: hidden_size / heads must be"),
        ("grid.percentiles=[50, 50]", "grid: percentiles lists the same number twice; list each once"),
        ("grid.percentiles=[50, 100]", "grid.percentiles.1: input should be less than 100 (given: 100)"),
        ("grid={method: list, values: [0.5, 0.5]}", "grid: values lists the same number twice; list each once"),
        ("grid={method: list, values: [0.1, 0]}", "grid.values.1: input should be greater than 0 (given: 0)"),
        ("grid={method: list, values: [1, -0.5]}", "grid.values.1: input should be greater than 0 (given: -0.5)"),
        ("grid={method: list, values: [.inf]}", "grid.values.0: input should be a finite number (given: inf)"),
        ("grid={method: list, values: [.nan]}", "grid.values.0: input should be a finite number (given: nan)"),
        ("grid.method=list", "grid: method list needs values, for example values: [0.1, 0.3, 1.0]"),
        ("grid.values=[0.1]", "grid: method geometric does not use values; set method: list or values: []"),
        (
            "grid={method: percentiles, low: 1}",
            "grid: method percentiles does not use low, high and n; set method: geometric or remove them",
        ),
        ("grid={low: 1, n: null}", "grid: method geometric needs low, high and n"),
        ("grid={method: geometric, low: 1, high: 1, n: 3}", "grid: low must be smaller than high"),
        (
            "task={preset: gsm8k, grader: regex}",
            "task.grader: input should be 'gsm8k', 'gsm8k-lm-eval', 'number', 'text', 'choice' or",
        ),
        ("task={preset: gsm8k, train: {limit: 0}}", "task.train.limit: input should be greater than 0 (given: 0)"),
        ("task={preset: gsm8k, train: ''}", "task.train.dataset: string should have at least 1 character (given: '')"),
        (
            "task={preset: gsm8k, test: {dataset: x.csv, split: test}}",
            "task.test: name, split and revision belong to hub datasets; remove them when you give a file",
        ),
        ("task={kind: custom}", "task.task: missing; give it a value (`betastar config` explains it)"),
        (
            "preferences={kind: dataset, source: x, columns: {chose: y}}",
            "preferences.columns.chose: unknown key; did you mean chosen?",
        ),
        (
            "reward_base={source: pretrained, model: a/b/x.Q8_0.gguf}",
            "reward_base: model names a file; set model: a/b and gguf_file: x.Q8_0.gguf",
        ),
        (
            "reward_base={source: pretrained, model: a, gguf_file: x.gguf, quantization: nf4}",
            "reward_base: gguf_file cannot be combined with quantization nf4, because the file is already quantised",
        ),
        (
            "reward_base={source: pretrained, model: a, gguf_file: ../x.gguf}",
            "reward_base.gguf_file: should name a .gguf file inside the folder or repository given by `model` (given",
        ),
        (
            "reward_base={source: pretrained, model: a, gguf_file: x.bin}",
            "reward_base.gguf_file: should name a .gguf file inside",
        ),
        ("data.max_bad_share=1", "data.max_bad_share: input should be less than 1 (given: 1)"),
        ("data.max_bad_share=-0.1", "data.max_bad_share: input should be greater than or equal to 0 (given: -0.1)"),
        (
            "preferences={kind: dataset, source: x}",
            "base.source: train only works for a built-in world; use random or pret",
        ),
        (
            "reward_base={source: train}",
            "reward_base.source: a base for the reward models cannot be trained; use random",
        ),
        ("reward_base={source: random, geometry: {heads: -1}}", "reward_base.geometry.heads: input should be greater"),
        ("variants.fast.stepz=1", "variants.fast.stepz: unknown key; did you mean steps?"),
        ("variants.fast.kl.kapa=1", "variants.fast.kl.kapa: unknown key; did you mean kappa?"),
        ("variants.fast.kappa=1", "variants.fast.kappa: unknown key; did you mean variants.fast.kl.kappa?"),
        ("variants.fast.steps=-1", "variants.fast.steps: input should be greater than 0 (given: -1)"),
        ("variants.fast=3", "variants.fast: should hold settings, as in `name: {key: value}` (given: 3)"),
        ("variants.a/b={}", "variants.a/b: should consist of letters, digits, dots, hyphens and underscores"),
        ("variants={paper: null, fixed: null}", "variants: should have at least 1 entry"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(override: str, message: str) -> None:
    with pytest.raises(BetastarError) as error:
        load_config("micro", [override])
    key, where = override.partition("=")[0], message.partition(":")[0]
    expected = message.removeprefix(f"{key}: ") if where == key else message
    assert str(error.value).startswith(f"--set {override}: {expected}")
    assert "\n" not in str(error.value)


def test_a_setting_that_came_later_is_left_out_of_records_where_it_is_not_used() -> None:
    """So that the keys of finished work, which are hashes of these settings, stay what they were."""
    plain = PretrainedBase(source="pretrained", model="m")
    assert plain.model_dump() == plain.model_dump(mode="json") == {
        "source": "pretrained", "model": "m", "revision": None, "dtype": "auto", "quantization": "none",
        "double_quantization": True, "compute_dtype": "auto",
    }  # fmt: skip
    with_file = PretrainedBase(source="pretrained", model="m", gguf_file="x.gguf")
    assert with_file.model_dump() == plain.model_dump() | {"gguf_file": "x.gguf"}
    assert PretrainedBase(**with_file.model_dump()) == with_file
