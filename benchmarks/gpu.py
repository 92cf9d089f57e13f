"""Speed and memory of one GPU of 80 GB or more at the paper's geometry: Qwen3-14B policy, 3 × Qwen3-1.7B reward models.

    python benchmarks/gpu.py                 # NF4 and bfloat16, a few minutes, no download: weights are random
    python benchmarks/gpu.py --tiny          # the same code on any machine in seconds; its numbers mean nothing

Prints Markdown for docs/benchmarks.md. Measured in one process, interleaved where two things are compared:

- memory of weights, and peak of each part;
- decoding of C = 1 and 3 conditions, against `transformers.generate` run for one condition after the other with the
  same adapters, and as a share of what the memory's bandwidth (measured here by a large copy) would allow if every step
  read all weights and the used key-value cache once;
- one offline step (DPO, 3 β) and its model FLOP utilisation, against the bfloat16 matrix rate measured here: 4 FLOP per
  weight and token (the head's: and response token), as nothing flows into the frozen weights; activations recomputed by
  checkpointing are not counted;
- scoring by 3 members.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig

from betastar import sections
from betastar.maths.objectives import dpo_loss
from betastar.models.bank import AdapterBank
from betastar.models.checkpointing import checkpoint_layers
from betastar.models.generation import generate
from betastar.models.logprobs import pair_logprobs
from betastar.models.random_weights import random_model
from betastar.models.rewards import RewardEnsemble, score
from betastar.models.sequences import Pair, Row, pair_pad, pieces

PRESETS = Path(sections.__file__).parents[1] / "presets" / "models"
CONDITIONS = 3


class Sizes(NamedTuple):
    """What is decoded, trained and scored: prompts per condition, tokens of prompt and response, pairs per β."""

    prompts: int = 16
    prompt_tokens: int = 256
    new_tokens: int = 128
    pairs: int = 4
    pair_prompt: int = 384
    pair_response: int = 320
    scored: int = 64
    tokens_per_forward: int = 8192


class Clock:
    """Wall time of work on a device, and its peak memory."""

    def __init__(self, device: torch.device):
        self.device, self.cuda = device, device.type == "cuda"

    def __call__(self, work: Callable[[], Any]) -> float:
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def gigabytes(self, work: Callable[[], Any] | None = None) -> float:
        """Allocated now, or the peak during `work`; NaN without a GPU."""
        if not self.cuda:
            if work:
                work()
            return float("nan")
        if work is None:
            return torch.cuda.memory_allocated(self.device) / 1e9
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        return torch.cuda.max_memory_allocated(self.device) / 1e9


def limits(clock: Clock, tiny: bool) -> tuple[float, float]:
    """Bytes per second of a large copy (read and written), and bfloat16 FLOP per second of a large product."""
    n, side = (1 << 22, 512) if tiny else (1 << 31, 8192)
    source = torch.empty(n, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=clock.device, dtype=torch.bfloat16) for _ in range(2))
    copy = min(clock(lambda: target.copy_(source)) for _ in range(5))
    product = min(clock(lambda: a @ b) for _ in range(5))
    return 2 * n / copy, 2 * side**3 / product


def weight_bytes(model: Any) -> int:
    """Bytes that one decoding step reads: all weights but an embedding that is not the head too."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    total = 0
    for weight in model.parameters():
        total += weight.numel() * weight.element_size()
        state = getattr(weight, "quant_state", None)
        if state is not None:
            total += state.absmax.numel() * state.absmax.element_size()
    return total - (0 if embedding is head else embedding.numel() * embedding.element_size())


def decoding(bank: AdapterBank, sizes: Sizes, clock: Clock, bandwidth: float, repeats: int) -> list[list[str]]:
    model, device = bank.model, clock.device
    vocabulary, config = model.config.vocab_size, model.config
    adapters = bank.create(range(CONDITIONS)).to(model.dtype)
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(1, vocabulary, (CONDITIONS, sizes.prompts, sizes.prompt_tokens), generator=draw).tolist()

    def ours(conditions: int) -> None:
        keys = [[c * sizes.prompts + i for i in range(sizes.prompts)] for c in range(conditions)]
        generate(
            bank, adapters[:conditions], prompts[:conditions], keys,
            end_tokens=[-1], pad=0, max_new_tokens=sizes.new_tokens,
        )  # fmt: skip

    def theirs(conditions: int) -> None:
        for c in range(conditions):
            with torch.no_grad(), bank.use(adapters[c : c + 1]):
                model.generate(
                    torch.tensor(prompts[c], device=device), max_new_tokens=sizes.new_tokens, do_sample=True,
                    top_k=0, eos_token_id=None, pad_token_id=0,
                )  # fmt: skip

    rows = []
    kv = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * model.dtype.itemsize
    for conditions in (1, CONDITIONS):
        ours(conditions)
        theirs(conditions)
        pairs = [(clock(lambda: ours(conditions)), clock(lambda: theirs(conditions))) for _ in range(repeats)]  # noqa: B023
        mine, plain = (statistics.median(part) for part in zip(*pairs, strict=True))
        used = conditions * sizes.prompts * (sizes.prompt_tokens + sizes.new_tokens / 2) * kv
        least = sizes.new_tokens * (weight_bytes(model) + used) / bandwidth
        peak = clock.gigabytes(lambda: ours(conditions))  # noqa: B023
        tokens = conditions * sizes.prompts * sizes.new_tokens
        rows.append(
            [f"decoding, C = {conditions}", f"{tokens / mine:.0f} tokens/s", f"{tokens / plain:.0f} tokens/s",
             f"{plain / mine:.2f} ×", f"{least / mine:.0%} of the bandwidth limit", f"{peak:.1f} GB"]
        )  # fmt: skip
    return rows


def offline(bank: AdapterBank, sizes: Sizes, clock: Clock, rate: float, repeats: int) -> list[str]:
    model = bank.model
    adapters = bank.create(range(CONDITIONS)).trainable()
    draw = torch.Generator().manual_seed(1)

    def ids(n: int) -> list[int]:
        return torch.randint(1, model.config.vocab_size, (n,), generator=draw).tolist()

    shape = (sizes.pair_prompt, sizes.pair_response, sizes.pair_response)
    grid = [[Pair(*(ids(n) for n in shape)) for _ in range(sizes.pairs)] for _ in range(CONDITIONS)]

    def step() -> None:
        for part, places, items in pieces(grid, sizes.tokens_per_forward):
            with bank.use(adapters[part]):
                logprobs = pair_logprobs(model, pair_pad(items, 0, clock.device)).view(*places.shape, 2)
            dpo_loss(0.1 * (logprobs[..., 0] - logprobs[..., 1])).sum().backward()
        for weight in adapters.parameters():
            weight.grad = None

    step()
    seconds = statistics.median(clock(step) for _ in range(repeats))
    tokens = sum(pair.length for row in grid for pair in row)
    answered = sum(len(pair.chosen) + len(pair.rejected) for row in grid for pair in row)
    table = model.config.vocab_size * model.config.hidden_size  # of the embedding, and of the head
    body = parameters(model) - (1 if model.config.tie_word_embeddings else 2) * table
    share = 4 * (body * tokens + table * answered) / seconds / rate
    return [
        f"offline step, {CONDITIONS} β × {sizes.pairs} pairs, {tokens} tokens", f"{seconds:.2f} s", "", "",
        f"{share:.0%} of the matrix rate", f"{clock.gigabytes(step):.1f} GB",
    ]  # fmt: skip


def parameters(model: Any) -> int:
    """Number of weights; a 4-bit one counts as one, not as half a byte."""
    linear = {id(m.weight): m.in_features * m.out_features for m in model.modules() if isinstance(m, torch.nn.Linear)}
    return sum(int(linear.get(id(weight)) or weight.numel()) for weight in model.parameters())


def scoring(bank: AdapterBank, sizes: Sizes, clock: Clock, repeats: int) -> list[str]:
    draw = torch.Generator().manual_seed(2)
    width = bank.model.config.hidden_size
    head = torch.randn(CONDITIONS, width, generator=draw).to(clock.device)
    ensemble = RewardEnsemble(bank.create(range(CONDITIONS)).to(bank.model.dtype), head)

    def ids(n: int) -> list[int]:
        return torch.randint(1, bank.model.config.vocab_size, (n,), generator=draw).tolist()

    rows = [Row(ids(sizes.prompt_tokens), ids(sizes.new_tokens)) for _ in range(sizes.scored)]

    def work() -> None:
        score(bank, ensemble, rows, 0, sizes.tokens_per_forward, embed=True)

    work()
    seconds = statistics.median(clock(work) for _ in range(repeats))
    return [
        f"scoring by {CONDITIONS} members, {sizes.prompt_tokens + sizes.new_tokens} tokens",
        f"{sizes.scored / seconds:.0f} responses/s", "", "", "", f"{clock.gigabytes(work):.1f} GB",
    ]  # fmt: skip


def load(name: str, tiny: bool) -> Any:
    settings = json.loads((PRESETS / f"{name}.json").read_text())
    settings.pop("_comment", None)
    kind = settings.pop("model_type")
    if tiny:
        settings |= {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 512,
        }  # fmt: skip
    return AutoConfig.for_model(kind, **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--policy", default="Qwen3-14B", help="a file of src/betastar/presets/models")
    parser.add_argument("--reward", default="Qwen3-1.7B", help="likewise")
    parser.add_argument("--weights", nargs="+", choices=("nf4", "bf16"), default=["nf4", "bf16"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand weights, to try the script")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.tiny:
        parser.error("there is no GPU here; --tiny tries the script without one")
    sizes = Sizes(4, 16, 8, 2, 16, 12, 6, 256) if options.tiny else Sizes()
    clock = Clock(device)
    bandwidth, rate = limits(clock, options.tiny)
    where = torch.cuda.get_device_name(device) if clock.cuda else "CPU, tiny geometry: these numbers mean nothing"
    print(f"{where}; torch {torch.__version__}; {time.strftime('%Y-%m-%d')}")
    print(f"measured limits: copy {bandwidth / 1e9:.0f} GB/s, bfloat16 product {rate / 1e12:.3g} TFLOP/s\n")
    print("| weights | what | betastar | transformers, one condition after the other | ratio | share | peak memory |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in options.weights:
        model = random_model(load(options.policy, options.tiny), device, torch.bfloat16, nf4=kind == "nf4")
        bank = AdapterBank(model, "attention", rank=64, alpha=128)
        rows = [[f"{options.policy} weights", f"{clock.gigabytes():.1f} GB", "", "", "", ""]]
        rows += decoding(bank, sizes, clock, bandwidth, options.repeats)
        checkpoint_layers(bank)
        rows.append(offline(bank, sizes, clock, rate, options.repeats))
        del model, bank
        small = random_model(load(options.reward, options.tiny), device, torch.bfloat16, nf4=kind == "nf4")
        rows.append([f"{options.reward} weights", f"{clock.gigabytes():.1f} GB", "", "", "", ""])
        rows.append(scoring(AdapterBank(small, "attention", rank=64, alpha=128), sizes, clock, options.repeats))
        del small
        for row in rows:
            print(f"| {kind} | {' | '.join(row)} |", flush=True)
        if clock.cuda:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
