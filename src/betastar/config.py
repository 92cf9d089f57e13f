"""The configuration of an experiment, read from a preset or file and `key=value` overrides.

Input is refused or accepted, never silently adjusted; all faults are reported at once, each in one sentence.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from betastar.errors import BetastarError
from betastar.sections import (
    Adapter,
    BaseModelChoice,
    Chat,
    Compute,
    Data,
    Evaluation,
    Grid,
    Law,
    Lengths,
    Offline,
    Online,
    Preferences,
    Rewards,
    Section,
    Task,
    Tracking,
)
from betastar.sections.merging import TAGS, merged

PRESETS = Path(__file__).parent / "presets"
TASKS = PRESETS / "tasks"  # ready-made settings of `task`
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # names become folder names


class Faults(ValueError):
    """Several faults found by one check, a sentence each."""

    def __init__(self, sentences: Sequence[str]):
        super().__init__("; ".join(sentences))
        self.sentences = sentences


class Config(Section):
    name: str = Field(description="name of the experiment", pattern=NAME)
    root_seed: int = Field(default=0, ge=0, description="from which every random stream is derived")
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1, description="one block of the experiment each")
    compute: Compute = Field(default_factory=Compute, description="where and in what pieces it is computed")
    base: BaseModelChoice = Field(description="the base policy π⁽⁰⁾: trained here, random, or pretrained")
    reward_base: BaseModelChoice | None = Field(
        default=None, description="base of the reward models; empty: the policy's"
    )
    adapter: Adapter = Field(default_factory=Adapter, description="the LoRA adapters of policies and reward models")
    reward_adapter: Adapter | None = Field(
        default=None, description="adapters of the reward models; empty: as `adapter`"
    )
    chat: Chat = Field(default_factory=Chat, description="how prompts are put to the model")
    task: Task = Field(description="the verifiable task")
    preferences: Preferences = Field(description="the preference pairs")
    data: Data = Field(default_factory=Data, description="what is done with malformed rows")
    lengths: Lengths = Field(default_factory=Lengths, description="where preference data are cut")
    rewards: Rewards = Field(default_factory=Rewards, description="the reward ensemble (Eq. 5)")
    grid: Grid = Field(default_factory=Grid, description="the conservatism grid (Eq. 6-7)")
    offline: Offline = Field(default_factory=Offline, description="offline DPO (Eq. 1)")
    online: Online = Field(default_factory=Online, description="online adaptation (Eq. 8-10)")
    variants: dict[Annotated[str, Field(pattern=NAME)], dict[str, Any]] = Field(
        default_factory=lambda: {"paper": {}}, min_length=1, description="named overrides of `online`; null drops one"
    )
    evaluation: Evaluation = Field(default_factory=Evaluation, description="what is measured, and how often")
    law: Law = Field(default_factory=Law, description="the conservatism law (Eq. 14-15, Def. 6.1)")
    tracking: Tracking = Field(default_factory=Tracking, description="experiment trackers; none changes a result")

    @field_validator("variants", mode="before")
    @classmethod
    def _without_dropped(cls, variants: Any) -> Any:
        if not isinstance(variants, dict):
            return variants
        return {name: override for name, override in variants.items() if override is not None}

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        faults = []
        if len(set(self.seeds)) != len(self.seeds):
            faults.append("seeds: the same seed is listed twice; each seed is one block, list it once")
        if self.preferences.kind == "micro" and self.task.kind != "micro":
            faults.append("preferences.kind: micro needs task.kind micro; give your pairs with kind: dataset")
        if self.base.source == "train" and not self.task.kind == self.preferences.kind == "micro":
            faults.append("base.source: train teaches the micro language; use random or pretrained for your own files")
        if self.reward_base is not None and self.reward_base.source == "train":
            faults.append("reward_base.source: use random or pretrained, or leave it empty to share the policy's base")
        for name in self.variants:
            try:
                self.variant(name)
            except Faults as error:
                faults += error.sentences
        if faults:
            raise Faults(faults)
        return self

    def variant(self, name: str) -> Online:
        """The online settings of a variant: `online` with the variant's overrides laid over it."""
        try:
            return Online.model_validate(merged(self.online.model_dump(), self.variants[name]))
        except ValidationError as error:
            raise Faults(_sentences(error, Online, f"variants.{name}.")) from None


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def task_names() -> list[str]:
    """Ready-made tasks, for `task: {preset: NAME}`."""
    return sorted(path.stem for path in TASKS.glob("*.yaml"))


def load_config(source: str = "micro", overrides: Sequence[str] = ()) -> Config:
    """Read a preset by name or a YAML file by path, lay `key.path=value` overrides over it, and check everything.

    A file may begin from a preset with `preset: name`, and its task from a ready-made one with `task: {preset: name}`.
    Relative paths in it start from the current directory.
    Raises BetastarError naming every fault and where it stands.
    """
    if source in preset_names():
        path = PRESETS / f"{source}.yaml"
    elif (path := Path(source)).suffix not in (".yaml", ".yml"):
        near = difflib.get_close_matches(source, preset_names(), 1)
        hint = f"did you mean {near[0]}?" if near else f"presets are {', '.join(preset_names())}"
        raise BetastarError(f"{source}: neither a preset nor a .yaml file; {hint}")
    values = _read_yaml(path)
    if "preset" in values:
        name = values.pop("preset")
        if name not in preset_names():
            raise BetastarError(f"{path}: preset {name!r} does not exist; choose from {', '.join(preset_names())}.")
        values = merged(_read_yaml(PRESETS / f"{name}.yaml"), values)
    together: dict[str, Any] = {}  # first among themselves, so that `kind` may come after the settings of that kind
    for override in overrides:
        together = merged(together, _override(override))
    values = merged(values, together)
    task = values.get("task")
    if isinstance(task, dict) and "preset" in task:
        values["task"] = _ready_task(path, task)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        name = path.name if path.parent == PRESETS else path
        raise BetastarError("\n".join(f"{name}: {fault}" for fault in _sentences(error, Config))) from None


def _ready_task(path: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    preset, changes = task["preset"], {key: value for key, value in task.items() if key != "preset"}
    if preset not in task_names():
        raise BetastarError(f"{path}: task.preset {preset!r} does not exist; choose from {', '.join(task_names())}.")
    return merged(_read_yaml(TASKS / f"{preset}.yaml"), changes)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which YAML readers silently keep the last. What YAML takes for
    a truth value or a date stays text: pydantic would accept `yes` as the number 1, and nobody names a run with a date.
    """

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} stands twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


def _parsed(text: str, before: str, after: str = "") -> Any:
    """The value of a YAML text. Raises BetastarError in one line, between `before` and `after`."""
    try:
        return yaml.load(text, _Loader)
    # Beside its own errors PyYAML lets some of Python's through: a number too long, brackets nested too deep.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).split("\n")[0]
        raise BetastarError(f"{before}:{where} not valid YAML ({problem}){after}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BetastarError(f"{path}: no such file; `betastar presets` lists what is built in.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BetastarError(f"{path}: cannot be read ({error}); give a text file in UTF-8.") from None
    values = _parsed(text, str(path), "; correct the file.")
    if not isinstance(values, dict):
        raise BetastarError(f"{path}: empty or not a mapping; start from `betastar config micro`.")
    return values


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise BetastarError(f"--set {text}: write it as key.path=value, for example --set online.steps=40.")
    parsed = _parsed(value, f"--set {text}", "; put the value in quotes.")
    for part in reversed(parts):
        parsed = {part: parsed}
    return parsed


def _sentences(error: ValidationError, root: type[BaseModel], prefix: str = "") -> list[str]:
    """The faults that pydantic found, one sentence each."""
    faults: list[str] = []
    for fault in error.errors():
        cause = fault.get("ctx", {}).get("error")
        faults += cause.sentences if isinstance(cause, Faults) else [_sentence(fault, root, prefix)]
    return [fault.replace("\n", "\\n") for fault in dict.fromkeys(faults)]


def _sentence(fault: Any, root: type[BaseModel], prefix: str) -> str:
    loc = [part for part in fault["loc"] if part != "[key]"]
    whole = isinstance(fault.get("input"), dict)  # the fault of a whole section
    if len(loc) > 1 + (not whole) and loc[1] in TAGS:  # pydantic's location also names the chosen kind, which is no key
        del loc[1]
    path = ".".join(map(str, loc))
    where, kind, context = prefix + path, fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{where}: unknown key; {_hint(path, sorted(set(_paths(root))), prefix)}"
    if kind == "missing":
        return f"{where}: missing; give it a value (`betastar config` says what it is)"
    if kind == "union_tag_not_found":
        return f"{where}.{context['discriminator'][1:-1]}: missing; give it a value (`betastar config` says what it is)"
    given = fault.get("input")
    message = fault["msg"].removeprefix("Value error, ")
    if kind == "union_tag_invalid":
        where, given = f"{where}.{context['discriminator'][1:-1]}", context["tag"]
        message = f"should be one of {context['expected_tags']}"
    elif kind in ("dict_type", "model_type", "model_attributes_type"):
        message = "should hold settings, as in `name: {key: value}`"
    elif kind == "too_short":
        message = f"should hold at least {context['min_length']}"
    elif kind == "tuple_type":
        message = "should be a list, as in [a, b]"
    elif kind == "string_pattern_mismatch":
        message = "should consist of letters, digits, dots, hyphens and underscores, and begin with a letter or digit"
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) or given is None else ""
    return f"{where}: {message[0].lower() + message[1:]}{shown}"


def _hint(path: str, known: Sequence[str], prefix: str) -> str:
    """What an unknown key may have been meant as: a key of the same section rather than one elsewhere."""
    if path in known:
        return "it belongs to another kind or source"
    section, _, key = path.rpartition(".")
    siblings = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == section]
    if near := difflib.get_close_matches(key, siblings, 1):
        return f"did you mean {near[0]}?"
    if near := difflib.get_close_matches(key, {other.rpartition(".")[2] for other in known}, 1):
        full = next(other for other in known if other.rpartition(".")[2] == near[0])
        return f"did you mean {prefix}{full}?"
    return "`betastar config` lists all keys"


def _paths(annotation: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of all keys of a model, of every kind and source."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield f"{path}{name}"
            yield from _paths(field.annotation, f"{path}{name}.")
    else:
        for part in getattr(annotation, "__args__", ()):
            yield from _paths(part, path)
