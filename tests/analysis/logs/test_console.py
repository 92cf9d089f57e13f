"""What verl, OpenRLHF and TRL print.

The lines are made as the tools make them. verl (verl/utils/logger/aggregate_logger.py, `concat_dict_to_str`): "step:N"
and "name:value" by `pprint.pformat`, joined by " - "; Ray puts "(TaskRunner pid=…)" before it, in colour. OpenRLHF
(openrlhf/trainer/ppo_trainer.py) logs "✨ Global step N: {…}" and "✨ Evaluation completed in …, global_step N,
eval_metrics: {…}", in the format of openrlhf/utils/logging_utils.py. Transformers' PrinterCallback prints the
dictionary alone.
"""

from __future__ import annotations

import pprint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from betastar.analysis.logs.console import read_console
from betastar.errors import BetastarError

RAY = "\x1b[36m(TaskRunner pid=87031)\x1b[0m "


def verl_line(step: int, metrics: dict[str, Any]) -> str:
    return " - ".join([f"step:{step}", *(f"{name}:{pprint.pformat(value)}" for name, value in metrics.items())])


def openrlhf_line(message: str) -> str:
    return f"\x1b[36m(PPOTrainer pid=4242)\x1b[0m INFO 06-17 10:02:11 ppo_trainer.py:181] {message}"


def read(path: Path, *lines: str) -> list[dict[str, float]]:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [row.dropna().to_dict() for _, row in read_console(path, "x").rows.iterrows()]


def test_verl(tmp_path: Path) -> None:
    first = {"val-aux/openai/gsm8k/reward/mean@1": 0.565, "val-core/openai/gsm8k/acc/mean@1": np.float64(0.508)}
    second = {
        "global_seqlen/min": 484245,
        "actor/entropy": np.float64(0.32266578674316406),
        "actor/ppo_kl": -8.163164312320433e-06,
        "actor/lr": 1e-06,
        "critic/score/mean": np.float32(0.25),
        "critic/score/min": float("nan"),
        "response_length/clip_ratio": 0.0,
    }
    assert "np.float64(0.508)" in verl_line(0, first)  # NumPy 2 prints its numbers so
    rows = read(
        tmp_path / "run.log",
        RAY + "Size of train dataloader: 58, Size of val dataloader: 1",
        RAY + "(\"Initial validation metrics: {'val-core/openai/gsm8k/acc/mean@1': 0.508}\")",
        RAY + verl_line(0, first),
        "Training Progress:   1%|          | 1/435 [00:49<1:53:43, 49.09s/it]",
        verl_line(1, second),
    )
    assert rows == [
        {"step": 0, **first},
        {"step": 1, **{name: value for name, value in second.items() if value == value}},
    ]


def test_openrlhf(tmp_path: Path) -> None:
    status = {"policy_loss": -0.0123, "reward": np.float64(0.4), "kl": 1e-05, "response_length": 312.5}
    held_out = {"eval_gsm8k_pass4": 0.75, "eval_gsm8k_pass1": 0.5}
    rows = read(
        tmp_path / "train.log",
        openrlhf_line("⏰ Evaluation start time: 2025-06-17 10:02:11"),
        openrlhf_line(f"✨ Evaluation completed in 0:00:42, global_step 0, eval_metrics: {held_out}"),
        openrlhf_line(f"✨ Global step 1: {status}"),
        openrlhf_line("A response may hold {braces} and 'quotes': both are passed over"),
    )
    assert rows == [{"step": 0, **held_out}, {"step": 1, **status}]


def test_transformers_prints_text_for_numbers_and_no_step(tmp_path: Path) -> None:
    rows = read(
        tmp_path / "out.txt",
        "{'loss': '0', 'grad_norm': '1.048', 'rewards/rm/mean': '-2.5e-03', 'reward': '1.5', 'epoch': '0.25'}",
        "{'eval_reward': 1.688, 'epoch': 0.5}",
        "{'train_runtime': '0.7807', 'epoch': '0.5'}",
    )
    assert rows == [
        {"loss": 0, "grad_norm": 1.048, "rewards/rm/mean": -0.0025, "reward": 1.5, "epoch": 0.25},
        {"eval_reward": 1.688, "epoch": 0.5},
        {"train_runtime": 0.7807, "epoch": 0.5},
    ]


def test_a_text_without_metrics_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("step one: think {of, a} name\n\nstep:2 no metrics here\n")
    with pytest.raises(BetastarError, match=r"notes\.txt: no line is a verl step"):
        read_console(tmp_path / "notes.txt", "x")
