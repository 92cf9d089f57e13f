"""A real small model through every stage: a GGUF file where one is given, with `base.gguf_file`; preference pairs,
reward models, offline DPO and online steps on made-up additions. In tiny runs a random model of bytes stands in."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

from gpu_parts.check import Check
from gpu_parts.one_run import undrawn_run

DELIVERS = ("model", "seconds of the run", "exact answers", "proxy", "gradient norms")
FILE = "model.gguf"
SETTINGS = (
    "seeds=[0]", "grid={method: list, values: [0.1, 1]}", "variants={paper: null, fixed: {kl: {coupling: fixed}}}",
    "rewards={members: 2, batch_size: 8}", "offline={batch_size: 8}",
    "lengths={prompt: 96, response: 48, generated: 32}",
)  # fmt: skip
FULL = ("online={steps: 6, batch_size: 16}", "evaluation={every: 3, problems: 48}")
TINY = (
    "online={steps: 2, batch_size: 3}", "evaluation={every: 2, problems: 4}", "rewards.epochs=0.2",
    "offline.epochs=0.2", "grid.values=[0.3]", "lengths.generated=12",
)  # fmt: skip


def run(check: Check) -> None:
    model = check.work / "model"
    model.mkdir()
    if check.gguf:
        base = from_gguf(check, model)
    elif check.tiny:
        base = random_base(check, model)
    else:
        check.record("not measured", "no --gguf FILE was given", case="a real model")
        return
    if base is None:
        return
    write_data(check.work, 40 if check.tiny else 160)
    folder, data = check.work / "run", check.work
    settings = [
        f"base={json.dumps(base)}",
        f"task={{kind: dataset, train: {data}/train.jsonl, test: {data}/test.jsonl, prompt: '{{{{ question }}}}', "
        "gold: '{{ gold }}', grader: number}",
        f"preferences={{kind: dataset, source: {data}/pairs.jsonl}}",
        *SETTINGS,
        *(TINY if check.tiny else FULL),
        f"compute.device={check.device}",
    ]
    began = time.time()
    undrawn_run("files", folder, settings)
    check.record("seconds of the run", time.time() - began, "s", case="every stage")
    report(check, folder)


def from_gguf(check: Check, model: Path) -> dict[str, Any] | None:
    """`base` for the file that was given, its parts joined; None where it cannot be read here."""
    if check.lacks("gguf", "a real model"):
        return None
    with (model / FILE).open("wb") as whole:
        for part in check.gguf:
            with part.open("rb") as source:
                shutil.copyfileobj(source, whole)
    size = f"{(model / FILE).stat().st_size / 1e6:.0f} MB in {len(check.gguf)} file(s)"
    from betastar.errors import BetastarError
    from betastar.models.gguf_files import check_readers

    try:
        check_readers(model / FILE)
    except BetastarError as error:
        reason = error.what.partition(": ")[2]  # without the path
        check.record("not measured", reason, case="base.gguf_file; transformers converts the file instead")
        check.record("model", check.gguf[0].name, case=size, compared="converted by transformers")
        return converted(check, model)
    check.record("model", check.gguf[0].name, case=size, compared="read by base.gguf_file")
    return {"source": "pretrained", "model": str(model), "gguf_file": FILE}


def converted(check: Check, model: Path) -> dict[str, Any]:
    """The same weights in safetensors, unpacked to bfloat16 by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = check.work / "converted"
    loaded: Any = AutoModelForCausalLM.from_pretrained(str(model), gguf_file=FILE, dtype=torch.bfloat16)
    if hasattr(loaded.config, "quantization_config"):  # what is unpacked is not quantised any more
        del loaded.config.quantization_config
    loaded.is_quantized, loaded.hf_quantizer = False, None
    loaded.save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(str(model), gguf_file=FILE).save_pretrained(str(folder))
    return {"source": "pretrained", "model": str(folder)}


def random_base(check: Check, model: Path) -> dict[str, Any]:
    from betastar.models.random_models import build_byte_tokenizer, build_model
    from betastar.settings.sections import Geometry

    tokenizer = build_byte_tokenizer()
    shape = Geometry(hidden_size=32, intermediate_size=48, layers=2, heads=2, key_value_heads=1, context=256)
    build_model(shape, len(tokenizer), root_seed=0).save_pretrained(str(model))
    tokenizer.save_pretrained(str(model))
    check.record("model", "random", case="a stand-in of two layers", compared="no GGUF file in tiny runs")
    return {"source": "pretrained", "model": str(model)}


def write_data(folder: Path, n: int) -> None:
    """Additions of numbers below 13, other ones in training and test; pairs of a right and a wrong answer."""

    def rows(first: int) -> list[tuple[str, int]]:
        additions = [(i // 11 % 11 + 2, i % 11 + 2) for i in range(first, first + n)]
        return [
            (f"What is {a} + {b}? (No. {first + i}) Answer with the number.", a + b)
            for i, (a, b) in enumerate(additions)
        ]

    for name, first in (("train", 0), ("test", n)):
        write(folder / f"{name}.jsonl", [{"question": question, "gold": str(sum_)} for question, sum_ in rows(first)])
    pairs = [
        {"prompt": question, "chosen": f"The answer is {sum_}.", "rejected": f"Let me think. Perhaps it is {sum_ + 3}?"}
        for question, sum_ in rows(0)
    ]
    write(folder / "pairs.jsonl", pairs)


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def report(check: Check, folder: Path) -> None:
    points = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = max(point["step"] for point in points)

    def mean(measure: str, step: int) -> float:
        values = [point[measure] for point in points if point["step"] == step]
        return sum(values) / len(values)

    case = f"mean of {sum(point['step'] == last for point in points)} conditions, after {last} online steps"
    for name, measure in (("exact answers", "true_strict"), ("proxy", "proxy"), ("kl", "kl")):
        check.record(name, mean(measure, last), case=case, compared=f"{mean(measure, 0):.3g} before")
    logs = [link.resolve().parent / "training.jsonl" for link in (folder / "adapters" / "online").iterdir()]
    norms = [json.loads(line)["gradient_norm"] for log in logs for line in log.read_text().splitlines()]
    finite = all(math.isfinite(norm) and norm > 0 for norm in norms)
    check.record(
        "gradient norms",
        sum(norms) / len(norms),
        case=f"mean of {len(norms)} steps",
        compared=f"largest {max(norms):.3g}",
        limit="finite, none zero",
        ok=finite,
    )
