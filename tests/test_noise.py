"""A random number depends on its seed and its place alone, and the numbers look random."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latcli.engine.noise import derive_seed, uniform_noise

seeds_st = st.integers(-(2**63), 2**63 - 1)
shapes_st = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))


def _noise(seed, shape):
    return uniform_noise(torch.tensor([seed]), shape)[0]


@given(st.lists(seeds_st, min_size=1, max_size=6), shapes_st, shapes_st)
def test_a_number_is_the_same_alone_in_a_batch_and_on_a_larger_canvas(seeds, shape, more):
    batch_BCHW = uniform_noise(torch.tensor(seeds), shape)
    assert batch_BCHW.shape == (len(seeds), *shape)
    (C, H, W), large = shape, (shape[0] + more[0], shape[1] + more[1], shape[2] + more[2])
    for seed, noise_CHW in zip(seeds, batch_BCHW, strict=True):
        assert torch.equal(noise_CHW, _noise(seed, shape))
        assert torch.equal(noise_CHW, _noise(seed, large)[:C, :H, :W])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_numbers_of_the_cpu():
    seeds_B = torch.tensor([0, -5, 2**63 - 1])
    assert torch.equal(uniform_noise(seeds_B.cuda(), (3, 65, 33)).cpu(), uniform_noise(seeds_B, (3, 65, 33)))


def test_seed_zero_gives_the_published_sequence_of_splitmix64():
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]
    noise_W = _noise(0, (1, 1, 6)).flatten().tolist()
    assert noise_W == [0.0, *((number >> 40) / 2**24 for number in published)]


def _splitmix64(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


@given(seeds_st, st.integers(0, 3), st.integers(0, 40), st.integers(0, 40))
def test_every_number_is_the_hash_of_seed_and_place(seed, channel, row, column):
    place = (channel << 42) + (row << 21) + column
    expected = (_splitmix64((place * 0x9E3779B97F4A7C15 + _splitmix64(seed % 2**64)) % 2**64) >> 40) / 2**24
    assert _noise(seed, (channel + 1, row + 1, column + 1))[channel, row, column].item() == expected


def test_derived_seeds_stay_what_they_are_and_tell_their_parts_apart():
    """A run of last year must give the same files today."""
    assert derive_seed() == 8203414616412130826
    assert derive_seed("restart", 0) == 2538055429549354053
    assert derive_seed(0, "ab" * 32, "start") == 8383609972145031493
    parts = [("",), ("", ""), ("ab", "c"), ("a", "bc"), ("abc",), (1, 2), (12,), (2, 1), (1, "2", ""), (-12,)]
    found = {derive_seed(*one) for one in parts}
    assert len(found) == len(parts)
    assert 0 <= min(found) <= max(found) < 2**63  # as a signed integer of 64 bits
    assert len({derive_seed(seed, "rows") % 640 for seed in range(2000)}) > 600
