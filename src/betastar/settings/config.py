"""The configuration of an experiment, read from a preset or file plus `key=value` overrides, and written as a commented
file.

Input is refused or accepted, never silently adjusted; all faults are reported at once, each in one sentence.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, final

import yaml
from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from betastar.errors import BetastarError, InternalError
from betastar.maths.methods import OBJECTIVES, objective_named
from betastar.maths.reward_choices import FEWEST
from betastar.settings.phases import Grid, Offline, Online
from betastar.settings.safe_yaml import parsed_yaml, read_yaml
from betastar.settings.sections import (
    ADAPTER,
    LOOP,
    MOST,
    Adapter,
    Analysis,
    BaseModelChoice,
    Chat,
    Compute,
    Data,
    Evaluation,
    Law,
    Lengths,
    Preferences,
    ResolvedAdapter,
    Rewards,
    Section,
    Task,
    Tracking,
    without_defaults,
)

PRESETS = Path(__file__).parents[1] / "presets"
TASKS = PRESETS / "tasks"  # ready-made settings of `task`
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # names become folder names
LONGEST_NAME = 100  # with β and seed behind it


class Method(NamedTuple):
    """An offline method: how it trains, and the grid of its strength."""

    offline: Offline
    grid: Grid


# Of `offline`, what all methods share: how many conditions are trained together, and when they are looked at.
SHARED = ("conditions_at_once", "evaluate_every")


class Config(Section):
    ANY_SIZE: ClassVar[set[str]] = {"root_seed"}

    name: str = Field(description="name of the experiment", pattern=NAME, max_length=LONGEST_NAME)
    root_seed: int = Field(default=0, ge=0, lt=2**63, description="seed from which every random stream is derived")
    seeds: tuple[Annotated[int, Field(gt=-(2**63), lt=2**63)], ...] = Field(
        default=(0, 1, 2),
        min_length=1,
        max_length=MOST,
        description="random seeds; each is one block of the experiment",
    )
    compute: Compute = Field(default_factory=Compute, description="device, memory and batch limits")
    base: BaseModelChoice = Field(description="the base policy π⁽⁰⁾: trained here, random, or pretrained")
    reward_base: BaseModelChoice | None = Field(
        default=None, description="base of the reward models; empty: same as the policy's"
    )
    adapter: Adapter = Field(default_factory=Adapter, description="the LoRA adapters of policies and reward models")
    reward_adapter: Adapter | None = Field(
        default=None, description="adapters of the reward models; empty: same as `adapter`"
    )
    chat: Chat = Field(default_factory=Chat, description="how prompts are presented to the model")
    task: Task = Field(description="the verifiable task")
    preferences: Preferences = Field(description="the preference pairs")
    data: Data = Field(default_factory=Data, description="how malformed rows are handled")
    lengths: Lengths = Field(default_factory=Lengths, description="length limits, in tokens")
    rewards: Rewards = Field(default_factory=Rewards, description="the reward ensemble (Eq. 5)")
    grid: Grid = Field(default_factory=Grid, description="the conservatism grid (Eq. 6-7)")
    offline: Offline = Field(default_factory=Offline, description="offline DPO (Eq. 1)")
    methods: dict[Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)], dict[str, Any]] = Field(
        default_factory=lambda: {"dpo": {}},
        min_length=1,
        description="named overrides of `offline`, each with a `grid` of its own if it needs one; null removes one",
    )
    online: Online = Field(default_factory=Online, description="online adaptation (Eq. 8-10)")
    variants: dict[Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)], dict[str, Any]] = Field(
        default_factory=lambda: {"paper": {}},
        min_length=1,
        max_length=MOST,
        description="named overrides of `online`; null removes one",
    )
    evaluation: Evaluation = Field(default_factory=Evaluation, description="what is measured, and how often")
    analysis: Analysis = Field(default_factory=Analysis, description="the answer over β: what it is judged by")
    law: Law = Field(default_factory=Law, description="the conservatism law (Eq. 14-15, Def. 6.1)")
    tracking: Tracking = Field(default_factory=Tracking, description="experiment trackers; they never change a result")

    @field_validator("variants", "methods", mode="before")
    @classmethod
    def _without_dropped(cls, named: Any) -> Any:
        if not isinstance(named, dict):
            return named
        return {name: override for name, override in named.items() if override is not None}

    @model_serializer(mode="wrap")
    def _as_before_there_were_methods(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, dump(self), {"methods"})

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        faults: list[Fault] = []

        def fault(where: str, problem: str) -> None:
            faults.append(Fault(where, problem))

        if len(set(self.seeds)) != len(self.seeds):
            fault("seeds", "the same seed is listed twice; list each seed once")
        built_in = self.task.kind in ("micro", "lists")
        if self.preferences.kind == "micro" and not built_in:
            fault("preferences.kind", "micro needs task.kind micro or lists; set kind: dataset for your own pairs")
        if self.base.source == "train" and not (built_in and self.preferences.kind == "micro"):
            fault("base.source", "train only works for a built-in world; use random or pretrained for your own files")
        if self.reward_base is not None and self.reward_base.source == "train":
            fault(
                "reward_base.source",
                "a base for the reward models cannot be trained; use random or pretrained, or leave reward_base empty",
            )
        for name in self.variants:
            try:
                aggregate, members = self.variant(name).proxy.aggregate, self.rewards.members
                if members < FEWEST.get(aggregate, 1):
                    fault(
                        f"variants.{name}.proxy.aggregate",
                        f"{aggregate} needs {FEWEST[aggregate]} members, but rewards.members is {members}; raise it, "
                        "or choose mean",
                    )
            except Faults as error:
                faults += error.faults
        for name in self.methods:
            try:
                self._fitting(name, self.method(name), fault)
            except Faults as error:
                faults += error.faults
        if not faults:
            labels = [self.label(method, variant) for method in self.methods for variant in self.variants]
            as_folders = [label.casefold() for label in labels]  # as disks of macOS tell names apart
            if twice := next((label for label in labels if as_folders.count(label.casefold()) > 1), None):
                fault("methods", f"two conditions would be called {twice}; rename a method or a variant")
            if long := next((label for label in labels if len(label) > LONGEST_NAME), None):
                fault(
                    "methods", f"a condition would be called {_short(long)}; shorten the name of a method or a variant"
                )
        if faults:
            raise Faults(faults)
        return self

    def _fitting(self, name: str, method: Method, fault: Callable[[str, str], None]) -> None:
        """Faults of the grid of a method whose strength is of another kind than DPO's β."""
        entry, override = objective_named(method.offline.objective), self.methods[name]
        is_beta = entry.strength == "β" and entry.reference
        if name in OBJECTIVES and method.offline.objective != name:
            fault(
                f"methods.{name}",
                f"trains {method.offline.objective} under another objective's name; call it something else, as in "
                f"methods: {{mine: {{objective: {method.offline.objective}}}}}",
            )
            return
        if not is_beta and "grid" not in override:
            fault(
                f"methods.{name}.grid",
                f"missing; the strength of {method.offline.objective} is {entry.strength}, on a scale of its own: give "
                "it a grid, for example {method: list, values: [0.1, 1]}",
            )
        elif not is_beta and method.grid.method == "percentiles":
            what = "has no reference" if not entry.reference else f"has the strength {entry.strength}, not β"
            fault(
                f"methods.{name}.grid.method",
                f"percentiles come from log-ratios to the reference (Eq. 6), but {method.offline.objective} {what}; "
                "choose list, geometric or target_kl",
            )

    def method(self, name: str) -> Method:
        """How a method trains: `offline` with the method's overrides laid over it; and its grid, `grid` unless it has
        its own."""
        override = {key: value for key, value in self.methods[name].items() if key != "grid"}
        if shared := [key for key in SHARED if key in override]:
            raise Faults(
                [Fault(f"methods.{name}.{key}", f"the same for all methods; set offline.{key}") for key in shared]
            )
        grid = merged({"grid": self.grid.model_dump()}, {"grid": self.methods[name].get("grid", {})})["grid"]
        where, root = f"methods.{name}.", Offline
        shared = self.offline.model_dump()
        if override.get("objective", self.offline.objective) != self.offline.objective:
            shared.pop("options", None)  # they belong to the other objective
        try:
            offline = Offline.model_validate(merged(shared, override))
            where, root = f"methods.{name}.grid.", Grid
            return Method(offline, Grid.model_validate(grid))
        except ValidationError as error:
            raise Faults(faults_found(error, root, where)) from None

    @property
    def default_methods(self) -> bool:
        """Whether nothing is said of methods: the run has DPO alone, and no name of a method is shown."""
        return len(self.methods) == 1 and self.method(next(iter(self.methods))).offline.objective == "dpo"

    def label(self, method: str, variant: str) -> str:
        """What conditions of a method and a variant are called in the record, where each is one `variant`."""
        if self.default_methods:
            return variant
        return method if len(self.variants) == 1 else f"{variant}-{method}"

    def variant(self, name: str) -> Online:
        """The online settings of a variant: `online` with the variant's overrides laid over it."""
        try:
            return Online.model_validate(merged(self.online.model_dump(), self.variants[name]))
        except ValidationError as error:
            raise Faults(faults_found(error, Online, f"variants.{name}.")) from None


def needs_deriving(config: Config) -> bool:
    """Whether any setting that Appendix C derives says `auto`. A warm-up may: it is ⌊√T⌋ of whichever loop uses it."""
    adapters = [config.adapter, *([config.reward_adapter] if config.reward_adapter else [])]
    loops = [config.rewards, config.offline, config.online, *(config.variant(name) for name in config.variants)]
    loops += [config.method(name).offline for name in config.methods]
    found = [getattr(a, name) for a in adapters for name in ADAPTER]
    found += [getattr(loop, name) for loop in loops for name in LOOP]
    return "auto" in found


@final
class Resolved(Config):
    """A configuration whose every setting that Appendix C derives is a number: what training starts from, and a plan of
    it. `planning.derive` makes one from a configuration that says `auto`.

    Raises InternalError where something still says it.
    """

    @classmethod
    def of(cls, config: Config) -> Resolved:
        """The same settings, not one of them `auto`."""
        _check_derived(config)
        return cls.model_construct(config.model_fields_set, **dict(config))

    @property
    def policy_adapter(self) -> ResolvedAdapter:
        """The adapters of policies."""
        return _numbers(self.adapter)

    @property
    def reward_model_adapter(self) -> ResolvedAdapter:
        """The adapters of reward models, which may have another shape."""
        return _numbers(self.reward_adapter or self.adapter)

    @model_validator(mode="after")
    def _all_numbers(self) -> Resolved:
        _check_derived(self)
        return self


def _check_derived(config: Config) -> None:
    if needs_deriving(config):
        raise InternalError("A setting was used before it was derived (auto); please report this bug.")


def _numbers(adapter: Adapter) -> ResolvedAdapter:
    rank, alpha, dropout = adapter.rank, adapter.alpha, adapter.dropout
    assert rank != "auto" and alpha != "auto" and dropout != "auto"  # noqa: PT018 (Resolved sees to it)
    return ResolvedAdapter(rank, alpha, dropout, adapter.target_modules)


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def task_names() -> list[str]:
    """Ready-made tasks, for `task: {preset: NAME}`."""
    return sorted(path.stem for path in TASKS.glob("*.yaml"))


def load_config(source: str = "micro", overrides: Sequence[str] = ()) -> Config:
    """Read a preset by name or a YAML file by path, apply `key.path=value` overrides, and check everything.

    A file can extend a preset with `preset: name`, and a ready-made task with `task: {preset: name}`. Relative paths in
    it are relative to the current directory. Raises BetastarError that lists every fault with its key and the file or
    override it comes from.
    """
    if source in preset_names():
        path = PRESETS / f"{source}.yaml"
    elif "\0" in source or (path := Path(source)).suffix not in (".yaml", ".yml"):
        near = difflib.get_close_matches(source, preset_names(), 1)
        hint = f"did you mean {near[0]}?" if near else f"the presets are {', '.join(preset_names())}."
        raise BetastarError(f"{source}: neither a preset nor a .yaml file; {hint}")
    if any(override.partition("=")[0].split(".")[0].strip() == "preset" for override in overrides):
        raise BetastarError("--set preset: a preset is named in a file, or instead of one; give it as the source.")
    values = read_yaml(path)
    while "preset" in values:  # a preset may extend another
        name = values.pop("preset")
        if name not in preset_names():
            raise BetastarError(f"{path}: preset {name!r} does not exist; choose from {', '.join(preset_names())}.")
        values = merged(read_yaml(PRESETS / f"{name}.yaml"), values)
    given = [_override(override) for override in overrides]
    try:
        return Config.model_validate(_overridden(values, given, path))
    except ValidationError as error:
        faults = faults_found(error, Config)
    of_file = _faults_of(values, path) if given else faults
    name = path.name if path.parent == PRESETS else path
    lines = [f"{name}: {f}" if f in of_file else _blamed(f, values, given, path) or f"{name}: {f}" for f in faults]
    raise BetastarError("\n".join(lines))


class _Override(NamedTuple):
    """One `--set KEY=VALUE`: its text, the dotted path of its key, and the settings that it stands for."""

    text: str
    path: str
    settings: dict[str, Any]


def _overridden(values: Mapping[str, Any], overrides: Sequence[_Override], path: Path) -> dict[str, Any]:
    """The settings of a file with overrides over them, and the ready-made task that they name."""
    together: dict[str, Any] = {}  # first among themselves, so that `kind` may come after the settings of that kind
    for override in overrides:
        together = merged(together, override.settings)
    result = merged(values, together)
    task = result.get("task")
    if isinstance(task, dict) and "preset" in task:
        setters = [o for o in overrides if isinstance(t := o.settings.get("task"), dict) and "preset" in t]
        result["task"] = _ready_task(f"--set {setters[-1].text}" if setters else str(path), task)
    return result


def _faults_of(values: Mapping[str, Any], path: Path, overrides: Sequence[_Override] = ()) -> list[Fault]:
    """What is wrong with some settings."""
    try:
        Config.model_validate(_overridden(values, overrides, path))
    except ValidationError as error:
        return faults_found(error, Config)
    except BetastarError:
        pass  # a ready-made task that does not exist: a fault of another kind
    return []


def _blamed(fault: Fault, values: Mapping[str, Any], overrides: Sequence[_Override], path: Path) -> str | None:
    """The sentence of a fault that the file alone does not have, with the override that it comes from: the last that
    sets this key or something in it, else the last without which the fault is gone; None if there is none."""

    def causes(override: _Override) -> bool:
        return fault not in _faults_of(values, path, [o for o in overrides if o is not override])

    setting = [o for o in overrides if _sets(o.settings, fault.where.split("."))]
    for override in reversed([o for o in setting or overrides if causes(o)] or setting):
        return f"--set {override.text}: {fault.problem if override.path == fault.where else fault}"
    return None


def _sets(settings: Any, path: Sequence[str]) -> bool:
    """Whether some settings have a value at a path, or a list or plain value before its end."""
    for part in path:
        if not isinstance(settings, dict):
            return True
        if part not in settings:
            return False
        settings = settings[part]
    return True


def _ready_task(named_by: str, task: Mapping[str, Any]) -> dict[str, Any]:
    preset, changes = task["preset"], {key: value for key, value in task.items() if key != "preset"}
    if preset not in task_names():
        choices = ", ".join(task_names())
        raise BetastarError(f"{named_by}: task.preset {preset!r} does not exist; choose from {choices}.")
    return merged(read_yaml(TASKS / f"{preset}.yaml"), changes)


def _override(text: str) -> _Override:
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise BetastarError(f"--set {text}: write it as key.path=value, for example --set online.steps=40.")
    parsed = parsed_yaml(value, f"--set {text}", "; put the value in quotes.")
    for part in reversed(parts):
        parsed = {part: parsed}
    return _Override(text.strip().replace("\n", "\\n"), ".".join(parts), parsed)


TAGS = ("train", "random", "pretrained", "micro", "lists", "dataset", "custom")  # what `kind` and `source` choose
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


class Fault(NamedTuple):
    """One fault: the dotted path of the key, and what is wrong with it."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class Faults(ValueError):
    """Several faults found by one check."""

    def __init__(self, faults: Sequence[Fault]):
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


def faults_found(error: ValidationError, root: type[BaseModel], prefix: str = "") -> list[Fault]:
    """The faults that pydantic found, each in one line."""
    faults: list[Fault] = []
    found = error.errors()
    inside = {fault["loc"][:n] for fault in found for n in range(len(fault["loc"]))}
    for fault in found:
        if fault["type"] == "too_short" and fault["loc"] in inside:
            continue  # pydantic counts only the entries without a fault
        cause = fault.get("ctx", {}).get("error")
        faults += cause.faults if isinstance(cause, Faults) else [_fault(fault, root, prefix)]
    return [Fault(*(part.replace("\n", "\\n") for part in fault)) for fault in dict.fromkeys(faults)]


def _fault(fault: Any, root: type[BaseModel], prefix: str) -> Fault:
    loc = [part for part in fault["loc"] if part != "[key]"]
    whole = isinstance(fault.get("input"), dict)  # the fault of a whole section
    if len(loc) > 1 + (not whole) and loc[1] in TAGS:  # pydantic's location also names the chosen kind, which is no key
        del loc[1]
    path = ".".join(map(str, loc))
    where, kind, context = (prefix + path).rstrip("."), fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return Fault(where, f"unknown key; {_hint(path, sorted(set(key_paths(root))), prefix)}")
    if kind == "missing":
        return Fault(where, "missing; give it a value (`betastar config` explains it)")
    if kind == "union_tag_not_found":
        where = f"{where}.{context['discriminator'][1:-1]}"
        return Fault(where, "missing; give it a value (`betastar config` explains it)")
    given = fault.get("input")
    message = fault["msg"].removeprefix("Value error, ")
    if kind == "union_tag_invalid":
        where, given = f"{where}.{context['discriminator'][1:-1]}", context["tag"]
        message = f"should be one of {context['expected_tags']}"
    elif kind in ("dict_type", "model_type", "model_attributes_type"):
        message = "should hold settings, as in `name: {key: value}`"
    elif kind == "too_short":
        message = f"should have at least {context['min_length']} entry"  # no list needs more than one
    elif kind == "tuple_type":
        message = "should be a list, as in [a, b]"
    elif kind == "string_pattern_mismatch":
        message = "should consist of letters, digits, dots, hyphens and underscores, and start with a letter or digit"
    shown = f" (given: {_short(given)})" if isinstance(given, str | int | float | bool) or given is None else ""
    return Fault(where, f"{message[0].lower() + message[1:]}{shown}")


def _short(value: Any) -> str:
    """A value as Python writes it, cut where it is long."""
    if isinstance(value, int) and abs(value) >= 10**60:
        return f"a number of {len(str(value)) if abs(value) < 10**4000 else 'thousands of'} digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text):,} characters)"


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


def key_paths(annotation: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of all keys of a model, of every kind and source."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield f"{path}{name}"
            yield from key_paths(field.annotation, f"{path}{name}.")
    else:
        for part in getattr(annotation, "__args__", ()):
            yield from key_paths(part, path)


def described(config: Config) -> str:
    """YAML of all settings, each with its description as a comment."""
    return "\n".join(_lines(config, ""))


def _lines(section: BaseModel, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        comment = f"  # {field.description}" if field.description else ""
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:{comment}"
            yield from _lines(value, indent + "  ")
        else:
            plain: Any = section.model_dump(mode="json").get(name, value)  # a default may be left out
            text = yaml.safe_dump(plain, default_flow_style=True, width=10**6).strip().removesuffix("\n...").strip()
            yield f"{indent}{name}: {text}{comment}"
