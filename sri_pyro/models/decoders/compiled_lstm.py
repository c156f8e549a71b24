r"""The fast route in single precision on a processor, compiled: log p(x | z) and its z-gradient in one call.

What ``fast_lstm`` computes operation by operation, ``native/lstm.c`` computes in one pass, with products of its own,
whose results go on being used while they are in the nearest cache. Nothing is kept but what is returned, and the
memory that a call takes does not grow with the number of draws.

Axes: as in ``fast_lstm``.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor

from sri_pyro.compiling import library
from sri_pyro.models.decoders import compiled_layer
from sri_pyro.models.decoders.compiled_layer import FOLDER, CompiledLayer, LayerStructure, padded, panels

if TYPE_CHECKING:
    from sri_pyro.models.decoders.fast_lstm import ConditionedLSTM

log = logging.getLogger(__name__)

_NUMBERS = ("draws", "sentences", "dim", "steps", "hidden_wiring", "threads")
_PLACES = (
    "order", "counts", "begin", "end", "start_bias", "recurrent", "back", "token", "target_weight", "target_bias",
    "mask", "z", "value", "grad", "states",
)  # fmt: skip


class LikelihoodStructure(ctypes.Structure):
    """What ``lstm.c`` calls a likelihood."""

    _fields_ = [
        ("layer", LayerStructure),
        *[(name, ctypes.c_int64) for name in _NUMBERS],
        *[(name, ctypes.c_void_p) for name in _PLACES],
    ]


class Functions(NamedTuple):
    """Of ``lstm.c``, and of ``attention.c`` for vectors of the same width."""

    lstm: ctypes.CDLL
    layer: ctypes.CDLL


@functools.cache
def compiled() -> Functions | None:
    """The functions of ``lstm.c``, if they can be had on this processor and agree with PyTorch's operations."""
    functions = loaded() if compiled_layer.compiled() else None
    if functions is None or _agree(functions):
        return functions
    log.warning("the compiled LSTM does not agree with PyTorch's operations and is not used.")
    return None


def loaded(*definitions: str) -> Functions | None:
    """The functions of ``lstm.c``, if they can be had on this processor."""
    lstm, layer = library(FOLDER / "lstm.c", *definitions), compiled_layer.loaded(*definitions)
    if lstm is None or layer is None:
        return None
    lstm.lstm_room.argtypes, lstm.lstm_room.restype = [ctypes.c_void_p], ctypes.c_int64
    for function in (lstm.lstm_likelihood, lstm.lstm_states, lstm.lstm_gradient):
        function.argtypes, function.restype = [ctypes.c_void_p] * 2, None
    return Functions(lstm, layer)


def _agree(functions: Functions) -> bool:
    """Whether they do what PyTorch's operations do on a few numbers: no compiler is trusted blindly."""
    given, z = example(units=19)
    pairs: list[tuple[Tensor, Tensor]] = []
    for likelihood in (given, replace(given, hidden_wiring=True)):
        whole, (value, grad) = CompiledLSTM.of(likelihood, functions), likelihood.by_operations(z)
        hidden, gradient = whole.states(z)
        by_states, slope = likelihood.scored(hidden, len(z), likelihood.exact_softmax)
        found = (*whole.value_and_grad(z), whole.value(z), by_states, gradient(slope))
        pairs += zip(found, (value, grad, value, value, grad), strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in pairs)


def example(units: int) -> tuple[ConditionedLSTM, Tensor]:
    """Three short sentences under some weights, and codes: what compiled functions are tried on."""
    from sri_pyro.models.decoders.fast_lstm import ConditionedLSTM
    from sri_pyro.models.decoders.packed import Packing

    draws, tokens, dim, words = 3, 6, 2, 70

    def wave(*shape: int) -> Tensor:
        return torch.linspace(-9, 9, math.prod(shape), dtype=torch.float32, device="cpu").sin().reshape(shape)

    packing = Packing.of(torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]]))
    recurrent_HG = wave(units, 4 * units)
    likelihood = ConditionedLSTM(
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
    return likelihood, wave(draws, 3, dim)


@dataclass(frozen=True)
class CompiledLSTM:
    """One batch's log p(x | z), laid out for ``lstm.c``.

    Attributes:
        functions: Of ``lstm.c``, and of its output layer.
        hidden: H.
        tokens: N.
        kept: What the structure points to.
        structure: The likelihood, without what a call brings.
    """

    functions: Functions
    hidden: int
    tokens: int
    kept: tuple[CompiledLayer, dict[str, Tensor]]
    structure: LikelihoodStructure

    @classmethod
    def of(cls, likelihood: ConditionedLSTM, functions: Functions) -> Self:
        """Of a decoder that is conditioned on a batch."""
        dim, hidden = likelihood.code_to_gates_GD.shape[1], len(likelihood.recurrent_HG)
        whole_panels = functools.partial(padded, units=hidden, panel=functions.layer.panel())
        in_panels = functools.partial(panels, functions.layer)
        layer = CompiledLayer.of(likelihood.output_weight_VH, likelihood.output_bias_V, functions.layer)
        code_parts = (likelihood.code_to_gates_GD.T, likelihood.code_to_start_HD.T)
        begin_DX = torch.cat([whole_panels(part) for part in code_parts], 1)
        recurrent_HG = whole_panels(likelihood.recurrent_HG)
        tensors = {
            "order": likelihood.packing.order_B.contiguous(),
            "counts": torch.tensor(likelihood.packing.counts),
            "begin": in_panels(begin_DX),
            "end": in_panels(begin_DX.T),
            "start_bias": whole_panels(likelihood.start_bias_H),
            "recurrent": in_panels(recurrent_HG, layer.structure.units),
            "back": in_panels(recurrent_HG.T),
            "token": whole_panels(likelihood.token_gates_NG),
            "target_weight": whole_panels(likelihood.target_weight_NH),
            "target_bias": likelihood.target_bias_N.contiguous(),
        }
        if likelihood.state_mask_NH is not None:
            tensors["mask"] = whole_panels(likelihood.state_mask_NH)
        structure = LikelihoodStructure(
            layer=layer.structure,
            sentences=len(likelihood.packing.order_B),
            dim=dim,
            steps=len(likelihood.packing.counts),
            hidden_wiring=int(likelihood.hidden_wiring),
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        )
        return cls(functions, hidden, len(likelihood.sentence_N), (layer, tensors), structure)

    def value(self, z: Tensor) -> Tensor:
        """Log p(x | z) in nats for z [S, B, D], shape [S, B]."""
        value = z.new_empty(z.shape[:2])
        Call.of(self, z, value=value).run(self.functions.lstm.lstm_likelihood)
        return value

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and its gradient in z [S, B, D]."""
        value, grad = z.new_empty(z.shape[:2]), torch.empty(z.shape, dtype=z.dtype)
        Call.of(self, z, value=value, grad=grad).run(self.functions.lstm.lstm_likelihood)
        return value, grad

    def states(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Hidden states of all tokens [N S, H], no dropout yet, and the map from gradients in them to those in z.

        The map may be used once, and writes over the states.
        """
        grad = torch.empty(z.shape, dtype=z.dtype)
        states_NX = z.new_empty(self.tokens * len(z), self.structure.layer.units)
        call = Call.of(self, z, grad=grad, states=states_NX)
        call.run(self.functions.lstm.lstm_states)

        def gradient(slope_NH: Tensor) -> Tensor:
            states_NX[:, : self.hidden] = slope_NH
            call.run(self.functions.lstm.lstm_gradient)
            return grad

        return states_NX[:, : self.hidden], gradient


@dataclass(frozen=True)
class Call:
    """What functions of ``lstm.c`` are given; one that needs what another has left gets the same.

    Attributes:
        structure: The likelihood.
        room: What they work in.
        kept: What the structure points to.
    """

    structure: LikelihoodStructure
    room: Tensor
    kept: tuple[Tensor | CompiledLSTM, ...]

    @classmethod
    def of(cls, likelihood: CompiledLSTM, z: Tensor, **places: Tensor) -> Self:
        """At codes [S, B, D], with places for results."""
        z = z.contiguous()
        given = LikelihoodStructure.from_buffer_copy(likelihood.structure)
        given.draws, given.threads, given.z = len(z), torch.get_num_threads(), z.data_ptr()
        for name, tensor in places.items():
            setattr(given, name, tensor.data_ptr())
        room = z.new_empty(likelihood.functions.lstm.lstm_room(ctypes.addressof(given)))
        return cls(given, room, (likelihood, z, *places.values()))

    def run(self, function: Callable[..., None]) -> None:
        """Call one of them."""
        if self.structure.draws:
            function(ctypes.addressof(self.structure), self.room.data_ptr())
