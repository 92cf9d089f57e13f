"""A stand-in for what the adapter touches of verl, which needs GPUs and does not install here.

Written after verl/trainer/ppo/ray_trainer.py of volcengine/verl, read at the tags v0.4.0, v0.5.0, v0.6.1 and v0.7.0 and
at commit b178a3c (0.8.0.dev, 2026-01-29): the order of calls in `fit` and `_validate`, the keywords of
`_dump_generations` (`gts` from v0.6 on), random `uid`s, the shuffled validation data, `repeat(interleave=True)`, the
names of metrics, and `_load_checkpoint` setting `global_steps`. Generation and the reward are made up.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np


class Section(SimpleNamespace):
    """As OmegaConf's sections: attributes, and `get` with a default."""

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


def settings(folder: Path | None, *, n: int = 4, test_freq: int = 5, rollouts: Path | None = None) -> Any:
    trainer = Section(
        validation_data_dir=None if folder is None else str(folder),
        rollout_data_dir=None if rollouts is None else str(rollouts),
        test_freq=test_freq,
        val_before_train=True,
    )
    return Section(trainer=trainer, actor_rollout_ref=Section(rollout=Section(val_kwargs=Section(n=n))))


class RayPPOTrainer:
    """`answer(problem, step, rng)` is the made-up policy: a text. `score(text, gold)`: the reward function's result."""

    def __init__(
        self,
        config: Any,
        answer: Callable[[int, int, np.random.Generator], str],
        score: Callable[[str, str], Any],
        *,
        problems: int = 24,
        steps: int = 20,
        gts: bool = True,
        begin: int = 0,
        die: int | None = None,
    ) -> None:
        self.config, self.answer, self.score, self.gts = config, answer, score, gts
        self.problems, self.total_training_steps, self.begin, self.die = problems, steps, begin, die
        self.logged: list[tuple[int, dict[str, Any]]] = []

    def fit(self) -> None:
        self.global_steps = self.begin  # 0, or that of the checkpoint that _load_checkpoint found
        if self.config.trainer.get("val_before_train", True):
            self.logged.append((self.global_steps, self._validate()))
        self.global_steps += 1
        while self.global_steps <= self.total_training_steps:
            is_last_step = self.global_steps >= self.total_training_steps
            if folder := self.config.trainer.get("rollout_data_dir", None):
                more = {"gts": ["0"] * 2} if self.gts else {}
                self._dump_generations(
                    inputs=["train"] * 2, outputs=["x"] * 2, scores=[0.0] * 2,
                    reward_extra_infos_dict={}, dump_path=folder, **more,
                )  # fmt: skip
            metrics = {"actor/kl_loss": 0.0}
            if is_last_step or self.global_steps % self.config.trainer.test_freq == 0:
                metrics.update(self._validate())
            if self.global_steps == self.die:
                raise InterruptedError
            self.logged.append((self.global_steps, metrics))
            self.global_steps += 1

    def _validate(self, merged: bool = False) -> dict[str, Any]:
        n = self.config.actor_rollout_ref.rollout.val_kwargs.n
        rng = np.random.default_rng([self.global_steps, 7])
        order = np.repeat(rng.permutation(self.problems), n)
        inputs = [f"user\n{p} + 1 =\nassistant\n" for p in order]
        outputs = [self.answer(int(p), self.global_steps, rng) for p in order]
        gts = [str(p + 1) for p in order]
        extra: dict[str, list[Any]] = defaultdict(list)
        scores = []
        for output, gold in zip(outputs, gts, strict=True):
            result = self.score(output, gold)
            scores.append(float(result["score"] if isinstance(result, dict) else result))
            for key, value in result.items() if isinstance(result, dict) else ():
                extra[key].append(value)
        extra["reward"].extend(scores)
        if folder := self.config.trainer.get("validation_data_dir", None):
            self._dump_generations(
                inputs=inputs, outputs=outputs, scores=scores, reward_extra_infos_dict=extra, dump_path=folder,
                **({"gts": gts} if self.gts else {}),
            )  # fmt: skip
        if merged:
            return {"data_sources": [], "sample_uids": [], "sample_turns": [], "reward_extra_infos_dict": extra}
        return {"val-core/sums/reward/mean@4": float(np.mean(scores))}

    def _dump_generations(
        self,
        inputs: Any,
        outputs: Any,
        scores: Any = None,
        reward_extra_infos_dict: Any = None,
        dump_path: Any = None,
        gts: Any = None,
    ) -> None:
        Path(dump_path).mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"input": i, "output": o}) for i, o in zip(inputs, outputs, strict=True)]
        (Path(dump_path) / f"{self.global_steps}.jsonl").write_text("\n".join(lines) + "\n")
