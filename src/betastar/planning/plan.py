"""A plan of an experiment, from its configuration: derived values, memory by part and tokens by stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from betastar.models.support import model_facts
from betastar.planning import sources
from betastar.planning.derive import DerivedValue, Facts, derive
from betastar.planning.machine import GIB, Memory, device_memory
from betastar.planning.memory import Counts, Phase, Stage, counts, phases, precision, rows_at_once, stages
from betastar.planning.power import Power, plan_power, power_record
from betastar.settings.config import Config, Resolved


class Timing(NamedTuple):
    """`seconds` by stage, None where the work was not measured; `method` says what was measured."""

    seconds: dict[str, float | None]
    method: str


@dataclass(frozen=True)
class Plan:
    """What a run of `config` will take. `memory` is what there is; `from_where` says how inputs are
    known, by name; `problems` are answered at each evaluation point,
    `rows` responses sampled at the same time; `power`: what grid and seeds can find."""

    config: Resolved
    facts: Facts
    values: list[DerivedValue]
    memory: Memory
    phases: list[Phase]
    stages: list[Stage]
    counts: Counts
    problems: int
    rows: int
    from_where: dict[str, str]
    power: Power

    @property
    def largest(self) -> Phase:
        """The phase that needs most memory."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def fits(self) -> bool:
        return self.largest.total / GIB <= self.memory.total

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence: a prompt with its response, given or sampled."""
        return self.facts.prompt_tokens + max(self.facts.response_tokens, self.facts.generated_tokens)


def make_plan(
    config: Config,
    *,
    memory_gb: float | None = None,
    tokens: tuple[int, int] | None = None,
    pairs: int | None = None,
    folder: Path | None = None,
    pilot: Path | None = None,
) -> Plan:
    """Plan a run on this machine, or on a GPU of `memory_gb`. `tokens` (of prompt and response) and `pairs` (trained
    on) stand for what only the data can say; `folder` may hold a finished run to take it from. `pilot`: a finished run
    from which to take the spread of the primary measure.

    Raises BetastarError where a model's configuration or the number of pairs cannot be had, where a batch that Appendix
    C gives is too small, and for a pilot of another grid or without the measure.
    """
    power = plan_power(config, pilot)
    here = device_memory(config.compute.device)
    memory = here if memory_gb is None else Memory("a GPU", True, memory_gb)
    counted, limits = sources.data(config, tokens, pairs, folder or Path("runs") / config.name)
    adapter, reward_adapter = config.adapter, config.reward_adapter or config.adapter
    policy = sources.model_config(config.base, config)
    reward = sources.model_config(config.reward_base, config) if config.reward_base else policy
    facts = Facts(
        policy=model_facts(policy, adapter.target_modules),
        reward=model_facts(reward, reward_adapter.target_modules),
        train_pairs=counted.train,
        prompt_tokens=limits.prompt,
        response_tokens=limits.response,
        generated_tokens=limits.generated,
        memory_gb=config.compute.memory_gb or memory.total,
    )
    resolved, values = derive(config, facts)
    problems = sources.problems(resolved)
    return Plan(
        config=resolved,
        facts=facts,
        values=values,
        memory=memory,
        phases=phases(resolved, facts, problems, memory.gpu),
        stages=stages(resolved, facts, problems, precision(resolved.base, memory.gpu).width == 4),
        counts=counts(resolved),
        problems=problems,
        rows=rows_at_once(resolved, problems),
        from_where={
            "n": counted.source,
            "tokens": limits.source,
            "V": "compute.memory_gb" if config.compute.memory_gb else memory.name,
        },
        power=power,
    )


def record(plan: Plan, timing: Timing | None = None) -> dict[str, Any]:
    """A plan as plain data, ready for JSON: sizes in bytes, times in seconds."""
    facts = plan.facts
    return {
        "config": plan.config.model_dump(mode="json"),
        "inputs": {**vars(facts), "policy": facts.policy._asdict(), "reward": facts.reward._asdict()},
        "from": plan.from_where,
        "values": [value._asdict() for value in plan.values],
        "memory": {
            "device": plan.memory._asdict(),
            "phases": {phase.name: {**phase.parts, "total": phase.total} for phase in plan.phases},
            "fits": plan.fits,
        },
        "work": [
            {**stage._asdict(), "policy": stage.policy._asdict(), "reward": stage.reward._asdict()}
            for stage in plan.stages
        ],
        "time": None if timing is None else timing._asdict(),
        "power": power_record(plan.power),
    }
