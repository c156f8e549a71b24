"""Many small kernels of a GPU, recorded once and launched together from then on.

An LSTM over a batch of short sentences is hundreds of kernels of microseconds each, and a processor takes longer to
launch them than the GPU to compute them. What an inner loop repeats is therefore recorded as a CUDA graph, the same
kernels in the same order: results are the same to the bit.
"""

from __future__ import annotations

import functools
import gc
import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Function = Callable[[Tensor], tuple[Tensor, ...]]
MOST_BYTES = 64 * 2**20
"""Inputs beyond this are computed as they are: launching costs nothing beside such work, and a graph keeps its room."""


class Replay:
    """A function of one tensor, recorded when it is called a second time in a row on tensors of one shape.

    It has to be a pure function of that tensor and of tensors that stay where they are, without gradients. The first
    call runs it as it is, which also warms up what kernels need; a third and all later ones cost two copies and one
    launch. Elsewhere than on a GPU every call runs it as it is.
    """

    def __init__(self) -> None:
        self._seen: Hashable = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: Tensor | None = None
        self._found: tuple[Tensor, ...] = ()

    def __call__(self, function: Function, z: Tensor, variant: Hashable = None) -> tuple[Tensor, ...]:
        """What the function gives.

        Args:
            function: What to compute; the same one in all calls of one variant.
            z: Its argument.
            variant: Of the function.
        """
        size = z.numel() * z.element_size()
        if z.device.type != "cuda" or size > MOST_BYTES or torch.cuda.is_current_stream_capturing():
            return function(z)
        kind = (z.shape, z.dtype, z.device, variant)
        if kind != self._seen:
            self._seen, self._graph = kind, None
            return function(z)
        if self._graph is None:
            self._record(function, z)
        if self._graph is None or self._given is None:
            return function(z)
        self._given.copy_(z)
        self._graph.replay()
        return tuple(found.clone() for found in self._found)

    def _record(self, function: Function, z: Tensor) -> None:
        """Record the function, or remember that it cannot be."""
        given = z.clone(memory_format=torch.contiguous_format)
        try:
            graph, found = _studio(z.device).record(lambda: function(given))
        except RuntimeError as error:
            log.warning(
                "an inner step cannot be recorded on %s and is launched in pieces: %s", z.device, error
            )
            self._seen = None
            return
        self._graph, self._given, self._found = graph, given, found


class _Studio:
    """Where the graphs of a device are recorded; they run where they are called, never side by side.

    They share the room of what they compute on the way, and keep to themselves what they give. A small graph keeps
    that room: PyTorch takes no more graphs into a room that the last one has left.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        with torch.cuda.device(device):
            self._room = torch.cuda.graph_pool_handle()
        self._keeper, _ = self.record(lambda: (torch.zeros(1, device=device),))

    def record(
        self, work: Callable[[], tuple[Tensor, ...]]
    ) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
        """The kernels of some work, and the tensors that every replay fills."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), _nothing_is_collected():
            graph.capture_begin(self._room, capture_error_mode="thread_local")
            try:
                found = work()
            finally:
                graph.capture_end()
        current.wait_stream(self._stream)
        return graph, found


_studio = functools.cache(_Studio)


@contextmanager
def _nothing_is_collected() -> Iterator[None]:
    """A graph that is collected while another is recorded would free memory there, which is forbidden."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
