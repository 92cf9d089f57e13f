"""The sections of the configuration: every setting with its type, its limits, its default and its meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def positive(description: str, default: Any = ..., **more: Any) -> Any:
    return Field(default, gt=0, description=description, **more)


def _home_expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("there is no such home folder; write the whole path") from None


LocalPath = Annotated[Path, AfterValidator(_home_expanded)]


def local_path(description: str) -> Any:
    """A file or folder, meant as on a command line also where a configuration file in another folder names it."""
    return Field(description=f"{description}; relative to the current directory, ~ is the home folder")


def _token_count(value: Any) -> Any:
    if value != "auto" and (not isinstance(value, int) or value < 1):
        raise ValueError("should be a number of tokens from 1, or auto")
    return value


Tokens = Annotated[int | Literal["auto"], BeforeValidator(_token_count)]


class Compute(Section):
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, mps; auto takes a GPU if there is one")
    threads: int | None = positive("CPU threads; empty: as many as there are cores", None)
    tokens_per_forward: int = positive("most tokens in one forward pass; larger batches are cut into pieces", 4096)
    rows_per_decode: int = positive("most responses sampled at the same time, over all conditions", 2048)


class Geometry(Section):
    """Shape of a Qwen3-architecture model."""

    hidden_size: int = positive("width; a multiple of 64 can be quantised to 4 bits", 128, multiple_of=8)
    intermediate_size: int = positive("width of the feed-forward layers", 384)
    layers: int = Field(
        default=2, ge=2, description="number of layers; at least 2, as embeddings are read before the last"
    )
    heads: int = positive("attention heads", 4)
    key_value_heads: int = positive("key-value heads", 4)
    context: int = positive("longest sequence in tokens", 2048)
    initializer_range: float = positive("standard deviation of the initial weights", 0.05)

    @model_validator(mode="after")
    def _divisible(self) -> Geometry:
        if self.hidden_size % self.heads or self.heads % self.key_value_heads:
            raise ValueError("hidden_size must be a multiple of heads, and heads of key_value_heads")
        if self.hidden_size // self.heads % 2:
            raise ValueError("hidden_size / heads must be even, as rotary positions turn pairs of numbers")
        return self


class BaseTraining(Section):
    steps: int = positive("optimiser steps", 450)
    batch_size: int = positive("demonstrations per step", 96)
    learning_rate: float = positive("peak of the one-cycle schedule", 3e-3)
    request_share: float = Field(default=0.15, ge=0, le=1, description="share of small talk among the demonstrations")
    wrong_share: float = Field(
        default=0.1, ge=0, le=1, description="share of demonstrated problems with a wrong answer"
    )


class TrainedBase(Section):
    source: Literal["train"] = Field(description="train: a small model that learns the micro language here")
    geometry: Geometry = Field(default_factory=Geometry, description="shape of the model")
    training: BaseTraining = Field(default_factory=BaseTraining, description="how it learns the micro language")


class RandomBase(Section):
    source: Literal["random"] = Field(description="random: an untrained model that reads bytes, to try out your files")
    geometry: Geometry = Field(default_factory=Geometry, description="shape of the model")


class FolderBase(Section):
    source: Literal["folder"] = Field(description="folder: a pretrained model on this machine")
    folder: LocalPath = local_path("Hugging Face folder with a causal language model and its tokenizer")


BaseModelChoice = Annotated[TrainedBase | RandomBase | FolderBase, Field(discriminator="source")]


class Adapter(Section):
    rank: int = positive("LoRA rank r", 8)
    alpha: float = positive("LoRA alpha; the update is scaled by alpha / rank", 16)
    target_modules: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj"), min_length=1, description="names of the adapted linear layers"
    )


class MicroTask(Section):
    kind: Literal["micro"] = Field(description="micro: word problems of the embedded world")
    largest: int = Field(default=20, ge=2, le=200, description="largest number in a problem")
    test_problems: int = positive("held-out problems", 400)


class Gsm8kTask(Section):
    kind: Literal["gsm8k"] = Field(description="gsm8k: your files in the format of GSM8K")
    train: LocalPath = local_path("problems to adapt on: JSON Lines with `question`, and `answer` ending in `#### n`")
    test: LocalPath = local_path("the same, for evaluation")
    train_limit: int | None = positive("read at most this many problems", None)
    test_limit: int | None = positive("read at most this many problems", None)


Task = Annotated[MicroTask | Gsm8kTask, Field(discriminator="kind")]


class MicroPreferences(Section):
    kind: Literal["micro"] = Field(description="micro: answers of the base, rated by the micro annotator")
    prompts: int = Field(
        default=3400, ge=20, description="prompts for which the base answers twice and the annotator chooses"
    )
    request_share: float = Field(default=0.3, ge=0, le=1, description="share of small talk among them")
    max_new_tokens: int = positive("limit of a sampled response, tokens", 40)


class JsonlPreferences(Section):
    kind: Literal["jsonl"] = Field(description="jsonl: pairs from your file")
    path: LocalPath = local_path("JSON Lines: prompt/chosen/rejected strings, or chosen/rejected message lists")
    limit: int | None = positive("read at most this many rows", None)


Preferences = Annotated[MicroPreferences | JsonlPreferences, Field(discriminator="kind")]


class Lengths(Section):
    prompt: Tokens = Field(
        default="auto", description="longest preference prompt, tokens; auto: 75th percentile (Algorithm 1)"
    )
    response: Tokens = Field(default="auto", description="longest preference response, tokens; auto: 75th percentile")
    generated: Tokens = Field(default="auto", description="limit of a sampled response, tokens; auto: as `response`")


class Training(Section):
    """Settings of a training loop over preference pairs."""

    epochs: float = positive("passes over the training pairs; a fraction is allowed", 1.0)
    batch_size: int = positive("pairs per optimiser step", 32)
    learning_rate: float = positive("peak learning rate; linear warm-up over ⌊√steps⌋, then linear decay to zero", 1e-3)
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW weight decay")
    clip: float = positive("largest gradient norm of a condition", 1.0)
    save_every: int = positive("optimiser steps between checkpoints", 50)


class Rewards(Training):
    members: int = Field(default=3, ge=2, description="reward models K in the ensemble")


class Grid(Section):
    method: Literal["percentiles", "list", "geometric"] = Field(
        default="percentiles", description="how the β are found"
    )
    percentiles: tuple[Annotated[float, Field(gt=0, lt=100)], ...] = Field(
        default=(20, 50, 80), min_length=1, description="for percentiles: p_j of Eq. 7"
    )
    values: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(), description="for list: the β themselves")
    low: float | None = positive("for geometric: smallest β", None)
    high: float | None = positive("for geometric: largest β", None)
    n: int | None = Field(default=None, ge=2, description="for geometric: how many")

    @model_validator(mode="after")
    def _complete(self) -> Grid:
        for name in ("percentiles", "values"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"{name} holds the same number twice; list each once")
        if self.method == "list" and not self.values:
            raise ValueError("method list needs values, for example values: [0.1, 0.3, 1.0]")
        if self.method != "list" and self.values:
            raise ValueError(f"method {self.method} does not use values; set method: list or values: []")
        if self.method != "geometric" and (self.low, self.high, self.n) != (None, None, None):
            raise ValueError(f"method {self.method} does not use low, high and n; set method: geometric or remove them")
        if self.method == "geometric":
            if self.low is None or self.high is None or self.n is None:
                raise ValueError("method geometric needs low, high and n")
            if self.low >= self.high:
                raise ValueError("low must be smaller than high")
        return self


class Kl(Section):
    coupling: Literal["paper", "fixed"] = Field(
        default="paper", description="paper: κ = β / Q_p(|d|), Eq. 10; fixed: the same κ for every β"
    )
    percentile: float = Field(
        default=75, ge=0, le=100, description="for paper: p of Q_p, which the paper does not give"
    )
    kappa: float = Field(default=0.003, ge=0, description="for fixed: κ")


class Online(Section):
    steps: int = positive("optimiser steps T", 80)
    batch_size: int = Field(default=32, ge=2, description="prompts per condition and step, one response each")
    learning_rate: float = positive("learning rate after a linear warm-up over ⌊√steps⌋ steps", 1e-3)
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW weight decay")
    clip: float = positive("largest gradient norm of a condition", 1.0)
    temperature: float = positive("sampling temperature", 1.0)
    prompt_split: Literal["train", "test"] = Field(
        default="train", description="problems to adapt on; the paper uses test"
    )
    kl: Kl = Field(default_factory=Kl, description="the penalty that ties the policy to its checkpoint")
    save_every: int = positive("steps between checkpoints", 10)
    conditions_at_once: int | None = positive("most conditions in one bank; empty: all", None)


class Evaluation(Section):
    every: int = positive("online steps between evaluation points", 10)
    problems: int = positive("held-out problems answered at each point", 100)
    temperature: float = Field(default=1.0, ge=0, description="0 is greedy")
    samples: int = Field(default=4, ge=0, description="whole responses kept per condition and point, for the report")


class Law(Section):
    trade_off: float | None = positive("λ of Def. 6.1; empty: that β★ is not computed", None)
