"""Settings of the models: where they are computed, what they are, how they are adapted and spoken to."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from betastar.errors import InternalError
from betastar.sections.base import CountOrAuto, FromZeroOrAuto, PositiveOrAuto, Section, positive


class Compute(Section):
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, mps; auto takes a GPU if there is one")
    threads: int | None = positive("CPU threads; empty: as many as there are cores", None)
    tokens_per_forward: int = positive("most tokens in one forward pass; larger batches are cut into pieces", 4096)
    rows_per_decode: int = positive("most responses sampled at the same time, over all conditions", 2048)
    gradient_checkpointing: bool = Field(
        default=False, description="compute activations again in the backward pass: less memory, about a third slower"
    )
    deterministic: bool = Field(
        default=False,
        description="on a GPU take only algorithms that give the same bits at every run, which are somewhat slower; a "
        "CPU's always do",
    )
    checkpoint_seconds: float = Field(
        default=30, ge=0, description="seconds between checkpoints of an unfinished stage; a kill loses about as much"
    )
    memory_gb: float | None = positive(
        "V_GB of Appendix C.3, from which `auto` batch sizes follow; empty: the device's memory", None
    )
    launch: str | None = Field(
        default=None,
        description="what starts the trainers of engine trl, for example accelerate launch --num_processes 8; "
        "empty: they run in this process",
    )


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


class PretrainedBase(Section):
    source: Literal["pretrained"] = Field(
        description="pretrained: a causal language model of the Hugging Face hub or on disk"
    )
    model: str = Field(
        min_length=1, description="hub id such as Qwen/Qwen3-14B, or a local folder (begins with / . or ~, or exists)"
    )
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub model")
    gguf_file: str | None = Field(
        default=None,
        description="a .gguf file in that folder or hub repository, for example model.Q8_0.gguf: its weights (unpacked "
        "to dtype), configuration and tokenizer are read, and nothing else; needs betastar[gguf]",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of the weights; auto: bfloat16 on a GPU, float32 on the CPU"
    )
    quantization: Literal["none", "nf4"] = Field(default="none", description="nf4: linear layers in 4 bits (QLoRA)")
    double_quantization: bool = Field(default=True, description="for nf4: quantise the quantisation constants too")
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="for nf4: in which 4-bit layers multiply; auto: as dtype"
    )

    @field_validator("gguf_file")
    @classmethod
    def _names_a_file_inside(cls, name: str | None) -> str | None:
        if name is None:
            return None
        path = PurePosixPath(name)
        if path.suffix.lower() != ".gguf" or path.is_absolute() or ".." in path.parts:
            raise ValueError("should name a .gguf file inside the folder or repository that `model` names")
        return str(path)

    @model_validator(mode="after")
    def _possible(self) -> PretrainedBase:
        if self.model.lower().endswith(".gguf"):
            file = PurePosixPath(self.model)
            raise ValueError(f"model names a file; set model: {file.parent} and gguf_file: {file.name}")
        if self.gguf_file is not None and self.quantization == "nf4":
            raise ValueError(
                "gguf_file and quantization nf4 exclude each other, as the file is quantised already; set quantization "
                "to none, or give the original model"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a GGUF file the setting is left out: finished work from before there was one keeps its key."""
        values = dump(self)
        if values["gguf_file"] is None:
            del values["gguf_file"]
        return values


BaseModelChoice = Annotated[TrainedBase | RandomBase | PretrainedBase, Field(discriminator="source")]


class Chat(Section):
    thinking: bool | None = Field(
        default=None, description="thinking mode of a chat template that has one (Qwen3); empty: the template's default"
    )
    system: str | None = Field(default=None, description="system message before every prompt that has none")


class AdapterNumbers(NamedTuple):
    rank: int
    alpha: float
    dropout: float


class Adapter(Section):
    rank: CountOrAuto = Field(default=8, description="LoRA rank r; auto: Appendix C.1, from the hidden size")
    alpha: PositiveOrAuto = Field(
        default=16, description="LoRA alpha; the update is scaled by alpha / rank; auto: 2 · rank"
    )
    dropout: FromZeroOrAuto = Field(
        default=0.0,
        description="dropout on the adapters' input in training; auto: Appendix C.2, from the training pairs",
    )
    target_modules: Literal["attention", "all-linear"] | tuple[str, ...] = Field(
        default="attention",
        description="adapted linear layers: attention (its projections, as in the paper), all-linear (all but the "
        "head), or a list of names",
    )

    def numbers(self) -> AdapterNumbers:
        """Rank, alpha and dropout. Raises InternalError where one is still to be derived."""
        values = [self.rank, self.alpha, self.dropout]
        if "auto" in values:
            raise InternalError("An adapter setting was used before it was derived (auto); report this fault.")
        return AdapterNumbers(*values)  # type: ignore[arg-type]

    @model_validator(mode="after")
    def _possible(self) -> Adapter:
        if self.dropout != "auto" and self.dropout >= 1:
            raise ValueError("dropout must be below 1")
        if not self.target_modules:
            raise ValueError("target_modules must name at least one layer")
        return self
