"""Every finding of docs/errata.md, shown with numbers: `pytest tests/test_errata.py -k E3_` runs those of E3."""

from __future__ import annotations

import math
from itertools import permutations, product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from analysis.test_results import point
from scipy import stats

from betastar.analysis.chain import CLAIMS
from betastar.analysis.conditions import condition_records
from betastar.analysis.results import build_results
from betastar.data.tasks import Problem
from betastar.experiment.evaluation import held_out
from betastar.experiment.stages.online import _prompts_of_step
from betastar.maths.appendix_c import batch_size, learning_rate, lora_dropout, lora_rank
from betastar.maths.conservatism import definition_beta_star
from betastar.maths.constants import EPSILON
from betastar.maths.distributions import (
    cosine_distance_to,
    ensemble_score,
    entropy,
    gibbs_entropy_slope,
    mean_pairwise_cosine_distance,
)
from betastar.maths.goodhart import area_under_positive_gap, paper_gap, share_positive, standardised_gap
from betastar.maths.grid import log_ratio_magnitude, percentile_grid
from betastar.maths.objectives import (
    advantage,
    bradley_terry_loss,
    dpo_loss,
    implicit_reward_margin,
    kl_coefficient,
    online_loss,
)
from betastar.maths.power_law import (
    TOLERATED_DAMAGE,
    PowerLaws,
    Reference,
    first_above,
    fit_power_law,
    fit_power_laws,
)
from betastar.maths.statistics import spearman_exact
from betastar.models.bank import AdapterBank, Adapters
from betastar.models.logprobs import backbone, grid_logprobs, lm_head, prompt_entropy, token_statistics
from betastar.models.random_models import build_model
from betastar.models.sequences import Row
from betastar.settings.config import load_config, preset_names
from betastar.settings.sections import Geometry

# arXiv:2606.30627 Table 1
BETA = np.array([0.310, 1.000, 2.379])
AUGC = np.array([31.1, 43.0, 145.8])


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- E1: entropy and β ------------------------------------------------------------------------------------------------

# The reward favours what the reference finds unlikely.
REFERENCE, REWARD = doubles(0.7, 0.2, 0.1).log(), doubles(0, 1, 2)


def gibbs(beta: float, log_reference: torch.Tensor = REFERENCE) -> torch.Tensor:
    """log π ∝ log π_ref + r/β (Eq. A.2)."""
    return (log_reference + REWARD / beta).log_softmax(0)


def slope(beta: float, log_reference: torch.Tensor = REFERENCE) -> float:
    return gibbs_entropy_slope(log_reference, REWARD, doubles(beta)[0]).item()


@pytest.mark.parametrize(("beta", "sign"), [(0.3, 1), (3.0, -1)])
def test_E1_entropy_rises_or_falls_with_beta(beta: float, sign: int) -> None:
    """Against the difference quotient of the entropy itself: neither Prop. 5.1 (never up) nor Eq. A.4 (never down)."""
    h = 1e-4
    quotient = (entropy(gibbs(beta + h)) - entropy(gibbs(beta - h))).item() / (2 * h)
    assert slope(beta) == pytest.approx(quotient, rel=1e-5)
    assert np.sign(quotient) == sign


def test_E1_the_printed_derivative_lacks_a_power_of_beta_and_the_reference() -> None:
    uniform = torch.full((3,), -math.log(3), dtype=torch.float64)
    p = gibbs(2.0, uniform).exp()
    variance = (p * REWARD**2).sum() - (p * REWARD).sum() ** 2
    assert slope(2.0, uniform) == pytest.approx((variance / 8).item())  # Var/β³; Eq. A.4 prints Var/β², twice that
    # Eq. A.3 prints log Z − E[r]/β, which lacks −E[log π_ref] and gives −0.07 nats here, where H = 1.01.
    p, log_z = gibbs(2.0).exp(), (REFERENCE + REWARD / 2).logsumexp(0)
    printed = log_z - (p * REWARD).sum() / 2
    missing = -(p * REFERENCE).sum()
    assert (printed + missing).item() == pytest.approx(entropy(gibbs(2.0)).item())
    assert printed.item() == pytest.approx(-0.07, abs=0.005)  # and no entropy is negative


# --- E2: what a negative gap means ------------------------------------------------------------------------------------


def test_E2_a_negative_gap_is_a_proxy_that_grew_less_than_the_truth() -> None:
    """The proxy stays at 1, accuracy goes from 0.5 to 0.75: 1/1 − 0.75/0.5 = −0.5, and nothing is overestimated."""
    assert paper_gap([1.0, 1.0], [0.5, 0.75])[1] == pytest.approx(-0.5, abs=1e-6)
    # The proxy doubles while accuracy halves, which is hacking: 2 − 0.5.
    assert paper_gap([1.0, 2.0], [0.5, 0.25])[1] == pytest.approx(1.5, abs=1e-6)


# --- E3: division by the reward at the start --------------------------------------------------------------------------


def test_E3_no_right_answer_at_the_start_gives_millions() -> None:
    """0.36 / 2⁻²³ = 3 019 899. One right answer of 200 at the start, and the same curve gives 0.36 / 0.005 = 72."""
    none, one = (paper_gap([1.0, 1.0], [start, 0.36])[1] for start in (0.0, 1 / 200))
    assert none == pytest.approx(1 - 0.36 / EPSILON, rel=1e-6)
    assert none < -3e6
    assert one == pytest.approx(1 - 72, rel=1e-4)
    # Standardised: 0.36 / √(1·201)·202 = 5.13 and (0.36 − 0.005) / √(2·200)·202 = 3.59.
    ours = [standardised_gap([1.0, 1.0], [n / 200, 0.36], 1.0, n, 200).gap[1] for n in (0, 1)]
    assert ours == pytest.approx([-5.13, -3.59], abs=0.005)


def test_E3_the_papers_form_depends_on_an_arbitrary_constant() -> None:
    """Proxy 0.1 → 1.1: 11 times the start. With 10 added to every score, 10.1 → 11.1: a tenth more."""
    proxy, true = np.array([0.1, 1.1]), [0.5, 0.5]
    assert paper_gap(proxy, true)[1] == pytest.approx(10, rel=1e-5)
    assert paper_gap(proxy + 10, true)[1] == pytest.approx(1 / 10.1, rel=1e-5)
    ours = [standardised_gap(rewards, true, 0.5, 50, 100).gap[1] for rewards in (proxy, proxy + 10)]
    assert ours == pytest.approx([2, 2])  # 1.0 / 0.5


def test_E3_the_record_says_so() -> None:
    rows = pd.DataFrame([point("paper", 1.0, 0, step, 4.0, correct) for step, correct in ((0, 0), (2, 3))])
    (condition,) = condition_records(rows, {}).conditions
    assert condition["start_near_zero"]["true_strict"]
    assert np.isnan(condition["series"]["gap_paper"]).all()  # it would be −0.3/ε
    assert "divides by the start" in condition["missing"]["gap_paper"]
    assert any("paper-form gap is unreliable" in text for text in build_results(rows, {}, {})["warnings"])


# --- E4: the p-value of three points ----------------------------------------------------------------------------------


def test_E4_three_points_in_order_have_p_one_in_six_or_one_in_three() -> None:
    """Counted here over all 3! orders, beside the project's own p."""
    orders = list(permutations(AUGC))
    rho = [np.corrcoef(stats.rankdata(BETA), stats.rankdata(order))[0, 1] for order in orders]
    found = spearman_exact(BETA, AUGC)
    assert found.rho == 1
    assert found.p_greater == pytest.approx(sum(r > 0.999 for r in rho) / 6) == pytest.approx(1 / 6)
    assert found.p_two_sided == pytest.approx(sum(abs(r) > 0.999 for r in rho) / 6) == pytest.approx(1 / 3)


def test_E4_four_beta_are_the_least_one_sided_and_five_two_sided() -> None:
    best = {n: spearman_exact(range(n), range(n)) for n in (3, 4, 5)}
    assert [n for n, found in best.items() if found.p_greater < 0.05] == [4, 5]
    assert [n for n, found in best.items() if found.p_two_sided < 0.05] == [5]


def test_E4_the_printed_zero_is_what_the_t_approximation_gives() -> None:
    """ρ = 1 makes t infinite, whatever the number of points."""
    _, p = np.asarray(stats.spearmanr(BETA, AUGC))
    assert p == 0


# --- E5: two readings of Eq. 15 ---------------------------------------------------------------------------------------


def beta_star(laws: PowerLaws, beta: np.ndarray, reference: Reference) -> float:
    return float(first_above(laws, beta, reference)[0])


def test_E5_the_two_readings_of_table_1() -> None:
    laws = fit_power_law(BETA, AUGC).as_laws()
    assert beta_star(laws, BETA, "beta_min") == pytest.approx(1.105, abs=5e-4)
    assert beta_star(laws, BETA, "grid") == pytest.approx(1.081, abs=5e-4)


def test_E5_the_printed_value_is_the_second_reading() -> None:
    """β and AUGC are printed rounded. Over all corners of their rounding, only the threshold at the minimum of the grid
    of Appendix E reaches the printed 1.082; that of Eq. 15 does not."""
    found: dict[Reference, list[float]] = {"beta_min": [], "grid": []}
    for signs in product((-1, 1), repeat=5):
        beta = BETA + 0.0005 * np.array([signs[0], 0, signs[1]])  # the middle β is 1 by construction
        laws = fit_power_laws(beta, (AUGC + 0.05 * np.array(signs[2:]))[None])
        for reference, values in found.items():
            values.append(beta_star(laws, beta, reference))
    assert 1.104 < min(found["beta_min"]) < max(found["beta_min"]) < 1.111
    assert 1.076 < min(found["grid"]) < 1.082 < max(found["grid"]) < 1.087


# --- E6: the penalty of Eq. 10 ----------------------------------------------------------------------------------------

# Advantages of a batch of normally distributed rewards, without sampling noise.
ADVANTAGES = advantage(torch.tensor(stats.norm.ppf((np.arange(4000) + 0.5) / 4000))[None])


def penalty(log_ratio: torch.Tensor, beta: float) -> float:
    """κ·mean(d²) of Eq. 8 and 10."""
    kappa = kl_coefficient(log_ratio, doubles(beta), 75)
    return online_loss(log_ratio, torch.zeros_like(log_ratio), torch.zeros_like(log_ratio), kappa).item()


def pull(size: float, beta: float | None, percentile: float = 75) -> float:
    """∂L/∂s at s = `size` of a policy that has moved along the advantage, d = s·Â; without β, κ is 0.003."""
    s = doubles(size).requires_grad_(True)
    moved = s * ADVANTAGES
    coefficient = doubles(0.003) if beta is None else kl_coefficient(moved.detach(), doubles(beta), percentile)
    online_loss(moved, torch.zeros_like(moved), ADVANTAGES, coefficient).sum().backward()
    assert s.grad is not None
    return s.grad.item()


def test_E6_the_penalty_is_proportional_to_beta_and_to_the_size_of_d() -> None:
    """Ten times nearer to the reference: a tenth of the penalty, not a hundredth. Q₇₅(|d|) of a standard normal d is
    1.150, so κ·mean(d²) = β/1.150."""
    whole = penalty(ADVANTAGES, 1.0)
    assert whole == pytest.approx(1 / stats.norm.ppf(0.875), rel=1e-3)
    assert penalty(ADVANTAGES / 10, 1.0) == pytest.approx(whole / 10, rel=1e-5)
    assert penalty(ADVANTAGES, 3.0) == pytest.approx(3 * whole, rel=1e-6)


@pytest.mark.parametrize("size", [0.01, 0.1, 1.0])
def test_E6_its_pull_does_not_vanish_near_the_reference(size: float) -> None:
    """Along the advantage the reward pulls with −1 and the penalty with 2β/Q₇₅, at every distance: balanced at
    β = 1.150/2 = 0.575, and above that the way back wins however near the reference is. With a fixed κ the penalty
    pulls with 2κs, which does vanish."""
    critical = float(stats.norm.ppf(0.875)) / 2
    assert pull(size, critical) == pytest.approx(0, abs=2e-3)
    assert pull(size, 0.310) == pytest.approx(-1 + 0.310 / critical, abs=2e-3)
    assert pull(size, 1.000) == pytest.approx(-1 + 1.000 / critical, abs=2e-3)
    assert pull(size, None) == pytest.approx(-1 + 2 * 0.003 * size, abs=1e-5)


@pytest.mark.parametrize("percentile", [50, 75, 95])
def test_E6_the_papers_low_beta_is_free_and_its_others_are_held(percentile: float) -> None:
    """β = 0.310, 1.000, 2.379 of Table 1, at every percentile that the paper, which names none, may have used."""
    low, middle, high = (pull(0.1, beta, percentile) for beta in BETA)
    assert low < 0 < middle < high


def test_E6_every_preset_but_the_papers_own_tells_the_two_apart() -> None:
    for name in preset_names():
        config = load_config(name)
        couplings = {config.variant(variant).kl.coupling for variant in config.variants}
        assert ("fixed" in couplings) == (name != "paper"), name


def adapted(betas: list[float], kappa: float | None = None) -> list[float]:
    """KL to the start, in nats, of one policy over 8 answers after 100 steps of Eq. 8-10, once for each β. All start
    from the same checkpoint and share every draw: what differs is the penalty alone."""
    generator, beta = torch.Generator().manual_seed(0), torch.tensor(betas)
    start = torch.randn(8, generator=generator).log_softmax(0)
    rewards = torch.linspace(-1, 1, 8)[torch.randperm(8, generator=generator)]
    logits = start.repeat(len(betas), 1).requires_grad_(True)
    adam = torch.optim.Adam([logits], lr=0.05)
    for _ in range(100):
        logprobs = logits.log_softmax(-1)
        uniform = torch.rand(64, generator=generator).repeat(len(betas), 1)
        answers = torch.searchsorted(logprobs.detach().exp().cumsum(-1), uniform).clamp(max=7)
        logprob, reference = logprobs.gather(1, answers), start[answers]
        coefficient = kl_coefficient(logprob - reference, beta, 75) if kappa is None else torch.full_like(beta, kappa)
        adam.zero_grad()
        online_loss(logprob, reference, advantage(rewards[answers]), coefficient).sum().backward()
        adam.step()
    logprobs = logits.detach().log_softmax(-1)
    return (logprobs.exp() * (logprobs - start)).sum(-1).tolist()


def test_E6_the_coupling_alone_decides_who_moves() -> None:
    """From one and the same checkpoint, so nothing here is the offline phase's."""
    low, below, above, high = adapted([0.1, 0.310, 1.0, 2.379])
    assert min(low, below) > 3
    assert max(above, high) < 1e-3
    assert len(set(adapted([0.1, 0.310, 1.0, 2.379], kappa=0.003))) == 1


def log_ratios(dtype: torch.dtype, sizes: list[float]) -> dict[float, torch.Tensor]:
    """d of 8 responses of 150 tokens under a random eight-layer model whose adapter has moved by each of `sizes`; the
    policy reads them in one batch, the reference one by one."""
    shape: Any = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8}
    heads: Any = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape, **heads))
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.2)
    bank = AdapterBank(model.eval().to(dtype), ["q_proj", "v_proj"], rank=4, alpha=8)
    start, generator = bank.create([0]), torch.Generator().manual_seed(1)
    direction = {name: torch.randn(b.shape, generator=generator) for name, b in start.b.items()}
    tokens = torch.randint(3, 256, (8, 160), generator=generator).tolist()
    rows = [Row(tuple(row[:10]), tuple(row[10:])) for row in tokens]
    reference = torch.cat([grid_logprobs(bank, start, [[row]], 0, 10**6) for row in rows], dim=1)
    found = {}
    for size in sizes:
        moved = Adapters(start.a, {name: size * towards for name, towards in direction.items()}, start.scale)
        found[size] = (grid_logprobs(bank, moved, [rows], 0, 10**6) - reference)[0]
    return found


def test_E6_in_bfloat16_the_percentile_has_a_floor() -> None:
    """A tenth of the way is a tenth of |d| in float32. In bfloat16 |d| stays where rounding puts it, at a few tenths of
    a nat, so κ stays finite, and what it weighs is noise, over 50 times the true log-ratio at the smallest move."""
    exact, rounded = (log_ratios(dtype, [1e-2, 1e-4, 1e-5]) for dtype in (torch.float32, torch.bfloat16))
    q, floor = ({size: float(d.abs().quantile(0.75)) for size, d in of.items()} for of in (exact, rounded))
    assert q[1e-2] / q[1e-4] == pytest.approx(100, rel=0.2)
    assert q[1e-4] / q[1e-5] == pytest.approx(10, rel=0.1)
    assert 0.5 < floor[1e-4] / floor[1e-5] < 2
    assert 0.1 < floor[1e-5] < 1
    assert floor[1e-5] > 100 * q[1e-5]
    off = {size: float((rounded[size] - exact[size]).norm() / exact[size].norm()) for size in exact}
    assert off[1e-2] < 1
    assert off[1e-5] > 50
    # Below three times such noise, κ is 0 here.
    noise = rounded[1e-5].square().mean().sqrt()
    kappa = kl_coefficient(torch.stack([rounded[1e-5], rounded[1e-2]]), doubles(1, 1), 75, noise)
    assert kappa[0] == 0 < kappa[1]


# --- E7: a negative gap with a large area -----------------------------------------------------------------------------


def test_E7_a_gap_that_is_negative_nearly_throughout_has_a_positive_area() -> None:
    """No right answer at the first two of nine points, then 0.36. There the gap is 1, later −3×10⁶, and the area is
    (1 + 1)/2·5 + (1 + 0)/2·5 = 7.5: made by the two points alone, blind to the size of the rest."""
    steps, accuracy = 5 * np.arange(9), np.array([0, 0, 0.36, 0.36, 0.36, 0.36, 0.36, 0.36, 0.36])
    gap = paper_gap(np.ones(9), accuracy)
    assert share_positive(gap) == pytest.approx(2 / 9)
    assert gap.mean() < -2e6
    assert area_under_positive_gap(steps, gap) == pytest.approx(7.5, rel=1e-6)
    assert area_under_positive_gap(steps, paper_gap(np.ones(9), 2 * accuracy)) == pytest.approx(7.5, rel=1e-6)
    # "Negative throughout" would be an area of 0.
    assert area_under_positive_gap(steps, np.minimum(gap, -0.1)) == 0


# --- E8: adapted on what is evaluated ---------------------------------------------------------------------------------


def test_E8_prompts_of_the_test_part_are_the_evaluated_ones() -> None:
    """GSM8K's test part has 1 319 problems. 200 steps of 8 prompts pass over all of them, so every evaluated problem
    has been adapted on; 200 steps of 4 prompts, over 800, about 61 %. Eq. B.3 gives these for sequences of 512 and 768
    tokens on the paper's 80 GB and Qwen3-14B."""
    assert [batch_size(80, 14_768_307_200, tokens).value for tokens in (512, 768)] == [8, 4]
    config = load_config("paper")
    assert (config.online.prompt_split, config.online.steps) == ("test", 200)
    test: Any = [Problem(i, f"{i}?", "#### 0") for i in range(1319)]
    ctx: Any = SimpleNamespace(config=config)
    evaluated = {problem.problem_id for problem in held_out(ctx, test)}
    shares = {}
    for size in (4, 8):
        bank: Any = SimpleNamespace(prompts=test, numbers=SimpleNamespace(batch_size=size))
        steps = range(1, config.online.steps + 1)
        seen = {i for step in steps for i in _prompts_of_step(ctx, bank, config.online, 0, step)}
        shares[size] = len(evaluated & seen) / len(evaluated)
    assert shares[8] == 1
    assert shares[4] == pytest.approx(800 / 1319, abs=0.1)


def test_E8_only_the_papers_own_preset_does_that_and_its_report_says_so() -> None:
    assert [name for name in preset_names() if load_config(name).online.prompt_split == "test"] == ["paper"]
    rows = [point("paper", 1.0, 0, step, 4.0, 5) for step in (0, 2)]
    said = {split: build_results(rows, {}, {"prompt_split": split})["warnings"] for split in ("train", "test")}
    assert any("not held out" in text for text in said["test"])
    assert not any("not held out" in text for text in said["train"])


# --- E9: out of distribution, or closer -------------------------------------------------------------------------------


def test_E9_the_papers_text_and_its_numbers_have_opposite_signs() -> None:
    """Figure 6: distance 0.175 at the lowest β, 0.163 at the highest, ρ = −1; the middle value is not printed."""
    (claim,) = (claim for claim in CLAIMS if (claim.cause, claim.effect) == ("β", "OOD distance"))
    measured = spearman_exact(BETA, [0.175, 0.169, 0.163])
    assert measured.rho == claim.paper_measured == -1
    assert claim.stated == +1
    assert measured.p_two_sided == pytest.approx(1 / 3)  # and three points decide neither


def test_E9_low_diversity_may_be_near_or_far() -> None:
    """Responses close to each other, around the centroid or at right angles to it: as narrow, near or far."""
    noise = 0.1 * torch.randn(50, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centroid, aside = torch.eye(20, dtype=torch.float64)[:2]
    near, far = centroid + noise, aside + noise
    diversity = [mean_pairwise_cosine_distance(rows).item() for rows in (near, far)]
    assert diversity == pytest.approx([0.16, 0.16], abs=0.02)
    assert cosine_distance_to(centroid, near).mean().item() < 0.12
    assert cosine_distance_to(centroid, far).mean().item() > 0.9


# --- E10: the dropout that data do not set ----------------------------------------------------------------------------


def test_E10_the_dropout_is_the_same_for_every_usual_data_set() -> None:
    """32/√n > 0.10 up to n = 102 399; UltraFeedback's 61 135 pairs leave 48 908 to train on, where it is 0.145."""
    sizes = [100, 10_000, round(0.8 * 61_135), 102_399]
    assert {lora_dropout(n).value for n in sizes} == {0.10}
    assert {lora_dropout(n).clipped for n in sizes} == {"high"}
    assert lora_dropout(48_908).raw == pytest.approx(0.1447, abs=5e-5)
    assert lora_dropout(102_400).clipped is None
    assert lora_dropout(409_600).value == pytest.approx(0.05)


# --- E11: rounding at .5 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden", "half_up", "half_to_even", "half_down"),
    [
        (512, 32, 16, 16),  # log2 √512 = 4.5
        (2048, 64, 64, 32),  # 5.5: the hidden size of the paper's reward models
        (5120, 64, 64, 64),  # 6.16: that of its policy, where rounding is defined
    ],
)
def test_E11_half_rounds_up(hidden: int, half_up: int, half_to_even: int, half_down: int) -> None:
    exponent = math.log2(math.sqrt(hidden))
    assert lora_rank(hidden).value == half_up
    assert 2 ** round(exponent) == half_to_even  # as Python and IEEE 754 round
    assert 2 ** math.ceil(exponent - 0.5) == half_down


# --- E12: the constants in û ------------------------------------------------------------------------------------------


def members(seed: int = 0) -> torch.Tensor:
    """Scores [3, 200] of three reward models that agree but for a little noise."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(200, generator=generator, dtype=torch.float64)
    return shared + 0.3 * torch.randn(3, 200, generator=generator, dtype=torch.float64)


def disagreement(scores: torch.Tensor, validation: torch.Tensor) -> tuple[float, float]:
    """Mean û of Eq. 13, and after subtracting each member's mean on validation pairs, as an evaluation does."""
    offset = validation.mean(dim=1)
    raw, centred = (ensemble_score(s).disagreement.mean().item() for s in (scores, scores - offset[:, None]))
    return raw, centred


def test_E12_a_constant_changes_raw_disagreement_and_nothing_that_training_sees() -> None:
    """−2, 0 and 2 added to the members' scores: their own standard deviation is 2."""
    scores, validation, constants = members(0), members(1), doubles(-2, 0, 2)[:, None]
    chosen, rejected = scores[:, :100], scores[:, 100:]
    torch.testing.assert_close(
        bradley_terry_loss(chosen + constants, rejected + constants), bradley_terry_loss(chosen, rejected)
    )
    before, after = (advantage(ensemble_score(s).mean) for s in (scores, scores + constants))
    torch.testing.assert_close(after, before)
    raw, centred = disagreement(scores, validation)
    raw_moved, centred_moved = disagreement(scores + constants, validation + constants)
    assert raw == pytest.approx(0.26, abs=0.02)
    assert raw_moved == pytest.approx(2.0, abs=0.05)
    assert centred_moved == pytest.approx(centred) == pytest.approx(raw, abs=0.02)


def test_E12_raw_disagreement_can_fall_while_the_members_part() -> None:
    """Constants −1, 0, 1. Where the members agree, raw û = 1 and centred 0; where they part by 0.5, 0, −0.5, raw
    −0.5, 0, 0.5 gives 0.5, and centred 0.5."""
    constants = doubles(-1, 0, 1)[:, None]
    validation = constants + torch.zeros(3, 4, dtype=torch.float64)
    agreeing, parted = constants + 0.0, constants + doubles(0.5, 0, -0.5)[:, None]
    assert disagreement(agreeing, validation) == pytest.approx((1, 0), abs=1e-12)
    assert disagreement(parted, validation) == pytest.approx((0.5, 0.5))


# --- E13: a start near zero hides damage ------------------------------------------------------------------------------

# 21 evaluation points over 200 steps; the proxy goes from 1 to 3 in a straight line.
STEPS = np.arange(0, 201, 10)
RISING = 1 + STEPS / 100


def accuracy(start: float, later: float | np.ndarray) -> np.ndarray:
    """[21]: `start` at the first point, `later` at the others."""
    return np.concatenate([[start], np.broadcast_to(later, 20)])


def areas(start: float, later: float | np.ndarray) -> tuple[float, float]:
    """AUGC with the accuracies of 200 problems: in the paper's form and in the standardised one, at s_proxy = 1."""
    true = accuracy(start, later)
    standardised = standardised_gap(RISING, true, 1.0, round(200 * start), 200).gap
    return area_under_positive_gap(STEPS, paper_gap(RISING, true)), area_under_positive_gap(STEPS, standardised)


def test_E13_the_nearer_to_zero_a_start_the_less_the_same_proxy_weighs() -> None:
    """Accuracy 0.36 from the second point on. From 0.36 the gap rises from 0 to 2: 200. From 1/200 it is 0, then 1.1 −
    72 and so on: 0. From 0 it is 1, then −3×10⁶: the first interval's triangle, (1 + 0)/2·10 = 5."""
    found = [areas(start, 0.36)[0] for start in (0.36, 1 / 200, 0.0)]
    assert found == pytest.approx([200, 0, 5], abs=1e-3)


def test_E13_a_fall_after_a_start_near_zero_is_not_seen() -> None:
    """Accuracy 0.36 up to step 100 and 0.05 after it, six sevenths lost: as little AUGC as without the fall. The gap
    in standard deviations has 261, 102 and 77."""
    falling = np.where(STEPS[1:] <= 100, 0.36, 0.05)
    found = np.array([areas(start, falling) for start in (0.36, 1 / 200, 0.0)])
    assert found[:, 0] == pytest.approx([282, 0, 5], abs=0.5)
    assert found[:, 1] == pytest.approx([261, 102, 77], abs=0.5)


def test_E13_that_orders_three_equal_conditions_as_the_paper_does() -> None:
    """Low β starts without a right answer, which its swings to −0.36/ε = −3×10⁶ need, the others at 0.36: proxies and
    later accuracies are the same, and the low β has the least AUGC, not the most."""
    low, middle, high = (areas(start, 0.36)[0] for start in (0.0, 0.36, 0.36))
    assert paper_gap(RISING, accuracy(0.0, 0.36)).min() == pytest.approx(-3.0e6, rel=0.01)
    assert low < middle == high


# --- E14: a proxy that starts below zero ------------------------------------------------------------------------------


def test_E14_the_gap_at_the_start_depends_on_signs() -> None:
    """G(0) is sign(proxy₀) − 1 where the accuracy is above 0, and sign(proxy₀) where it is 0."""
    starts = {(p, t): paper_gap([p], [t])[0] for p in (1.0, -1.0) for t in (0.36, 0.0)}
    expected = {(1.0, 0.36): 0, (-1.0, 0.36): -2, (1.0, 0.0): 1, (-1.0, 0.0): -1}
    assert starts == pytest.approx(expected, abs=1e-6)


def test_E14_the_same_rise_has_an_area_of_200_or_of_none() -> None:
    """At a constant accuracy the proxy rises by 2 in 200 steps: from 1 the gap goes from 0 to 2, from −1 from −2 to
    0. In standard deviations both go from 0 to 2."""
    true = accuracy(0.36, 0.36)
    proxies = RISING, RISING - 2
    paper = [area_under_positive_gap(STEPS, paper_gap(proxy, true)) for proxy in proxies]
    ours = [area_under_positive_gap(STEPS, standardised_gap(proxy, true, 1.0, 72, 200).gap) for proxy in proxies]
    assert paper == pytest.approx([200, 0], abs=1e-3)
    assert ours == pytest.approx([200, 200])


# --- E15: what the grid of β knows of the preferences -----------------------------------------------------------------


def test_E15_the_grid_does_not_see_the_size_of_the_log_ratios() -> None:
    deltas = np.random.default_rng(0).gamma(0.7, 30.0, 2000)
    grid = percentile_grid(deltas)
    assert percentile_grid(100 * deltas) == pytest.approx(grid, rel=1e-6)
    assert grid[1] == pytest.approx(1)  # whatever the data


def test_E15_exponential_log_ratios_give_the_published_grid() -> None:
    """Percentile p of an exponential is −log(1 − p) times its mean, so 20, 50 and 80 over the median are 0.322, 1 and
    2.322; the paper has 0.310, 1.000 and 2.379."""
    share = np.array([0.2, 0.5, 0.8])
    deltas = stats.expon.ppf((np.arange(100_000) + 0.5) / 100_000)
    expected = np.log(1 - share) / np.log(0.5)
    assert expected == pytest.approx([0.322, 1, 2.322], abs=5e-4)
    assert percentile_grid(deltas) == pytest.approx(expected, rel=1e-3)
    assert expected == pytest.approx(BETA, rel=0.04)


def test_E15_so_do_pairs_without_any_preference_from_their_lengths_alone() -> None:
    """Both responses come from one policy: about 1 nat per token, geometric lengths of mean 150, and no label that
    means anything. δ is the difference of the lengths."""
    rng = np.random.default_rng(0)
    tokens = rng.geometric(1 / 150, (2, 50_000))
    logprob = -tokens + rng.normal(size=tokens.shape) * np.sqrt(tokens)
    deltas = log_ratio_magnitude(*logprob)
    assert np.corrcoef(deltas, np.abs(tokens[0] - tokens[1]))[0, 1] > 0.98
    assert percentile_grid(deltas) == pytest.approx(BETA, rel=0.05)


# --- E16: the entropy of prompts --------------------------------------------------------------------------------------


def test_E16_checkpoints_that_answer_differently_can_have_the_same_policy_entropy() -> None:
    """Two checkpoints that differ only once the token 7 has been read, which stands in responses and not in prompts:
    Eq. 11 cannot tell them apart, the entropy over responses can."""
    sizes: Any = {"hidden_size": 32, "intermediate_size": 48, "layers": 2, "heads": 4, "key_value_heads": 2}
    model = build_model(Geometry(**sizes, context=64, initializer_range=0.25), 64, root_seed=0)
    bank = AdapterBank(model, ["q_proj"], rank=2, alpha=4)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(8, 64, (4, 10), generator=generator)
    answers = torch.cat([prompts, torch.full((4, 5), 7)], dim=1)
    certain = 100 * model.get_input_embeddings().weight[9].detach().clone()

    def after_seven(_module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output + certain * (args[0] == 7)[..., None]

    def both() -> tuple[float, float]:
        hidden = backbone(model)(input_ids=answers).last_hidden_state[:, 10:].flatten(0, 1)
        of_responses = token_statistics(hidden, torch.zeros(len(hidden), dtype=torch.long), lm_head(model)).entropy
        return prompt_entropy(bank, None, prompts.tolist(), 0, 1000).item(), of_responses.mean().item()

    policy, response = both()
    model.get_input_embeddings().register_forward_hook(after_seven)
    changed_policy, changed_response = both()
    assert changed_policy == policy > 0
    assert changed_response < response / 2


# --- E17: which β collapses -------------------------------------------------------------------------------------------

# Figure 4b: entropy of the checkpoint minus that after online adaptation; the middle is "near zero".
COLLAPSE = np.array([0.004, 0.0, -0.0025])


def test_E17_the_text_and_the_figure_have_opposite_signs() -> None:
    (claim,) = (claim for claim in CLAIMS if (claim.cause, claim.effect) == ("β", "entropy collapse"))
    assert claim.stated == +1  # section 5.1
    assert spearman_exact(BETA, COLLAPSE).rho == claim.paper_measured == -1


def test_E17_a_negative_collapse_is_a_gain() -> None:
    """ΔH = H_DPO − H_online: an entropy that goes from 0.81 to 0.8125 has −0.0025."""
    rows = [
        {**point("paper", beta, 0, step, 4.0, 5), "policy_entropy": 0.81 - (collapse if step else 0)}
        for beta, collapse in zip(BETA, COLLAPSE, strict=True)
        for step in (0, 2)
    ]
    found = [c["policy_entropy"] for c in condition_records(pd.DataFrame(rows), {}).conditions]
    assert [c["collapse"] for c in found] == pytest.approx(COLLAPSE)
    assert found[2]["end"] > found[2]["checkpoint"]
    # A third of a percent to half a percent of the entropy that it is a change of.
    assert np.abs(COLLAPSE[[0, 2]]) / 0.81 == pytest.approx([0.005, 0.003], abs=5e-4)


# --- E18: what Eq. 15 and Prop. 6.2 say -------------------------------------------------------------------------------


def test_E18_definition_6_1_needs_what_equation_15_does_not_have() -> None:
    """Win rates 0.5, 0.7 and 0.6: without weight the least AUGC wins; at λ = 100 the costs are −18.9, −27 and 85.8; at
    10⁴ the best win rate; were it the highest β's, that would win. Eq. 15 gives 1.105 whichever it is."""

    def chosen(quality: list[float], lam: float) -> float:
        return definition_beta_star(BETA, AUGC[None], [quality], lam, rng=np.random.default_rng(0)).value

    assert [chosen([0.5, 0.7, 0.6], lam) for lam in (0, 100, 1e4)] == [0.310, 1.0, 1.0]
    assert chosen([0.5, 0.6, 0.7], 1e4) == 2.379


def test_E18_the_factor_sets_beta_star() -> None:
    """a·β^b + c = f·(a·β_min^b + c), solved for β."""
    a, b, c = (float(value[0]) for value in fit_power_law(BETA, AUGC).as_laws())
    found = [(((f - 1) * c + f * a * BETA[0] ** b) / a) ** (1 / b) for f in (1.1, TOLERATED_DAMAGE, 2, 3)]
    assert found == pytest.approx([0.623, 1.105, 1.437, 1.877], abs=5e-4)


def test_E18_nothing_happens_to_the_curvature_at_beta_star() -> None:
    """a·b·(b−1)·β^(b−2) is above 0 for every β > 0, and a law with 1 < b < 2 bends less beyond β★ than before it."""
    fit = fit_power_law(BETA, AUGC)

    def curvature(b: float, beta: np.ndarray) -> np.ndarray:
        h = 1e-3 * beta
        value = [fit.a * (beta + k * h) ** b + fit.c for k in (-1, 0, 1)]
        return (value[0] - 2 * value[1] + value[2]) / h**2

    at = np.array([0.031, 0.310, 1.105, 2.379])
    assert curvature(fit.b, at) == pytest.approx(fit.a * fit.b * (fit.b - 1) * at ** (fit.b - 2), rel=1e-4)
    assert (curvature(fit.b, at) > 0).all()
    assert (np.diff(curvature(1.5, at)) < 0).all()


@pytest.mark.parametrize(("middle", "super_linear"), [(43.0, True), (69.0, True), (69.7, False), (75.0, False)])
def test_E18_whether_b_exceeds_one_is_whether_one_number_lies_under_a_chord(middle: float, super_linear: bool) -> None:
    """The straight line from (0.310, 31.1) to (2.379, 145.8) passes β = 1 at 69.35. Three parameters pass through any
    three such points exactly, so R² is 1 on both sides of it."""
    assert np.interp(1.0, BETA[[0, 2]], AUGC[[0, 2]]) == pytest.approx(69.35, abs=5e-3)
    fit = fit_power_law(BETA, [AUGC[0], middle, AUGC[2]])
    assert (fit.b > 1) == super_linear
    assert fit.r_squared == pytest.approx(1)


# --- E19: the optimum of DPO, and training that stops before it -------------------------------------------------------

# All ordered pairs of the three answers of E1, labelled by Bradley–Terry with the reward of E1.
WON, LOST = map(torch.tensor, zip(*((i, j) for i in range(3) for j in range(3) if i != j), strict=True))


def dpo(beta: float, steps: int, optimiser: Any, rate: float) -> tuple[float, float]:
    """KL to the reference and entropy, nats, of a policy over three answers after some steps of the expected loss."""
    share, log_reference = (REWARD[WON] - REWARD[LOST]).sigmoid(), REFERENCE
    logits = log_reference.clone().requires_grad_(True)
    steps_of = optimiser([logits], lr=rate)
    for _ in range(steps):
        logprob = logits.log_softmax(0)
        margin = implicit_reward_margin(
            logprob[WON], logprob[LOST], log_reference[WON], log_reference[LOST], doubles(beta)
        )
        steps_of.zero_grad()
        (share * dpo_loss(margin)).mean().backward()
        steps_of.step()
    logprob = logits.detach().log_softmax(0)
    return float((logprob.exp() * (logprob - log_reference)).sum()), float(entropy(logprob))


def test_E19_the_gibbs_distribution_is_where_training_ends() -> None:
    """Its KL to the reference falls with β, 1.92, 0.34 and 0.05 nats; its entropy rises and falls again (E1)."""
    kl, h = zip(*(dpo(beta, 800, torch.optim.Adam, 0.02) for beta in BETA), strict=True)
    assert kl == pytest.approx([1.916, 0.335, 0.049], abs=2e-3)
    assert h == pytest.approx([entropy(gibbs(beta)).item() for beta in BETA], abs=2e-3)
    assert h == pytest.approx([0.317, 1.090, 0.981], abs=2e-3)


def test_E19_the_first_step_goes_further_the_larger_beta() -> None:
    """The gradient at the reference is proportional to β, so KL is to β² after one small step of gradient descent: 59
    times as large at the highest β as at the lowest, the reverse of the optimum's order."""
    kl = [dpo(beta, 1, torch.optim.SGD, 0.01)[0] for beta in BETA]
    assert kl[2] / kl[0] == pytest.approx((BETA[2] / BETA[0]) ** 2, rel=0.02)


def test_E19_adam_goes_as_far_for_every_beta_until_it_nears_the_optimum() -> None:
    """Adam divides the gradient by its own size. After 50 small steps the entropies are 0.847, 0.847 and 0.846, whose
    marginal decrease is Figure 4a's pattern, and the KL is a twentieth of the nearest optimum's, or less."""
    kl, h = zip(*(dpo(beta, 50, torch.optim.Adam, 0.002) for beta in BETA), strict=True)
    assert max(kl) / min(kl) < 1.1
    assert max(kl) < 0.049 / 20
    assert h == pytest.approx([0.8474, 0.8469, 0.8458], abs=5e-4)
    assert h[0] > h[1] > h[2]


def test_E19_labels_given_once_have_no_optimum() -> None:
    """The loss of a pair falls however large the margin already is, so no reward bounds it."""
    margin = torch.arange(0.0, 40, dtype=torch.float64)
    assert (dpo_loss(margin).diff() < 0).all()


# --- E20: one run for each β ------------------------------------------------------------------------------------------


def test_E20_the_papers_table_does_not_pass_its_own_protocol() -> None:
    """A linear gap that reaches AUGC/100 at step 200 gives Table 1's areas: one number for each β."""
    rows = [
        point("paper", beta, 0, step, 4.0 * (1 + area / 100 * step / 200), 5)
        for beta, area in zip(BETA, AUGC, strict=True)
        for step in (0, 100, 200)
    ]
    results = build_results(pd.DataFrame(rows), {}, {})
    found = results["protocol"]["metrics"]["augc"]["rows"]
    assert [row["paper"]["mean"] for row in found] == pytest.approx(AUGC, rel=1e-5)
    assert [row["enough_seeds"] for row in found] == [False] * 3
    assert all(math.isnan(row["paper"]["standard_error"]) for row in found)


def test_E20_its_grid_spans_less_than_one_order_of_magnitude() -> None:
    """Appendix G asks for five to eight β over two orders, and the preset `paper-strict` has seven."""
    assert np.log10(BETA[2] / BETA[0]) == pytest.approx(0.885, abs=5e-4)
    grid = load_config("paper-strict").grid
    assert (grid.method, grid.n) == ("geometric", 7)
    assert grid.low
    assert grid.high
    assert grid.high / grid.low >= 100


# --- E21: the learning rate that the adapter does not set -------------------------------------------------------------


def attention_adapter(hidden: int, layers: int, queries: int, keys: int) -> int:
    """Parameters of LoRA on q, k, v and o at the rank of Eq. B.1; `queries` and `keys` are heads × head size."""
    return int(layers * lora_rank(hidden).value * (2 * (hidden + queries) + 2 * (hidden + keys)))


def test_E21_below_ten_million_the_rate_is_its_upper_bound() -> None:
    """η₀ is η_max and n₀ is 10⁷, so the formula exceeds its bound exactly where n < n₀."""
    assert {learning_rate(n).value for n in (10**4, 10**5, 10**6, 9_999_999, 10**7)} == {2e-4}
    assert [learning_rate(n).clipped for n in (10**4, 9_999_999, 10**7)] == ["high", "high", None]
    assert learning_rate(40_000_000).value == pytest.approx(1e-4)


def test_E21_the_lower_bound_needs_an_adapter_larger_than_any_model_here() -> None:
    """2×10⁻⁴/√(n/10⁷) = 5×10⁻⁷ at n = 400²·10⁷ = 1.6×10¹²."""
    assert learning_rate(int(1.59e12)).clipped is None
    assert learning_rate(int(1.61e12)).clipped == "low"


@pytest.mark.parametrize(
    ("shape", "parameters", "rate"),
    [
        ((5120, 40, 5120, 1024), 83_886_080, 6.9e-5),  # Qwen3-14B, the policy
        ((2048, 28, 2048, 1024), 25_690_112, 1.25e-4),  # Qwen3-1.7B, the reward models
        ((1024, 28, 2048, 1024), 9_175_040, 2e-4),  # Qwen3-0.6B: at the bound
    ],
)
def test_E21_the_papers_own_adapters_are_above_it(shape: tuple[int, ...], parameters: int, rate: float) -> None:
    n = attention_adapter(*shape)
    assert n == parameters
    assert learning_rate(n).value == pytest.approx(rate, rel=0.01)
