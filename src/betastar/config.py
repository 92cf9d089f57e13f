"""The configuration: one pydantic model per stage, read from a preset or file and `key=value` overrides.

Input is refused or accepted, never silently adjusted; all faults are reported at once, each in one sentence.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from betastar.errors import BetastarError

PRESETS = Path(__file__).parent / "presets"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def positive(description: str, default: Any = ..., **more: Any) -> Any:
    return Field(default, gt=0, description=description, **more)


class Compute(Section):
    device: str = Field("auto", description="cpu, cuda, cuda:1, mps; auto takes a GPU if there is one")
    threads: int | None = positive("CPU threads; empty: as many as there are cores", None)
    tokens_per_forward: int = positive("most tokens in one forward pass; larger batches are cut into pieces", 4096)
    rows_per_decode: int = positive("most responses sampled at the same time, over all conditions", 2048)


class Geometry(Section):
    """Shape of a Qwen3-architecture model."""

    hidden_size: int = positive("width; a multiple of 64 can be quantised to 4 bits", 128, multiple_of=8)
    intermediate_size: int = positive("width of the feed-forward layers", 384)
    layers: int = Field(2, ge=2, description="number of layers; at least 2, as embeddings are read before the last")
    heads: int = positive("attention heads", 4)
    key_value_heads: int = positive("key-value heads", 4)
    context: int = positive("longest sequence in tokens", 2048)
    initializer_range: float = positive("standard deviation of the initial weights", 0.05)

    @model_validator(mode="after")
    def _divisible(self) -> Geometry:
        if self.hidden_size % self.heads or self.heads % self.key_value_heads:
            raise ValueError("hidden_size must be a multiple of heads, and heads of key_value_heads")
        return self


class BaseTraining(Section):
    steps: int = positive("optimiser steps", 450)
    batch_size: int = positive("demonstrations per step", 96)
    learning_rate: float = positive("peak of the one-cycle schedule", 3e-3)
    request_share: float = Field(0.15, ge=0, le=1, description="share of small talk among the demonstrations")
    wrong_share: float = Field(0.1, ge=0, le=1, description="share of demonstrated problems with a wrong answer")


class TrainedBase(Section):
    source: Literal["train"]
    geometry: Geometry = Field(default_factory=Geometry, description="shape of the model")
    training: BaseTraining = Field(default_factory=BaseTraining, description="how it learns the micro language")


class RandomBase(Section):
    source: Literal["random"]
    geometry: Geometry = Field(default_factory=Geometry, description="shape of the model")


class FolderBase(Section):
    source: Literal["folder"]
    folder: Path = Field(description="local Hugging Face folder with a causal language model and its tokenizer")


BaseModelChoice = Annotated[TrainedBase | RandomBase | FolderBase, Field(discriminator="source")]


class Adapter(Section):
    rank: int = positive("LoRA rank r", 8)
    alpha: float = positive("LoRA alpha; the update is scaled by alpha / rank", 16)
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj"), min_length=1, description="names of the adapted linear layers"
    )


class MicroTask(Section):
    kind: Literal["micro"]
    largest: int = Field(20, ge=2, le=200, description="largest number in a problem")
    test_problems: int = positive("held-out problems", 400)


class Gsm8kTask(Section):
    kind: Literal["gsm8k"]
    train: Path = Field(description="JSON Lines with `question` and `answer` ending in `#### n`; prompts to adapt on")
    test: Path = Field(description="the same, for evaluation")
    train_limit: int | None = positive("read at most this many problems", None)
    test_limit: int | None = positive("read at most this many problems", None)


Task = Annotated[MicroTask | Gsm8kTask, Field(discriminator="kind")]


class MicroPreferences(Section):
    kind: Literal["micro"]
    prompts: int = Field(3400, ge=20, description="prompts for which the base answers twice and the annotator chooses")
    request_share: float = Field(0.3, ge=0, le=1, description="share of small talk among them")
    max_new_tokens: int = positive("limit of a sampled response, tokens", 40)


class JsonlPreferences(Section):
    kind: Literal["jsonl"]
    path: Path = Field(description="JSON Lines: prompt/chosen/rejected strings, or chosen/rejected message lists")
    limit: int | None = positive("read at most this many rows", None)


Preferences = Annotated[MicroPreferences | JsonlPreferences, Field(discriminator="kind")]
Tokens = Annotated[int, Field(gt=0)] | Literal["auto"]


class Lengths(Section):
    prompt: Tokens = Field("auto", description="longest preference prompt, tokens; auto: 75th percentile (Algorithm 1)")
    response: Tokens = Field("auto", description="longest preference response, tokens; auto: 75th percentile")
    generated: Tokens = Field("auto", description="limit of a sampled response, tokens; auto: as `response`")


class Training(Section):
    """Settings of a training loop over preference pairs."""

    epochs: float = positive("passes over the training pairs; a fraction is allowed", 1.0)
    batch_size: int = positive("pairs per optimiser step", 32)
    learning_rate: float = positive("peak learning rate; linear warm-up over ⌊√steps⌋, then linear decay to zero", 1e-3)
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay")
    clip: float = positive("largest gradient norm of a condition", 1.0)
    save_every: int = positive("optimiser steps between checkpoints", 50)


class Rewards(Training):
    members: int = Field(3, ge=2, description="reward models K in the ensemble")


class Grid(Section):
    method: Literal["percentiles", "list", "geometric"] = Field("percentiles", description="how the β are found")
    percentiles: tuple[Annotated[float, Field(gt=0, lt=100)], ...] = Field(
        (20, 50, 80), min_length=1, description="for percentiles: p_j of Eq. 7"
    )
    values: tuple[Annotated[float, Field(gt=0)], ...] = Field((), description="for list: the β themselves")
    low: float | None = positive("for geometric: smallest β", None)
    high: float | None = positive("for geometric: largest β", None)
    n: int | None = Field(None, ge=2, description="for geometric: how many")

    @model_validator(mode="after")
    def _complete(self) -> Grid:
        if self.method == "list" and not self.values:
            raise ValueError("method list needs values, for example values: [0.1, 0.3, 1.0]")
        if len(set(self.values)) != len(self.values):
            raise ValueError("values holds the same β twice")
        if self.method == "geometric":
            if self.low is None or self.high is None or self.n is None:
                raise ValueError("method geometric needs low, high and n")
            if self.low >= self.high:
                raise ValueError("low must be smaller than high")
        return self


class Kl(Section):
    coupling: Literal["paper", "fixed"] = Field(
        "paper", description="paper: κ = β / Q_p(|d|), Eq. 10; fixed: the same κ for every β"
    )
    percentile: float = Field(75, ge=0, le=100, description="for paper: p of Q_p, which the paper does not give")
    kappa: float = Field(0.003, ge=0, description="for fixed: κ")


class Online(Section):
    steps: int = positive("optimiser steps T", 80)
    batch_size: int = Field(32, ge=2, description="prompts per condition and step, one response each")
    learning_rate: float = positive("learning rate after a linear warm-up over ⌊√steps⌋ steps", 1e-3)
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay")
    clip: float = positive("largest gradient norm of a condition", 1.0)
    temperature: float = positive("sampling temperature", 1.0)
    prompt_split: Literal["train", "test"] = Field("train", description="problems to adapt on; the paper uses test")
    kl: Kl = Field(default_factory=Kl, description="the penalty that ties the policy to its checkpoint")
    save_every: int = positive("steps between checkpoints", 10)
    conditions_at_once: int | None = positive("most conditions in one bank; empty: all", None)


class Evaluation(Section):
    every: int = positive("online steps between evaluation points", 10)
    problems: int = positive("held-out problems answered at each point", 100)
    temperature: float = Field(1.0, ge=0, description="0 is greedy")
    samples: int = Field(4, ge=0, description="whole responses kept per condition and point, for the report")


class Law(Section):
    reference: Literal["beta_min", "grid"] = Field("beta_min", description="what 1.5 × refers to in Eq. 15 (E5)")
    trade_off: float | None = positive("λ of Def. 6.1; empty: that β★ is not computed", None)


class Config(Section):
    name: str = Field(description="name of the experiment", pattern=r"^[A-Za-z0-9._-]+$")
    root_seed: int = Field(0, ge=0, description="from which every random stream is derived")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="one block of the experiment each")
    compute: Compute = Field(default_factory=Compute, description="where and in what pieces it is computed")
    base: BaseModelChoice = Field(description="the base policy π⁽⁰⁾: trained here, random, or a folder")
    reward_base: BaseModelChoice | None = Field(None, description="base of the reward models; empty: the policy's")
    adapter: Adapter = Field(default_factory=Adapter, description="the LoRA adapters of policies and reward models")
    task: Task = Field(description="the verifiable task")
    preferences: Preferences = Field(description="the preference pairs")
    lengths: Lengths = Field(default_factory=Lengths, description="where preference data are cut")
    rewards: Rewards = Field(default_factory=Rewards, description="the reward ensemble (Eq. 5)")
    grid: Grid = Field(default_factory=Grid, description="the conservatism grid (Eq. 6-7)")
    offline: Training = Field(default_factory=Training, description="offline DPO (Eq. 1)")
    online: Online = Field(default_factory=Online, description="online adaptation (Eq. 8-10)")
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {"paper": {}}, min_length=1, description="named overrides of `online`"
    )
    evaluation: Evaluation = Field(default_factory=Evaluation, description="what is measured, and how often")
    law: Law = Field(default_factory=Law, description="the conservatism law (Eq. 14-15, Def. 6.1)")

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: the same seed is listed twice; each seed is one block, list it once")
        micro = [self.task.kind == "micro", self.preferences.kind == "micro", self.base.source == "train"]
        if self.preferences.kind == "micro" and self.task.kind != "micro":
            raise ValueError("preferences.kind micro needs task.kind micro; give your pairs with kind: jsonl")
        if self.base.source == "train" and not all(micro):
            raise ValueError("base.source train teaches the micro language; use random or folder for your own files")
        if self.reward_base is not None and self.reward_base.source == "train":
            raise ValueError("reward_base.source: use random or folder, or leave it empty to share the policy's base")
        for name in self.variants:
            self.variant(name)
        return self

    def variant(self, name: str) -> Online:
        """The online settings of a variant: `online` with the variant's overrides laid over it."""
        try:
            return Online.model_validate(merged(self.online.model_dump(), self.variants[name]))
        except ValidationError as error:
            faults = "; ".join(_sentence(fault, Online, f"variants.{name}.") for fault in error.errors())
            raise ValueError(faults) from None


def merged(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """`override` laid over `base`, nested mappings merged; a mapping whose `kind` or `source` changes starts afresh."""
    result = dict(base)
    for key, value in override.items():
        old = result.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            fresh = any(tag in value and tag in old and value[tag] != old[tag] for tag in ("kind", "source"))
            result[key] = value if fresh else merged(old, value)
        else:
            result[key] = value
    return result


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_config(source: str = "micro", overrides: Sequence[str] = ()) -> Config:
    """Read a preset by name or a YAML file by path, lay `key.path=value` overrides over it, and check everything.

    Raises BetastarError naming every fault and where it stands.
    """
    if source in preset_names():
        path = PRESETS / f"{source}.yaml"
    elif (path := Path(source)).suffix not in (".yaml", ".yml"):
        near = difflib.get_close_matches(source, preset_names(), 1)
        hint = f"did you mean {near[0]}?" if near else f"presets are {', '.join(preset_names())}"
        raise BetastarError(f"{source}: neither a preset nor a .yaml file; {hint}")
    values = read_yaml(path)
    if "preset" in values:
        name = values.pop("preset")
        if name not in preset_names():
            raise BetastarError(f"{path}: preset {name!r} does not exist; choose from {', '.join(preset_names())}.")
        values = merged(read_yaml(PRESETS / f"{name}.yaml"), values)
    for override in overrides:
        values = merged(values, _override(override))
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        faults = list(dict.fromkeys(_sentence(fault, Config) for fault in error.errors()))
        raise BetastarError(
            "\n".join(f"{path.name if path.parent == PRESETS else path}: {f}" for f in faults)
        ) from None


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BetastarError(f"{path}: no such file; `betastar presets` lists what is built in.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BetastarError(f"{path}: cannot be read ({error}).") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise BetastarError(f"{path}:{where} not valid YAML ({getattr(error, 'problem', error)}).") from None
    if not isinstance(values, dict):
        raise BetastarError(f"{path}: empty or not a mapping; start from `betastar config micro`.")
    return values


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BetastarError(f"--set {text}: write it as key.path=value, for example --set online.steps=40.")
    try:
        parsed: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise BetastarError(f"--set {text}: the value is not valid YAML; put it in quotes.") from None
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return parsed


def _sentence(fault: Any, root: type[BaseModel], prefix: str = "") -> str:
    """One validation fault as one sentence. pydantic's location also names union tags, which are no keys: left out."""
    tags = {"train", "random", "folder", "micro", "gsm8k", "jsonl"}
    loc = [part for i, part in enumerate(fault["loc"]) if not (part in tags and i and i < len(fault["loc"]) - 1)]
    where = prefix + ".".join(map(str, loc))
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), sorted(_all_keys(root)), 1)
        hint = f"did you mean {near[0]}?" if near else "`betastar config` lists all keys"
        return f"{where}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"{where}: missing; give it a value (`betastar config` says what it is)"
    given = fault.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) or given is None else ""
    return f"{where}: {message[0].lower() + message[1:]}{shown}" if where else f"{message}"


def _all_keys(model: type[BaseModel]) -> set[str]:
    keys: set[str] = set()
    pending: list[Any] = [model]
    while pending:
        item = pending.pop()
        if isinstance(item, type) and issubclass(item, BaseModel):
            keys |= set(item.model_fields)
            pending += [field.annotation for field in item.model_fields.values()]
        else:
            pending += list(getattr(item, "__args__", ()))
    return keys
