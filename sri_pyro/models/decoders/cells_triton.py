"""The LSTM cell on a GPU, forward and in reverse, each one kernel that Triton compiles.

PyTorch brings Triton along where it brings CUDA. The formulas and the order of gates are those of ``cells``; a program
of the grid takes ``BLOCK`` units, of whatever row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

BLOCK = 256


def forward(
    gates: Tensor, token: Tensor, code: Tensor, before: Tensor, cell: Tensor, squashed: Tensor, hidden: Tensor
) -> None:
    """As ``Cells.forward``; all tensors are contiguous."""
    rows, units = before.shape
    if rows:
        draws = rows // len(token)
        with torch.cuda.device(gates.device):
            _forward[_grid(rows * units)](
                gates, token, code, before, cell, squashed, hidden, rows * units, units, draws, BLOCK
            )


def reverse(
    gates: Tensor, before: Tensor, squashed: Tensor, hidden_grad: Tensor, later: Tensor, cell_grad: Tensor,
    total: Tensor,
) -> None:  # fmt: skip
    """As ``Cells.reverse``; all tensors are contiguous."""
    rows, units = before.shape
    if rows:
        with torch.cuda.device(gates.device):
            _reverse[_grid(rows * units)](
                gates, before, squashed, hidden_grad, later, cell_grad, total, rows * units, units, BLOCK
            )


def _grid(elements: int) -> tuple[int]:
    return (triton.cdiv(elements, BLOCK),)


@triton.jit
def _sigmoid(x):  # type: ignore[no-untyped-def]  # Triton types them
    return 1.0 / (1.0 + libdevice.exp(-x))


@triton.jit
def _forward(  # type: ignore[no-untyped-def]  # Triton types them
    gates, token, code, before, cell, squashed, hidden, elements, units, draws, block: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    live = at < elements
    row = at // units
    unit = at - row * units
    gate = row * 4 * units + unit
    word = row // draws * 4 * units + unit
    a_in = tl.load(gates + gate, live) + (tl.load(token + word, live) + tl.load(code + gate, live))
    gate_f, word_f = gate + units, word + units
    a_forget = tl.load(gates + gate_f, live) + (tl.load(token + word_f, live) + tl.load(code + gate_f, live))
    gate_o, word_o = gate_f + units, word_f + units
    a_out = tl.load(gates + gate_o, live) + (tl.load(token + word_o, live) + tl.load(code + gate_o, live))
    gate_c, word_c = gate_o + units, word_o + units
    a_new = tl.load(gates + gate_c, live) + (tl.load(token + word_c, live) + tl.load(code + gate_c, live))
    let_in, forget, let_out = _sigmoid(a_in), _sigmoid(a_forget), _sigmoid(a_out)
    candidate = libdevice.tanh(a_new)
    new = forget * tl.load(before + at, live) + let_in * candidate
    bent = libdevice.tanh(new)
    tl.store(gates + gate, let_in, live)
    tl.store(gates + gate_f, forget, live)
    tl.store(gates + gate_o, let_out, live)
    tl.store(gates + gate_c, candidate, live)
    tl.store(cell + at, new, live)
    tl.store(squashed + at, bent, live)
    tl.store(hidden + at, let_out * bent, live)


@triton.jit
def _gain(total, at, change, live):  # type: ignore[no-untyped-def]  # Triton types them
    tl.store(total + at, tl.load(total + at, live) + change, live)


@triton.jit
def _reverse(  # type: ignore[no-untyped-def]  # Triton types them
    gates, before, squashed, hidden_grad, later, cell_grad, total, elements, units, block: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    live = at < elements
    row = at // units
    gate = row * 4 * units + (at - row * units)
    gate_f, gate_o, gate_c = gate + units, gate + 2 * units, gate + 3 * units
    let_in, forget = tl.load(gates + gate, live), tl.load(gates + gate_f, live)
    let_out, candidate = tl.load(gates + gate_o, live), tl.load(gates + gate_c, live)
    bent = tl.load(squashed + at, live)
    dh = tl.load(hidden_grad + at, live) + tl.load(later + at, live)
    dc = tl.load(cell_grad + at, live) + dh * let_out * (1.0 - bent * bent)
    of_in = dc * candidate * (let_in * (1.0 - let_in))
    of_forget = dc * tl.load(before + at, live) * (forget * (1.0 - forget))
    of_out = dh * bent * (let_out * (1.0 - let_out))
    of_candidate = dc * let_in * (1.0 - candidate * candidate)
    tl.store(cell_grad + at, dc * forget, live)
    tl.store(gates + gate, of_in, live)
    tl.store(gates + gate_f, of_forget, live)
    tl.store(gates + gate_o, of_out, live)
    tl.store(gates + gate_c, of_candidate, live)
    _gain(total, gate, of_in, live)
    _gain(total, gate_f, of_forget, live)
    _gain(total, gate_o, of_out, live)
    _gain(total, gate_c, of_candidate, live)
