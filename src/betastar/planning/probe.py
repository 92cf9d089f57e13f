"""A short measurement on this machine, and from it the time per stage.

Random weights of the real geometry, a bank of the real size on them, a few passes. Deep models are measured with one
and with three layers, and all layers between are taken to cost alike.
"""

from __future__ import annotations

import copy
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from betastar.errors import BetastarError
from betastar.models.bank import AdapterBank, checkpoint_layers
from betastar.models.devices import choose_device
from betastar.models.generation import generate
from betastar.models.logprobs import grid_logprobs, pair_logprobs
from betastar.models.random_models import random_model
from betastar.models.rewards import RewardEnsemble, pair_scores, score
from betastar.models.sequences import Pair, Row, pair_pad
from betastar.planning import sources
from betastar.planning.memory import Precision, Stage, precision
from betastar.planning.plan import Plan, Timing

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


LAYERS = (1, 3)
REPEATS = 3
LONG = 2.0  # seconds; what takes longer is not repeated
CPU_SECONDS = 2.0  # aimed at for one pass on a CPU
CPU_LARGEST = 5e8  # weights at these layers: drawing more would take a CPU minutes
FEWEST_TOKENS = 4
WHOLE = 10**9  # tokens: a piece is not cut again
# Sampled in two measurements, whose difference leaves out reading the prompt and, on a GPU, recording a step.
NEW_TOKENS, NEW_TOKENS_ON_GPU = (2, 10), (4, 36)


class Shape(NamedTuple):
    """What is measured: a model with `conditions` adapters, on `prompt` and `response` tokens, in pieces of
    `tokens_per_forward`, or `rows` sampled together. `score`: reward models, which have scalar heads and sample
    nothing. `learn`: the base itself learns too."""

    config: PreTrainedConfig
    precision: Precision
    target_modules: str | tuple[str, ...]
    rank: int
    conditions: int
    prompt: int
    response: int
    tokens_per_forward: int
    rows: int
    checkpointing: bool
    score: bool = False
    learn: bool = False


class Seconds(NamedTuple):
    """Per token, over all conditions: read without gradient, trained on, sampled; and learnt by the base itself. Zero
    for what the shape does not ask for."""

    read: float
    trained: float
    sampled: float
    learnt: float


def measure(shape: Shape, device: torch.device) -> tuple[Seconds, str]:
    """Seconds per token of the whole model, and of how many layers they were measured. Raises BetastarError for a model
    that is too large for a CPU."""
    layers = shape.config.get_text_config().num_hidden_layers
    if layers <= LAYERS[1]:
        return _measured(shape, device, layers), f"all {layers} layers"
    few, more = (_measured(shape, device, count) for count in LAYERS)
    further = (layers - LAYERS[0]) / (LAYERS[1] - LAYERS[0])
    whole = Seconds(*(a + max(0.0, b - a) * further for a, b in zip(few, more, strict=True)))
    return whole, f"{LAYERS[0]} and {LAYERS[1]} of {layers} layers, scaled linearly"


def _measured(shape: Shape, device: torch.device, layers: int) -> Seconds:
    bench = _Bench(shape, device, layers)
    read, trained = bench.read(), bench.trained()
    return Seconds(read, trained, 0.0 if shape.score else bench.sampled(), bench.learnt() if shape.learn else 0.0)


class _Bench:
    """Passes over made-up tokens, in pieces of the size that a run has; on a CPU, of what it does in a few seconds."""

    def __init__(self, shape: Shape, device: torch.device, layers: int):
        config = copy.deepcopy(shape.config)
        text = config.get_text_config()
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
        dtype = torch.bfloat16 if shape.precision.width == 2 else torch.float32
        self.parameters, self.flop = _parameters(config), math.inf
        if device.type == "cpu":
            self.flop = CPU_SECONDS * _matrix_rate(dtype)
            if self.parameters > CPU_LARGEST:
                raise BetastarError("even a few layers of this model are too large for a CPU; measure it on a GPU.")
            if self._affordable(6) < FEWEST_TOKENS:
                slow = str(dtype).removeprefix("torch.")
                raise BetastarError(f"this CPU is too slow in {slow} to measure this model; measure it on a GPU.")
        model = random_model(config, device, dtype, nf4=shape.precision.nf4)
        self.bank = AdapterBank(model, shape.target_modules, shape.rank, 2 * shape.rank)
        if shape.checkpointing:
            checkpoint_layers(self.bank)
        self.shape, self.device, self.vocabulary = shape, device, text.vocab_size
        adapters = self.bank.create(range(shape.conditions)).trainable()
        self.ensemble = RewardEnsemble(adapters, torch.zeros(shape.conditions, text.hidden_size, device=device))

    def read(self) -> float:
        """Seconds per token of log-probabilities, or of scores, without gradient."""
        together, each, (prompt, response) = self._piece(2, self.shape.prompt, self.shape.response)
        grid = [[Row(self._ids(prompt), self._ids(response)) for _ in range(each)] for _ in range(together)]
        ensemble = self.ensemble[:together]

        def work() -> None:
            if self.shape.score:
                score(self.bank, ensemble, grid[0], 0, WHOLE)
            else:
                grid_logprobs(self.bank, ensemble.adapters, grid, 0, WHOLE)

        return self._clock(work) / (together * each * (prompt + response))

    def trained(self) -> float:
        """Seconds per token of a forward and backward pass over pairs."""
        response = self.shape.response
        together, each, sizes = self._piece(4, self.shape.prompt, response, response)
        batch = pair_pad([Pair(*map(self._ids, sizes)) for _ in range(together * each)], 0, self.device)
        ensemble = self.ensemble[:together]

        def step() -> None:
            if self.shape.score:
                loss = pair_scores(self.bank, ensemble, batch, None).sum()
            else:
                with self.bank.use(ensemble.adapters):
                    loss = pair_logprobs(self.bank.model, batch).sum()
            loss.backward()

        return self._clock(step) / batch.tokens.numel()

    def sampled(self) -> float:
        """Seconds per sampled token, just after the prompt."""
        conditions = min(self.shape.conditions, self.shape.rows)
        wanted = self.shape.rows // conditions * conditions
        prompt = int(min(self.shape.prompt, max(1, self._affordable(2) / conditions)))
        each = int(max(1, min(wanted, self._affordable(2) / prompt) / conditions))
        prompts = [[self._ids(prompt) for _ in range(each)] for _ in range(conditions)]
        keys = [[c * each + i for i in range(each)] for c in range(conditions)]
        adapters = self.ensemble.adapters[:conditions]

        def sample(tokens: int) -> Callable[[], Any]:
            options: Any = {"end_tokens": [-1], "pad": 0, "max_new_tokens": tokens}
            return lambda: generate(self.bank, adapters, prompts, keys, **options)

        lengths = NEW_TOKENS_ON_GPU if self.device.type == "cuda" else NEW_TOKENS
        few, more = (self._clock(sample(tokens)) for tokens in lengths)
        return max(more - few, 0.0) / ((lengths[1] - lengths[0]) * conditions * each)

    def learnt(self) -> float:
        """Seconds per token of a pass in which the base itself learns."""
        model = self.bank.model
        _, rows, (prompt, response) = self._piece(6, self.shape.prompt, self.shape.response, conditions=1)
        ids = torch.tensor([self._ids(prompt + response) for _ in range(rows)], device=self.device)

        def step() -> None:
            model.requires_grad_(True)
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            model.zero_grad(set_to_none=True)
            model.requires_grad_(False)

        return self._clock(step) / ids.numel()

    def _piece(self, flop: int, *lengths: int, conditions: int | None = None) -> tuple[int, int, list[int]]:
        """Conditions and items of each in a piece whose items have parts of such lengths, which are shortened only
        where one item is more than a CPU should do. `flop` are per weight and token."""
        tokens = int(min(self.shape.tokens_per_forward, self._affordable(flop)))
        scale = min(1.0, tokens / sum(lengths))
        sizes = [max(1, int(scale * length)) for length in lengths]
        together = min(conditions or self.shape.conditions, max(1, tokens // sum(sizes)))
        return together, max(1, tokens // (together * sum(sizes))), sizes

    def _affordable(self, flop: int) -> float:
        """Tokens that a pass of `flop` per weight and token may have."""
        return self.flop / (flop * self.parameters)

    def _ids(self, count: int) -> list[int]:
        return torch.randint(1, self.vocabulary, (count,), generator=torch.Generator().manual_seed(count)).tolist()

    def _clock(self, work: Callable[[], Any]) -> float:
        """Median seconds of a few runs after a first one, or of the first where it is long."""
        times: list[float] = []
        while len(times) <= REPEATS and (not times or times[0] < LONG):
            started = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            times.append(time.perf_counter() - started)
        return statistics.median(times[1:] or times)


def _matrix_rate(dtype: torch.dtype) -> float:
    """FLOP per second of a CPU, in products with a weight as the forward and as the backward pass has them."""
    rows, width, outputs = 16, 1024, 4096
    x, y = torch.ones(rows, width, dtype=dtype), torch.ones(rows, outputs, dtype=dtype)
    weight = torch.ones(outputs, width, dtype=dtype)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        _ = y @ weight
        seconds.append(time.perf_counter() - started)
    return 4 * rows * width * outputs / seconds[-1]


def _parameters(config: PreTrainedConfig) -> int:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config).num_parameters()


def probe(plan: Plan) -> Timing:
    """Measure both models on this machine. Raises BetastarError where they are too large for it."""
    config, facts = plan.config, plan.facts
    gpu = plan.memory.gpu
    device = choose_device(config.compute.device)
    torch.set_num_threads(config.compute.threads or os.cpu_count() or 1)  # as a run does
    adapter, reward_adapter = config.policy_adapter, config.reward_model_adapter
    compute = config.compute
    policy = Shape(
        config=sources.model_config(config.base, config),
        precision=precision(config.base, gpu),
        target_modules=adapter.target_modules,
        rank=adapter.rank,
        conditions=plan.counts.at_once,
        prompt=facts.prompt_tokens,
        response=facts.response_tokens,
        tokens_per_forward=compute.tokens_per_forward,
        rows=plan.rows,
        checkpointing=compute.gradient_checkpointing,
        learn=any(stage.name == "base" for stage in plan.stages),
    )
    reward_base = config.reward_base or config.base
    reward = policy._replace(
        config=sources.model_config(reward_base, config),
        precision=precision(reward_base, gpu),
        target_modules=reward_adapter.target_modules,
        rank=reward_adapter.rank,
        conditions=plan.counts.members,
        score=True,
        learn=False,
    )
    try:
        (of_policy, layers), (of_reward, reward_layers) = measure(policy, device), measure(reward, device)
    except torch.OutOfMemoryError:
        raise BetastarError(
            "not even a few layers fit in the memory of this GPU; free some of it, or use a larger one."
        ) from None
    measured = layers if layers == reward_layers else f"{layers} of the policy, {reward_layers} of the reward models"
    by_trl = {name for name in ("rewards", "offline") if getattr(config, name).engine == "trl"}
    seconds = {
        stage.name: None if stage.name in by_trl else _seconds(stage, of_policy, of_reward) for stage in plan.stages
    }
    where = plan.memory.name if gpu else f"CPU, {torch.get_num_threads()} threads"
    return Timing(seconds, f"measured here ({where}) with random weights, {measured}; every sequence at full length")


def _seconds(stage: Stage, policy: Seconds, reward: Seconds) -> float:
    if stage.name == "base":
        return stage.policy.trained * policy.learnt
    return sum(
        tokens.read * each.read + tokens.trained * each.trained + tokens.sampled * each.sampled
        for tokens, each in ((stage.policy, policy), (stage.reward, reward))
    )
