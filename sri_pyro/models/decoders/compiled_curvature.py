"""The slow part of the Hessian in z in single precision on a processor, compiled: see ``native/curvature.c``.

Axes: as in ``lstm_sweeps``.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sri_pyro.compiling import library
from sri_pyro.models.decoders import compiled_layer
from sri_pyro.models.decoders.compiled_layer import FOLDER, can_compute, panels
from sri_pyro.models.decoders.compiled_lstm import example

if TYPE_CHECKING:
    from sri_pyro.models.decoders.lstm_sweeps import Chunk, Network, Sweep

log = logging.getLogger(__name__)

_NUMBERS = ("chains", "dim", "units", "steps", "words", "cell_wiring", "threads")
_PLACES = (
    "alive", "recurrent", "to_gates", "to_start", "start_h", "gates", "first", "through", "square", "cross", "law",
    "mean", "mask", "weight", "found",
)  # fmt: skip


class CurvatureStructure(ctypes.Structure):
    """What ``curvature.c`` takes."""

    _fields_ = [(name, ctypes.c_int64) for name in _NUMBERS] + [(name, ctypes.c_void_p) for name in _PLACES]


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The functions of ``curvature.c``, if they can be had on this processor and agree with PyTorch's operations."""
    functions = loaded() if compiled_layer.compiled() else None
    if functions is None or _agree(functions):
        return functions
    log.warning("the compiled Hessian does not agree with PyTorch's operations and is not used.")
    return None


def _agree(functions: ctypes.CDLL) -> bool:
    """Whether they do what PyTorch's operations do on a few numbers: no compiler is trusted blindly."""
    from sri_pyro.models.decoders.lstm_hessian import hessian_by
    from sri_pyro.models.decoders.lstm_sweeps import Network, chunks

    likelihood, z = example(units=functions.panel())
    network = Network.of(likelihood)
    (chunk,) = chunks(likelihood, z, directions=1)
    found, expected = hessian_by(functions, network, chunk), hessian_by(None, network, chunk)
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def loaded(*definitions: str) -> ctypes.CDLL | None:
    """The functions of ``curvature.c``, if they can be had on this processor."""
    functions = library(FOLDER / "curvature.c", *definitions)
    if functions is None or not functions.panel():
        return None
    functions.panel.restype = ctypes.c_int64
    functions.curvature_room.argtypes, functions.curvature_room.restype = [ctypes.c_void_p], ctypes.c_int64
    functions.curvature.argtypes, functions.curvature.restype = [ctypes.c_void_p] * 2, None
    return functions


def functions_for(network: Network) -> ctypes.CDLL | None:
    """The functions, if they can compute the curvature of this network."""
    if not can_compute(network.output_weight_VH) or not network.dim or (functions := compiled()) is None:
        return None
    return functions if network.hidden % functions.panel() == 0 else None


def add_curvature(
    functions: ctypes.CDLL,
    found_NDD: Tensor,
    network: Network,
    chunk: Chunk,
    sweep: Sweep,
    bends: tuple[Tensor, Tensor],
    law_RV: Tensor,
    mean_RH: Tensor,
) -> None:
    """Add the curvature of cells and softmax to the Hessians, but for making them symmetric.

    Args:
        functions: From ``functions_for``.
        found_NDD: The Hessians.
        network: The weights.
        chunk: The chains.
        sweep: The sweep forward.
        bends: Second derivatives of the units, pure and mixed.
        law_RV: The law of every real token.
        mean_RH: The mean of the output weights under it.
    """
    layer_functions = compiled_layer.loaded()
    if layer_functions is None:
        raise RuntimeError("the compiled softmax layer is not at hand.")
    square_TNX, cross_TNX = bends
    tensors = {
        "alive": torch.tensor(sweep.alive),
        "recurrent": panels(layer_functions, network.recurrent_GH.T),
        "to_gates": network.code_to_gates_DG,
        "to_start": network.code_to_start_DH,
        "start_h": sweep.start_h_NH,
        "gates": sweep.gates_TNG,
        "first": sweep.first_TNG,
        "through": sweep.through_TNH,
        "square": square_TNX,
        "cross": cross_TNX,
        "law": law_RV,
        "mean": mean_RH,
        "weight": network.output_weight_VH,
    }
    if chunk.state_mask_RH is not None:
        tensors["mask"] = chunk.state_mask_RH
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if not found_NDD.is_contiguous():
        raise ValueError("the Hessians must lie side by side in memory.")
    given = CurvatureStructure(
        chains=len(found_NDD),
        dim=network.dim,
        units=network.hidden,
        steps=len(sweep.alive),
        words=len(network.output_weight_VH),
        cell_wiring=int(network.cell_wiring),
        threads=torch.get_num_threads(),
        found=found_NDD.data_ptr(),
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
    )
    pointer = ctypes.addressof(given)
    room = found_NDD.new_empty(functions.curvature_room(pointer))
    functions.curvature(pointer, room.data_ptr())
