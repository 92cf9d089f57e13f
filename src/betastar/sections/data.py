"""Settings of the data: preference pairs, verifiable tasks, lengths."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from betastar.sections.base import Section, Tokens, positive


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
            raise ValueError("name, split and revision belong to hub datasets; leave them out beside a file")
        return self


Source = Annotated[DatasetSource, BeforeValidator(_from_text)]


class Data(Section):
    max_bad_share: float = Field(
        default=0.0, ge=0, lt=1, description="largest share of malformed rows that are left out; more is refused"
    )


class MicroTask(Section):
    kind: Literal["micro"] = Field(description="micro: word problems of the embedded world")
    largest: int = Field(default=20, ge=2, le=200, description="largest number in a problem")
    test_problems: int = positive("held-out problems", 400)


class DatasetTask(Section):
    kind: Literal["dataset"] = Field(description="dataset: problems of a dataset, graded against their gold answers")
    train: Source = Field(description="problems to adapt on")
    test: Source = Field(description="problems to be evaluated on")
    prompt: str = Field(default="{{ question }}", description="Jinja template of the prompt over a row's columns")
    gold: str = Field(default="{{ answer }}", description="Jinja template of the gold answer over a row's columns")
    grader: Literal["gsm8k", "number", "text", "choice", "math"] = Field(
        default="gsm8k",
        description="gsm8k: the number after ####; number, text, choice: the number, words or letter (A to E) after "
        "`Answer:`; math: LaTeX in \\boxed{}, compared by math-verify",
    )


class CustomTask(Section):
    kind: Literal["custom"] = Field(description="custom: a task of your own in Python")
    task: str = Field(
        description="path/to/file.py:function, or the name of an entry point in the group betastar.tasks; called with "
        "`options`, it returns a betastar.data.tasks.Task"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of that function")


Task = Annotated[MicroTask | DatasetTask | CustomTask, Field(discriminator="kind")]


class MicroPreferences(Section):
    kind: Literal["micro"] = Field(description="micro: answers of the base, rated by the micro annotator")
    prompts: int = Field(
        default=3400, ge=20, description="prompts for which the base answers twice and the annotator chooses"
    )
    request_share: float = Field(default=0.3, ge=0, le=1, description="share of small talk among them")
    max_new_tokens: int = positive("limit of a sampled response, tokens", 40)


class PairColumns(Section):
    prompt: str | None = Field(
        default=None,
        description="column of the prompt; empty: `prompt` if there is one, else what both responses begin with",
    )
    chosen: str = Field(default="chosen", description="column of the preferred response, text or messages")
    rejected: str = Field(default="rejected", description="column of the other response")


class DatasetPreferences(Section):
    kind: Literal["dataset"] = Field(description="dataset: pairs in TRL's standard or conversational format")
    source: Source = Field(description="where the pairs are")
    columns: PairColumns = Field(default_factory=PairColumns, description="what the columns are called")


Preferences = Annotated[MicroPreferences | DatasetPreferences, Field(discriminator="kind")]


class Lengths(Section):
    prompt: Tokens = Field(
        default="auto", description="longest preference prompt, tokens; auto: 75th percentile (Algorithm 1)"
    )
    response: Tokens = Field(default="auto", description="longest preference response, tokens; auto: 75th percentile")
    generated: Tokens = Field(default="auto", description="limit of a sampled response, tokens; auto: as `response`")
