"""Offline objectives: losses and gradients equal to TRL's on the same log-probabilities; the rest against finite
differences and worked values."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from betastar.maths import objectives
from betastar.maths.methods import KTO, OBJECTIVES, OWN, objective_named, table
from betastar.maths.objectives import Pairs, batch_beta, log1mexp

B = 6
STRENGTHS = {"ipo": 0.7, "orpo": 0.3, "simpo": 2.5}


def drawn(seed: int = 0) -> Pairs:
    """Log-probabilities of a batch of 1 × 6 pairs, with gradient where the policy's are."""
    rng = torch.Generator().manual_seed(seed)

    def some(scale: float) -> Tensor:
        return -scale * torch.rand(1, B, generator=rng, dtype=torch.float64)

    lengths = [torch.randint(3, 12, (1, B), generator=rng).double() for _ in range(2)]
    policy = [(some(1.5) * n).requires_grad_(True) for n in lengths]
    reference = [some(1.5) * n for n in lengths]
    everything: Any = [*policy, *reference, *lengths, torch.tensor([[0.0]], dtype=torch.float64)]
    return Pairs(*everything)


def ours(name: str, pairs: Pairs, strength: float, **options: float) -> Tensor:
    entry = OBJECTIVES[name]
    every = {option: spec.default for option, spec in entry.options.items()} | options
    return getattr(objectives, entry.loss)(pairs, torch.tensor([[strength]], dtype=torch.float64), **every)


def gradients(loss: Tensor, pairs: Pairs) -> list[Tensor]:
    return list(torch.autograd.grad(loss.mean(), [pairs.chosen, pairs.rejected], retain_graph=True))


def check(mine: Tensor, theirs: Tensor, pairs: Pairs) -> None:
    """Values and gradients by the policy's log-probabilities agree, and are not all the same number."""
    torch.testing.assert_close(mine.mean(), theirs.mean(), rtol=1e-6, atol=1e-8)
    for a, b in zip(gradients(mine, pairs), gradients(theirs, pairs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    assert all(g.std() > 0 for g in gradients(mine, pairs))


class Given(nn.Module):
    """A model whose log-probabilities are given: the tokens of responses share their response's evenly."""

    is_gradient_checkpointing = False

    def __init__(self, chosen: Tensor, rejected: Tensor, mask: Tensor):
        super().__init__()
        self.logprobs, self.mask = torch.cat([chosen[0], rejected[0]]), mask

    def forward(self, **_: Any) -> Any:
        share = self.mask[:, 1:].double()
        spread = self.logprobs[:, None] * share / share.sum(dim=1, keepdim=True)
        zeros = torch.zeros_like(spread)
        return SimpleNamespace(log_probs=spread, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def masks(pairs: Pairs) -> Tensor:
    """True at response tokens, after a prompt of two."""
    lengths = torch.cat([pairs.chosen_tokens[0], pairs.rejected_tokens[0]]).long()
    place = torch.arange(2 + int(lengths.max()))[None, :]
    return (place >= 2) & (place < 2 + lengths[:, None])


@pytest.fixture(scope="module")
def dpo_trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from datasets import Dataset
    from maths.test_objectives import PAIRS, tiny_model, trainer_settings
    from trl import DPOConfig, DPOTrainer

    from betastar.models.loading import quiet
    from betastar.models.random_models import build_byte_tokenizer

    quiet()
    return DPOTrainer(
        tiny_model(0),
        ref_model=tiny_model(1),
        args=DPOConfig(**trainer_settings(tmp_path_factory.mktemp("dpo"))),
        train_dataset=Dataset.from_dict(PAIRS),
        processing_class=build_byte_tokenizer(),
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strength", [0.05, 0.4, 2.0])
@pytest.mark.parametrize("name", [name for name, entry in OBJECTIVES.items() if entry.trl not in (None, KTO)])
def test_losses_that_dpo_trainer_has_are_its_own(dpo_trainer: Any, name: str, strength: float) -> None:
    """TRL's trainer with models that answer with given log-probabilities: everything from there on is TRL's."""
    pairs = drawn()
    mask = masks(pairs)
    dpo_trainer.beta, dpo_trainer.loss_types, dpo_trainer.label_smoothing = strength, [OBJECTIVES[name].trl], 0.1
    dpo_trainer.ref_model = Given(pairs.reference_chosen, pairs.reference_rejected, mask)
    batch = {
        "input_ids": torch.ones_like(mask, dtype=torch.long),
        "attention_mask": torch.ones_like(mask, dtype=torch.long),
        "completion_mask": mask.long(),
    }
    theirs = dpo_trainer._compute_loss(Given(pairs.chosen, pairs.rejected, mask), batch, False)
    check(ours(name, pairs, strength), theirs, pairs)


def trainer_without_model(kind: Any, **attributes: Any) -> Any:
    """A trainer of which only a loss function is called."""
    found = kind.__new__(kind)
    found.accelerator = SimpleNamespace(device=torch.device("cpu"))
    for name, value in attributes.items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize("beta", [0.3, 2.5, 10.0])
def test_simpo_is_trls(beta: float) -> None:
    from trl.experimental.cpo import CPOTrainer

    pairs = drawn()
    chosen, rejected = pairs.per_token
    trainer = trainer_without_model(
        CPOTrainer, alpha=0.0, loss_type="simpo", beta=beta, simpo_gamma=0.6 * beta, label_smoothing=0.0
    )
    theirs = trainer.cpo_loss(chosen, rejected)[0]
    check(ours("simpo", pairs, beta, gamma_over_beta=0.6), theirs, pairs)


@pytest.mark.parametrize("epsilon", [0.05, 0.3])
def test_cdpo_is_trls_smoothed_loss(epsilon: float) -> None:
    """DPOTrainer has it no more; CPOTrainer's is the same function, of log-ratios in place of log-probabilities."""
    from trl.experimental.cpo import CPOTrainer

    pairs = drawn()
    trainer = trainer_without_model(CPOTrainer, alpha=0.0, loss_type="sigmoid", beta=0.4, label_smoothing=epsilon)
    check(ours("cdpo", pairs, 0.4, epsilon=epsilon), trainer.cpo_loss(*pairs.log_ratios)[0], pairs)


def test_orpo_is_trls_but_for_the_prompt() -> None:
    """TRL's odds-ratio term, and for the likelihood the mean over the response's tokens alone."""
    from trl.experimental.orpo import ORPOTrainer

    pairs = drawn()
    chosen, rejected = (value.float() for value in pairs.per_token)  # TRL computes in single precision
    theirs = -chosen - trainer_without_model(ORPOTrainer, beta=0.3).odds_ratio_loss(chosen, rejected)[0]
    mine = ours("orpo", pairs, 0.3)
    torch.testing.assert_close(mine.float(), theirs, rtol=1e-5, atol=1e-6)
    for a, b in zip(gradients(mine, pairs), gradients(theirs, pairs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 0.5)])
@pytest.mark.parametrize("shift", [-4.0, 4.0])
def test_kto_is_trls(weights: tuple[float, float], shift: float) -> None:
    """TRL's batch holds the chosen examples, then the rejected ones; `shift` moves its z₀ above or below 0."""
    from trl import KTOTrainer

    pairs, other = drawn(), drawn(1)
    moved = torch.cat([other.chosen[0] - other.reference_chosen[0], other.rejected[0] - other.reference_rejected[0]])
    mismatched = moved.detach() - moved.mean().detach() + shift
    mask = masks(pairs)
    quiet: Any = SimpleNamespace(gather_for_metrics=lambda value: value, device=torch.device("cpu"))
    trainer = trainer_without_model(
        KTOTrainer,
        model=Given(pairs.chosen, pairs.rejected, mask).eval(),
        _total_train_tokens=0,
        calculate_KL=True,
        precompute_ref_logps=False,
        aux_loss_enabled=False,
        loss_type="kto",
        beta=0.4,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
    )
    from collections import defaultdict

    trainer.accelerator, trainer._metrics = quiet, defaultdict(lambda: defaultdict(list))
    policy = Given(pairs.chosen, pairs.rejected, mask)
    trainer.ref_model = Given(pairs.reference_chosen, pairs.reference_rejected, mask)
    trainer._compute_kl_logps = lambda model, batch: mismatched if model is policy else torch.zeros_like(mismatched)
    batch = {
        "input_ids": torch.ones_like(mask, dtype=torch.long),
        "attention_mask": torch.ones_like(mask, dtype=torch.long),
        "completion_mask": mask.long(),
        "label": torch.tensor([True] * B + [False] * B),
    }
    theirs = trainer._compute_loss(policy, batch, False)
    z = torch.tensor([[max(shift, 0.0)]], dtype=torch.float64)
    mine = ours("kto", pairs._replace(mismatch=z), 0.4, desirable=weights[0], undesirable=weights[1])
    check(mine / 2, theirs, pairs)  # a pair is two examples


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_the_slopes_of_the_losses(name: str) -> None:
    pairs = drawn(2)._replace(mismatch=torch.tensor([[0.7]], dtype=torch.float64))
    assert torch.autograd.gradcheck(
        lambda chosen, rejected: ours(name, pairs._replace(chosen=chosen, rejected=rejected), STRENGTHS.get(name, 0.4)),
        (pairs.chosen, pairs.rejected),
    )


def worked(**changes: float) -> Pairs:
    """One pair in round numbers: Δw = 1, Δl = −2; ȳw = −0.5, ȳl = −1."""
    values = {
        "chosen": -2.0,
        "rejected": -5.0,
        "reference_chosen": -3.0,
        "reference_rejected": -3.0,
        "chosen_tokens": 4.0,
        "rejected_tokens": 5.0,
        "mismatch": 0.5,
    } | changes
    return Pairs(*(torch.tensor([[value]], dtype=torch.float64) for value in values.values()))


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("dpo", 0.5, -log_sigmoid(0.5 * (1 + 2))),
        ("ipo", 0.5, (1 / 4 + 2 / 5 - 1) ** 2),
        ("cdpo", 0.5, -0.9 * log_sigmoid(1.5) - 0.1 * log_sigmoid(-1.5)),
        ("rdpo", 0.5, (-0.9 * log_sigmoid(1.5) + 0.1 * log_sigmoid(-1.5)) / 0.8),
        ("simpo", 2.0, -log_sigmoid(2 * (-0.5 + 1) - 2 * 0.5)),
        ("kto", 0.5, 1 - sigmoid(0.5 * (1 - 0.5)) + 1 - sigmoid(0.5 * (0.5 + 2))),
        # odds are p/(1 − p): e^−½/(1 − e^−½) = 1.5415 and e^−1/(1 − e^−1) = 0.58198; their ratio is 2.6487.
        ("orpo", 0.5, 0.5 - 0.5 * math.log(2.6487212707 / 3.6487212707)),
        # φ(e^Δ) = e^Δ + Δ: 2.71828 + 1 and 0.13534 − 2; the difference is 5.58294.
        ("chipo", 0.5, -log_sigmoid(0.5 * 5.5829465452)),
    ],
)
def test_worked_values(name: str, strength: float, expected: float) -> None:
    torch.testing.assert_close(float(ours(name, worked(), strength)), expected, rtol=1e-8, atol=0)


def test_chipo_is_clipped_at_twice_the_bound_and_never_overflows() -> None:
    pairs = worked(chosen=100.0)  # Δw = 103: e^103 is beyond single precision
    pairs = pairs._replace(chosen=pairs.chosen.float().requires_grad_(True))
    loss = ours("chipo", pairs, 0.5, bound=1.5)
    torch.testing.assert_close(float(loss), -log_sigmoid(3.0), rtol=1e-6, atol=0)
    (slope,) = torch.autograd.grad(loss.sum(), pairs.chosen)
    assert slope.item() == 0


def test_chipo_without_its_linear_part_would_not_be_dpo_but_with_small_ratios_it_is() -> None:
    """Near π_ref φ(e^Δ) ≈ 1 + 2Δ, so χPO at β is DPO at 2β there."""
    near = worked(chosen=-3 + 1e-5, rejected=-3 - 2e-5)
    torch.testing.assert_close(
        ours("chipo", near, 0.5) - math.log(2), ours("dpo", near, 1.0) - math.log(2), rtol=1e-4, atol=0
    )


def test_rdpo_is_unbiased_under_flipped_labels() -> None:
    """The expectation over labels of which ε are wrong is DPO's loss on the right ones: that is what it is for."""
    right = worked()
    wrong = right._replace(
        chosen=right.rejected,
        rejected=right.chosen,
        reference_chosen=right.reference_rejected,
        reference_rejected=right.reference_chosen,
    )
    mixed = 0.8 * ours("rdpo", right, 0.5, epsilon=0.2) + 0.2 * ours("rdpo", wrong, 0.5, epsilon=0.2)
    torch.testing.assert_close(mixed, ours("dpo", right, 0.5))


def test_log1mexp_is_accurate_at_both_ends() -> None:
    x = torch.tensor([-1e-12, -1e-6, -0.5, -0.7, -40.0], dtype=torch.float64, requires_grad=True)
    expected = torch.tensor(
        [math.log(-math.expm1(v)) if v > -0.6 else math.log1p(-math.exp(v)) for v in x.tolist()], dtype=torch.float64
    )
    torch.testing.assert_close(log1mexp(x).detach(), expected, rtol=1e-10, atol=0)
    ends = torch.tensor([0.0, -1e3], requires_grad=True)
    (slope,) = torch.autograd.grad(log1mexp(ends).sum(), ends)
    assert torch.isfinite(slope).all()


def test_beta_of_a_batch_follows_its_gap() -> None:
    beta, gap = torch.tensor([0.1, 0.1, 0.1]), torch.tensor([2.0, 1.0, -30.0])
    torch.testing.assert_close(batch_beta(beta, gap, torch.ones(3), 0.6), torch.tensor([0.16, 0.1, 1e-3]))


def test_every_entry_is_whole() -> None:
    for name, entry in OBJECTIVES.items():
        assert entry.loss == name
        assert callable(getattr(objectives, name))
        assert entry.formula
        assert entry.source
        for option in entry.options.values():
            assert option.low <= option.default < option.high
    assert objective_named("mine.py:loss") is OWN


def test_conditions_are_kept_apart() -> None:
    """A batch of two conditions has the losses of two batches of one."""
    both = [drawn(seed) for seed in (0, 1)]
    stacked = Pairs(*(torch.cat(parts) for parts in zip(*both, strict=True)))
    for name, entry in OBJECTIVES.items():
        options = {option: spec.default for option, spec in entry.options.items()}
        strengths = torch.tensor([[0.3], [1.1]], dtype=torch.float64)
        together = getattr(objectives, name)(stacked, strengths, **options)
        alone = [ours(name, pairs, float(s)) for pairs, s in zip(both, strengths, strict=True)]
        torch.testing.assert_close(together, torch.cat(alone))


PAGE = Path(__file__).resolve().parents[2] / "docs" / "objectives.md"


def test_the_page_has_the_table_and_an_example_that_works(tmp_path: Path) -> None:
    from betastar.experiment.objective import loss_named

    page = PAGE.read_text()
    assert f"methods.py) -->\n{table()}\n<!-- objectives: end -->" in page
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "hinge.py").write_text(code)
    pairs = worked()
    pairs = pairs._replace(chosen=pairs.chosen.requires_grad_(True))
    loss = loss_named(f"{tmp_path / 'hinge.py'}:hinge")(pairs, torch.tensor([[0.1]]), margin=2.0)
    assert loss.item() == pytest.approx(2 - 0.1 * 3)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    from betastar.errors import BetastarError
    from betastar.experiment.objective import loss_named

    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\n"
        "def hinge(pairs, strength, margin=1.0):\n"
        "    chosen, rejected = pairs.log_ratios\n"
        "    return torch.relu(margin - strength * (chosen - rejected))\n"
        "def shape(pairs, strength): return pairs.chosen.mean()\n"
        "def flat(pairs, strength): return pairs.reference_chosen\n"
        "def fails(pairs, strength): raise KeyError('a')\n"
    )
    pairs = worked()
    pairs = pairs._replace(chosen=pairs.chosen.requires_grad_(True))
    strength = torch.tensor([[0.1]])
    assert float(loss_named(f"{path}:hinge")(pairs, strength, margin=2.0)) == pytest.approx(2 - 0.3)
    for name, problem in {
        "shape": r"returned a tensor of shape \[\]; return one loss per pair, a tensor of shape \[1, 1\]",
        "flat": r"returned losses without a gradient; compute them from pairs\.chosen",
        "fails": r"raised KeyError \(line 7\): 'a'; correct it\.$",
        "gone": r"has no function gone; correct offline\.objective\.$",
    }.items():
        with pytest.raises(BetastarError, match=problem):
            loss_named(f"{path}:{name}")(pairs, strength)
