"""Settings of sizes that nothing can compute are refused before anything is trained, each in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from betastar.errors import BetastarError
from betastar.settings.config import Config, load_config
from betastar.settings.phases import BetaSchedule, Grid, Kl, Offline, Online, Proxy
from betastar.settings.sections import BaseTraining, Compute, Evaluation, Lengths, MicroTask, Rewards, SweepEngine

SECTIONS = (
    BaseTraining,
    BetaSchedule,
    Compute,
    Evaluation,
    Grid,
    Kl,
    Lengths,
    MicroTask,
    Offline,
    Online,
    Proxy,
    Rewards,
    SweepEngine,
)


def numbers() -> Iterator[tuple[type[BaseModel], str]]:
    for section in SECTIONS:
        for name, field in section.model_fields.items():
            if any(kind in str(field.annotation) for kind in ("int", "float")) and "tuple" not in str(field.annotation):
                yield section, name


@pytest.mark.parametrize(("section", "name"), list(numbers()), ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize("value", [10**24, 1e300])
def test_no_number_is_larger_than_can_be_computed(section: type[BaseModel], name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as error:
        section.model_validate({name: value})
    assert any(fault["loc"][0] == name for fault in error.value.errors())


def test_a_root_seed_may_be_any() -> None:
    assert load_config("micro", [f"root_seed={2**63 - 1}"]).root_seed == 2**63 - 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seeds=[1.5]", "seeds.0: input should be a valid integer"),
        ("grid={method: percentiles, percentiles: [0]}", "grid.percentiles.0: input should be greater than 0"),
        ("adapter.target_modules=q_proj", "should be attention, all-linear, or a list of names"),
        ("adapter.target_modules=[1]", "should be attention, all-linear, or a list of names"),
        ("preset=micro", "a preset is named in a file"),
        ("methods={" + "a" * 101 + ": {}}", "at most 100 characters"),
        ("variants={paper: {}, PAPER: {}}", "two conditions would be called"),
        (f"methods={{{'a' * 60}: {{}}, b: {{}}}}", None),
        (f"online.batch_size={10**24}", "should be at most 1e+09"),
    ],
)
def test_one_fault_is_one_sentence(override: str, words: str | None) -> None:
    if words is None:
        assert isinstance(load_config("micro", [override]), Config)
        return
    with pytest.raises(BetastarError) as error:
        load_config("micro", [override])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_names_together_are_as_short_as_a_name() -> None:
    names = [f"methods={{{'a' * 60}: {{}}, b: {{}}}}", f"variants={{{'c' * 60}: {{}}, d: {{}}}}"]
    with pytest.raises(BetastarError, match="shorten the name"):
        load_config("micro", names)
