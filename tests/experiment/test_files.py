"""The preset for a user's own files: every stage on a tiny random model and a byte-level tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from analysis.records import check

from betastar.data.micro.language import build_tokenizer
from betastar.data.micro.sums import sums
from betastar.errors import BetastarError
from betastar.experiment import pipeline
from betastar.models.random_models import build_model
from betastar.progress import Reporter
from betastar.settings.config import load_config
from betastar.settings.sections import Geometry

pytestmark = pytest.mark.usefixtures("undrawn")

SMALL = (
    "base={source: random, geometry: {hidden_size: 64, intermediate_size: 128, heads: 2, key_value_heads: 1}}",
    "seeds=[0, 1]",
    "grid={method: percentiles}",
    "online.steps=2",
    "online.batch_size=4",
    "evaluation.every=1",
    "evaluation.problems=6",
    "lengths={prompt: 128, response: 48, generated: 12}",
    "compute.threads=1",
)


def write_files(folder: Path, pairs: int = 80) -> list[str]:
    """A GSM8K-format task and string preference pairs made on the spot; returns the settings that name them."""
    for part in ("train", "test"):
        rows = [{"question": f"What is {i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(30)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"prompt": f"Say {i}.", "chosen": f"{i}, with pleasure!", "rejected": f"no {i}"} for i in range(pairs)]
    rows[3]["rejected"] = rows[3]["chosen"]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        f"task={{preset: gsm8k, train: {folder}/train.jsonl, test: {folder}/test.jsonl}}",
        f"preferences={{kind: dataset, source: {folder}/pairs.jsonl}}",
    ]


def check_honest_report(results: dict) -> None:
    """A model that cannot do the task: true reward 0, said in words, and no number blown up by dividing by it."""
    assert all(c["true_strict"]["highest"] == 0 for c in results["conditions"])
    assert any("cannot do the task" in text for text in results["warnings"])
    assert any("exactly 0" in text and "paper-form" in text for text in results["warnings"])
    for condition in results["conditions"]:
        assert all(abs(gap) < 100 for gap in condition["series"]["gap_standardised"])
        assert condition["alignment"]["judge"] == "reward model not used online"


@pytest.mark.thorough
def test_every_stage_runs_on_files_made_on_the_spot(tmp_path: Path) -> None:
    config = load_config("files", [*SMALL, *write_files(tmp_path)])
    results = pipeline.run(config, tmp_path / "run")
    check_honest_report(results)
    assert check(results)["protocol"]["disclosures"]["logging_policy"]["written_by"] is None
    assert results["data"]["coverage"]["ties_dropped"] == 1
    assert results["data"]["coverage"]["pairs"] == 79
    assert (tmp_path / "run" / "adapters" / "rewards" / "seed-0-judge" / "adapter_config.json").is_file()


def write_other_files(folder: Path) -> list[str]:
    """Another task and pairs, each in the columns of its public dataset (SVAMP, UltraFeedback) and other kinds of file;
    the fifth pair is malformed."""
    sums = [{"Body": f"Ann has {i} pens", "Question": "How many?", "Answer": f"{i}.0", "ID": i} for i in range(1, 31)]
    for part in ("train", "test"):
        pd.DataFrame(sums).to_csv(folder / f"{part}.csv", index=False)
    rows = []
    for i in range(80):
        asked = {"role": "user", "content": f"Say {i}."}
        answers = (f"{i}, with pleasure!", f"no {i}")
        chosen, rejected = ([asked, {"role": "assistant", "content": text}] for text in answers)
        rows.append({"prompt": asked["content"], "prompt_id": f"{i}", "chosen": chosen, "rejected": rejected})
    rows[4]["rejected"] = rows[4]["rejected"][:1]
    pd.DataFrame(rows).assign(score_chosen=8.0, score_rejected=4.0).to_parquet(folder / "pairs.parquet")
    return [
        f"task={{preset: svamp, train: {folder}/train.csv, test: {folder}/test.csv}}",
        f"preferences={{kind: dataset, source: {folder}/pairs.parquet}}",
        "data.max_bad_share=0.02",
    ]


class Listener(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.stages: list[str] = []

    def stage(self, name: str, place: int, of: int) -> None:
        self.stages.append(name)

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.thorough
def test_a_local_model_folder_another_reward_base_and_other_kinds_of_files(tmp_path: Path) -> None:
    """Policy and reward models with different tokenizers: the text is what both share."""
    tokenizer = build_tokenizer(sums(99))
    build_model(Geometry(hidden_size=64, heads=2, key_value_heads=2), len(tokenizer), 0).save_pretrained(
        tmp_path / "model"
    )
    tokenizer.save_pretrained(tmp_path / "model")
    base, *rest = SMALL
    choice = [f"base={{source: pretrained, model: {tmp_path}/model}}", f"reward_base={base.removeprefix('base=')}"]
    listener = Listener()
    config = load_config("files", [*choice, *rest, *write_other_files(tmp_path)])
    results = pipeline.run(config, tmp_path / "run", listener)
    assert len(results["conditions"]) == 12
    adapter = json.loads((tmp_path / "run/adapters/offline/beta-1-seed-0/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(tmp_path / "model")
    coverage = results["data"]["coverage"]
    assert (coverage["pairs"], coverage["malformed_dropped"]) == (79, 1)
    (example,) = coverage["malformed_examples"]
    # UltraFeedback's prompt is the user's turn that both begin with; here nothing is left of one of them.
    assert example.startswith(f"{tmp_path}/pairs.parquet, row 5: after the prompt, `chosen` has user assistant instead")
    assert f"preferences: 1 of 80 rows are malformed and skipped: {example}" in listener.said


@pytest.mark.thorough
def test_what_is_too_long_for_either_model_is_said_before_training(tmp_path: Path) -> None:
    """A task that grows under a finished run, and a reward base with less room than the policy's."""
    settings = [*SMALL, *write_files(tmp_path)]
    longer = [json.dumps({"question": "What is 1 + 1? " * 300, "answer": "#### 2"})] * 30
    (tmp_path / "long.jsonl").write_text("\n".join(longer) + "\n")
    pipeline.run(load_config("files", settings), tmp_path / "run")
    task = f"task={{preset: gsm8k, train: {tmp_path}/long.jsonl, test: {tmp_path}/test.jsonl}}"
    base, geometry = SMALL[0].removeprefix("base="), "hidden_size: 64,"
    short = f"reward_base={base.replace(geometry, f'{geometry} context: 150,')}"
    for changed, who in ([task], "model's context of 2048"), ([short], "reward model's context of 150"):
        listener = Listener()
        with pytest.raises(BetastarError, match=who):
            pipeline.run(load_config("files", [*settings, *changed]), tmp_path / "run", listener)
        assert listener.stages[-1] == "contexts"


@pytest.mark.slow
def test_real_data(tmp_path: Path, shared_data: Path) -> None:
    """GSM8K and human preference pairs as message lists."""
    task = (
        f"task={{preset: gsm8k, train: {{dataset: {shared_data}/gsm8k/train.jsonl, limit: 100}}, "
        f"test: {{dataset: {shared_data}/gsm8k/test.jsonl, limit: 50}}}}"
    )
    preferences = f"preferences={{kind: dataset, source: {shared_data}/helpsteer2/train.jsonl}}"
    results = pipeline.run(load_config("files", [*SMALL, task, preferences]), tmp_path / "run")
    check_honest_report(results)
    assert results["data"]["coverage"]["pairs"] > 50


def test_too_few_pairs_and_missing_files_are_one_sentence(tmp_path: Path) -> None:
    settings = write_files(tmp_path, pairs=6)
    with pytest.raises(BetastarError, match=r"split .*give pairs with about \d+ different prompts or more"):
        pipeline.run(load_config("files", [*SMALL, *settings]), tmp_path / "run")
    (tmp_path / "pairs.jsonl").unlink()
    with pytest.raises(BetastarError, match=r"pairs\.jsonl: no such file; correct preferences\.source"):
        pipeline.run(load_config("files", [*SMALL, *settings]), tmp_path / "run")
    with pytest.raises(BetastarError, match=r"nowhere: no such folder; correct the path of the model"):
        pipeline.run(
            load_config("files", [*SMALL, *settings, "base={source: pretrained, model: ./nowhere}"]), tmp_path / "run"
        )
