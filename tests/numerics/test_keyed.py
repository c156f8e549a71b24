"""Keyed noise: the published generator to the bit, the laws of its numbers, and what they may depend on.

The oracles are splitmix64's published outputs, a version of it in Python's integers, and the laws' moments and
distribution functions; gates allow one false alarm in 1e8 runs of a test (``oracles.gate``).
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sri_pyro.numerics.keyed import Purpose, chains, fold, folded, happens, normal, seeded, uniform
from tests.oracles import gate

SPLITMIX64 = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
"""The first outputs of the generator for the seed 1234567, as published with its reference implementation."""
KEYS = chains(20261122, torch.arange(500), 40)
"""20 000 rows."""


def unsigned(keys: Tensor) -> list[int]:
    return [key % 2**64 for key in keys.tolist()]


def test_folds_are_the_outputs_of_splitmix64() -> None:
    assert [fold(1234567, n) for n in range(5)] == SPLITMIX64
    assert unsigned(folded(torch.tensor(1234567), torch.arange(5))) == SPLITMIX64


def test_tensors_fold_as_pythons_integers_do() -> None:
    """Where products overflow and shifts meet a sign. Catches an arithmetic shift for a logical one."""
    keys = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), -(2**40), 0x5555_5555_5555_5555])
    places = torch.tensor([0, 1, 7, 10**12, 2**62])
    expected = [[fold(key, place) for place in places.tolist()] for key in keys.tolist()]
    assert [unsigned(row) for row in folded(keys[:, None], places)] == expected


def test_a_path_goes_down_the_tree() -> None:
    assert fold(9, 4, 2, 0) == fold(fold(fold(9, 4), 2), 0)
    assert fold(9, 4, 2) != fold(9, 2, 4)
    assert unsigned(chains(9, torch.tensor([5, 3]), 2).flatten()) == [
        fold(9, example, chain) for chain in range(2) for example in (5, 3)
    ]


def test_no_two_leaves_share_their_bits() -> None:
    """A million keys of 64 bits, of steps, purposes, examples and chains, collide with a probability of 3e-8."""
    steps = [fold(0, step) for step in range(25)]
    keys = [chains(fold(step, p), torch.arange(100), 400 // len(Purpose)) for step in steps for p in Purpose]
    leaves = torch.stack(keys).flatten()
    assert 900_000 < len(leaves) <= 1_000_000
    assert len(leaves.unique()) == len(leaves)


def test_every_bit_of_a_key_and_of_a_place_changes_half_of_the_bits() -> None:
    """Each output bit flips with a probability of 1/2, within binomial gates: 64 x 64 of them, and 20 x 64."""
    keys, place = KEYS.flatten()[:4096], torch.tensor(3)
    before = folded(keys, place)
    bits = torch.arange(64)
    flips = [folded(keys ^ _bit(bit), place) ^ before for bit in range(64)]
    flips += [folded(keys, place ^ (1 << bit)) ^ before for bit in range(20)]
    for change in flips:
        share = ((change[:, None] >> bits) & 1).double().mean(0)
        assert (share - 0.5).abs().max() < gate(84 * 64) * 0.5 / math.sqrt(4096)


def _bit(place: int) -> int:
    return (1 << place) - (1 << 64 if place == 63 else 0)


Draw = Callable[..., Tensor]


def phi(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x / math.sqrt(2))


@pytest.mark.parametrize("event", [(7,), (2, 3), (1,)])
@pytest.mark.parametrize(("draw", "cdf"), [(normal, phi), (uniform, lambda x: x)])
def test_numbers_have_their_law(draw: Draw, cdf: Callable[[Tensor], Tensor], event: tuple[int, ...]) -> None:
    """Kolmogorov and Smirnov's distance to the law at every place, by the bound of Dvoretzky, Kiefer and Wolfowitz."""
    drawn = draw(KEYS, event, torch.float64)
    assert drawn.shape == (40, 500, *event)
    rows = drawn.reshape(KEYS.numel(), -1).T
    n = rows.shape[1]
    bound = math.sqrt(math.log(2 * len(rows) / 1e-8) / (2 * n))
    for values in rows:
        sorted_cdf = cdf(values.sort().values)
        steps = torch.arange(n + 1, dtype=torch.float64) / n
        distance = max((sorted_cdf - steps[:-1]).max(), (steps[1:] - sorted_cdf).max())
        assert distance < bound
        shifted = cdf(values.sort().values + 0.1)  # a positive control
        assert (shifted - steps[:-1]).max() > bound


def test_tails_of_normals_are_there() -> None:
    """Of a million the largest lies within 4.0 and 6.8 (all below 4: exp(-32)), and shares beyond 2 and 3 are right."""
    drawn = normal(KEYS, (50,), torch.float64).abs()
    n = drawn.numel()
    assert 4.0 < drawn.max() < 6.8
    for beyond in (2.0, 3.0):
        p = math.erfc(beyond / math.sqrt(2))
        assert ((drawn > beyond).double().mean() - p).abs() < gate(2) * math.sqrt(p * (1 - p) / n)


def test_places_chains_examples_purposes_and_steps_are_independent() -> None:
    """Correlations of the numbers, and of their squares, which the two halves of a pair would share if misused."""
    keys = {
        "base": KEYS,
        "another step": chains(20261123, torch.arange(500), 40),
        "another purpose": chains(fold(20261122, Purpose.LANGEVIN), torch.arange(500), 40),
    }
    drawn = {name: normal(key, (4,), torch.float64) for name, key in keys.items()}
    base = drawn["base"]
    pairs = [
        *((base[..., i], base[..., j]) for i in range(4) for j in range(i)),
        (base[1:], base[:-1]),
        (base[:, 1:], base[:, :-1]),
        (base, drawn["another step"]),
        (base, drawn["another purpose"]),
    ]
    for one, other in pairs:
        n = one.numel()
        assert (one * other).mean().abs() < gate(2 * len(pairs)) / math.sqrt(n)
        squares = (one.square() - 1) * (other.square() - 1) / 2
        assert squares.mean().abs() < gate(2 * len(pairs)) / math.sqrt(n)


@pytest.mark.parametrize("draw", [normal, uniform])
def test_numbers_of_an_example_know_nothing_of_the_batch(draw: Draw) -> None:
    """To the bit: other examples, their order, more chains, a longer first axis. That is what sharding rests on."""
    whole = draw(chains(5, torch.tensor([30, 10, 20]), 4), (6, 3), torch.float32)
    part = draw(chains(5, torch.tensor([20, 30]), 2), (5, 3), torch.float32)
    assert torch.equal(part, whole[:2, [2, 0], :5])
    hits = happens(chains(5, torch.tensor([30, 10, 20]), 4), (6, 3), 0.4)
    assert torch.equal(happens(chains(5, torch.tensor([20, 30]), 2), (5, 3), 0.4), hits[:2, [2, 0], :5])


@pytest.mark.parametrize("draw", [normal, uniform])
def test_precisions_agree_to_rounding(draw: Draw) -> None:
    """The angle of a pair keeps 24 bits in single precision: an error of 4e-7, times a radius of at most 6.8."""
    single, double = draw(KEYS, (3,), torch.float32), draw(KEYS, (3,), torch.float64)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=0, atol=3e-6)
    half = draw(KEYS, (3,), torch.bfloat16)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, single.bfloat16())


@pytest.mark.parametrize("probability", [0.0, 1e-3, 0.3, 0.5, 0.97, 1 - 1e-12])
def test_events_happen_as_often_as_they_should(probability: float) -> None:
    hits = happens(KEYS, (51,), probability)
    assert hits.dtype == torch.bool
    spread = math.sqrt(probability * (1 - probability) / hits.numel())
    assert abs(hits.double().mean().item() - probability) <= gate(6) * spread + 1e-9
    together = (hits[..., 1:] & hits[..., :-1]).double().mean().item()  # neighbours share a word of 64 bits
    both = probability**2
    assert abs(together - both) <= gate(6) * math.sqrt(both * (1 - both) / hits.numel() * 2) + 1e-9


def test_no_numbers_are_no_numbers() -> None:
    assert normal(KEYS, (0,), torch.float32).shape == (40, 500, 0)
    assert uniform(KEYS[:, :0], (3,), torch.float32).shape == (40, 0, 3)
    assert uniform(KEYS, (), torch.float32).shape == (40, 500)


def test_the_generator_stands_where_it_stood() -> None:
    state = torch.get_rng_state()
    drawn = []
    for key in (7, 7, 8, 2**64 - 1):
        with seeded(key, torch.device("cpu")):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ZeroDivisionError), seeded(7, torch.device("cpu")):
        _ = torch.rand(1) / 0, 1 / 0
    assert torch.equal(torch.get_rng_state(), state)
