"""The LSTM cell forward and in reverse, compiled and not, against the textbook's cell in double precision.

Gate columns here are input, forget, output, candidate. Rows are draws of a sentence side by side.
"""

import os
import subprocess
import sys
from pathlib import Path
from shutil import which
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from sri_pyro.config.threads import computing_with
from sri_pyro.models.decoders.cells import PLAIN, Cells, cells_for, plain_cells

pytestmark = pytest.mark.usefixtures("cells")
DTYPES = [torch.float32, torch.float64]


class Inputs(NamedTuple):
    """What a cell is given in both directions; ``token`` has a row for each sentence."""

    gates: Tensor
    token: Tensor
    code: Tensor
    before: Tensor
    hidden_grad: Tensor
    later: Tensor
    cell_grad: Tensor
    total: Tensor


def inputs(sentences: int, draws: int, width: int, dtype: torch.dtype) -> Inputs:
    n = sentences * draws
    shapes = [(n, 4), (sentences, 4), (n, 4), *[(n, 1)] * 4, (n, 4)]
    return Inputs(*(torch.randn(rows, k * width, dtype=dtype) for rows, k in shapes))


class Found(NamedTuple):
    """What a cell answers."""

    activations: Tensor
    cell: Tensor
    squashed: Tensor
    hidden: Tensor
    gate_grad: Tensor
    before_grad: Tensor
    total: Tensor


def guarded(like: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Room in the middle of a larger tensor of NaN, so that writing beside it shows."""
    around = torch.full((like.shape[0] + 2, like.shape[1]), torch.nan, dtype=like.dtype)
    inside = around[1:-1]
    if start is not None:
        inside.copy_(start)
    return inside, around


def run(cells: Cells, given: Inputs) -> Found:
    """Forward, then in reverse from what that left; inputs that are not to be written are held to that."""
    gates, around_gates = guarded(given.gates, given.gates)
    (cell, a), (squashed, b), (hidden, c) = (guarded(given.before) for _ in range(3))
    kept = Inputs(*(part.clone() for part in given))
    cells.forward(gates, given.token, given.code, given.before, cell, squashed, hidden)
    activations = gates.clone()
    (cell_grad, d), (total, e) = guarded(given.cell_grad, given.cell_grad), guarded(given.total, given.total)
    cells.reverse(gates, given.before, squashed, given.hidden_grad, given.later, cell_grad, total)
    for ours, before in zip(given, kept, strict=True):
        torch.testing.assert_close(ours, before, rtol=0, atol=0, equal_nan=True)
    for around in (around_gates, a, b, c, d, e):
        assert around[[0, -1]].isnan().all()
    return Found(activations, cell, squashed, hidden, gates, cell_grad, total)


def by_hand(given: Inputs) -> Found:
    """The textbook's cell in double precision, its reverse pass by autograd."""
    exact = Inputs(*(part.double() for part in given))
    token = exact.token.repeat_interleave(len(exact.gates) // len(exact.token), 0)
    gates = (exact.gates + token + exact.code).requires_grad_()
    before = exact.before.clone().requires_grad_()
    let_in, forget, let_out, candidate = gates.chunk(4, -1)
    let_in, forget, let_out = let_in.sigmoid(), forget.sigmoid(), let_out.sigmoid()
    candidate = candidate.tanh()
    cell = forget * before + let_in * candidate
    hidden = let_out * cell.tanh()
    gate_grad, before_grad = torch.autograd.grad(
        (hidden, cell), (gates, before), (exact.hidden_grad + exact.later, exact.cell_grad)
    )
    activations = torch.cat([let_in, forget, let_out, candidate], -1)
    found = Found(
        activations, cell, cell.tanh(), hidden, gate_grad, before_grad, exact.total + gate_grad
    )  # fmt: skip
    return Found(*(part.detach() for part in found))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 3, 17, 130])
@pytest.mark.parametrize(("sentences", "draws"), [(1, 1), (3, 1), (1, 5), (7, 3)])
def test_cell_is_the_textbook_cell(sentences: int, draws: int, width: int, dtype: torch.dtype) -> None:
    given = inputs(sentences, draws, width, dtype)
    found, rounding = run(cells_for(given.gates), given), 8 * torch.finfo(dtype).eps
    for name, ours, exact in zip(Found._fields, found, by_hand(given), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), exact, rtol=rounding, atol=rounding, msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_shared_among_threads_are_the_same_rows(dtype: torch.dtype) -> None:
    """Also where they cannot be shared evenly; large enough that sharing pays."""
    given = inputs(sentences=211, draws=5, width=130, dtype=dtype)
    alone = by_hand(given)
    for threads in (1, 2, 3):
        with computing_with(threads):
            found = run(cells_for(given.gates), given)
        for ours, exact in zip(found, alone, strict=True):
            torch.testing.assert_close(ours.double(), exact, rtol=0, atol=32 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_gates_have_their_limits(dtype: torch.dtype) -> None:
    """Every combination of gates that are open, shut, tiny and infinite, whatever the cell holds."""
    tiny = torch.finfo(dtype).tiny / 64
    ends = torch.tensor([0.0, tiny, -tiny, 1e4, -1e4, torch.inf, -torch.inf], dtype=dtype)
    gates = torch.cartesian_prod(ends, ends, ends, ends)
    for cell in (0.0, tiny, -1.0, 1e30):
        given = inputs(len(gates), 1, 1, dtype)
        quiet = {name: torch.zeros_like(getattr(given, name)) for name in ("token", "code")}
        given = given._replace(gates=gates, before=torch.full_like(given.before, cell), **quiet)
        rounding = 8 * torch.finfo(dtype).eps
        for name, ours, exact in zip(
            Found._fields, run(cells_for(gates), given), by_hand(given), strict=True
        ):
            assert ours.isfinite().all(), name
            torch.testing.assert_close(ours.double(), exact, rtol=rounding, atol=rounding, msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_lost_unit_spoils_no_other(dtype: torch.dtype) -> None:
    given = inputs(3, 2, 17, dtype)
    sound = run(cells_for(given.gates), given)
    for column in (5, 17 + 5, 34 + 5, 51 + 5):
        gates = given.gates.clone()
        gates[4, column] = torch.nan
        found = run(cells_for(gates), given._replace(gates=gates))
        assert found.hidden[4, 5].isnan()
        for ours, before in zip(found, sound, strict=True):
            spoilt = torch.zeros_like(ours, dtype=torch.bool)
            spoilt[4, 5::17] = True
            assert torch.equal(ours[~spoilt], before[~spoilt])


@pytest.mark.parametrize(("dtype", "real"), [(torch.float32, np.float32), (torch.float64, np.float64)])
def test_sigmoid_and_tanh_are_right_to_their_last_digits(dtype: torch.dtype, real: type) -> None:
    """In units of the last place, near zero and in the tails; oracle: extended precision.

    A tanh from exponentials alone loses all digits near zero, and a sigmoid from tanh all of its tail.
    """
    small = np.logspace(-44, 0, 3000) if real is np.float32 else np.logspace(-300, 0, 3000)
    x = np.concatenate([small, np.linspace(0, 120, 20_011)]).astype(real)
    x = np.concatenate([x, -x])
    wide, n = x.astype(np.longdouble), len(x)
    sigmoid, tanh = 1 / (1 + np.exp(-wide)), np.tanh(wide)
    given = inputs(n, 1, 1, dtype)
    values = torch.from_numpy(x)[:, None]
    open_and_shut = torch.tensor([-torch.inf, torch.inf], dtype=dtype).expand(n, 2)

    def off(found: Tensor, exact: np.ndarray) -> float:
        tiny = np.finfo(real).tiny  # below it numbers lose digits anyway
        unit = np.spacing(np.maximum(np.abs(exact).astype(real), tiny))
        return float((np.maximum(np.abs(found.numpy() - exact) - tiny, 0) / unit).max())

    zeros = {"token": torch.zeros(n, 4, dtype=dtype), "code": torch.zeros(n, 4, dtype=dtype)}
    found = run(cells_for(values), given._replace(gates=values.repeat(1, 4), **zeros))
    for gate in range(3):
        assert off(found.activations[:, gate], sigmoid) <= 4
    assert off(found.activations[:, 3], tanh) <= 4
    kept = torch.cat(
        [open_and_shut, values, values], -1
    )  # nothing let in, nothing forgotten: the cell before
    found = run(cells_for(values), given._replace(gates=kept, before=values.clone(), **zeros))
    assert torch.equal(found.cell, values)
    assert off(found.squashed[:, 0], tanh) <= 4


def test_cells_are_compiled_where_there_is_a_compiler(request: pytest.FixtureRequest) -> None:
    """Otherwise half of the tests here would compare PyTorch's operations with themselves."""
    plain = request.node.callspec.params["cells"] == "plain"
    expected = which(os.environ.get("CC", "cc")) and os.environ.get("SRI_PYRO_COMPILE") != "0" and not plain
    for dtype in DTYPES:
        assert (cells_for(torch.zeros(1, dtype=dtype)) is not PLAIN) == bool(expected)
    assert cells_for(torch.zeros(1, dtype=torch.bfloat16)) is PLAIN


def test_plain_cells_end_with_their_block() -> None:
    outside = cells_for(torch.zeros(1))
    with plain_cells():
        with plain_cells():
            assert cells_for(torch.zeros(1)) is PLAIN
        assert cells_for(torch.zeros(1)) is PLAIN
    assert cells_for(torch.zeros(1)) is outside
    with pytest.raises(KeyError), plain_cells():
        raise KeyError
    assert cells_for(torch.zeros(1)) is outside


WITHOUT_A_COMPILER = """
import torch
from sri_pyro.models.decoders import cells
from tests.models.test_fast_lstm import TOKENS, assert_textbook
from tests.textbook import small_lstm
torch.set_default_dtype(torch.float64)
for dtype in (torch.float32, torch.float64):
    assert cells.cells_for(torch.zeros(1, dtype=dtype)) is cells.PLAIN
torch.manual_seed(0)
assert_textbook(small_lstm(), TOKENS, torch.randn(3, 4, 3))
"""


def test_the_compiler_can_be_left_out(request: pytest.FixtureRequest) -> None:
    if request.node.callspec.params["cells"] == "plain":
        pytest.skip("the other process does not depend on what this one computes with")
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_COMPILER],
        cwd=root,
        env=os.environ | {"SRI_PYRO_COMPILE": "0", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
