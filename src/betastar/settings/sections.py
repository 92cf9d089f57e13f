"""The sections of the configuration: every setting with its type, its limits, its default and its meaning."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from betastar.errors import InternalError
from betastar.maths.appendix_c import warm_up_steps

LARGEST_COUNT, LARGEST_NUMBER = 10**9, 1e12
"""No setting is larger. What is refused here would else overflow, or fill the memory, after hours of training."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    ANY_SIZE: ClassVar[set[str]] = set()
    """Settings without this limit."""

    @field_validator("*", mode="after")
    @classmethod
    def _not_absurd(cls, value: Any, info: ValidationInfo) -> Any:
        largest = LARGEST_COUNT if isinstance(value, int) else LARGEST_NUMBER
        if isinstance(value, int | float) and abs(value) > largest and info.field_name not in cls.ANY_SIZE:
            raise ValueError(f"should be at most {largest:g}")
        return value


def without_defaults(section: BaseModel, values: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The dump of a section without those of its settings `names` that have their defaults: finished work from before
    there were such settings keeps its key."""
    defaults = {name: section.__class__.model_fields[name].get_default(call_default_factory=True) for name in names}
    return {k: v for k, v in values.items() if k not in defaults or getattr(section, k) != defaults[k]}


def positive(description: str, default: Any = ..., **more: Any) -> Any:
    return Field(default, gt=0, description=description, **more)


def _or_auto(what: str, lowest: float, *, whole: bool, included: bool = True) -> BeforeValidator:
    """Accepts `auto` or a number in range, and says in one sentence what else it is not."""
    kind = int if whole else float

    def check(value: Any) -> Any:
        if value == "auto":
            return value
        try:  # YAML takes 1e-4 for text
            number = kind(value) if isinstance(value, str) else value
            fits = not isinstance(number, bool) and number == kind(number) and number < math.inf
            if fits and (number >= lowest if included else number > lowest):
                return kind(number)
        except (TypeError, ValueError, OverflowError):
            pass
        raise ValueError(f"should be {what}, or auto")

    return BeforeValidator(check)


Auto = Literal["auto"]
Tokens = Annotated[int | Auto, _or_auto("a number of tokens of at least 1", 1, whole=True)]
CountOrAuto = Annotated[int | Auto, _or_auto("a whole number of at least 1", 1, whole=True)]
PositiveOrAuto = Annotated[float | Auto, _or_auto("a number above 0", 0, whole=False, included=False)]
WholeFromZeroOrAuto = Annotated[int | Auto, _or_auto("a whole number of at least 0", 0, whole=True)]
FromZeroOrAuto = Annotated[float | Auto, _or_auto("a number of at least 0", 0, whole=False)]


def _from_text(value: Any) -> Any:
    return {"dataset": value} if isinstance(value, str) else value


FILE_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")


class DatasetSource(Section):
    """Rows of a dataset; a plain text stands for {dataset: text}."""

    dataset: str = Field(
        min_length=1,
        description="hub id such as openai/gsm8k, a local file (.jsonl, .jsonl.gz, .json, .csv, .parquet), or a folder "
        "laid out like a hub dataset",
    )
    name: str | None = Field(default=None, description="configuration of a hub dataset, for example main")
    split: str | None = Field(default=None, description="split of a hub dataset; empty: train")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub dataset")
    limit: int | None = positive("use at most this many rows", None)

    @model_validator(mode="after")
    def _of_a_hub_dataset(self) -> DatasetSource:
        if self.dataset.lower().endswith(FILE_ENDINGS) and (self.name or self.split or self.revision):
            raise ValueError("name, split and revision belong to hub datasets; remove them when you give a file")
        return self


Source = Annotated[DatasetSource, BeforeValidator(_from_text)]


class Data(Section):
    max_bad_share: float = Field(
        default=0.0, ge=0, lt=1, description="largest share of malformed rows to skip; with more, the run is refused"
    )


class MicroTask(Section):
    kind: Literal["micro"] = Field(description="micro: word problems of the built-in micro world")
    largest: int = Field(default=20, ge=2, le=200, description="largest number in a problem")
    test_problems: int = positive("held-out problems", 400, le=10**6)


class ListsTask(Section):
    kind: Literal["lists"] = Field(description="lists: lists that must follow rules, of the second built-in world")
    longest: int = Field(default=6, ge=2, le=6, description="longest list asked for, in words")
    test_problems: int = positive("held-out problems", 400, le=1000)


class DatasetTask(Section):
    kind: Literal["dataset"] = Field(description="dataset: problems from a dataset, graded against their gold answers")
    train: Source = Field(description="problems to adapt on")
    test: Source = Field(description="problems to evaluate on")
    prompt: str = Field(
        default="{{ question }}", description="Jinja template of the prompt; a row's columns are its variables"
    )
    gold: str = Field(default="{{ answer }}", description="Jinja template of the gold answer, likewise")
    grader: Literal["gsm8k", "gsm8k-lm-eval", "number", "text", "choice", "math"] = Field(
        default="gsm8k",
        description="gsm8k: the number after ####; gsm8k-lm-eval: as lm-evaluation-harness grades it; number, text, "
        "choice: the number, words or letter (A to E) after `Answer:`; math: LaTeX in \\boxed{}, compared by "
        "math-verify",
    )


class CustomTask(Section):
    kind: Literal["custom"] = Field(description="custom: your own task in Python")
    task: str = Field(
        description="path/to/file.py:function, or the name of an entry point in the group betastar.tasks; it is "
        "called with `options` and returns a betastar.data.tasks.Task"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for that function")


BuiltInTask = MicroTask | ListsTask
Task = Annotated[BuiltInTask | DatasetTask | CustomTask, Field(discriminator="kind")]


class MicroPreferences(Section):
    kind: Literal["micro"] = Field(description="micro: pairs of the base's answers, labelled by the built-in annotator")
    prompts: int = Field(
        default=3400,
        ge=20,
        le=10**6,
        description="number of prompts; the base answers each twice and the annotator picks one",
    )
    request_share: float = Field(default=0.3, ge=0, le=1, description="share of small talk among the prompts")
    style: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="how much the annotator likes closings, politeness and shown steps, against being right: its score "
        "is 2.5·right + style·(1.2·closings + 0.8·polite + 0.8·steps), in the world of lists 2.5·right + "
        "style·(0.6·items + 0.8·polite + 0.6·closings); 0: it likes only what is right",
    )
    max_new_tokens: int = positive("longest sampled response in tokens", 40, le=10**5)


class PairColumns(Section):
    prompt: str | None = Field(
        default=None,
        description="column of the prompt; empty: `prompt` if it exists, else what both responses start with",
    )
    chosen: str = Field(default="chosen", description="column of the preferred response, as text or messages")
    rejected: str = Field(default="rejected", description="column of the other response")


class DatasetPreferences(Section):
    kind: Literal["dataset"] = Field(description="dataset: pairs in TRL's standard or conversational format")
    source: Source = Field(description="where the pairs are")
    columns: PairColumns = Field(default_factory=PairColumns, description="what the columns are called")


Preferences = Annotated[MicroPreferences | DatasetPreferences, Field(discriminator="kind")]


class Lengths(Section):
    prompt: Tokens = Field(
        default="auto", description="longest preference prompt in tokens; auto: 75th percentile (Algorithm 1)"
    )
    response: Tokens = Field(default="auto", description="longest preference response in tokens; auto: 75th percentile")
    generated: Tokens = Field(
        default="auto", description="longest sampled response in tokens; auto: same as `response`"
    )


def _known_device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", text):
        raise ValueError("should be auto, cpu, mps, cuda, or one of several GPUs as in cuda:1")
    return text


class SweepEngine(Section):
    """Who makes the parts of a sweep, and where they are kept."""

    kind: Literal["local", "ray"] = Field(
        default="local",
        description="local: this process makes everything; ray: workers of a Ray cluster share it",
    )
    address: str | None = Field(
        default=None,
        description="the Ray cluster: auto, HOST:PORT or ray://HOST:PORT; empty: start one on this machine",
    )
    workers: int | None = positive(
        "number of workers; empty: one per GPU of the cluster, or per node without GPUs", None
    )
    units_per_worker: int = positive(
        "into how many pieces of work per worker each stage is cut: more balance better, fewer fill banks better", 2
    )
    store: str | None = Field(
        default=None,
        description="where machines without a shared disk keep results, for example s3://BUCKET/PATH; empty: the run "
        "directory, which all machines must see",
    )
    cache: str | None = Field(
        default=None,
        description="folder on each worker's machine for its copy of `store`; empty: in the machine's temporary folder",
    )
    lost_workers: int = Field(
        default=3, ge=0, description="how many lost workers one piece of work survives before the run stops"
    )
    worker_wait: float = Field(
        default=1800.0,
        ge=0,
        description="seconds to wait for a worker when none is alive any more, before the run stops; finished work is "
        "kept",
    )
    upload_seconds: float = Field(
        default=300.0,
        ge=0,
        description="seconds between uploads of unfinished training to `store`: what a worker lost with its disk costs",
    )


class Compute(Section):
    device: Annotated[str, AfterValidator(_known_device)] = Field(
        default="auto", description="cpu, cuda, cuda:1 or mps; auto: a GPU if there is one"
    )
    threads: int | None = positive("CPU threads; empty: one per core", None, le=4096)
    tokens_per_forward: int = positive("maximum tokens in one forward pass; larger batches are split", 4096, le=10**9)
    rows_per_decode: int = positive("maximum number of responses sampled at once, over all conditions", 2048, le=10**7)
    decoding: Literal["auto", "plain"] = Field(
        default="auto",
        description="how a GPU samples responses; auto: each step is replayed as a CUDA graph, and 4-bit weights are "
        "unpacked meanwhile if they fit in memory; plain: kernel by kernel",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations in the backward pass: less memory, about a third slower"
    )
    deterministic: bool = Field(
        default=False,
        description="on a GPU, use only algorithms that give bit-identical results in every run (somewhat slower); on "
        "a CPU results always are",
    )
    checkpoint_seconds: float = Field(
        default=30,
        ge=0,
        description="seconds between checkpoints of an unfinished stage; a killed run loses about this much work",
    )
    memory_gb: float | None = positive(
        "V_GB in Appendix C.3, which determines `auto` batch sizes; empty: the device's memory", None
    )
    engine: SweepEngine = Field(default_factory=SweepEngine, description="one process, or many machines")
    launch: str | None = Field(
        default=None,
        description="command that starts TRL's trainers, for example `accelerate launch --num_processes 8`; "
        "empty: run them in this process",
    )


class Geometry(Section):
    """Shape of a Qwen3-architecture model."""

    hidden_size: int = positive(
        "hidden width; must be a multiple of 64 for 4-bit quantisation", 128, multiple_of=8, le=2**16
    )
    intermediate_size: int = positive("width of the feed-forward layers", 384, le=2**20)
    layers: int = Field(
        default=2,
        ge=2,
        le=1024,
        description="number of layers; at least 2, because embeddings are read before the last",
    )
    heads: int = positive("attention heads", 4, le=1024)
    key_value_heads: int = positive("key-value heads", 4, le=1024)
    context: int = positive("longest sequence in tokens", 2048, le=2**24)
    initializer_range: float = positive("standard deviation of the initial weights", 0.05)

    @model_validator(mode="after")
    def _divisible(self) -> Geometry:
        if self.hidden_size % self.heads or self.heads % self.key_value_heads:
            raise ValueError("hidden_size must be a multiple of heads, and heads of key_value_heads")
        if self.hidden_size // self.heads % 2:
            raise ValueError("hidden_size / heads must be even, because rotary positions rotate pairs of numbers")
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
    source: Literal["train"] = Field(description="train: a small model, trained here on the built-in language")
    geometry: Geometry = Field(default_factory=Geometry, description="shape of the model")
    training: BaseTraining = Field(default_factory=BaseTraining, description="how it is trained on that language")


class RandomBase(Section):
    source: Literal["random"] = Field(description="random: an untrained byte-level model, for trying out your files")
    geometry: Geometry = Field(default_factory=Geometry, description="shape of the model")


class PretrainedBase(Section):
    source: Literal["pretrained"] = Field(
        description="pretrained: a causal language model from the Hugging Face hub or from disk"
    )
    model: str = Field(
        min_length=1, description="hub id such as Qwen/Qwen3-14B, or a local folder (starts with / . or ~, or exists)"
    )
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub model")
    gguf_file: str | None = Field(
        default=None,
        description="a .gguf file in that folder or hub repository, for example model.Q8_0.gguf: only its weights "
        "(unpacked to dtype), configuration and tokenizer are read; needs betastar[gguf]",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="data type of the weights; auto: bfloat16 on a GPU, float32 on a CPU"
    )
    quantization: Literal["none", "nf4"] = Field(default="none", description="nf4: linear layers in 4 bits (QLoRA)")
    double_quantization: bool = Field(default=True, description="for nf4: also quantise the quantisation constants")
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="for nf4: data type in which 4-bit layers compute; auto: same as dtype"
    )

    @field_validator("gguf_file")
    @classmethod
    def _names_a_file_inside(cls, name: str | None) -> str | None:
        if name is None:
            return None
        path = PurePosixPath(name)
        if path.suffix.lower() != ".gguf" or path.is_absolute() or ".." in path.parts:
            raise ValueError("should name a .gguf file inside the folder or repository given by `model`")
        return str(path)

    @model_validator(mode="after")
    def _possible(self) -> PretrainedBase:
        if self.model.lower().endswith(".gguf"):
            file = PurePosixPath(self.model)
            raise ValueError(f"model names a file; set model: {file.parent} and gguf_file: {file.name}")
        if self.gguf_file is not None and self.quantization == "nf4":
            raise ValueError(
                "gguf_file cannot be combined with quantization nf4, because the file is already quantised; set "
                "quantization to none, or use the original model"
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
        default=None, description="thinking mode, if the chat template has one (Qwen3); empty: the template's default"
    )
    system: str | None = Field(default=None, description="system message, added to every prompt that has none")


# What Appendix C derives of an adapter, and of a training loop beside its warm-up, which follows from its steps alone.
ADAPTER = ("rank", "alpha", "dropout")
LOOP = ("batch_size", "learning_rate", "weight_decay", "clip")


class ResolvedAdapter(NamedTuple):
    """The settings of an adapter, as numbers."""

    rank: int
    alpha: float
    dropout: float
    target_modules: str | tuple[str, ...]


def _layers(value: Any) -> Any:
    names = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    if not names and value not in ("attention", "all-linear"):
        raise ValueError("should be attention, all-linear, or a list of names, as in [q_proj, v_proj]")
    return value


class Adapter(Section):
    rank: CountOrAuto = Field(default=8, description="LoRA rank r; auto: Appendix C.1, from the hidden size")
    alpha: PositiveOrAuto = Field(
        default=16, description="LoRA alpha; updates are scaled by alpha / rank; auto: 2 · rank"
    )
    dropout: FromZeroOrAuto = Field(
        default=0.0,
        description=(
            "dropout on the adapters' input during training; auto: Appendix C.2, from the number of training pairs"
        ),
    )
    target_modules: Annotated[Literal["attention", "all-linear"] | tuple[str, ...], BeforeValidator(_layers)] = Field(
        default="attention",
        description="linear layers to adapt: attention (its projections, as in the paper), all-linear (all but the "
        "head), or a list of names",
    )

    @model_validator(mode="after")
    def _possible(self) -> Adapter:
        if self.dropout != "auto" and self.dropout >= 1:
            raise ValueError("dropout must be below 1")
        if not self.target_modules:
            raise ValueError("target_modules must name at least one layer")
        return self


Engine = Literal["bank", "trl"]
APPENDIX_C = "auto: Appendix C"


class Numbers(NamedTuple):
    batch_size: int
    learning_rate: float
    weight_decay: float
    clip: float
    warmup_steps: int


class Optimisation(Section):
    """What Appendix C derives from model, hardware and data where it says auto."""

    batch_size: CountOrAuto = Field(default=32, description=f"pairs per optimiser step; {APPENDIX_C}.3")
    learning_rate: PositiveOrAuto = Field(default=1e-3, description=f"peak learning rate; {APPENDIX_C}.4")
    weight_decay: FromZeroOrAuto = Field(default=0.0, description=f"AdamW weight decay; {APPENDIX_C}.7")
    clip: PositiveOrAuto = Field(default=1.0, description=f"maximum gradient norm of a condition; {APPENDIX_C}.5")
    warmup_steps: WholeFromZeroOrAuto = Field(
        default="auto", description=f"steps of linear warm-up; {APPENDIX_C}.6, ⌊√steps⌋"
    )

    def numbers(self, steps: int) -> Numbers:
        """The settings as numbers, for a loop of `steps`. Raises InternalError where one is still to be derived."""
        values = [self.batch_size, self.learning_rate, self.weight_decay, self.clip]
        if "auto" in values:
            raise InternalError("A training setting was used before it was derived (auto); please report this bug.")
        warm_up = warm_up_steps(steps) if self.warmup_steps == "auto" else self.warmup_steps
        return Numbers(*values, warm_up)  # type: ignore[arg-type]


class Training(Optimisation):
    """Settings of a training loop over preference pairs; after the warm-up the learning rate falls linearly to zero."""

    engine: Engine = Field(
        default="bank", description="bank: all conditions in one batch; trl: TRL's trainer, one condition at a time"
    )
    epochs: float = positive("passes over the training pairs; can be a fraction", 1.0)


class Rewards(Training):
    members: int = Field(default=3, ge=2, le=100, description="number of reward models K in an ensemble")
    per: Literal["seed", "run"] = Field(
        default="seed",
        description="seed: each seed trains its own ensemble, so that intervals over seeds cover it; run: one for all",
    )
    seeds_at_once: int | None = positive(
        "for per seed: maximum number of seeds whose reward models train in one bank; empty: all", None
    )


MOST = 1000  # values of β, or seeds


class Evaluation(Section):
    every: int = positive("online steps between evaluation points", 10)
    problems: int = positive("held-out problems answered at each evaluation point", 100)
    answers: int = positive(
        "responses to each of these problems; ranking and diversity within a problem need 2 or more", 1
    )
    temperature: float = Field(default=1.0, ge=0, description="sampling temperature; 0 is greedy")
    samples: int = Field(
        default=4, ge=0, description="full responses kept per condition and evaluation point, for the report"
    )
    best_of: int = Field(
        default=16, ge=0, description="answers per problem and checkpoint for best-of-n, before any training; 0: none"
    )
    best_of_problems: int = positive("held-out problems answered for best-of-n, at most those of `problems`", 64)
    plasticity: int = Field(
        default=64,
        ge=0,
        description="held-out chosen responses on which ranks, dormant units and gradients of every policy are read; "
        "0: none",
    )
    fresh_steps: int = Field(
        default=0,
        ge=0,
        description="optimiser steps in which a copy of every policy, before and after the online phase, learns a "
        "fresh task; each trains it on all `plasticity` responses once; 0: none",
    )

    BESIDE: ClassVar[set[str]] = {"best_of", "best_of_problems", "plasticity", "fresh_steps"}
    """Settings of stages of their own, on which no evaluation point depends."""
    ADDED: ClassVar[set[str]] = {"fresh_steps"}

    @model_serializer(mode="wrap")
    def _as_before_there_was_a_fresh_task(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, dump(self), self.ADDED)

    @model_validator(mode="after")
    def _texts_to_exchange(self) -> Evaluation:
        if self.fresh_steps and self.plasticity < 2:
            raise ValueError(
                "fresh_steps exchanges responses between the texts of plasticity, of which it needs at least 2 (given: "
                f"{self.plasticity}); raise plasticity, or set fresh_steps to 0"
            )
        return self

    @model_validator(mode="after")
    def _something_to_choose_from(self) -> Evaluation:
        if self.best_of == 1:
            raise ValueError("best_of must be at least 2, because the best of 1 answer is that answer; 0 leaves it out")
        return self


PRIMARY = ("regret", "end_change", "points_lost", "augc_common", "augc_standardised", "augc_paper")
"""What a run may be judged by. It is declared before the run; everything else is secondary."""


class Analysis(Section):
    primary: Literal["regret", "end_change", "points_lost", "augc_common", "augc_standardised", "augc_paper"] = Field(
        default="regret",
        description="the one measure whose dependence on β is tested: regret, end_change, points_lost, augc_common, "
        "augc_standardised or augc_paper; the others are secondary",
    )
    smallest_effect: float | None = positive(
        "smallest change of the primary measure per tenfold β that would matter (percentage points, or gap × steps for "
        "an AUGC); empty: the answer does not say whether a change matters",
        None,
    )


class Law(Section):
    trade_off: float | None = positive("λ of Def. 6.1; empty: β★ by Def. 6.1 is not computed", None)


class Tracking(Section):
    to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = Field(
        default=(),
        description="trackers that receive losses and evaluation points: tensorboard, wandb, mlflow, trackio",
    )
    project: str = Field(
        default="betastar",
        min_length=1,
        description="project name at wandb, mlflow (there: experiment) and trackio",
    )

    @field_validator("to")
    @classmethod
    def _each_once(cls, to: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(to)) != len(to):
            raise ValueError("lists the same tracker twice; list each once")
        return to
