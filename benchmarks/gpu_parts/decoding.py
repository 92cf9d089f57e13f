"""Sampling at Qwen3-14B geometry: ragged prompts, many conditions, bfloat16 and NF4. Steps replayed as a CUDA graph
against steps launched kernel by kernel, `transformers.generate` with left padding on the same rows and adapters, and
what the memory's bandwidth would allow. Then what one step's attention and sampler take alone."""

from __future__ import annotations

import functools
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import entering as evaluation
import torch

from betastar.models import decoding, repeated
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.devices import is_out_of_memory, set_up
from betastar.models.generation import generate
from betastar.models.logprobs import backbone
from betastar.models.sampler import choose
from betastar.record.responses import Response
from gpu_parts.check import Check
from gpu_parts.device import Rates, rates, seconds, wait
from gpu_parts.models import (
    geometry,
    layer_parameters,
    layers_that_fit,
    make_adapters,
    make_model,
    parameters,
    weight_bytes,
)

DELIVERS = ("same tokens", "tokens per second", "step", "prompts", "peak memory", "waiting rows enter")
RANK = 64
PROFILED, SHOWN = 6, 24  # replayed steps whose kernels are timed, and how many kernels the table names
NEW, NEW_PLAIN = 64, 16  # tokens of a row; kernel by kernel a quarter of them shows what a step takes


class Case(NamedTuple):
    """`conditions` × `rows` prompts of up to `prompt` tokens. `seconds`: an estimate for all that is measured, on an
    H100. `theirs`: whether `transformers.generate` is measured, too. `least`: tokens per second to be reached."""

    conditions: int
    rows: int
    prompt: int
    seconds: float
    theirs: bool
    least: int = 0


CASES = (
    Case(3, 4, 300, 11, True, 1000),
    Case(14, 4, 300, 15, True, 4000),
    Case(12, 16, 300, 36, True, 10000),
    Case(3, 4, 700, 6, False),
    Case(14, 4, 700, 10, False),
    Case(12, 16, 700, 38, False),
)
NF4_CASES = (Case(3, 4, 300, 12, False), Case(14, 4, 300, 14, False))
TINY_CASES = (Case(2, 2, 12, 0, True),)


def run(check: Check) -> None:
    set_up()
    repeated.FIXED_SHAPES = True if check.tiny else None  # on the CPU, what can be: all but the graph
    found = rates(check)
    same_tokens(check)
    for kind, cases in (("bf16", CASES), ("NF4", NF4_CASES)):
        if kind == "NF4" and check.lacks("bitsandbytes", "decoding from an NF4 base"):
            continue
        if not check.room_for(cases[0].seconds, f"{kind}: all"):
            continue
        new = 4 if check.tiny else NEW
        config = geometry("Qwen3-14B", check.tiny)
        most = max(case.conditions * case.rows * (case.prompt + new) for case in cases)
        cache = 4 * config.num_key_value_heads * config.head_dim * most  # keys and values of a layer, 2 bytes each
        weights = layer_parameters(config) * (2 if kind == "bf16" else 0.57)
        embeddings = 4 * config.vocab_size * config.hidden_size
        layers = layers_that_fit(check, config, weights + cache, embeddings + 10e9, f"{kind} weights")
        model = make_model(check, geometry("Qwen3-14B", check.tiny, layers), nf4=kind == "NF4")
        bank = AdapterBank(model, "attention", RANK, 2 * RANK)
        adapters = make_adapters(bank, 2 if check.tiny else max(case.conditions for case in cases))
        generate(bank, adapters[:1], [[[1] * 7]], [[0]], end_tokens=[-1], pad=0, max_new_tokens=4)  # loads libraries
        for case in TINY_CASES if check.tiny else cases:
            name = f"{kind}, {case.conditions} × {case.rows} rows, prompts up to {case.prompt}"
            if check.room_for(case.seconds, name):
                try:
                    decode(check, name, case, new, bank, adapters[: case.conditions], found)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    check.record("tokens per second", None, case=name, compared="out of memory")
                    torch.cuda.empty_cache()
        if kind == "bf16":
            if check.room_for(45, "rows that enter"):
                entering(check, bank, adapters)
            parts_of_a_step(check, bank, found)
        del model, bank, adapters
        gc.collect()  # the bank's hooks and the model point to one another
        if check.device == "cuda":
            torch.cuda.empty_cache()


class Made(NamedTuple):
    """What sampling gave, and the seconds that prompts and steps took; `replay`: the median of the replayed steps, not
    a number where there were none."""

    responses: list[list[Response]]
    prompts: float
    steps: float
    replay: float


class Timed(decoding.Replayed):
    """Notes when each replay but the first has ended."""

    ended: ClassVar[list[torch.cuda.Event]] = []

    def __call__(self) -> None:
        super().__call__()
        if self.graph is not None:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            Timed.ended.append(event)


def sampled(check: Check, bank: AdapterBank, work: Callable[[], list[list[Response]]]) -> Made:
    """Sampling, and when its prompts had been read."""
    read: list[Any] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any], _output: Any) -> None:
        if kwargs["input_ids"].shape[1] > 1:  # not in a step, which may be being recorded
            wait(check.device)
            read.append(time.perf_counter())

    hook = backbone(bank.model).register_forward_hook(note, with_kwargs=True)
    repeated.Replayed = Timed
    Timed.ended.clear()
    wait(check.device)
    start = time.perf_counter()
    try:
        responses = work()
    finally:
        hook.remove()
    wait(check.device)
    end = time.perf_counter()
    between = [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(Timed.ended)]
    replay = statistics.median(between) if between else math.nan
    return Made(responses, read[-1] - start, end - read[-1], replay)


def same_share(one: Sequence[Sequence[Response]], other: Sequence[Sequence[Response]]) -> float:
    """Share of the tokens up to the shorter length of each row that are equal up to the first that is not."""
    equal = total = 0
    for a, b in zip(itertools.chain(*one), itertools.chain(*other), strict=True):
        n = min(len(a.tokens), len(b.tokens))
        differ = [i for i in range(n) if a.tokens[i] != b.tokens[i]]
        equal, total = equal + (differ[0] if differ else n), total + n
    return equal / total


def same_tokens(check: Check) -> None:
    """In float32 a replayed step gives the tokens of a launched one, while rows end and are dropped."""
    model = make_model(check, geometry("Qwen3-0.6B", check.tiny, 4), torch.float32)
    bank = AdapterBank(model, "attention", 16, 32)
    adapters, vocabulary = make_adapters(bank, 3), model.config.vocab_size
    draw = torch.Generator().manual_seed(4)
    prompts = [[torch.randint(1, vocabulary, (5 + 7 * i,), generator=draw).tolist() for i in range(8)]] * 3
    keys = [[8 * c + i for i in range(8)] for c in range(3)]
    ends = range(0, vocabulary, 40)  # a row lives for 40 tokens, more or less
    made = []
    for plain in (True, False):
        with_steps(bank, plain)
        made.append(
            generate(bank, adapters, prompts, keys, end_tokens=ends, pad=0, max_new_tokens=8 if check.tiny else 96)
        )
    share = same_share(*made)
    count = sum(len(r.tokens) for group in made[0] for r in group)
    difference = max(abs(a.logprob - b.logprob) for x, y in zip(*made, strict=True) for a, b in zip(x, y, strict=True))
    recorded = "replayed" if check.device == "cuda" and not decoding.Replayed.failed else "computed"
    check.record(
        "same tokens",
        share,
        "of the tokens equal",
        case=f"float32, 4 layers, 3 × 8 rows; {count} tokens, steps of fixed shape {recorded}",
        compared=f"steps launched one by one; log-probabilities within {difference:.2g} nats",
        limit="at least 0.99",
        ok=share >= 0.99,
    )
    if check.device == "cuda":
        used = decoding.kernels(bank.device) is not None
        check.record("Triton kernels", "used" if used else "not used", limit="used", ok=used)
        check.record("CUDA graphs", recorded, limit="replayed", ok=recorded == "replayed")


def with_steps(bank: AdapterBank, plain: bool) -> None:
    bank.plain_decoding = plain
    if bank.device.type != "cuda":
        repeated.FIXED_SHAPES = not plain


def decode(check: Check, name: str, case: Case, new: int, bank: AdapterBank, adapters: Adapters, found: Rates) -> None:
    """One case: kernel by kernel, replayed, and by transformers."""
    model, config, count = bank.model, bank.model.config, case.conditions * case.rows
    draw = torch.Generator().manual_seed(case.prompt + count)
    lengths = torch.randint(case.prompt // 2, case.prompt + 1, (count,), generator=draw)
    lengths[0] = case.prompt
    flat = [torch.randint(1, config.vocab_size, (n,), generator=draw).tolist() for n in lengths.tolist()]
    prompts = [flat[c * case.rows : (c + 1) * case.rows] for c in range(case.conditions)]
    keys = [list(range(case.rows))] * case.conditions  # conditions share their noise, as in a run

    def ours(plain: bool, new: int) -> Made:
        with_steps(bank, plain)
        options: Any = {"end_tokens": [-1], "pad": 0, "max_new_tokens": new}
        return sampled(check, bank, lambda: generate(bank, adapters, prompts, keys, **options))

    few = min(new, NEW_PLAIN)
    one_by_one = ours(True, few)
    if case.theirs and check.device == "cuda":
        kernels(check, name, lambda: ours(False, 2 + PROFILED))  # compiles what this case needs, too
    if check.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    replayed = ours(False, new)
    peak = torch.cuda.max_memory_allocated() if check.device == "cuda" else None
    theirs = generate_of_transformers(check, bank, adapters, flat, new) if case.theirs else None

    real = int(lengths.sum())
    kept = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * model.dtype.itemsize
    read_at_a_step = weight_bytes(model) + kept * (real + count * new / 2)
    least = read_at_a_step / found.bandwidth
    plain_step, with_recording = one_by_one.steps / (few - 1), replayed.steps / (new - 1)
    step = with_recording if math.isnan(replayed.replay) else replayed.replay
    check.record(
        "step",
        1e3 * step,
        "ms per token",
        case=f"{name}; {'computed' if math.isnan(replayed.replay) else 'replayed'}",
        compared=f"{1e3 * plain_step:.3g} ms launched one by one: {plain_step / step:.3g} ×",
        limit=f"bandwidth limit {1e3 * least:.3g} ms; {least / step:.0%} of it reached",
    )
    check.record(
        "recording",
        replayed.steps - (new - 1) * step,
        "s",
        case=f"{name}, beyond {new - 1} steps",
        compared="once a call",
    )
    check.record(
        "step tokens per second",
        count / step,
        "tokens/s",
        case=name,
        compared=f"{count / plain_step:.0f} tokens/s launched one by one",
        limit=f"at least {case.least}" if case.least and not check.tiny else "",
        ok=count / step >= case.least if case.least and not check.tiny else None,
    )
    whole = count * new / (replayed.prompts + replayed.steps)
    their_rate = None if theirs is None else count * new / theirs
    check.record(
        "tokens per second",
        whole,
        "tokens/s",
        case=f"{name}, {new} new; prompts included",
        compared="" if their_rate is None else f"transformers.generate: {their_rate:.0f} tokens/s",
        limit="2.5 × transformers.generate" if their_rate and not check.tiny else "",
        ok=whole >= 2.5 * their_rate if their_rate and not check.tiny else None,
    )
    check.record(
        "same tokens",
        same_share(one_by_one.responses, replayed.responses),
        "of the tokens equal",
        case=f"{name}, first {few} tokens",
        compared="steps launched one by one; rounding differs",
    )
    share = 2 * parameters_read(bank) * real / replayed.prompts / found.bf16
    check.record("prompts", real / replayed.prompts, "tokens/s", case=name, compared=f"{share:.0%} of the matrix rate")
    planned = weight_bytes(model) + kept * count * (case.prompt + new)
    check.record(
        "peak memory",
        None if peak is None else peak / 1e9,
        "GB",
        case=f"{name}; replayed",
        compared=f"{planned / 1e9:.1f} GB of weights read and key-value cache",
    )


def entering(check: Check, bank: AdapterBank, adapters: Adapters) -> None:
    """An evaluation of more problems than fit at once, with responses of all lengths: rows that wait enter as others
    end, against batch after batch."""
    conditions, problems, at_once, limit = (2, 6, 4, 8) if check.tiny else (12, 48, 192, 256)
    vocabulary, draw = bank.model.config.vocab_size, torch.Generator().manual_seed(6)
    lengths = torch.randint(60, 200, (problems,), generator=draw).tolist()
    prompts = [torch.randint(1, vocabulary, (n,), generator=draw).tolist() for n in lengths]
    # A row lives for 100 tokens, more or less.
    work = evaluation.Work(prompts, range(0, vocabulary, 100), limit, at_once)
    with_steps(bank, False)
    rates, made = [], []
    for sample in (evaluation.entering, evaluation.batches):
        wait(check.device)
        start = time.perf_counter()
        made.append(sample(bank, adapters[:conditions], work))
        wait(check.device)
        tokens = sum(len(response.tokens) for group in made[-1] for response in group)
        rates.append(tokens / (time.perf_counter() - start))
    check.record(
        "waiting rows enter",
        rates[0],
        "tokens/s",
        case=f"{conditions} × {problems} rows, {at_once} at once, up to {limit} tokens; prompts included",
        compared=f"batch after batch {rates[1]:.0f} tokens/s: {rates[0] / rates[1]:.3g} ×; "
        f"{same_share(*made):.0%} of the tokens equal",
    )


def kernels(check: Check, name: str, work: Callable[[], Any]) -> None:
    """Which kernels the replayed steps of `work` spend their time in: the longest of them, by name."""
    from torch.autograd.profiler import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        work()
        wait(check.device)
    # Prompts come first, then one step launched kernel by kernel and one recorded, which does no work. In what is left,
    # the last kernel of the sampler tells the steps apart.
    events = sorted(
        (e for e in found.events() or () if e.device_type == DeviceType.CUDA), key=lambda e: e.time_range.start
    )
    ends = [e.time_range.end for e in events if "arg_max" in e.name.lower() or "argmax" in e.name.lower()]
    if len(ends) < 4:
        check.record("kernels of a step", None, case=name, compared="the profiler saw none")
        return
    begin, end, steps = ends[2], ends[-1], len(ends) - 3
    took: dict[str, list[float]] = {}
    for event in events:
        if begin <= event.time_range.start < end:
            took.setdefault(event.name, []).append(event.time_range.elapsed_us())
    total = sum(map(sum, took.values())) / steps
    check.record(
        "kernels of a step",
        total / 1e3,
        "ms",
        case=f"{name}; sum over kernels",
        compared=f"{(end - begin) / 1e3 / steps:.3g} ms from step to step",
    )
    for kernel, times in sorted(took.items(), key=lambda item: -sum(item[1]))[:SHOWN]:
        check.record(
            "kernel",
            sum(times) / steps,
            "µs",
            case=name,
            compared=f"{len(times) / steps:.0f} × {kernel[:110]}",
        )


def parts_of_a_step(check: Check, bank: AdapterBank, found: Rates) -> None:
    """One step's attention in one layer, and its sampler, each alone and many times in a row."""
    config, device = bank.model.config, check.device
    shared, heads, width = config.num_key_value_heads, config.num_attention_heads, config.head_dim
    ways: dict[str, Any] = {"fused": fused_attention, "by products": decoding.grouped_attention}
    fast = decoding.kernels(bank.device)
    if fast is not None:
        ways["Triton"] = functools.partial(decoding._kernel_attention, fast)
    for rows in (2,) if check.tiny else (12, 56, 192):
        for columns in (64,) if check.tiny else (384, 768):
            key, value = (torch.randn(rows, shared, columns, width, device=device).bfloat16() for _ in range(2))
            query = torch.randn(rows, heads, 1, width, device=device).bfloat16()
            bias = torch.zeros(rows, 1, 1, columns, device=device, dtype=torch.bfloat16)
            least = 1e6 * 2 * key.numel() * 2 / found.bandwidth
            for name, attend in ways.items():
                once = functools.partial(attend, bank.model, query, key, value, bias, width**-0.5)
                start = torch.zeros(rows, dtype=torch.long, device=device)
                with decoding.seeing(decoding.Columns(start, torch.tensor([columns - 1], device=device))):
                    took = in_a_row(check, once)
                check.record(
                    "attention of a step",
                    1e6 * took,
                    "µs per layer",
                    case=f"{name}, {rows} rows, {columns} columns",
                    compared=f"bandwidth limit {least:.3g} µs",
                )
        logits = torch.randn(rows, config.vocab_size, device=device)
        keys = torch.arange(rows, device=device)
        place = torch.tensor([3], device=device)

        def draw(logits: torch.Tensor = logits, keys: torch.Tensor = keys, place: torch.Tensor = place) -> None:
            choose(logits.log_softmax(dim=-1), keys, keys, place, 1.0)

        check.record("sampler of a step", 1e6 * in_a_row(check, draw), "µs", case=f"{rows} rows")


def fused_attention(
    _module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, scaling: float
) -> torch.Tensor:
    """What `decoding.grouped_attention` computes, by torch's own kernel."""
    packed = query.view(*key.shape[:2], -1, key.shape[-1])
    return torch.nn.functional.scaled_dot_product_attention(packed, key, value, attn_mask=bias, scale=scaling)


def in_a_row(check: Check, work: Callable[[], Any], times: int = 20) -> float:
    """Seconds of one of many calls, replayed as a graph where there are graphs: launches would hide the rest."""
    work()
    if check.device != "cuda":
        return seconds(check.device, work)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            work()
    seconds(check.device, graph.replay)
    return seconds(check.device, graph.replay) / times


def parameters_read(bank: AdapterBank) -> int:
    """Weights that every prompt token meets: all but embedding and head."""
    tables = 1 if bank.model.config.tie_word_embeddings else 2
    return parameters(bank.model) - tables * bank.model.config.vocab_size * bank.model.config.hidden_size


def generate_of_transformers(
    check: Check, bank: AdapterBank, adapters: Adapters, prompts: list[list[int]], new: int
) -> float | None:
    """Seconds of `transformers.generate` on all rows at once, left-padded, with the same adapters; None where the
    memory is too small for it."""
    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(row)) + row for row in prompts], device=check.device)
    seen = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=check.device)
    cast = adapters.to(bank.model.dtype)

    @torch.no_grad()
    def work(new: int) -> Any:
        with bank.use(cast):
            made = bank.model.generate(
                input_ids=tokens, attention_mask=seen, max_new_tokens=new, do_sample=True, top_k=0, pad_token_id=0
            )
        assert made.shape[1] == width + new
        return made

    try:
        return seconds(check.device, functools.partial(work, new))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    return None
