"""What every test stands on: a forked, seeded generator, and double precision where a test asks for it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that ``tests.oracles`` is found from any folder


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Seed a fork of the generator: no test sees another's draws, nor disturbs its caller's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20261122)
        yield


@pytest.fixture
def float64() -> Iterator[None]:
    """Build new tensors and modules in double precision, so that 1e-9 means a different formula."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
