r"""The LSTM cell forward and in reverse on rows of chains: compiled where it can be, else by PyTorch's operations.

Gate rows hold input, forget, output and candidate, H numbers each, so that one sigmoid covers three of them.
Both ways compute the same formulas and agree to rounding. Axes: n rows (draws of a sentence side by side), H units.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ctypes import c_int64, c_void_p
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sri_pyro.compiling import compiling_is_off, library

log = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "native" / "cells.c"
MOST_THREADS = 4
"""A compiled cell runs on one thread; with more than so many, PyTorch's operations share the work better."""


class Cells(NamedTuple):
    """The two passes of a cell.

    Attributes:
        forward: ``(gates, token, code, before, cell, squashed, hidden)``: from gates [n, 4H] that hold
            :math:`W h_{t-1}`, token-side inputs [n / draws, 4H], code-side inputs [n, 4H] and :math:`c_{t-1}`
            [n, H] to the activations (in place), :math:`c_t`, :math:`\\tanh c_t` and :math:`h_t`.
        reverse: ``(gates, before, squashed, hidden_grad, later, cell_grad, total)``: from the activations and the
            gradients in :math:`h_t` (what the step contributes and what later ones do) and in :math:`c_t` to the
            gradient in the gates (in place), which ``total`` gains, and in :math:`c_{t-1}` (in place).
    """

    forward: Callable[..., None]
    reverse: Callable[..., None]


def cells_for(like: Tensor) -> Cells:
    """The fastest cells for tensors of this device and type."""
    if plain_is_wanted():
        return PLAIN
    if like.device.type == "cuda":
        return _fused(like.device, like.dtype) or PLAIN
    small = like.device.type == "cpu" and torch.get_num_threads() <= MOST_THREADS
    return (_compiled(like.dtype) if small else None) or PLAIN


_plain = ContextVar("plain", default=False)


def plain_is_wanted() -> bool:
    """Whether PyTorch's operations alone are to be used for a while."""
    return _plain.get()


@contextmanager
def plain_cells() -> Iterator[None]:
    """Use PyTorch's operations alone for a while."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def _forward(
    gates: Tensor, token: Tensor, code: Tensor, before: Tensor, cell: Tensor, squashed: Tensor, hidden: Tensor
) -> None:
    units = before.shape[1]
    gates += code
    gates.view(len(token), -1, 4 * units).add_(token[:, None])
    gates[:, : 3 * units].sigmoid_()
    candidate = gates[:, 3 * units :].tanh_()
    torch.mul(gates[:, units : 2 * units], before, out=cell)
    cell.addcmul_(gates[:, :units], candidate)
    torch.tanh(cell, out=squashed)
    torch.mul(gates[:, 2 * units : 3 * units], squashed, out=hidden)


def _reverse(
    gates: Tensor,
    before: Tensor,
    squashed: Tensor,
    hidden_grad: Tensor,
    later: Tensor,
    cell_grad: Tensor,
    total: Tensor,
) -> None:
    into, forget, out, candidate = torch.chunk(gates, 4, 1)
    dh = hidden_grad + later
    cell_grad += torch.ops.aten.tanh_backward(dh * out, squashed)
    # Whole rows at once: operations on some of their columns take several times as long.
    change = torch.cat([cell_grad, cell_grad, dh, cell_grad], 1)
    change *= torch.cat([candidate, before, squashed, into], 1)
    cell_grad *= forget
    of_candidate = torch.ops.aten.tanh_backward(torch.chunk(change, 4, 1)[3], candidate)
    torch.ops.aten.sigmoid_backward.grad_input(change, gates, grad_input=gates)
    candidate.copy_(of_candidate)
    total += gates


PLAIN = Cells(_forward, _reverse)


@functools.cache
def _compiled(dtype: torch.dtype) -> Cells | None:
    """The cells of ``cells.c``, if they can be had and agree with PyTorch's."""
    name = {torch.float32: "float", torch.float64: "double"}.get(dtype)
    functions = library(SOURCE, f"REAL={name}") if name else None
    if functions is None:
        return None
    forward, reverse = functions.lstm_forward, functions.lstm_reverse
    forward.argtypes, forward.restype = [c_int64] * 3 + [c_void_p] * 7, None
    reverse.argtypes, reverse.restype = [c_int64] * 2 + [c_void_p] * 7, None

    def compiled_forward(
        gates: Tensor,
        token: Tensor,
        code: Tensor,
        before: Tensor,
        cell: Tensor,
        squashed: Tensor,
        hidden: Tensor,
    ) -> None:
        rows, units = before.shape
        forward(
            rows, units, rows // max(1, len(token)), gates.data_ptr(), token.data_ptr(), code.data_ptr(),
            before.data_ptr(), cell.data_ptr(), squashed.data_ptr(), hidden.data_ptr(),
        )  # fmt: skip

    def compiled_reverse(
        gates: Tensor, before: Tensor, squashed: Tensor, hidden_grad: Tensor, later: Tensor, cell_grad: Tensor,
        total: Tensor,
    ) -> None:  # fmt: skip
        rows, units = before.shape
        reverse(
            rows, units, gates.data_ptr(), before.data_ptr(), squashed.data_ptr(), hidden_grad.data_ptr(),
            later.data_ptr(), cell_grad.data_ptr(), total.data_ptr(),
        )  # fmt: skip

    return _trusted(Cells(compiled_forward, compiled_reverse), torch.device("cpu"), dtype)


@functools.cache
def _fused(device: torch.device, dtype: torch.dtype) -> Cells | None:
    """The cells of ``cells_triton``, if PyTorch brought Triton along and they agree with PyTorch's."""
    if compiling_is_off() or dtype not in (torch.float32, torch.float64):
        return None
    try:
        from sri_pyro.models.decoders import cells_triton

        return _trusted(Cells(cells_triton.forward, cells_triton.reverse), device, dtype)
    except Exception as error:  # whatever its compiler or driver says, PyTorch's operations are there
        log.info(
            "the LSTM cell is not compiled for %s (%s); PyTorch's own operations are used.", device, error
        )
        return None


def _trusted(cells: Cells, device: torch.device, dtype: torch.dtype) -> Cells | None:
    """The cells if they agree with PyTorch's."""
    if _agree(cells, device, dtype):
        return cells
    log.warning(
        "the compiled LSTM cell does not agree with PyTorch's operations on %s and is not used.", device
    )
    return None


@torch.no_grad()
def _agree(cells: Cells, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether compiled cells do what PyTorch's do on a few numbers: no compiler is trusted blindly."""
    units, sentences, draws = 19, 2, 3
    rows = sentences * draws
    span = torch.linspace(-9, 9, rows * 4 * units, dtype=dtype, device=device)
    wave = span.sin()
    results = []
    for way in (cells, PLAIN):
        gates = span.reshape(rows, -1).clone()
        before = wave[: rows * units].reshape(rows, units).clone()
        cell, squashed, hidden = (torch.empty_like(before) for _ in range(3))
        token, code = wave[: sentences * 4 * units].reshape(sentences, -1), wave.flip(0).reshape(rows, -1)
        way.forward(gates, token, code, before, cell, squashed, hidden)
        activations, total, change = gates.clone(), torch.ones_like(gates), torch.ones_like(before)
        way.reverse(gates, before, squashed, hidden, before, change, total)
        results.append((activations, cell, squashed, hidden, gates, change, total))
    tolerance = 64 * torch.finfo(dtype).eps
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(*results, strict=True))
