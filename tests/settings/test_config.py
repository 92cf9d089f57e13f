"""The configuration: what is accepted, and that every refusal says where, why and what to do, in one line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from betastar.errors import BetastarError
from betastar.settings.config import PRESETS, TASKS, Config, load_config, merged, preset_names, task_names
from betastar.settings.sections import DatasetPreferences, DatasetSource, DatasetTask, PretrainedBase


def refusal(source: str | Path = "micro", *overrides: str) -> str:
    with pytest.raises(BetastarError) as error:
        load_config(str(source), overrides)
    assert error.value.exit_code == 2
    return str(error.value)


def file(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


OWN_DATA = """
name: mine
base: {source: pretrained, model: ./models/tiny}
task: {preset: gsm8k, train: data/train.jsonl, test: {dataset: /data/test.csv, limit: 50}}
preferences: {kind: dataset, source: pairs.parquet}
"""


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_begins_with_what_it_is_for(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    first = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").split("\n")[0]
    assert first.startswith("# ")
    assert Config.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


def test_all_faults_are_reported_at_once_each_in_one_line_with_file_and_key(tmp_path: Path) -> None:
    path = file(
        tmp_path,
        """
name: [a]
base: {source: random, geometry: {heads: 0}}
task: {kind: micro, largest: 1}
preferences: {kind: dataset}
onlin: {steps: 3}
rewards: {members: 1, epocs: 2}
seeds: []
""",
    )
    assert refusal(path, "offline.clip=-1").split("\n") == [
        f"{path}: name: input should be a valid string",
        f"{path}: seeds: should have at least 1 entry",
        f"{path}: base.geometry.heads: input should be greater than 0 (given: 0)",
        f"{path}: task.largest: input should be greater than or equal to 2 (given: 1)",
        f"{path}: preferences.source: missing; give it a value (`betastar config` explains it)",
        f"{path}: rewards.members: input should be greater than or equal to 2 (given: 1)",
        f"{path}: rewards.epocs: unknown key; did you mean epochs?",
        "--set offline.clip=-1: should be a number above 0, or auto (given: -1)",
        f"{path}: onlin: unknown key; did you mean online?",
    ]


def test_faults_of_several_variants_and_seeds_are_reported_together() -> None:
    text = refusal("micro", "variants.fast.stepz=1", "variants.slow={steps: 0, kl: 1}", "seeds=[1, 1]")
    assert text.split("\n") == [
        "--set seeds=[1, 1]: the same seed is listed twice; list each seed once",
        "--set variants.fast.stepz=1: unknown key; did you mean steps?",
        "--set variants.slow={steps: 0, kl: 1}: variants.slow.steps: input should be greater than 0 (given: 0)",
        "--set variants.slow={steps: 0, kl: 1}: variants.slow.kl: should hold settings, as in `name: {key: value}` "
        "(given: 1)",
    ]


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        # The override that sets the key, whatever else is set; of several the last, as its value counts.
        (("online.clip=2", "online.steps=-3"), ["--set online.steps=-3: input should be greater than 0 (given: -3)"]),
        (("online.steps=-1", "online.steps=-2"), ["--set online.steps=-2: input should be greater than 0 (given: -2)"]),
        (
            ("online={steps: -3}", "online.clip=2"),
            ["--set online={steps: -3}: online.steps: input should be greater than 0 (given: -3)"],
        ),
        # A fault of a section, of a missing key or between sections: the override without which it is gone.
        (
            ("grid.values=[1]", "grid.n=3", "seeds=[0]"),
            [
                "--set grid.values=[1]: grid: method geometric does not use values; set method: list or values: []",
            ],
        ),
        (
            ("seeds=[0]", "preferences.kind=dataset"),
            [
                "--set preferences.kind=dataset: preferences.source: missing; give it a value (`betastar config` "
                "explains it)"
            ],
        ),
        (
            ("seeds=[0]", "task={kind: custom, task: mine.py:make}"),
            [
                "--set task={kind: custom, task: mine.py:make}: preferences.kind: micro needs task.kind micro or "
                "lists; set kind: dataset for your own pairs",
                "--set task={kind: custom, task: mine.py:make}: base.source: train only works for a built-in world; "
                "use random or pretrained for your own files",
            ],
        ),
        (("onlin.steps=3", "name=a"), ["--set onlin.steps=3: onlin: unknown key; did you mean online?"]),
        (("name='a\nb'",), None),
    ],
)
def test_a_fault_names_the_override_that_it_comes_from(overrides: tuple[str, ...], lines: list[str] | None) -> None:
    text = refusal("micro", *overrides)
    assert lines is None or text.split("\n") == lines
    assert all(line.startswith("--set ") for line in text.split("\n"))


def test_a_fault_of_the_file_is_the_files_whatever_is_overridden(tmp_path: Path) -> None:
    path = file(tmp_path, "preset: micro\nonline: {steps: 0, clip: 0}\n")
    assert sorted(refusal(path, "online.clip=-1", "online={batch: 3}", "seeds=[0]").split("\n")) == sorted(
        [
            f"{path}: online.steps: input should be greater than 0 (given: 0)",
            "--set online.clip=-1: should be a number above 0, or auto (given: -1)",
            "--set online={batch: 3}: online.batch: unknown key; did you mean batch_size?",
        ]
    )


def test_a_variant_is_online_with_its_own_settings_over_it() -> None:
    config = load_config("micro", ["online.steps=7", "variants.fast={clip: 2, kl: {kappa: 0.5}}", "variants.paper="])
    assert set(config.variants) == {"fixed", "fast"}  # null drops a variant of the preset
    fast = config.variant("fast")
    assert (fast.steps, fast.clip, fast.kl.kappa, fast.kl.percentile) == (7, 2.0, 0.5, config.online.kl.percentile)
    assert config.variant("fixed").kl.coupling == "fixed"
    assert config.variant("fixed").clip == config.online.clip


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("online.kl.kappa=0.5", lambda c: c.online.kl.kappa, 0.5),
        ("online.kl={coupling: fixed, percentile: 9}", lambda c: c.online.kl.coupling, "fixed"),
        ("online.kl={coupling: fixed, percentile: 9}", lambda c: c.online.kl.percentile, 9),
        ("offline.learning_rate=1e-4", lambda c: c.offline.learning_rate, 1e-4),  # to YAML 1.1 this is a text
        ("seeds=[5]", lambda c: c.seeds, (5,)),
        (" online.steps = 3", lambda c: c.online.steps, 3),
        ("name=no", lambda c: c.name, "no"),  # to YAML 1.1 this is False,
        ("name=2024-01-02", lambda c: c.name, "2024-01-02"),  # and this a date
        ("name=2024-13-45", lambda c: c.name, "2024-13-45"),  # or, with a 13th month, a ValueError
        ("online.conditions_at_once=", lambda c: c.online.conditions_at_once, None),
        ("grid={method: list, values: [0.1, 1]}", lambda c: c.grid.values, (0.1, 1.0)),
        ("compute.device=cuda:1", lambda c: c.compute.device, "cuda:1"),
    ],
)  # fmt: skip
def test_set_reaches_every_depth_and_takes_yaml(override: str, read, expected) -> None:
    assert read(load_config("micro", [override])) == expected


def test_later_overrides_win() -> None:
    assert load_config("micro", ["online.steps=3", "online={steps: 4}", "online.steps=5"]).online.steps == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("online.steps", "--set online.steps: write it as key.path=value, for example --set online.steps=40."),
        ("=3", "--set =3: write it as key.path=value, for example --set online.steps=40."),
        ("online..steps=3", "--set online..steps=3: write it as key.path=value, for example --set online.steps=40."),
        ("seeds=[1", "--set seeds=[1: line 1 not valid YAML (expected ',' or ']', but got '<stream end>'); put the"),
        ("name=a: b: c", "--set name=a: b: c: line 1 not valid YAML (mapping values are not allowed here); put the"),
        ("name=\x01", "--set name=\x01: not valid YAML (unacceptable character #x0001: special characters are not"),
        ("seeds=[" + "9" * 5000 + "]", "--set seeds=[999"),
        ("online={steps: 1, steps: 2}", "--set online={steps: 1, steps: 2}: line 1 not valid YAML (the key steps"),
    ],
)  # fmt: skip
def test_a_malformed_override_is_shown_with_its_remedy(override: str, message: str) -> None:
    text = refusal("micro", override)
    assert text.startswith(message)
    assert "\n" not in text


@pytest.mark.parametrize("reverse", [False, True])
def test_switching_kind_or_source_starts_that_section_afresh(reverse: bool) -> None:
    overrides = [
        "base.source=random",  # geometry and training of the preset go
        "task.kind=dataset",
        "task.train=a.jsonl",
        "task.test.dataset=b.jsonl",
        "preferences={kind: dataset, source: c.jsonl}",
    ]
    config = load_config("micro", overrides[::-1] if reverse else overrides)
    assert config.base.model_dump(exclude={"geometry"}) == {"source": "random"}
    assert config.base.model_dump()["geometry"]["context"] == 2048  # the default, not the preset's 256
    assert config.task.model_dump(exclude_defaults=True) == {
        "kind": "dataset",
        "train": {"dataset": "a.jsonl"},
        "test": {"dataset": "b.jsonl"},
    }
    assert config.preferences.model_dump(exclude_defaults=True) == {"kind": "dataset", "source": {"dataset": "c.jsonl"}}
    # Naming the kind that stands already changes nothing else.
    assert load_config("micro", ["task.kind=micro"]) == load_config("micro")


def test_a_file_may_begin_from_a_preset(tmp_path: Path) -> None:
    path = file(tmp_path, "preset: micro\nname: mine\nonline: {steps: 3}\n")
    changed = {"name": "mine", "online": {"steps": 3}}
    assert load_config(str(path)) == Config.model_validate(merged(load_config("micro").model_dump(), changed))
    assert load_config(str(path), ["online.steps=4"]).online.steps == 4
    path = file(tmp_path, "preset: macro\n")
    assert refusal(path) == f"{path}: preset 'macro' does not exist; choose from {', '.join(preset_names())}."


def test_a_file_names_model_task_and_pairs(tmp_path: Path) -> None:
    """A dataset is a text or its settings; what a ready-made task says and the file does not stays."""
    config = load_config(str(file(tmp_path, OWN_DATA)))
    assert isinstance(config.base, PretrainedBase)
    assert isinstance(config.task, DatasetTask)
    assert isinstance(config.preferences, DatasetPreferences)
    assert config.base.model == "./models/tiny"
    assert config.task.train.model_dump(exclude_defaults=True) == {"dataset": "data/train.jsonl"}
    assert config.task.test.model_dump(exclude_defaults=True) == {"dataset": "/data/test.csv", "limit": 50}
    assert config.task.prompt == yaml.safe_load((TASKS / "gsm8k.yaml").read_text())["prompt"]
    assert config.preferences.source.dataset == "pairs.parquet"


@pytest.mark.parametrize("name", task_names())
def test_every_ready_made_task_loads_and_may_be_changed(name: str) -> None:
    ready = yaml.safe_load((TASKS / f"{name}.yaml").read_text())
    task = load_config("files", [f"task.preset={name}"]).task
    assert task == DatasetTask.model_validate(ready)
    changed = load_config("files", [f"task={{preset: {name}, test: {{limit: 5}}}}", "task.prompt='{{ q }}'"]).task
    assert changed == DatasetTask.model_validate(ready | {"test": ready["test"] | {"limit": 5}, "prompt": "{{ q }}"})


def test_another_kind_of_task_replaces_a_ready_made_one() -> None:
    task = load_config("files", ["task={kind: custom, task: mine.py:make}"]).task
    assert task.model_dump() == {"kind": "custom", "task": "mine.py:make", "options": {}}


def test_a_ready_made_task_that_does_not_exist_is_named_with_those_that_do(tmp_path: Path) -> None:
    choices = ", ".join(task_names())
    assert refusal("micro", "task={preset: gsm9k, path: x}") == (
        f"--set task={{preset: gsm9k, path: x}}: task.preset 'gsm9k' does not exist; choose from {choices}."
    )
    assert refusal("files", "task={preset: gsm8k, 3: x}") == (
        "--set task={preset: gsm8k, 3: x}: task.3: keys should be strings (given: 3)"
    )


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    presets = ", ".join(preset_names())
    assert refusal("mirco") == "mirco: neither a preset nor a .yaml file; did you mean micro?"
    assert refusal("settings.json") == f"settings.json: neither a preset nor a .yaml file; the presets are {presets}."
    missing = tmp_path / "none.yaml"
    assert refusal(missing) == f"{missing}: no such file; `betastar presets` lists the built-in presets."
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    assert refusal(folder).startswith(f"{folder}: cannot be read (")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty, or not a mapping of settings; start from the output of `betastar config micro`."),
        (
            "# only a comment\n",
            "empty, or not a mapping of settings; start from the output of `betastar config micro`.",
        ),
        ("- a\n- b\n", "empty, or not a mapping of settings; start from the output of `betastar config micro`."),
        ("name: a\ntask: {kind: micro\nseeds: [0]\n", "line 3 not valid YAML (expected ',' or '}', but got ':')"),
        ("name: a\n  b: c\n", "line 2 not valid YAML (mapping values are not allowed here); correct the file."),
        (
            "online: {}\nname: a\nonline: {}\n",
            "line 3 not valid YAML (the key online appears twice); correct the file.",
        ),
        (
            "name: !!python/name:os.system\n",
            "line 1 not valid YAML (the tag python/name:os.system is not used in settings",
        ),
        ("[" * 500, "not valid YAML (maximum recursion depth exceeded"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = file(tmp_path, text)
    said = refusal(path)
    assert said.startswith(f"{path}: {message}")
    assert "\n" not in said


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    said = refusal(path)
    assert said.startswith(f"{path}: cannot be read (")
    assert said.endswith("; give a text file in UTF-8.")


def test_odd_keys_are_one_line_too(tmp_path: Path) -> None:
    path = file(tmp_path, 'preset: micro\n1: 2\n"a\\nb": 3\nonline: {~: 1}\n')
    assert refusal(path).split("\n") == [
        f"{path}: online.None: keys should be strings (given: None)",
        f"{path}: 1: keys should be strings (given: 1)",
        rf"{path}: a\nb: unknown key; `betastar config` lists all keys",
    ]


keys = st.sampled_from("abcd")
plain = st.dictionaries(
    keys, st.recursive(st.integers(0, 3), lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=6)
)


def leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for key, value in values.items():
        found |= leaves(value, (*path, key)) if isinstance(value, dict) and value else {(*path, key): value}
    return found


@settings(max_examples=150)
@given(plain, plain)
def test_merged_holds_all_of_the_override_and_what_it_leaves_untouched(base: dict, override: dict) -> None:
    before = (repr(base), repr(override))
    result = merged(base, override)
    assert (repr(base), repr(override)) == before
    assert merged(result, override) == result
    assert merged(base, {}) == base
    assert merged({}, override) == override
    kept, wanted = leaves(result), leaves(override)
    for path, value in wanted.items():
        # An empty mapping adds nothing to one that is there.
        assert kept.get(path, {}) == value or (value == {} and any(p[: len(path)] == path for p in kept))
    for path, value in leaves(base).items():
        if not any(path[: len(p)] == p or p[: len(path)] == path for p in wanted):
            assert kept[path] == value


@settings(max_examples=150)
@given(plain, st.lists(st.tuples(st.lists(keys, min_size=3, max_size=3), st.integers()), max_size=4))
def test_overrides_may_be_merged_among_themselves_first(base: dict, assignments: list) -> None:
    # Paths of one length, as real keys have: none passes through another's value.
    deep = {key: {"a": {"a": value}} if not isinstance(value, dict) else {} for key, value in base.items()}
    overrides = [{a: {b: {c: value}}} for (a, b, c), value in assignments]
    one_by_one, together = deep, {}
    for override in overrides:
        one_by_one, together = merged(one_by_one, override), merged(together, override)
    assert one_by_one == merged(deep, together)


def test_merged_starts_a_mapping_afresh_when_its_kind_or_source_changes() -> None:
    base = {"task": {"kind": "micro", "largest": 20}, "base": {"source": "train", "geometry": {"heads": 4}}}
    assert merged(base, {"task": {"kind": "dataset"}})["task"] == {"kind": "dataset"}
    assert merged(base, {"task": {"kind": "micro", "x": 1}})["task"] == {"kind": "micro", "largest": 20, "x": 1}
    assert merged(base, {"base": {"source": "random"}})["base"] == {"source": "random"}
    assert merged({"base": {}}, {"base": {"source": "random"}})["base"] == {"source": "random"}


def test_another_dataset_keeps_the_rest_of_its_section(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "preset: files\npreferences: {kind: dataset, source: a.jsonl, columns: {prompt: q}}\n"
        "task: {preset: gsm8k, train: a.jsonl, test: b.jsonl}\n"
    )

    def changed(*overrides: str) -> Config:
        return load_config(str(path), overrides)

    other = changed("preferences.source=b.jsonl").preferences
    assert isinstance(other, DatasetPreferences)
    assert (other.source.dataset, other.columns.prompt) == ("b.jsonl", "q")
    both = changed("preferences.source=b.jsonl", "preferences.source.limit=7", "task.test.limit=5")
    assert isinstance(both.preferences, DatasetPreferences)
    assert isinstance(both.task, DatasetTask)
    assert both.preferences.source == DatasetSource(dataset="b.jsonl", limit=7)
    assert both.task.test == DatasetSource(dataset="b.jsonl", limit=5)
    fewer = load_config("paper", ["preferences.source.limit=100"]).preferences
    assert isinstance(fewer, DatasetPreferences)
    assert (fewer.source.limit, fewer.source.split) == (100, "train_prefs")


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        ("{ipo: {objective: ipo}}", "methods.ipo.grid: missing; the strength of ipo is τ, on a scale of its own"),
        (
            "{orpo: {objective: orpo, options: {beta: 1}, grid: {method: list, values: [1]}}}",
            "methods.orpo: options.beta: objective orpo has no beta; its strength λ comes from the grid",
        ),
        (
            "{orpo: {objective: orpo, grid: {method: percentiles}}}",
            "methods.orpo.grid.method: percentiles come from log-ratios to the reference (Eq. 6), but orpo has",
        ),
        (
            "{orpo: {objective: orpo, beta_schedule: {}, grid: {method: list, values: [1]}}}",
            "methods.orpo: beta_schedule follows log-ratios to the reference and changes β, but with",
        ),
        ("{a: {objective: dop}}", "methods.a: objective dop does not exist; did you mean dpo?"),
        ("{a: {objective: cdpo, options: {epsilon: 0.5}}}", "methods.a: options.epsilon: should be at least 0 and bel"),
        ("{kto: {objective: kto, batch_size: 1}}", "methods.kto: batch_size must be at least 2 with objective kto"),
        (
            "{a: {objective: chipo, engine: trl}}",
            "methods.a: engine trl cannot train objective chipo, only dpo, ipo, r",
        ),
        ("{dpo: {objective: kto}}", "methods.dpo: trains kto under another objective's name; call it something else"),
        ("{a: {evaluate_every: 3}}", "methods.a.evaluate_every: the same for all methods; set offline.evaluate_every"),
        ("{a: {objectiv: kto}}", "methods.a.objectiv: unknown key; did you mean objective?"),
        ("{a: {grid: {method: target_kl}}}", "methods.a.grid: method target_kl needs values, for example values: [0.1"),
        ("{dpo: null}", "methods: should have at least 1 entry"),
    ],
)
def test_faults_of_methods_are_one_sentence_each(methods: str, sentence: str) -> None:
    with pytest.raises(BetastarError) as error:
        load_config("micro", [f"methods={methods}"])
    assert "\n" not in str(error.value)
    assert sentence in str(error.value).replace(f"--set methods={methods}: should", "methods: should")


def test_methods_have_their_own_grids_and_names() -> None:
    ipo = "ipo: {objective: ipo, epochs: 2, grid: {method: list, values: [1, 0.1]}}"
    config = load_config("micro", [f"methods={{dpo: {{}}, {ipo}}}"])
    assert config.method("ipo").grid.values == (1, 0.1)
    assert config.method("ipo").offline.epochs == 2
    assert config.method("dpo") == (config.offline, config.grid)
    assert [config.label("ipo", v) for v in config.variants] == ["paper-ipo", "fixed-ipo"]
    assert load_config("micro", [f"methods={{{ipo}}}", "variants.fixed=null"]).label("ipo", "paper") == "ipo"
    assert load_config("micro").label("dpo", "paper") == "paper"
