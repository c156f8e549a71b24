"""What every test stands on: a forked, seeded generator, and double precision where a test asks for it."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pyro
import pytest
import torch

from sri_pyro import compiling
from sri_pyro.config.threads import computing_with
from sri_pyro.models.decoders import cells as cells_module
from sri_pyro.models.decoders import compiled_curvature, compiled_layer, compiled_lstm
from sri_pyro.models.decoders.cells import plain_cells

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


@pytest.fixture(params=["compiled", "plain"])
def cells(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compute with the compiled LSTM cell, where there is a compiler, and then with PyTorch's operations."""
    with plain_cells() if request.param == "plain" else nullcontext():
        yield


@pytest.fixture
def compiled_anew() -> Iterator[None]:
    """Forget what could be compiled and was trusted, which is decided once in a process; afterwards again."""
    own = (compiled_layer.compiled, compiled_lstm.compiled, compiled_curvature.compiled)
    cached = (compiling.library, cells_module._compiled, *own)
    for answer in cached:
        answer.cache_clear()
    yield
    for answer in cached:
        answer.cache_clear()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread: with several, sums are taken in another order, and steps take other times."""
    with computing_with(1):
        yield


@pytest.fixture
def empty_store() -> Iterator[None]:
    """Hold Pyro's global parameter store empty, in which like-named parameters of two models are one."""
    yield
    assert not list(pyro.get_param_store().keys()), "something was written to Pyro's parameter store"
