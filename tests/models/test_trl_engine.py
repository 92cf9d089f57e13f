"""The two engines against one another: TRL's trainers and the bank, on the same pairs in the same order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from betastar.errors import BetastarError
from betastar.experiment.objective import BatchTerms, ConditionLoss, pair_losses
from betastar.maths.methods import OBJECTIVES
from betastar.maths.objectives import Pairs, bradley_terry_loss, dpo_loss, implicit_reward_margin
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.devices import FULL
from betastar.models.loading import Base, load_base
from betastar.models.logprobs import grid_pair_logprobs, pair_logprobs
from betastar.models.optimise import StackedOptimiser, linear_schedule
from betastar.models.peft_io import import_adapter
from betastar.models.random_models import build_byte_tokenizer, build_model
from betastar.models.rewards import RewardEnsemble, pair_scores, score
from betastar.models.sequences import Pair, pair_pad
from betastar.models.trl.engine import Job, train_policy, train_reward
from betastar.settings.phases import Offline
from betastar.settings.sections import Compute, Geometry, Numbers, PretrainedBase

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # other libraries about one another

CPU = torch.device("cpu")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
END = 1  # `build_byte_tokenizer`'s end token, with which this base also pads
BETAS = (0.1, 0.5, 2.0)
NUMBERS = Numbers(batch_size=6, learning_rate=1e-2, weight_decay=0.1, clip=0.8, warmup_steps=2)
STEPS, RANK, ALPHA = 8, 4, 8.0


class Agreement(NamedTuple):
    """How close the engines come: largest difference in losses and gradient norms, and at the end (see `distance`)."""

    curve: float
    distance: float


EXACT = Agreement(2e-4, 1e-4)


class Setting(NamedTuple):
    """A base on disk, the bank on it, and what is trained on it."""

    choice: PretrainedBase
    bank: AdapterBank
    train: list[Pair]
    held_out: list[Pair]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Setting]:
    """`settings(quantization=...)`: the same base, loaded in some precision."""
    folder = tmp_path_factory.mktemp("base")
    geometry = Geometry(
        hidden_size=64,
        intermediate_size=128,
        layers=2,
        heads=4,
        key_value_heads=2,
        context=128,
        initializer_range=0.15,
    )
    tokenizer = build_byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    build_model(geometry, len(tokenizer), root_seed=0).save_pretrained(folder)
    rng = np.random.default_rng(0)

    def part(longest: int) -> list[int]:
        return rng.integers(2, 200, rng.integers(1, longest)).tolist()

    pairs = [Pair(part(16), [*part(10), END], [*part(14), END]) for _ in range(40)]

    def make(**precision: Any) -> Setting:
        choice = PretrainedBase(source="pretrained", model=str(folder), **{"dtype": "float32", **precision})
        bank = AdapterBank(load_base(choice, CPU).model, TARGETS, RANK, ALPHA)
        return Setting(choice, bank, pairs[:30], pairs[30:])

    return make


@pytest.fixture(scope="module")
def full(settings: Callable[..., Setting]) -> Setting:
    return settings()


def make_job(setting: Setting, order: np.ndarray, seed: int = 0, **changes: Any) -> Job:
    job = Job(
        base=setting.choice,
        pairs=setting.train,
        order=order,
        numbers=NUMBERS,
        initial=setting.bank.create([seed]),
        dropout=0.0,
        seed=seed,
        compute=Compute(tokens_per_forward=160),  # micro-batches of 2 of the 6 pairs
        device=CPU,
    )
    return replace(job, **changes)


def make_order(seed: int) -> np.ndarray:
    """Pairs of each step `[STEPS, 6]`: a bootstrap, as reward members see it."""
    return np.random.default_rng(seed).integers(30, size=(STEPS, NUMBERS.batch_size))


def train_bank(
    weights: Sequence[Tensor],
    pairs: list[Pair],
    order: Sequence[np.ndarray],
    losses: Callable[[Any, Tensor], list[Tensor]],
) -> Tensor:
    """The bank's loop, in short: losses, gradient norms and what else `losses` gives, `[2 + more, STEPS, C]`; condition
    c sees `order[c]`."""
    optimiser = StackedOptimiser(weights, NUMBERS.learning_rate, NUMBERS.weight_decay, NUMBERS.clip)
    log = []
    for step in range(STEPS):
        which = torch.tensor(np.stack([rows[step] for rows in order]))
        batch = pair_pad([pairs[i] for i in which.flatten().tolist()], 0, CPU)
        loss, *more = (values.mean(dim=1) for values in losses(batch, which))
        loss.sum().backward()
        norms = optimiser.step(linear_schedule(step, STEPS, NUMBERS.warmup_steps))
        log.append(torch.stack([loss.detach(), norms, *(values.detach() for values in more)]))
    return torch.stack(log, dim=1)


def bank_dpo(setting: Setting, initial: Adapters, order: np.ndarray, betas: Sequence[float]) -> tuple[Adapters, Tensor]:
    """All β in one bank, from one initial adapter each, on the same order."""
    bank, adapters = setting.bank, initial[[0] * len(betas)].trainable()
    base_chosen, base_rejected = grid_pair_logprobs(bank, None, [setting.train], 0, 4096)[:, 0]
    beta = torch.tensor(betas)[:, None]

    def losses(batch: Any, which: Tensor) -> list[Tensor]:
        with bank.use(adapters):
            chosen, rejected = pair_logprobs(bank.model, batch).view(*which.shape, 2).unbind(-1)
        loss = dpo_loss(implicit_reward_margin(chosen, rejected, base_chosen[which], base_rejected[which], beta))
        return [loss, chosen - base_chosen[which], rejected - base_rejected[which]]

    log = train_bank(adapters.parameters(), setting.train, [order] * len(betas), losses)
    return adapters.frozen(), log


def bank_rewards(
    setting: Setting, initial: RewardEnsemble, order: Sequence[np.ndarray]
) -> tuple[RewardEnsemble, Tensor]:
    """All members in one bank, each on its own order."""
    trained = RewardEnsemble(initial.adapters.trainable(), initial.head.clone().requires_grad_(True))

    def losses(batch: Any, which: Tensor) -> list[Tensor]:
        return [bradley_terry_loss(*pair_scores(setting.bank, trained, batch, None).unbind(-1))]

    log = train_bank(trained.parameters(), setting.train, order, losses)
    return RewardEnsemble(trained.adapters.frozen(), trained.head.detach()), log


def curves(rows: list[dict[str, float]]) -> Tensor:
    """Losses and norms, and of DPO the log-ratios of chosen and rejected responses: `[2, STEPS]` or `[4, STEPS]`."""
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    names = [name for name in ("loss", "norm", "chosen_log_ratio", "rejected_log_ratio") if name in rows[0]]
    return torch.tensor([[row[name] for row in rows] for name in names])


def held_out(setting: Setting, adapters: Adapters | None) -> Tensor:
    """Log-probabilities of the held-out responses `[2, 1, 10]`."""
    return grid_pair_logprobs(setting.bank, adapters, [setting.held_out], 0, 4096)


def distance(theirs: Tensor, ours: Tensor, untrained: Tensor) -> float:
    """How far the engines end apart, as a share of the way they came."""
    return ((theirs - ours).norm() / (ours - untrained).norm()).item()


def check_dpo(setting: Setting, folder: Path, betas: Sequence[float], agreement: Agreement) -> None:
    order, initial = make_order(0), setting.bank.create([0])
    trained, log = bank_dpo(setting, initial, order, betas)
    untrained = held_out(setting, None)
    for c, beta in enumerate(betas):
        rows = train_policy(make_job(setting, order, initial=initial), beta, folder / str(c))
        torch.testing.assert_close(curves(rows), log[:, :, c], rtol=agreement.curve, atol=agreement.curve)
        imported, head = import_adapter(folder / str(c) / "adapter", setting.bank)
        assert head is None
        theirs, ours = held_out(setting, imported), held_out(setting, trained[c : c + 1])
        assert distance(theirs, ours, untrained) < agreement.distance


def check_rewards(setting: Setting, folder: Path, members: int, agreement: Agreement) -> None:
    order = [make_order(k) for k in range(members)]
    head = torch.randn(members, 64, generator=torch.Generator().manual_seed(0)) / 8
    initial = RewardEnsemble(setting.bank.create(range(members)), head)
    trained, log = bank_rewards(setting, initial, order)
    responses = [row for pair in setting.held_out for row in pair.rows()]

    def scores(ensemble: RewardEnsemble) -> Tensor:
        return score(setting.bank, ensemble, responses, 0, 4096).scores[0]

    for k in range(members):
        rows = train_reward(make_job(setting, order[k], seed=k), head[k], folder / str(k))
        torch.testing.assert_close(curves(rows), log[:, :, k], rtol=agreement.curve, atol=agreement.curve)
        imported, their_head = import_adapter(folder / str(k) / "adapter", setting.bank)
        assert their_head is not None
        theirs, ours = scores(RewardEnsemble(imported, their_head[None])), scores(trained[k : k + 1])
        assert distance(theirs, ours, scores(initial[k : k + 1])) < agreement.distance


@pytest.mark.thorough
def test_dpo_is_the_same_by_both_engines(full: Setting, tmp_path: Path) -> None:
    check_dpo(full, tmp_path, BETAS, EXACT)


def bank_method(setting: Setting, initial: Adapters, order: np.ndarray, of: ConditionLoss) -> tuple[Adapters, Tensor]:
    """One condition of any offline method, as the offline stage trains it."""
    bank, adapters = setting.bank, initial.trainable()
    given = grid_pair_logprobs(bank, None, [setting.train], 0, 4096)[:, 0]
    whole = BatchTerms([of], bank, adapters, 0, given) if BatchTerms.wanted([of]) else None
    sizes = torch.tensor([[len(p.chosen), len(p.rejected)] for p in setting.train], dtype=torch.float32)

    def losses(batch: Any, which: Tensor) -> list[Tensor]:
        grid = [[setting.train[i] for i in row] for row in which.tolist()]
        z = torch.zeros(1) if whole is None else whole.read(grid, which, 4096)["mismatch"]
        with bank.use(adapters):
            chosen, rejected = pair_logprobs(bank.model, batch).view(*which.shape, 2).unbind(-1)
        reference_chosen, reference_rejected = given[:, which]
        n_chosen, n_rejected = sizes[which].unbind(-1)
        seen = Pairs(chosen, rejected, reference_chosen, reference_rejected, n_chosen, n_rejected, z[:, None])
        loss = pair_losses([of], seen, torch.full((1, 1), of.strength))
        return [loss, chosen - reference_chosen, rejected - reference_rejected]

    log = train_bank(adapters.parameters(), setting.train, [order], losses)
    return adapters.frozen(), log


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name, entry in OBJECTIVES.items() if entry.trl])
def test_every_objective_of_trl_is_the_same_by_both_engines(full: Setting, tmp_path: Path, name: str) -> None:
    """With options other than the defaults; the whole batch at once, as KTO's z₀ is of the batch."""
    entry = OBJECTIVES[name]
    options = {option: 1.3 * number.default for option, number in entry.options.items()}
    of = ConditionLoss(Offline(objective=name, options=options), 0.3)
    order, initial = make_order(0), full.bank.create([0])
    trained, log = bank_method(full, initial, order, of)
    job = make_job(full, order, initial=initial, compute=Compute(tokens_per_forward=4096), loss_type=entry.trl or "")
    job = replace(job, loss_options={entry.options[option].trl: value for option, value in options.items()})
    rows = train_policy(job, 0.3, tmp_path)
    torch.testing.assert_close(curves(rows), log[:, :, 0], rtol=EXACT.curve, atol=EXACT.curve)
    theirs = held_out(full, import_adapter(tmp_path / "adapter", full.bank)[0])
    assert distance(theirs, held_out(full, trained), held_out(full, None)) < EXACT.distance
    if name == "kto":
        alone = replace(job, compute=Compute(tokens_per_forward=1))
        with pytest.raises(BetastarError, match="z₀ of objective kto from each micro-batch, and only one pair fits"):
            train_policy(alone, 0.3, tmp_path / "alone")


@pytest.mark.thorough
def test_reward_models_are_the_same_by_both_engines(full: Setting, tmp_path: Path) -> None:
    check_rewards(full, tmp_path, 2, EXACT)


@pytest.mark.parametrize(
    ("precision", "agreement"),
    [({"quantization": "nf4"}, EXACT), ({"dtype": "bfloat16"}, Agreement(0.1, 0.1))],
    ids=["nf4", "bfloat16"],
)
@pytest.mark.thorough
def test_low_precision(
    settings: Callable[..., Setting], precision: dict[str, str], agreement: Agreement, tmp_path: Path
) -> None:
    """A 4-bit base that computes in float32 agrees as well as one of 32 bits; bfloat16 rounds to three digits."""
    setting = settings(**precision)
    check_dpo(setting, tmp_path / "dpo", BETAS[1:2], agreement)
    check_rewards(setting, tmp_path / "rewards", 1, agreement)


@pytest.mark.thorough
def test_dropout_comes_from_the_seed_and_reaches_the_adapter_alone(full: Setting, tmp_path: Path) -> None:
    """The first loss is log 2 whatever is dropped, since the reference drops nothing and B is zero."""

    def norms(name: str, **changes: Any) -> list[float]:
        rows = train_policy(make_job(full, make_order(0)[:2], **changes), 0.5, tmp_path / name)
        assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
        return [row["norm"] for row in rows]

    state = torch.get_rng_state()
    once = norms("once", dropout=0.5, seed=1)
    assert norms("again", dropout=0.5, seed=1) == once
    assert norms("other", dropout=0.5, seed=2)[0] != pytest.approx(once[0], rel=0.01)
    assert norms("none")[0] != pytest.approx(once[0], rel=0.01)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.thorough
def test_finished_work_is_reused(full: Setting, tmp_path: Path) -> None:
    """Unless the job is another one, or what it left is damaged; on what it is computed does not matter."""
    trained: list[float] = []

    def train(job: Job, beta: float = 0.5) -> int:
        """Steps that were trained in this call."""
        before = len(trained)
        rows = train_policy(job, beta, tmp_path, lambda row: trained.append(row["loss"]))
        assert [row["loss"] for row in rows] == trained[-2:]
        return len(trained) - before

    job = make_job(full, make_order(0)[:2])
    assert train(job) == 2
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert train(replace(job, compute=Compute(tokens_per_forward=10_000, threads=1))) == 0
    assert train(job, beta=0.7) == 2
    assert train(replace(job, order=make_order(1)[:2]), beta=0.7) == 2
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert train(replace(job, order=make_order(1)[:2]), beta=0.7) == 2
    (tmp_path / "done.json").unlink()  # as if killed at the end
    assert train(replace(job, order=make_order(1)[:2]), beta=0.7) == 2


@pytest.mark.thorough
def test_where_memory_runs_out_it_begins_again_with_less_at_once(
    full: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from betastar.models.trl import worker as trl_worker

    make, at_once, most = trl_worker.make_trainer, [], 1

    def make_trainer(folder: Path, base: Base) -> Any:
        trainer = make(folder, base)
        at_once.append(trainer.args.per_device_train_batch_size)
        if at_once[-1] > most:
            step = trainer.training_step

            def fails_later(*args: Any, **kwargs: Any) -> Any:
                if trainer.state.global_step == 2:
                    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
                return step(*args, **kwargs)

            trainer.training_step = fails_later
        return trainer

    monkeypatch.setattr(trl_worker, "make_trainer", make_trainer)
    told: list[str] = []
    job = make_job(full, make_order(0), compute=Compute(tokens_per_forward=10_000), say=told.append)
    whole = curves(train_policy(job, 0.5, tmp_path / "shrinks"))
    assert at_once == [6, 3, 1]
    assert len(told) == 2
    most = 6
    torch.testing.assert_close(whole, curves(train_policy(job, 0.5, tmp_path / "fits")), rtol=1e-4, atol=1e-4)
    most = 0
    with pytest.raises(BetastarError, match=r"Out of memory in TRL with one pair .*; lower lengths\.prompt"):
        train_policy(job, 0.5, tmp_path / "never fits")


@pytest.mark.thorough
def test_a_launched_process_whose_memory_runs_out(full: Setting, tmp_path: Path) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_text(f"#!/bin/sh\nshift 2\necho again >> {tmp_path}/ran\nprintf '{FULL}' > $1/error.txt\nexit 1\n")
    launcher.chmod(0o755)
    compute = Compute(tokens_per_forward=160, launch=str(launcher))
    with pytest.raises(BetastarError, match="Out of memory in TRL with one pair"):
        train_policy(make_job(full, make_order(0), compute=compute), 0.5, tmp_path / "job")
    assert (tmp_path / "ran").read_text() == "again\nagain\n"  # with two pairs at once, and with one


@pytest.mark.thorough
def test_a_training_that_diverges_is_refused(full: Setting, tmp_path: Path) -> None:
    job = make_job(full, make_order(0)[:3], numbers=NUMBERS._replace(learning_rate=1e30))
    for _ in range(2):  # and not taken for finished the second time
        with pytest.raises(BetastarError, match=r"diverged at step 2 of 3 .*lower learning_rate or clip"):
            train_policy(job, 0.5, tmp_path)


def test_a_model_without_a_classifier_is_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    from betastar.models.trl.worker import classifier

    model = MambaForCausalLM(MambaConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, state_size=2))
    with pytest.raises(BetastarError, match="Transformers has none for mamba models; choose engine bank"):
        classifier(model)


def test_another_gpu_than_the_first_is_refused(full: Setting, tmp_path: Path) -> None:
    job = make_job(full, make_order(0), device=torch.device("cuda:1"))
    with pytest.raises(BetastarError, match="not cuda:1; set CUDA_VISIBLE_DEVICES=1 and device: cuda"):
        train_policy(job, 0.5, tmp_path)


def test_a_launch_that_fails_is_explained(full: Setting, tmp_path: Path) -> None:
    def train(launch: str) -> None:
        train_policy(make_job(full, make_order(0), compute=Compute(launch=launch)), 0.5, tmp_path)

    with pytest.raises(BetastarError, match=r"compute\.launch: there is no program 'no-such-launcher'"):
        train("no-such-launcher --num_processes 2")
    launcher = tmp_path / "launcher"
    launcher.write_text("#!/bin/sh\necho working\necho 'No GPU is visible.' >&2\nexit 3\n")
    launcher.chmod(0o755)
    with pytest.raises(BetastarError, match=r"failed \(No GPU is visible\); the output of .*launcher is in .*log.txt"):
        train(str(launcher))
    assert (tmp_path / "log.txt").read_text() == "working\nNo GPU is visible.\n"


@pytest.mark.slow
def test_two_processes_train_as_one(full: Setting, tmp_path: Path) -> None:
    """On CPUs `accelerate launch` starts one process unless MPI is there; torchrun is what it calls for GPUs."""
    launch = "torchrun --standalone --nproc_per_node 2"
    compute = Compute(tokens_per_forward=70, launch=launch, threads=1)  # one pair at a time in each process
    told: list[dict[str, float]] = []
    head = torch.linspace(-0.1, 0.1, 64)
    one, two = make_job(full, make_order(0)), make_job(full, make_order(0), compute=compute)
    alone = curves(train_policy(one, 0.5, tmp_path / "a"))
    torch.testing.assert_close(curves(train_policy(two, 0.5, tmp_path / "b", told.append)), alone, rtol=1e-4, atol=1e-4)
    alone = curves(train_reward(one, head, tmp_path / "c"))
    torch.testing.assert_close(curves(train_reward(two, head, tmp_path / "d")), alone, rtol=1e-4, atol=1e-4)
    assert [row["step"] for row in told] == list(range(1, STEPS + 1))
    with pytest.raises(BetastarError, match="a batch of 5 pairs cannot be divided evenly among 2 processes; change"):
        train_policy(make_job(full, make_order(0)[:, :5], compute=compute), 0.5, tmp_path / "uneven")
