r"""The fast route in single precision on a processor, compiled: log p(x | z) and its z-gradient in one call.

What ``fast_lstm`` computes operation by operation, ``lstm.c`` computes in one pass, with products of its own, whose
results go on being used while they are in the nearest cache. Nothing is kept but what is returned, and the memory
that a call takes does not grow with the number of draws.

Axes: as in ``fast_lstm``; P columns of a panel.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from sri_pyro.compiling import library

if TYPE_CHECKING:
    from sri_pyro.models.decoders.fast_lstm import ConditionedLSTM

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("lstm.c")
_NUMBERS = ("draws", "sentences", "dim", "units", "steps", "words", "hidden_wiring", "threads")
_PLACES = (
    "order", "counts", "begin", "end", "start_bias", "recurrent", "back", "logits", "means", "bias", "token",
    "target_weight", "target_bias", "mask", "z", "value", "grad",
)  # fmt: skip


class _Likelihood(ctypes.Structure):
    """What ``lstm.c`` calls a likelihood."""

    _fields_ = [(name, ctypes.c_int64) for name in _NUMBERS] + [(name, ctypes.c_void_p) for name in _PLACES]


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The functions of ``lstm.c``, if they can be had on this processor and agree with PyTorch's operations."""
    functions = loaded()
    if functions is None or _agree(functions):
        return functions
    log.warning("the compiled LSTM does not agree with PyTorch's operations and is not used.")
    return None


def loaded(*definitions: str) -> ctypes.CDLL | None:
    """The functions of ``lstm.c``, if they can be had on this processor."""
    functions = library(SOURCE, *definitions)
    if functions is None:
        return None
    for name in ("panel", "lstm_room"):
        getattr(functions, name).restype = ctypes.c_int64
    functions.lstm_room.argtypes = [ctypes.c_void_p]
    functions.pack.argtypes = [*[ctypes.c_int64] * 3, ctypes.c_void_p, *[ctypes.c_int64] * 2, ctypes.c_void_p]
    functions.pack.restype = None
    functions.lstm_likelihood.argtypes, functions.lstm_likelihood.restype = [ctypes.c_void_p] * 2, None
    return functions if functions.panel() else None


def _agree(functions: ctypes.CDLL) -> bool:
    """Whether they do what PyTorch's operations do on a few numbers: no compiler is trusted blindly."""
    from sri_pyro.models.decoders.fast_lstm import ConditionedLSTM
    from sri_pyro.models.decoders.packed import Packing

    draws, tokens, dim, units, words = 3, 6, 2, 19, 70

    def wave(*shape: int) -> Tensor:
        return torch.linspace(-9, 9, math.prod(shape)).sin().reshape(shape)

    packing = Packing.of(torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]]))
    recurrent_HG = wave(units, 4 * units)
    example = ConditionedLSTM(
        packing=packing,
        sentence_N=packing.sentences(),
        token_gates_NG=wave(tokens, 4 * units),
        recurrent_HG=recurrent_HG,
        recurrent_GH=recurrent_HG.T.contiguous(),
        code_to_gates_GD=wave(4 * units, dim),
        code_to_start_HD=wave(units, dim),
        start_bias_H=wave(units),
        hidden_wiring=False,
        target_weight_NH=wave(tokens, units),
        target_bias_N=wave(tokens),
        output_weight_VH=wave(words, units),
        output_bias_V=wave(words),
        state_mask_NH=2 * wave(tokens, units),
    )
    z = wave(draws, 3, dim)
    found, expected = CompiledLSTM.of(example, functions).value_and_grad(z), example.by_operations(z)
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(found, expected, strict=True))


@dataclass(frozen=True)
class CompiledLSTM:
    """One batch's log p(x | z), laid out for ``lstm.c``.

    Attributes:
        functions: Of the library.
        dim: D.
        numbers: What the C structure holds besides tensors and what a call brings.
        tensors: Those that it points to.
    """

    functions: ctypes.CDLL
    dim: int
    numbers: dict[str, int]
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, likelihood: ConditionedLSTM, functions: ctypes.CDLL) -> Self:
        """Of a decoder that is conditioned on a batch."""
        panel = functions.panel()
        dim, units = likelihood.code_to_gates_GD.shape[1], len(likelihood.recurrent_HG)

        def padded(values: Tensor) -> Tensor:
            return _padded(values, units, panel)

        def panels(matrix_KN: Tensor, rows: int = 0) -> Tensor:
            return _panels(functions, matrix_KN, rows or len(matrix_KN))

        begin_DX = torch.cat([padded(likelihood.code_to_gates_GD.T), padded(likelihood.code_to_start_HD.T)], 1)
        recurrent_HG, output_VH = padded(likelihood.recurrent_HG), likelihood.output_weight_VH
        wide, missing = recurrent_HG.shape[1] // 4, -len(output_VH) % panel
        words, mask = len(output_VH) + missing, likelihood.state_mask_NH
        tensors = {
            "order": likelihood.packing.order_B.contiguous(),
            "counts": torch.tensor(likelihood.packing.counts),
            "begin": panels(begin_DX),
            "end": panels(begin_DX.T),
            "start_bias": padded(likelihood.start_bias_H),
            "recurrent": panels(recurrent_HG, wide),
            "back": panels(recurrent_HG.T),
            "logits": panels(output_VH.T, wide),
            "means": panels(output_VH, words),
            "bias": F.pad(likelihood.output_bias_V, (0, missing), value=-torch.inf),
            "token": padded(likelihood.token_gates_NG),
            "target_weight": padded(likelihood.target_weight_NH),
            "target_bias": likelihood.target_bias_N.contiguous(),
        }
        if mask is not None:
            tensors["mask"] = padded(mask)
        numbers = {
            "sentences": len(likelihood.packing.order_B),
            "dim": dim,
            "units": wide,
            "steps": len(likelihood.packing.counts),
            "words": words,
            "hidden_wiring": int(likelihood.hidden_wiring),
        }
        return cls(functions, dim, numbers, tensors)

    def value(self, z: Tensor) -> Tensor:
        """Log p(x | z) in nats for z [S, B, D], shape [S, B]."""
        value = z.new_empty(z.shape[:2])
        self._call(z, value=value)
        return value

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and its gradient in z [S, B, D]."""
        value, grad = z.new_empty(z.shape[:2]), torch.empty(z.shape, dtype=z.dtype)
        self._call(z, value=value, grad=grad)
        return value, grad

    def _call(self, z: Tensor, **found: Tensor) -> None:
        if not z[..., 0].numel():
            return
        tensors = {**self.tensors, "z": z.contiguous(), **found}
        given = _Likelihood(
            draws=len(z),
            threads=torch.get_num_threads(),
            **self.numbers,
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        )
        pointer = ctypes.addressof(given)
        room = z.new_empty(self.functions.lstm_room(pointer))
        self.functions.lstm_likelihood(pointer, room.data_ptr())


def _padded(values: Tensor, units: int, panel: int) -> Tensor:
    """Columns of units, or of gates of units, padded by zeros to whole panels, side by side in memory."""
    missing = -units % panel
    if not missing:
        return values.contiguous()
    parts = values.reshape(*values.shape[:-1], values.shape[-1] // units, units)
    return F.pad(parts, (0, missing)).flatten(-2)


def _panels(functions: ctypes.CDLL, matrix_KN: Tensor, rows: int) -> Tensor:
    """Columns cut into panels, [N / P, K, P], padded by zeros to so many rows and to whole panels."""
    (height, width), panel = matrix_KN.shape, functions.panel()
    packed = matrix_KN.new_empty(-(-width // panel), rows, panel)
    functions.pack(height, width, rows, matrix_KN.data_ptr(), *matrix_KN.stride(), packed.data_ptr())
    return packed
