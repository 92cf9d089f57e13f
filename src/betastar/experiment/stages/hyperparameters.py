"""Settings that say `auto`, derived by Appendix C once the data are known. Leaves no artefact: what follows is keyed by
the numbers themselves."""

from __future__ import annotations

from typing import Any

from betastar.disk import read_json, read_jsonl_rows
from betastar.experiment.context import Context
from betastar.experiment.readers import response_limit
from betastar.experiment.runtime import base_settings
from betastar.experiment.store import Artefact
from betastar.models.support import ModelFacts, model_facts
from betastar.planning.derive import DerivedValue, Facts, derive, hyperparameters
from betastar.planning.machine import device_memory
from betastar.settings.config import Config, Resolved, needs_deriving
from betastar.settings.sections import Adapter


def run(
    ctx: Context[Config], base: Artefact, reward_base: Artefact, preferences: Artefact
) -> tuple[Resolved, dict[str, Any]]:
    """The settings with numbers for every `auto`, and the record of hyper-parameters for results.json. Without `auto`
    nothing is loaded."""
    config = ctx.config
    if not needs_deriving(config):
        return Resolved.of(config), hyperparameters(config, [])
    lengths = read_json(preferences.folder / "statistics.json")["lengths"]
    facts = Facts(
        policy=_facts(base, config.adapter),
        reward=_facts(reward_base, config.reward_adapter or config.adapter),
        train_pairs=len(read_jsonl_rows(preferences.folder / "train.jsonl")),
        prompt_tokens=lengths["prompt"],
        response_tokens=lengths["response"],
        generated_tokens=response_limit(ctx, preferences),
        memory_gb=config.compute.memory_gb or device_memory(config.compute.device).total,
    )
    resolved, values = derive(config, facts)
    for line in _lines(values):
        ctx.reporter.say(line)
    return resolved, hyperparameters(resolved, values)


def _facts(base: Artefact, adapter: Adapter) -> ModelFacts:
    settings = base_settings(base)
    return model_facts(settings.model, adapter.target_modules, settings.revision, settings.gguf_file)


def _lines(values: list[DerivedValue]) -> list[str]:
    """What was derived, a line for each section."""
    sections: dict[str, list[str]] = {}
    for value in values:
        section, _, name = value.setting.partition(".")
        if value.given is None:
            bound = f" ({value.clipped}est allowed)" if value.clipped else ""
            sections.setdefault(section, []).append(f"{name} {value.value:.4g}{bound}")
    return [f"Appendix C: {section}: {', '.join(numbers)}" for section, numbers in sections.items()]
