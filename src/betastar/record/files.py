"""The one reader and writer of what a run leaves: `results.json`, `metrics.jsonl`, `samples.jsonl`, and of a
comparison. What is read here is known to be sound; what is not is refused in a sentence that names file and field."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic_core import from_json
from typing_extensions import TypedDict
from yaml.composer import ComposerError

from betastar.disk import opened
from betastar.errors import BetastarError
from betastar.record.entries import REGISTRY
from betastar.record.measures import Level, Measure
from betastar.record.points import EvaluationPoint
from betastar.record.schema import checker, comparison_checker
from betastar.record.series import POINTS, outside, with_series, without_series
from betastar.record.shapes.comparison import COMPARISON_VERSION, ComparisonRecord
from betastar.record.shapes.results import SCHEMA_VERSION, ResultsRecord

RESULTS, METRICS, SAMPLES, CONFIG = "results.json", "metrics.jsonl", "samples.jsonl", "config.yaml"
ANSWERS = "answers.parquet"
PUBLISHED = (RESULTS, METRICS, SAMPLES, CONFIG, ANSWERS, "report.html", "status.json")
"""What a run writes into its folder, beside `store/`, `figures/`, `adapters/` and its lock."""
AGAIN = "repeat the run or the analysis (finished work is reused)"

Json = dict[str, Any]


class Run(NamedTuple):
    """What a run directory or the folder of an analysis holds. `samples`: kept responses, none for an analysis.
    `config`: the settings, empty for an analysis. `manifests`: of the store's artefacts, the newest last."""

    results: Mapping[str, Any]
    samples: list[Json]
    config: Json
    manifests: list[Json]


def read_run(folder: Path, results: Mapping[str, Any] | None = None) -> Run:
    """Read a run directory, or the folder that an analysis left; `results`: its record, where that was just read.
    Raises BetastarError where there is no record, or one that is damaged or of another version."""
    record: Any = read_results(folder) if results is None else results
    return Run(record, read_samples(folder), read_settings(folder), _manifests(folder))


def read_results(folder: Path) -> ResultsRecord:
    """The record in `results.json` of a folder, checked against the schema.

    Raises BetastarError, which names file and field, where there is none, it is damaged, or of another version.
    """
    path = folder / RESULTS
    if not path.is_file():
        there = f"has no {RESULTS}" if folder.is_dir() else "is not a folder"
        raise BetastarError(f"{folder} {there}; give the folder of a finished `betastar run` or of `betastar analyze`.")
    record = _checked(path, checker(), "schema_version", SCHEMA_VERSION)
    if outside(record):
        return with_series(record, folder / POINTS)  # pyright: ignore[reportReturnType]
    for i, condition in enumerate(record["conditions"]):
        if "series" not in condition:
            raise BetastarError(f"{path}: conditions[{i}].series is missing; {AGAIN}.")
    return record


def read_comparison(path: Path) -> ComparisonRecord:
    """The record that `betastar compare` wrote. Raises BetastarError as `read_results` does."""
    return _checked(path, comparison_checker(), "comparison_version", COMPARISON_VERSION)


def holds_results(folder: Path) -> bool:
    """Whether a folder holds what a run or an analysis left."""
    return (folder / RESULTS).is_file() and any((folder / name).is_file() for name in (METRICS, POINTS))


def is_analysis(folder: Path) -> bool:
    """Whether a folder with results is what an analysis of other logs left, not a run."""
    try:
        found = from_json(_bytes(folder / RESULTS))
    except (OSError, ValueError):  # damaged: the reader says so
        return False
    return isinstance(found, dict) and "source" in found


def read_samples(folder: Path) -> list[Json]:
    """The kept responses of a run, none where there is no file. Bytes that are no UTF-8 become replacement characters.
    Raises BetastarError for a line that is no response."""
    return read_rows(folder / SAMPLES, "response") if (folder / SAMPLES).is_file() else []


def read_rows(path: Path, level: Level) -> list[Json]:
    """The rows of `metrics.jsonl` (level "point") or `samples.jsonl` (level "response"), checked. Raises BetastarError,
    which names file, line and field."""
    rows: list[Json] = []
    try:
        lines = _bytes(path).decode("utf-8", "replace").split("\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BetastarError(f"{path} cannot be read ({reason}); {AGAIN}.") from None
    check = _row_checker(tuple(REGISTRY.at(level)))
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = None
        try:
            row = json.loads(line, parse_constant=_refused)
            check.validate_python(_whole(row), strict=True)
        except ValidationError as error:
            raise BetastarError(f"{path}, line {number}: {_fault(error, row)}; {AGAIN}.") from None
        except (ValueError, RecursionError) as error:
            raise BetastarError(f"{path}, line {number}: damaged ({error}); {AGAIN}.") from None
        rows.append(row)
    return rows


def read_points(path: Path) -> list[EvaluationPoint]:
    """The evaluation points of one condition. Raises BetastarError as `read_rows` does."""
    return [EvaluationPoint.of_row(row) for row in read_rows(path, "point")]


def read_settings(folder: Path) -> Json:
    """The settings of a run, empty where none are kept. Raises BetastarError where they cannot be read."""
    path = folder / CONFIG
    if not path.is_file():
        return {}
    try:
        found = yaml.load(_bytes(path), _Plain) or {}
    except OSError as error:
        raise BetastarError(f"{path} cannot be read ({error.strerror}); {AGAIN}.") from None
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise BetastarError(f"{path} is damaged ({_first_line(error)}); {AGAIN}.") from None
    if not isinstance(found, dict):
        raise BetastarError(f"{path} is damaged (it has no settings); {AGAIN}.")
    if odd := _odd_key(found):
        raise BetastarError(f"{path} is damaged (the key {odd:.60} is no name); {AGAIN}.")
    return found


class _Plain(yaml.SafeLoader):
    """Settings as a run writes them: without aliases, by which a few lines can hold themselves or billions of
    values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise ComposerError(None, None, "an alias, which no run writes", None)
        return super().compose_node(parent, index)


def _odd_key(value: Any) -> str:
    """A key of settings, or of settings within them, that is no text, as Python writes it; empty without one."""
    if not isinstance(value, dict):
        return ""
    return next((repr(key) for key in value if not isinstance(key, str)), "") or next(
        (odd for part in value.values() if (odd := _odd_key(part))), ""
    )


def to_json(record: Mapping[str, Any]) -> str:
    """Strict JSON: what is undefined becomes null (its reason stands beside it), an infinite bound the text "inf". A
    record whose series are in a table of their own is written without them."""
    return json.dumps(plain(without_series(record)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line of JSON for each row; what is undefined is null."""
    return "".join(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def plain(value: Any) -> Any:
    """A value as strict JSON has it: NumPy's numbers as Python's, NaN as None, infinities as texts."""
    if hasattr(value, "dtype") and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def _checked(path: Path, check: TypeAdapter[Any], field: str, version: int) -> Any:
    try:
        raw = _bytes(path)
        found = json.loads(raw, parse_constant=_refused)
    except OSError as error:
        raise BetastarError(f"{path} cannot be read ({error.strerror}); {AGAIN}.") from None
    except (ValueError, RecursionError) as error:
        raise BetastarError(f"{path} is damaged ({_first_line(error)}); {AGAIN}.") from None
    if not isinstance(found, dict):
        raise BetastarError(f"{path} is damaged (it is not an object); {AGAIN}.")
    if found.get(field) != version or isinstance(found[field], bool):
        raise BetastarError(_other_version(path, found, field, version))
    try:
        check.validate_python(_whole(found) if _may_hold_halves(raw) else found, strict=True)
    except ValidationError as error:
        raise BetastarError(f"{path}: {_fault(error, found)}; {AGAIN}.") from None
    except RecursionError:
        raise BetastarError(f"{path} is damaged (nested too deeply); {AGAIN}.") from None
    if field == "schema_version" and (fault := _inconsistency(found)):
        raise BetastarError(f"{path}: {fault}; {AGAIN}.")
    return found  # what is in the file, to the last digit


def _inconsistency(found: Json) -> str | None:
    """What a record says that no run can: each field is sound, but they do not belong together."""
    if not found["name"]:
        return "name is empty"
    variants = list(found["summary"])
    for part in ("summary", "decision", "variants"):
        if "" in found.get(part, {}):
            return f"{part} has a variant without a name"
    if sorted(found["decision"]) != sorted(variants):
        return "decision and summary have other variants"
    for i, condition in enumerate(found["conditions"]):
        where, series = f"conditions[{i}]", condition.get("series")
        if condition["variant"] not in found["summary"]:
            return f"{where}.variant is {condition['variant']!r:.60}, which summary does not have"
        if condition["beta"] == 0 and "grid" in found:
            return f"{where}.beta is 0, with which nothing can be trained"
        if series is None:  # in a table of its own, or missing, as its reader says
            continue
        lengths = {name: len(values) for name, values in series.items() if len(values) != condition["n_points"]}
        if lengths:
            name, length = next(iter(lengths.items()))
            return f"{where}.series.{name} has {length} values for {condition['n_points']} points"
        if any(later <= earlier for earlier, later in pairwise(series["step"])):
            return f"{where}.series.step does not increase"
    missing = {variant: {r["variant"] for r in found["conditions"]} for variant in variants}
    if lost := [variant for variant, there in missing.items() if variant not in there]:
        return f"summary.{lost[0]:.60} has no condition"
    return None


def _other_version(path: Path, found: Json, field: str, version: int) -> str:
    theirs = found.get(field)
    what = field.replace("_", " ")
    if not isinstance(theirs, int) or isinstance(theirs, bool):
        return f"{path} is damaged (it has no {what}); {AGAIN}."
    by = f", written by betastar {found['betastar']}" if isinstance(found.get("betastar"), str) else ""
    remedy = AGAIN if theirs < version else "update betastar"
    return f"{path} has {what} {theirs}{by}, and this betastar reads {version}; {remedy}."


def _fault(error: ValidationError, found: Any) -> str:
    """The first fault as field and words."""
    fault = error.errors(include_url=False)[0]
    field, value = "", found
    for part in fault["loc"]:
        if isinstance(value, dict) and (part in value or fault["type"] == "missing"):
            field, value = f"{field}.{part}" if field else str(part), value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            field, value = f"{field}[{part}]", value[part]
        else:
            break  # pydantic's name for a kind, no part of the file
    message = fault["msg"][0].lower() + fault["msg"][1:]
    if fault["type"] == "missing":
        return f"{field} is missing"
    if fault["type"] == "extra_forbidden":
        return f"{field} is not a field of this version"
    shown = repr(value) if isinstance(value, str | int | float | bool) or value is None else f"a {type(value).__name__}"
    return f"{field or 'the line'} is damaged ({message}; it is {shown[:60]})"


@lru_cache(maxsize=4)
def _row_checker(measures: tuple[Measure, ...]) -> TypeAdapter[Any]:
    """What checks a row that holds these measures; a row may hold more."""
    whole: Any = Annotated[int, Field(gt=-(2**53), lt=2**53)]
    finite: Any = Annotated[float, Field(allow_inf_nan=False)]
    count: Any = Annotated[int, Field(ge=0, lt=2**53)]
    kinds: dict[str, Any] = {
        "number": finite | None,
        "count": count | None,
        "step": whole | None,
        "flag": bool | None,
        "text": str | int | None,
        "numbers": list[float | None] | None,
    }
    name: Any = Annotated[str, Field(min_length=1)]
    beta: Any = Annotated[float, Field(ge=0, allow_inf_nan=False)]
    fields: dict[str, Any] = {"variant": NotRequired[name], "beta": NotRequired[beta | None], "seed": NotRequired[int]}
    fields |= {"step": NotRequired[whole]} | {m.name: NotRequired[kinds[m.kind]] for m in measures}
    made: Any = TypedDict("Row", fields)  # pyright: ignore
    return TypeAdapter(with_config(ConfigDict(extra="allow"))(made))


def _manifests(folder: Path) -> list[Json]:
    """Manifests of the store by time; those that cannot be read are left out, the run itself names them."""
    found = []
    for path in (folder / "store").glob("*/*/manifest.json"):
        try:
            found.append(_MANIFEST.validate_python(from_json(_bytes(path)), strict=True))
        except (OSError, ValueError, RecursionError):  # pydantic's errors are ValueErrors
            continue
    return sorted(found, key=lambda m: str(m.get("finished")))


class _Manifest(TypedDict):
    """What a report reads of a manifest."""

    stage: str
    finished: NotRequired[str]
    machine: NotRequired[str]
    python: NotRequired[str]
    write_seconds: NotRequired[Annotated[float, Field(ge=0, allow_inf_nan=False)]]


_MANIFEST: TypeAdapter[Any] = TypeAdapter(with_config(ConfigDict(extra="allow"))(_Manifest))


def _bytes(path: Path) -> bytes:
    """What a regular file holds. Raises ValueError for any other."""
    with opened(path) as file:
        return file.read()


def _may_hold_halves(raw: bytes) -> bool:
    """Whether JSON may hold half a surrogate pair, escaped or as bytes. A look at the bytes saves a copy of all values,
    which takes as long as the check itself."""
    return b"\\ud" in raw or b"\\uD" in raw or b"\xed" in raw


def _whole(value: Any) -> Any:
    """A value without halves of surrogate pairs, which JSON can hold and pydantic's texts cannot."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_whole(key): _whole(part) for key, part in value.items()}
    return [_whole(part) for part in value] if isinstance(value, list) else value


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).split("\n")[0]


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested mappings with its dotted name; a list is a leaf."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from flat(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
