"""Random numbers that depend on a seed and a place, never on a batch or a device.

A generator's next number depends on how many were drawn before. Here every number is a hash of (seed, channel, row,
column), so a photo gets the same random start alone, among 64 others, padded, on a CPU, on a GPU, or on any rank.
"""

from __future__ import annotations

import hashlib

import torch

_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, odd, as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # the two multipliers of the splitmix64 finalizer (Steele et al., OOPSLA'14)
_MIX_2 = -7723592293110705685


def uniform_noise(seeds_B: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Float32 in [0, 1), shape (B, *shape). Entry (b, c, i, j) depends on seeds_B[b], c, i and j alone.

    `seeds_B` int64, on the device the result is wanted on; `shape` (C, H, W).
    """
    device = seeds_B.device
    C, H, W = shape
    row_H1 = torch.arange(H, device=device, dtype=torch.int64)[:, None]
    column_W = torch.arange(W, device=device, dtype=torch.int64)
    channel_C11 = torch.arange(C, device=device, dtype=torch.int64)[:, None, None]
    # 2^21 rows and columns, 2^21 channels: no two places share a counter.
    place_CHW = (channel_C11 << 42) + (row_H1 << 21) + column_W
    mixed_B111 = _splitmix64(seeds_B)[:, None, None, None]
    hashed_BCHW = _splitmix64(place_CHW * _GOLDEN + mixed_B111)
    # The upper 24 bits fill a float32's mantissa exactly.
    return ((hashed_BCHW >> 40) & 0xFFFFFF).to(torch.float32).mul_(2.0**-24)


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from anything with a stable text form: `derive_seed(seed, photo.sha256, "start", restart)`."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _splitmix64(z: torch.Tensor) -> torch.Tensor:
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def _shift_right(z: torch.Tensor, bits: int) -> torch.Tensor:
    # int64 shifts carry the sign along; the mask drops it.
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def item_seeds(seed: int, items_N: torch.Tensor) -> torch.Tensor:
    """One int64 seed for each item's number (int64): a hash of `seed` and that number alone."""
    key = torch.tensor(seed, dtype=torch.int64, device=items_N.device)
    return _splitmix64(items_N * _GOLDEN + _splitmix64(key))


def permutation(seed: int, size: int, device: torch.device) -> torch.Tensor:
    """The numbers 0 to size - 1 in an order that depends on `seed` alone, int64, on `device`."""
    return item_seeds(seed, torch.arange(size, device=device)).sort(stable=True).indices
