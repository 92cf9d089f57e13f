"""verl: every validation of its PPO trainer is an evaluation of a `Monitor`.

verl is not imported. What is used of `RayPPOTrainer` (verl/trainer/ppo/ray_trainer.py, the same from 0.4 to 0.7):
`_validate()` returns the metrics that go to verl's trackers, and where `trainer.validation_data_dir` is set calls
`_dump_generations` with the keywords inputs, outputs, scores, reward_extra_infos_dict, dump_path, from 0.6 on also gts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from betastar.disk import content_key
from betastar.errors import BetastarError
from betastar.monitor.core import Monitor, State
from betastar.monitor.gaps import planned_looks

DUMPED = "trainer.validation_data_dir"
SCORE = ("score", "reward")  # both mean the sum of the token-level scores


def watch(
    trainer: Any,
    out: str | Path,
    *,
    true: str | Callable[[str, Any], Any] = "acc",
    proxy: str | Sequence[str] = "score",
    evaluations: int | None = None,
    **settings: Any,
) -> Monitor:
    """Record every validation of a verl `RayPPOTrainer` in the folder `out`, and add `goodhart/…` to its metrics.

        with watch(trainer, "runs/verl"):
            trainer.fit()

    `true`: the entry of the reward function's extra information that is the truth, or a function of (response, ground
    truth) that returns a bool or a number (verl 0.6 or later). `proxy`: "score" for the reward that verl sums up, or
    another entry, or several, the members of an ensemble. `evaluations`: planned after the start, by default as
    `trainer.test_freq` says. `settings`: of `Monitor`. With `rollout.val_kwargs.n` ≥ 2 and sampling on, the alarm is
    calibrated and the ranking within problems known.

    Raises BetastarError for a trainer without validation, and later where an entry is missing.
    """
    config, sampling = _checked(trainer)
    if evaluations is None:
        evaluations = max(1, planned_looks(0, trainer.total_training_steps, config.test_freq))
    monitor = Monitor(out, evaluations=evaluations, **settings)
    dump, validate = trainer._dump_generations, trainer._validate
    validating: list[list[State]] = []

    def dump_and_record(**dumped: Any) -> None:
        dump(**dumped)
        if validating:  # and not rollouts of the training
            validating[-1].append(_record(monitor, int(trainer.global_steps), sampling.n, true, proxy, dumped))

    def validate_and_log(*args: Any, **kwargs: Any) -> Any:
        validating.append([])
        try:
            metrics = validate(*args, **kwargs)
        finally:
            states = validating.pop()
        # With merged=True (verl 0.7 and later) what comes back are parts, of which another caller makes metrics.
        whole = isinstance(metrics, dict) and "sample_uids" not in metrics
        return {**metrics, **states[-1].logs} if states and whole else metrics

    trainer._dump_generations, trainer._validate = dump_and_record, validate_and_log
    return monitor


def _checked(trainer: Any) -> tuple[Any, Any]:
    """verl's settings of the trainer and of sampling in validation."""
    if not all(hasattr(trainer, name) for name in ("config", "_validate", "_dump_generations")):
        raise BetastarError(f"watch was given a {type(trainer).__name__}; it needs verl's RayPPOTrainer, 0.4 or later.")
    config = trainer.config.trainer
    if not config.get("validation_data_dir", None):
        raise BetastarError(f"verl keeps no validation responses; set {DUMPED} to a folder.")
    if config.test_freq <= 0:
        raise BetastarError("verl does not validate during training; set trainer.test_freq to a number of steps.")
    return config, trainer.config.actor_rollout_ref.rollout.val_kwargs


def _record(
    monitor: Monitor,
    step: int,
    answers: int,
    true: str | Callable[[str, Any], Any],
    proxy: str | Sequence[str],
    dumped: Mapping[str, Any],
) -> State:
    inputs, outputs, scores = dumped["inputs"], dumped["outputs"], dumped["scores"]
    columns = {**dumped["reward_extra_infos_dict"], **dict.fromkeys(SCORE, scores)}
    if callable(true):
        if "gts" not in dumped:
            raise BetastarError(
                "this verl passes on no ground truths; name an entry of its reward's extra information."
            )
        grades = [true(output, gold) for output, gold in zip(outputs, dumped["gts"], strict=True)]
    else:
        grades = _column(columns, true, len(outputs))
    members = [proxy] if isinstance(proxy, str) else list(proxy)
    rewards = [_column(columns, name, len(outputs)) for name in members]
    return monitor.record(step, outputs, grades, rewards, problems=_problems(inputs, answers), prompts=inputs)


def _column(columns: Mapping[str, Sequence[Any]], name: str, size: int) -> Sequence[Any]:
    found = columns.get(name, ())
    if len(found) != size:
        there = ", ".join(sorted(key for key, values in columns.items() if len(values) == size))
        raise BetastarError(
            f'verl\'s reward function gives no "{name}" of every response (there is {there}); return a dictionary with '
            '"score" and it, or name another with true=… or proxy=….'
        )
    return found


def _problems(inputs: Sequence[str], answers: int) -> list[str]:
    """A name for the problem of each response, which lasts although verl shuffles its validation data and gives
    problems new numbers each time: a hash of the prompt. Responses to one problem follow each other (`interleave`)."""
    seen: Counter[str] = Counter()
    names = []
    for text in inputs[::answers]:
        key = content_key(text)
        seen[key] += 1
        names += [key if seen[key] == 1 else f"{key} {seen[key]}"] * answers
    return names[: len(inputs)]
