r"""Keyed noise: random numbers that are a function of a key, an example and a place, and of nothing drawn before.

A key is 64 bits. The n-th key below it is the n-th output of the generator splitmix64 that it seeds,

.. math:: \operatorname{fold}(k, n) = \operatorname{mix}(k + (n + 1)\,\gamma \bmod 2^{64}),

so that keys form a tree: of a weight step, of a purpose in it, of an example, of a chain, and at the leaves the bits
of numbers. Two leaves under different paths are as two outputs of the generator. The numbers of an example do not
depend on which others are in its batch, how long those are, or which process holds it; they are the same on every
device, and in every precision to rounding.

References:
    splitmix64: Steele, Lea, Flood (2014), Fast splittable pseudorandom number generators. Trees of keys: Salmon,
    Moraes, Dror, Shaw (2011), Parallel random numbers: as easy as 1, 2, 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15
ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
"""Shifts and factors of splitmix64's finaliser."""
WORD = 1 << 64
HALF = 0xFFFFFFFF


class Purpose(IntEnum):
    """What a number is drawn for: no two share a branch of a weight step's key."""

    START = 0
    LANGEVIN = 1
    SHARED_DROPOUT = 2
    WEIGHT_DROPOUT = 3
    INFERENCE_DROPOUT = 4
    HOOK = 5
    GENERATOR = 6
    ENCODER = 7
    TRAJECTORY = 8
    FIT = 9
    DRAW = 10
    INNER_UPDATE = 11
    BATCH = 12
    PRETRAINING = 13


def fold(key: int, *path: int) -> int:
    """The key at the end of a path.

    Example:
        >>> fold(1234567, 0), fold(1234567, 1)  # splitmix64, seeded with 1234567
        (6457827717110365317, 3203168211198807973)
        >>> fold(3, 1, 4) == fold(fold(3, 1), 4)
        True
    """
    for n in path:
        key = (key + (n + 1) * GAMMA) % WORD
        for shift, factor in ROUNDS:
            key = (key ^ key >> shift) * factor % WORD
    return key


def folded(keys: Tensor, n: Tensor) -> Tensor:
    """``fold`` of keys by places that broadcast with them; both int64, which holds the 64 bits of a key."""
    x = keys + (n + 1) * _signed(GAMMA)  # integers wrap around, as they should
    for shift, factor in ROUNDS:
        x ^= (x >> shift).bitwise_and_((1 << (64 - shift)) - 1)  # the shift brings the sign with it
        if factor != 1:
            x *= _signed(factor)
    return x


def chains(key: int, ids: Tensor, num: int) -> Tensor:
    """A key for each of ``num`` chains of every example.

    Args:
        key: Above them all.
        ids: Of the examples, int64, shape [B].
        num: S.

    Returns:
        Shape [S, B].
    """
    root = torch.tensor(_signed(key), device=ids.device)
    return folded(folded(root, ids), torch.arange(num, device=ids.device)[:, None])


def normal(keys: Tensor, event: Sequence[int], dtype: torch.dtype) -> Tensor:
    r"""Standard normals for every key, by Box and Muller.

    A pair of places shares 64 bits, 32 for the radius and 32 for the angle: no number exceeds 6.8 in size, which one
    in :math:`10^{11}` should.

    Args:
        keys: Shape [*rows].
        event: Shape of each row's numbers. The numbers are taken in its order, so that a longer first axis adds to
            them and changes none.
        dtype: Of the numbers.

    Returns:
        Shape [*rows, *event].

    Example:
        >>> some = normal(chains(7, torch.tensor([40, 41]), 3), (5,), torch.float32)
        >>> some.shape, torch.equal(some[:, 1:], normal(chains(7, torch.tensor([41]), 3), (5,), torch.float32))
        (torch.Size([3, 2, 5]), True)
    """
    bits = _bits(keys, event)
    exact = torch.promote_types(dtype, torch.float32)
    # In double precision, for a root close to 0 would magnify the rounding of a logarithm of almost 1.
    radius = _unit((bits >> 32).bitwise_and_(HALF), torch.float64).log_().mul_(-2).sqrt_().to(exact)
    angle = _unit(bits & HALF, exact).mul_(2 * math.pi)
    pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], -1).to(dtype)
    return _placed(pairs, keys, event)


def uniform(keys: Tensor, event: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Numbers uniform between 0 and 1, of which rounding may make 1 but not 0; as ``normal``."""
    bits = _bits(keys, event)
    halves = torch.stack([(bits >> 32) & HALF, bits & HALF], -1)
    return _placed(_unit(halves, torch.promote_types(dtype, torch.float32)).to(dtype), keys, event)


def happens(keys: Tensor, event: Sequence[int], probability: float) -> Tensor:
    r"""What happens with a probability, to within :math:`2^{-33}`; bool, as ``normal``."""
    halves = _bits(keys, event)[..., None].view(torch.int32)  # no arithmetic: half the time of ``uniform``
    below = min(round(probability * 2**32) - 2**31, 2**31 - 1)
    return _placed(halves < below, keys, event)


@contextmanager
def seeded(key: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's generator by a key for a while, for what cannot be keyed; then it stands where it stood."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key)
        yield


def _bits(keys: Tensor, event: Sequence[int]) -> Tensor:
    """64 bits for every two places, shape [*rows, pairs]."""
    pairs = torch.arange(-(-math.prod(event) // 2), device=keys.device)
    return folded(keys[..., None], pairs)


def _unit(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Unsigned 32-bit words to the middle of their interval between 0 and 1."""
    return words.to(dtype).add_(0.5).mul_(2.0**-32)


def _placed(pairs: Tensor, keys: Tensor, event: Sequence[int]) -> Tensor:
    """Numbers for two places each [*rows, pairs, 2] to their shape [*rows, *event]."""
    return pairs.flatten(-2)[..., : math.prod(event)].reshape(*keys.shape, *event)


def _signed(word: int) -> int:
    """The number of int64 that has the same bits."""
    return (word + WORD // 2) % WORD - WORD // 2
