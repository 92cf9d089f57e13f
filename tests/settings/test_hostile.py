"""Settings that cannot be: each is refused at once, in one sentence per fault that names where."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from betastar.errors import BetastarError
from betastar.settings.config import load_config

LONG = "x" * 300
DEEP = "[" * 10_000
HUGE = "9" * 400

OVERRIDES = [
    ("name=", "name"),
    (f"name={LONG}", "name"),
    ("name=../elsewhere", "name"),
    ('name="a\\0b"', "name"),
    ('name="\\e[31m"', "name"),
    (f"variants={{{LONG}: {{}}}}", "variants"),
    ("variants={'': {}}", "variants"),
    ("variants={'a/b': {}}", "variants"),
    ("seeds=[]", "seeds"),
    ("seeds=[0.5]", "seeds"),
    ("seeds=[1, 1]", "seeds"),
    ("seeds=[1e30]", "seeds"),
    (f"seeds=[{HUGE}]", "seeds"),
    ("seeds=[.nan]", "seeds"),
    ("seeds=[true]", "seeds"),
    (f"seeds=[{', '.join(map(str, range(1001)))}]", "seeds"),
    ("seeds=0", "seeds"),
    ("root_seed=-1", "root_seed"),
    (f"root_seed={2**63}", "root_seed"),
    (f"root_seed={HUGE}", "root_seed"),
    (f"root_seed=0x{'f' * 6000}", "number of 6002 characters"),
    ("root_seed=1:30", "base 60"),
    ("online.temperature=1:30.5", "base 60"),
    ("grid={method: list, values: [1, 1.00000001]}", "two values of β are 1 to six digits"),
    ("grid={method: list, values: [0.3333333, 0.33333331]}", "two values of β are 0.333333 to six digits"),
    ("grid={method: list, values: [1, 1]}", "grid"),
    ("grid={method: list, values: [1e-300, 1]}", "between 1e-12 and 1e+12"),
    ("grid={method: list, values: [1, 1e300]}", "between 1e-12 and 1e+12"),
    ("grid={method: list, values: [0]}", "greater than 0"),
    ("grid={method: list, values: [-1]}", "greater than 0"),
    ("grid={method: list, values: [.inf]}", "grid.values.0"),
    ("grid={method: list, values: [.nan]}", "grid.values.0"),
    ("grid={method: list, values: [x]}", "grid.values.0"),
    ("grid={method: geometric, low: 1, high: 1.000001, n: 5}", "equal to six digits"),
    ("grid={method: geometric, low: 1e-300, high: 1, n: 3}", "between 1e-12 and 1e+12"),
    ("grid={method: geometric, low: 1, high: 2, n: 1000000}", "grid.n"),
    ("compute.threads=1000000000", "compute.threads"),
    ("compute.threads=0", "compute.threads"),
    (f"compute.threads={HUGE}", "compute.threads"),
    ("compute.device=meta", "compute.device"),
    ("compute.device=cpu:9", "compute.device"),
    ("compute.device=cuda:-1", "compute.device"),
    ("compute.device=''", "compute.device"),
    ("compute.memory_gb=.inf", "compute.memory_gb"),
    ("compute.memory_gb=.nan", "compute.memory_gb"),
    ("compute.checkpoint_seconds=-1", "compute.checkpoint_seconds"),
    ("base.geometry.hidden_size=1000000", "base.geometry.hidden_size"),
    ("base.geometry.layers=1000000", "base.geometry.layers"),
    ("base.geometry.heads=3", "base.geometry"),
    ("preferences.prompts=10000000000", "preferences.prompts"),
    ("task.test_problems=10000000000", "task.test_problems"),
    ("rewards.members=1000000", "rewards.members"),
    ("rewards.epochs=.inf", "rewards.epochs"),
    ("online.learning_rate=.nan", "online.learning_rate"),
    ("online.learning_rate=-.inf", "online.learning_rate"),
    ("online.learning_rate=1e400", "online.learning_rate"),
    ("online.steps=1e400", "online.steps"),
    (f"online.steps={'9' * 5000}", "number of 5000 characters"),
    ("online={}{}", "not valid YAML"),
    (f"online={DEEP}", "not valid YAML"),
    ("online=!!python/object/apply:os.system [ls]", "the tag python/object/apply:os.system is not used"),
    ("online=!!binary aGVsbG8=", "the tag binary is not used"),
    ("online=!!set {a, b}", "the tag set is not used"),
    ("online=!mine {a: 1}", "the tag !mine is not used"),
    ("task={kind: custom, task: x.py:f, options: &a {again: *a}}", "an alias that holds itself"),
    ("task={kind: custom, task: x.py:f, options: {a: &a [1, *a]}}", "an alias that holds itself"),
    ("", "write it as key.path=value"),
    ("=1", "write it as key.path=value"),
    ("online..steps=1", "write it as key.path=value"),
    (f"{'a.' * 400}a=1", "unknown key"),
    (f"{LONG}=1", "unknown key"),
]


@pytest.mark.parametrize(("override", "words"), OVERRIDES, ids=[text[:40] for text, _ in OVERRIDES])
def test_a_setting_that_cannot_be_is_refused_at_once(override: str, words: str) -> None:
    started = time.process_time()
    with pytest.raises(BetastarError) as error:
        load_config("micro", [override])
    assert words in str(error.value)
    assert len(str(error.value).split("\n")) <= 2
    assert len(str(error.value)) < 4 * len(override) + 400
    assert time.process_time() - started < 2


def bomb(levels: int) -> str:
    """Settings of a few lines that stand for 9 to the power of `levels` values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]")
    return "\n".join(lines)


def merge_bomb(levels: int) -> str:
    lines = ["a0: &a0 {k0: 1, k1: 2}"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}")
    return "\n".join(lines)


FILES = {
    "bomb": (bomb(12), "more than 100,000 values, aliases followed"),
    "merge bomb": (merge_bomb(12), "more than 100,000 values, aliases followed"),
    "itself": ("a: &a {b: *a}", "an alias that holds itself"),
    "large": ("a: " + "x" * 2**21, "are no settings"),
    "many seeds": (f"preset: micro\nseeds: {list(range(10**6))}", "are no settings"),
    "twice": ("name: a\nname: b", "appears twice"),
    "list": ("[1, 2]", "not a mapping"),
    "number": ("3", "not a mapping"),
    "empty": ("", "not a mapping"),
    "two documents": ("a: 1\n---\nb: 2", "not valid YAML"),
    "unknown preset": ("preset: none", "does not exist"),
    "preset that is a list": ("preset: [micro]", "does not exist"),
    "NUL": ("name: a\0b", "not valid YAML"),
    "tab": ("a:\n\t- b", "not valid YAML"),
    "unknown anchor": ("a: *b", "not valid YAML"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_holds_no_settings_is_refused_at_once(tmp_path: Path, name: str) -> None:
    text, words = FILES[name]
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    started = time.process_time()
    with pytest.raises(BetastarError) as error:
        load_config(str(path))
    assert str(error.value).startswith(str(path))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert time.process_time() - started < 2


PLACES: dict[str, Callable[[Path], object]] = {
    "absent": lambda path: None,
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path),
    "link to nowhere": lambda path: path.symlink_to("nowhere.yaml"),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_path_without_readable_settings_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.yaml"
    PLACES[kind](path)
    with pytest.raises(BetastarError) as error:
        load_config(str(path))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["", "\0.yaml", f"{LONG}.yaml", "micr", "/proc/self/mem.yaml", "a" * 5000])
def test_a_name_that_is_no_source_is_refused(source: str) -> None:
    with pytest.raises(BetastarError) as error:
        load_config(source)
    assert "\n" not in str(error.value)


def test_aliases_and_merges_within_reason_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preset: micro\noffline: &both {batch_size: 16}\nrewards: {<<: *both, members: 4}\n")
    config = load_config(str(path))
    assert (config.offline.batch_size, config.rewards.batch_size, config.rewards.members) == (16, 16, 4)
