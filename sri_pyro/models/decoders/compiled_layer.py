r"""The output layer in single precision on a processor, compiled: softmax means and normalisers of hidden states.

Columns of a matrix of weights are cut into panels, which ``native/products.h`` reads one after another.

Axes: N hidden states, H units, V words; K rows of a matrix; P columns of a panel.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from sri_pyro.compiling import library
from sri_pyro.models.decoders.cells import plain_is_wanted
from sri_pyro.models.decoders.vocabulary import vocabulary_attention

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "native"
MOST_PACKED = 12 * 2**20
"""Output weights of which two copies are kept as panels, 96 MiB; of more, panels are made a block at a time."""


class LayerStructure(ctypes.Structure):
    """What ``softmax.h`` calls a layer."""

    _fields_ = [(name, ctypes.c_int64) for name in ("units", "words", "hidden", "vocabulary")] + [
        (name, ctypes.c_void_p) for name in ("bias", "weight", "logits", "means")
    ]


def can_compute(like: Tensor, *others: Tensor) -> bool:
    """Whether tensors are such as the compiled functions take, and these are wanted."""
    single = all(x.device.type == "cpu" and x.dtype == torch.float32 for x in (like, *others))
    return single and not plain_is_wanted()


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The functions of ``attention.c``, if they can be had on this processor and agree with PyTorch's operations."""
    functions = loaded()
    if functions is None or _agree(functions):
        return functions
    log.warning("the compiled softmax layer does not agree with PyTorch's operations and is not used.")
    return None


def loaded(*definitions: str) -> ctypes.CDLL | None:
    """The functions of ``attention.c``, if they can be had on this processor."""
    functions = library(FOLDER / "attention.c", *definitions)
    if functions is None:
        return None
    functions.panel.restype = ctypes.c_int64
    if not functions.panel():  # there are no others then
        return None
    functions.pack.argtypes = [*[ctypes.c_int64] * 3, ctypes.c_void_p, *[ctypes.c_int64] * 2, ctypes.c_void_p]
    functions.attention_room.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    functions.attention_room.restype = ctypes.c_int64
    functions.attention.argtypes = [
        ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 3, ctypes.c_int64, ctypes.c_void_p
    ]  # fmt: skip
    functions.pack.restype = functions.attention.restype = None
    return functions


def _agree(functions: ctypes.CDLL) -> bool:
    """Whether they do what PyTorch's do on a few numbers: no compiler is trusted blindly."""
    states, units, words = 17, 19, 70
    wave = torch.linspace(-9, 9, (states + words) * units, dtype=torch.float32, device="cpu").sin()
    h_NH, weight_VH = wave[: states * units].view(-1, units), wave[states * units :].view(-1, units)
    found = CompiledLayer.of(weight_VH, wave[:words], functions).attention(h_NH)
    expected = vocabulary_attention(h_NH, weight_VH, wave[:words])
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(found, expected, strict=True))


def padded(values: Tensor, units: int, panel: int) -> Tensor:
    """Columns of units, or of gates of units, padded by zeros to whole panels, side by side in memory."""
    missing = -units % panel
    if not missing:
        return values.contiguous()
    parts = values.reshape(*values.shape[:-1], values.shape[-1] // units, units)
    return F.pad(parts, (0, missing)).flatten(-2)


def panels(functions: ctypes.CDLL, matrix_KN: Tensor, rows: int = 0) -> Tensor:
    """Columns cut into panels, [N / P, K, P], padded by zeros to so many rows and to whole panels."""
    (height, width), panel = matrix_KN.shape, functions.panel()
    packed = matrix_KN.new_empty(-(-width // panel), rows or height, panel)
    functions.pack(
        height, width, rows or height, matrix_KN.data_ptr(), *matrix_KN.stride(), packed.data_ptr()
    )
    return packed


@dataclass(frozen=True)
class CompiledLayer:
    """Output weights and biases, laid out for ``softmax.h``.

    Attributes:
        functions: Of ``attention.c``.
        hidden: H.
        tensors: What the structure points to.
        structure: The layer.
    """

    functions: ctypes.CDLL
    hidden: int
    tensors: tuple[Tensor, ...]
    structure: LayerStructure

    @classmethod
    def of(cls, weight_VH: Tensor, bias_V: Tensor, functions: ctypes.CDLL) -> Self:
        """Of these weights."""
        (words, hidden), panel = weight_VH.shape, functions.panel()
        wide, all_words = hidden + -hidden % panel, words + -words % panel
        tensors = [F.pad(bias_V, (0, all_words - words), value=-math.inf), weight_VH.contiguous()]
        if weight_VH.numel() <= MOST_PACKED:
            tensors += [panels(functions, weight_VH.T, wide), panels(functions, weight_VH, all_words)]
        places = (tensor.data_ptr() for tensor in tensors)
        return cls(functions, hidden, tuple(tensors), LayerStructure(wide, all_words, hidden, words, *places))

    def attention(self, h_NH: Tensor) -> tuple[Tensor, Tensor]:
        """Mean output weight [N, H] and log-normaliser [N] of every state, as ``vocabulary_attention`` gives them."""
        h_NX = padded(h_NH, self.hidden, self.functions.panel())
        mean, normaliser = torch.empty_like(h_NX), h_NX.new_empty(len(h_NX))
        threads = torch.get_num_threads()
        layer = ctypes.addressof(self.structure)
        room = h_NX.new_empty(self.functions.attention_room(layer, len(h_NX), threads))
        self.functions.attention(
            layer, len(h_NX), h_NX.data_ptr(), mean.data_ptr(), normaliser.data_ptr(),
            threads, room.data_ptr(),
        )  # fmt: skip
        return mean[:, : self.hidden], normaliser
