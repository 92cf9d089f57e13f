"""Training in two processes: each answers half of the batches, one writes, and both stop at the same step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import sys
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
from betastar.monitor import GoodhartMonitor
from monitor.small import is_short, pairs, pays_length

torch.set_num_threads(1)
folder, out, size = sys.argv[1:]
trainer = GRPOTrainer(
    model=AutoModelForCausalLM.from_pretrained(folder),
    reward_funcs=pays_length,
    args=GRPOConfig(
        output_dir=out, per_device_train_batch_size=int(size), num_generations=4, max_completion_length=12,
        max_steps=12, learning_rate=3e-2, beta=0.01, report_to="none", use_cpu=True, bf16=False, save_strategy="no",
    ),
    train_dataset=Dataset.from_list([{"prompt": p, "answer": a} for p, a in pairs(16)]),
    processing_class=AutoTokenizer.from_pretrained(folder),
)
trainer.add_callback(GoodhartMonitor(trainer, pairs(22), every=2, true=is_short, stop_above="auto", batch_size=4))
trainer.train()
accelerator = trainer.accelerator
print(f"process {accelerator.process_index} of {accelerator.num_processes}: {trainer.state.global_step}")
"""


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "goodhart.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_measure_what_one_does(model_folder: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    said = {}
    for name, launcher, size in [("one", [sys.executable], 8), ("two", two, 4)]:
        done = subprocess.run(
            [*launcher, str(script), model_folder, str(tmp_path / name), str(size)],
            env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        said[name] = sorted(line for line in done.stdout.splitlines() if line.startswith("process "))
    one, two_rows = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert one[0]["samples"] == two_rows[0]["samples"]
    assert one[0]["responses"] == two_rows[0]["responses"]
    assert one[0]["gap_noise"] == pytest.approx(two_rows[0]["gap_noise"])
    assert one[0]["response_entropy"] == pytest.approx(two_rows[0]["response_entropy"])
    last = two_rows[-1]["step"]
    assert [row["step"] for row in two_rows] == list(range(0, last + 1, 2)), "every evaluation is written once"
    assert two_rows[-1]["gap_standardised"] > two_rows[-1]["threshold"]
    assert last < 12
    assert said["two"] == [f"process {i} of 2: {last}" for i in (0, 1)]
