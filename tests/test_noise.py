"""A random number depends on its seed and its place alone, and the numbers look random."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from latcli.engine.noise import derive_seed, uniform_noise

seeds_st = st.integers(-(2**63), 2**63 - 1)
shapes_st = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))


def _noise(seed: int, shape: tuple[int, int, int]) -> torch.Tensor:
    return uniform_noise(torch.tensor([seed]), shape)[0]


# The place alone


@settings(deadline=None)
@given(st.lists(seeds_st, min_size=1, max_size=6), shapes_st)
def test_an_image_gets_the_same_numbers_alone_and_in_a_batch(seeds: list[int], shape: tuple[int, int, int]) -> None:
    batch_BCHW = uniform_noise(torch.tensor(seeds), shape)
    assert batch_BCHW.shape == (len(seeds), *shape)
    for seed, noise_CHW in zip(seeds, batch_BCHW, strict=True):
        assert torch.equal(noise_CHW, _noise(seed, shape))


@settings(deadline=None)
@given(seeds_st, shapes_st, shapes_st)
def test_a_larger_canvas_begins_with_the_numbers_of_the_smaller(
    seed: int, small: tuple[int, int, int], more: tuple[int, int, int]
) -> None:
    C, H, W = small
    large = (C + more[0], H + more[1], W + more[2])
    assert torch.equal(_noise(seed, large)[:C, :H, :W], _noise(seed, small))


def test_rows_and_columns_beyond_any_photo_still_have_numbers_of_their_own() -> None:
    tall, wide = _noise(1, (1, 200_000, 1)).flatten(), _noise(1, (1, 1, 200_000)).flatten()
    # Two draws of n numbers from 2^24 share about n^2 / 2^24 values by chance; a shared counter would share all.
    assert np.intersect1d(tall[1:].numpy(), wide[1:].numpy()).size < 1.2 * 200_000**2 / 2**24


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_numbers_of_the_cpu() -> None:
    seeds_B = torch.tensor([0, -5, 2**63 - 1])
    assert torch.equal(uniform_noise(seeds_B.cuda(), (3, 65, 33)).cpu(), uniform_noise(seeds_B, (3, 65, 33)))


# Known answers


def test_seed_zero_gives_the_published_sequence_of_splitmix64() -> None:
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]
    noise_W = _noise(0, (1, 1, 6)).flatten().tolist()
    assert noise_W == [0.0, *((number >> 40) / 2**24 for number in published)]


def _splitmix64(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


@settings(deadline=None)
@given(seeds_st, st.integers(0, 3), st.integers(0, 40), st.integers(0, 40))
def test_every_number_is_the_hash_of_seed_and_place(seed: int, channel: int, row: int, column: int) -> None:
    place = (channel << 42) + (row << 21) + column
    expected = (_splitmix64((place * 0x9E3779B97F4A7C15 + _splitmix64(seed % 2**64)) % 2**64) >> 40) / 2**24
    assert _noise(seed, (channel + 1, row + 1, column + 1))[channel, row, column].item() == expected


# Uniform


@settings(deadline=None)
@given(seeds_st, shapes_st)
@example(0, (3, 9, 9))
@example(-1, (3, 9, 9))
@example(-(2**63), (3, 9, 9))
def test_numbers_are_float32_from_0_up_to_but_not_1(seed: int, shape: tuple[int, int, int]) -> None:
    noise_CHW = _noise(seed, shape)
    assert noise_CHW.dtype == torch.float32
    assert noise_CHW.min() >= 0.0
    assert noise_CHW.max() < 1.0


def test_numbers_reach_both_ends_of_the_range() -> None:
    noise_CHW = _noise(7, (3, 600, 600))
    assert noise_CHW.min() < 1e-5
    assert noise_CHW.max() > 1 - 1e-5


@pytest.mark.parametrize("seed", [0, 1, 2, -1, 2**62, derive_seed(0, "photo", "start")])
def test_numbers_are_uniform_by_kolmogorov_and_smirnov(seed: int) -> None:
    sorted_n = np.sort(_noise(seed, (3, 256, 256)).numpy().astype(np.float64).ravel())
    n = sorted_n.size
    place_n = np.arange(n + 1) / n
    distance = max(np.abs(sorted_n - place_n[:-1]).max(), np.abs(sorted_n - place_n[1:]).max())
    assert distance < 1.95 / math.sqrt(n)  # exceeded by 1 in 1,000 truly uniform samples


@pytest.mark.parametrize("bits", [slice(0, 8), slice(8, 16), slice(16, 24)])
def test_every_byte_of_the_numbers_is_uniform(bits: slice) -> None:
    whole_n = (_noise(11, (3, 512, 512)).double() * 2**24).to(torch.int64).flatten()
    byte_n = (whole_n >> bits.start) & 0xFF
    counts = torch.bincount(byte_n, minlength=256).double()
    expected = len(byte_n) / 256
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    assert 170 < chi2 < 365  # 255 degrees of freedom: both ends are 1 in 100,000


# Unrelated


def _correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())[0, 1].item()


@pytest.mark.parametrize("dim", [0, 1, 2], ids=["channels", "rows", "columns"])
@pytest.mark.parametrize("lag", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", [0, 1, -3])
def test_neighbours_are_uncorrelated(seed: int, lag: int, dim: int) -> None:
    noise_CHW = _noise(seed, (16, 96, 96))
    length = noise_CHW.shape[dim]
    one, other = noise_CHW.narrow(dim, 0, length - lag), noise_CHW.narrow(dim, lag, length - lag)
    assert abs(_correlation(one, other)) < 4.5 / math.sqrt(one.numel())


SEED_PAIRS = [*itertools.pairwise(range(-3, 6)), (0, 2**32), (0, 2**62), (5, -5), (1, 2**21 + 1), (1, 2**42 + 1)]


@pytest.mark.parametrize("pair", SEED_PAIRS, ids=str)
def test_neighbouring_seeds_are_uncorrelated_and_no_shift_of_each_other(pair: tuple[int, int]) -> None:
    one_HW, other_HW = (_noise(seed, (1, 128, 128))[0] for seed in pair)
    assert abs(_correlation(one_HW, other_HW)) < 4.5 / 128
    # A counter that seeds only push along would give the same numbers elsewhere in the image.
    assert np.intersect1d(one_HW.numpy(), other_HW.numpy()).size < 60  # by chance: 128^4 / 2^24 = 16


def test_signs_of_the_noise_show_no_pattern_of_stripes() -> None:
    sign_HW = (_noise(0, (1, 256, 256))[0] < 0.5).double() * 2 - 1
    assert sign_HW.mean(dim=0).abs().max() < 4.5 / 16
    assert sign_HW.mean(dim=1).abs().max() < 4.5 / 16
    spectrum_HW = torch.fft.fft2(sign_HW).abs().square() / sign_HW.numel()
    assert spectrum_HW.max() < 22  # of exponentials with mean 1; above by chance once in 10^5 images


# Seeds


def test_derived_seeds_stay_what_they_are() -> None:
    """A run of last year must give the same files today."""
    assert derive_seed() == 8203414616412130826
    assert derive_seed("restart", 0) == 2538055429549354053
    assert derive_seed(0, "ab" * 32, "start") == 8383609972145031493


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(), st.text(alphabet="abc019 "), st.none()), max_size=4))
def test_derived_seeds_fit_a_signed_64_bit_integer(parts: list[object]) -> None:
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63
    assert torch.tensor([seed]).dtype == torch.int64
    assert derive_seed(*parts) == seed


def test_derived_seeds_tell_their_parts_apart() -> None:
    parts = [("",), ("", ""), ("ab", "c"), ("a", "bc"), ("abc",), (1, 2), (12,), (2, 1), (1, "2", ""), (-12,)]
    assert len({derive_seed(*one) for one in parts}) == len(parts)
    assert len({derive_seed(seed, "rows") % 640 for seed in range(2000)}) > 600
