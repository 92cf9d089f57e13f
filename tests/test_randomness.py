"""Streams are named and do not depend on order; token noise is exponential, and a function of its counter alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from betastar.randomness import exponential_noise, numpy_generator, stream_key, torch_generator


def hashed_keys(n: int, name: str = "rows") -> torch.Tensor:
    return torch.from_numpy(numpy_generator(0, name).integers(-(2**63), 2**63, size=n))


def test_keys_are_pinned() -> None:
    assert stream_key(7) == 9407870976149377255
    assert stream_key(0, "sampling", 1, 2) == 13143615880425220729
    assert numpy_generator(3, "a").integers(1000, size=4).tolist() == [723, 888, 476, 91]
    assert torch.randint(1000, (4,), generator=torch_generator(3, "a")).tolist() == [293, 311, 744, 206]


def test_a_stream_is_its_seed_and_path() -> None:
    paths = [(), ("a",), ("a", 1), (1, "a"), ("a", "1"), ("a", 1, 1), ("a1",), ("a", 11), ("a", -1)]
    keys = [stream_key(seed, *path) for seed in (0, 1, 10) for path in paths]
    assert len(set(keys)) == len(keys)
    assert stream_key(3, np.str_("a"), np.int32(1)) == stream_key(3, "a", 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        stream_key(0, 0.5)  # type: ignore[arg-type]


def test_generators_do_not_share_state() -> None:
    alone = numpy_generator(0, "second").random(5)
    numpy_generator(0, "first").random(1000)
    np.random.default_rng(0).random(3)
    torch.manual_seed(1)
    np.testing.assert_array_equal(numpy_generator(0, "second").random(5), alone)
    before = torch.get_rng_state()
    torch.rand(3, generator=torch_generator(0, "first"))
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_pinned() -> None:
    keys = torch.tensor([1, -5, 2**62 + 12345])
    expected = torch.tensor([[1.34568787, 1.70273793], [1.02232850, 1.63158798], [0.21517760, 0.11982691]])
    torch.testing.assert_close(exponential_noise(keys, 3, 2), expected, rtol=1e-6, atol=0)
    expected = torch.tensor([[0.22997898, 0.38545269], [0.09977369, 0.33268172], [0.71188056, 0.61581855]])
    torch.testing.assert_close(exponential_noise(keys, torch.tensor([0, 1, 2**20]), 2), expected, rtol=1e-6, atol=0)


def test_noise_depends_on_key_position_and_token_alone() -> None:
    keys, positions = hashed_keys(40), torch.arange(40) % 7
    noise = exponential_noise(keys, positions, 30)
    order = torch.randperm(40, generator=torch_generator(0, "order"))
    assert torch.equal(exponential_noise(keys[order], positions[order], 30), noise[order])
    assert torch.equal(exponential_noise(keys[5:6], int(positions[5]), 30), noise[5:6])
    assert torch.equal(exponential_noise(keys, positions, 100)[:, :30], noise)
    assert torch.equal(exponential_noise(keys.repeat(2), positions.repeat(2), 30), noise.repeat(2, 1))


def test_noise_is_standard_exponential() -> None:
    noise = exponential_noise(hashed_keys(1000), 3, 1000).double().flatten().numpy()
    assert stats.kstest(noise, "expon").pvalue > 0.01
    # Moments k!: 1, 2, 6, each within four standard errors.
    for k, moment, second in ((1, 1, 2), (2, 2, 24), (3, 6, 720)):
        assert abs((noise**k).mean() - moment) < 4 * np.sqrt((second - moment**2) / noise.size)


@pytest.mark.parametrize("across", ["tokens", "positions", "keys", "small keys", "high words"])
def test_noise_is_standard_exponential_along_every_axis(across: str) -> None:
    n = 200_000
    one = hashed_keys(1)
    noise = {
        "tokens": lambda: exponential_noise(one, 0, n)[0],
        "positions": lambda: exponential_noise(one.repeat(n), torch.arange(n), 1)[:, 0],
        "keys": lambda: exponential_noise(hashed_keys(n), 0, 1)[:, 0],
        "small keys": lambda: exponential_noise(torch.arange(n), 0, 1)[:, 0],
        "high words": lambda: exponential_noise(torch.arange(n) << 32, 0, 1)[:, 0],
    }[across]()
    assert stats.kstest(noise.double().numpy(), "expon").pvalue > 0.01
    # Neighbours along the axis are uncorrelated: |r| under four standard errors.
    u = torch.exp(-noise.double()).numpy()
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / np.sqrt(n)


def test_different_keys_and_positions_are_uncorrelated() -> None:
    key, tokens = hashed_keys(1), 100_000
    rows = torch.cat([key, key, key + 1, key ^ 2, key + (1 << 32), ~key, hashed_keys(1, "another")])
    positions = torch.tensor([5, 6, 5, 5, 5, 5, 5])
    u = torch.exp(-exponential_noise(rows, positions, tokens).double()).numpy()
    r = np.corrcoef(u) - np.eye(len(rows))
    assert np.abs(r).max() < 4.5 / np.sqrt(tokens)
    # Nor do small changes of key or position move the most favoured token in a pattern: 128 tokens, 1/128 agree.
    keys = hashed_keys(20_000)
    winner = exponential_noise(keys, 5, 128).argmin(dim=1)
    for other in (exponential_noise(keys, 6, 128), exponential_noise(keys + 1, 5, 128)):
        agree = int((other.argmin(dim=1) == winner).sum())
        assert stats.binomtest(agree, len(keys), 1 / 128).pvalue > 0.001


def test_no_two_draws_share_a_vector() -> None:
    """A run draws about 10⁶ vectors: 4 000 rows × 256 positions here, told apart by four tokens (31 bits each)."""
    keys, positions = hashed_keys(4000).repeat(256), torch.arange(256).repeat_interleave(4000)
    vectors = exponential_noise(keys, positions, 4).numpy()
    assert len(np.unique(vectors.view("V16"))) == len(vectors)


def test_small_keys_do_not_favour_their_own_token() -> None:
    """Zero is a fixed point of the mixer; were it reachable, key k would choose token k at position 0 every time."""
    keys = torch.arange(200)
    assert int((exponential_noise(keys, 0, 200).argmin(dim=1) == keys).sum()) < 8


def test_small_values_are_resolved() -> None:
    """The smallest of n draws decides a race, so values near zero are neither zero nor on a coarse lattice: below
    10⁻⁵ float32 uniforms 1 - u would leave 168 different values; here they are uniform over their range."""
    noise = exponential_noise(hashed_keys(4096), 1, 4096).flatten()
    assert float(noise.min()) > 0
    small = noise[noise < 1e-5].double().numpy()
    assert stats.poisson(1e-5 * noise.numel()).cdf(small.size) > 0.001
    assert stats.poisson(1e-5 * noise.numel()).sf(small.size) > 0.001
    assert stats.kstest(small / 1e-5, "uniform").pvalue > 0.01
    assert len(np.unique(small)) == small.size


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_race_samples_the_categorical_distribution(temperature: float) -> None:
    logprobs = torch.tensor([0.5, 0.25, 0.125, 0.1, 0.02, 0.004, 0.001]).log()
    keys = hashed_keys(100_000)
    chosen = (logprobs / temperature - exponential_noise(keys, 9, 7).log()).argmax(dim=-1)
    expected = (logprobs.double() / temperature).softmax(dim=-1).numpy() * len(keys)
    assert stats.chisquare(np.bincount(chosen, minlength=7), expected).pvalue > 0.01


def test_shared_noise_couples_samples() -> None:
    """Two policies that share a key choose the same token wherever their distributions allow it: the race disagrees
    with probability at most 2·TV / (1 + TV), against 1 - Σ pq = 0.67 for independent samples."""
    p, q = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([0.35, 0.33, 0.2, 0.12])
    noise = exponential_noise(hashed_keys(50_000), 0, 4)
    differ = (noise / p).argmin(dim=1) != (noise / q).argmin(dim=1)
    tv = 0.5 * float((p - q).abs().sum())  # 0.05
    assert 0 < float(differ.float().mean()) < 2 * tv / (1 + tv) + 4 * np.sqrt(0.1 / 50_000)
