r"""An LSTM over packed sentences: forward, in reverse, and as one differentiable function.

Sentences are sorted by length, longest first, so that the rows that are still under way at a token are the first ones
of every matrix and no padded token is ever computed.

Axes: B sentences, T tokens, N real tokens of all sentences, those of one time step side by side; S draws of a
sentence side by side, R = S B rows; H units, G = 4 H gates in the order of ``cells``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sri_pyro.models.decoders.cells import cells_for
from sri_pyro.types import PAD


@dataclass(frozen=True)
class Packing:
    """How padded sentences become packed tokens.

    Attributes:
        order_B: Sentences, longest first.
        place_B: Where each sentence stands among the sorted ones.
        real_TB: Which tokens of the sorted sentences are real.
        counts: How many there are at each time step.
    """

    order_B: Tensor
    place_B: Tensor
    real_TB: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, tokens: Tensor) -> Packing:
        """Of token rows [B, T].

        Raises:
            ValueError: If a row is empty, or has ``PAD`` before its end.
        """
        lengths = (tokens != PAD).sum(-1)
        order = torch.argsort(lengths, descending=True, stable=True)
        real = tokens[order].T != PAD
        if not bool(real[:1].all()) or bool((real[1:] & ~real[:-1]).any()):
            raise ValueError(
                f"a row of tokens needs at least one token, and no PAD = {PAD} before its end; one of those given is "
                "none such."
            )
        counts = tuple(count for count in real.sum(1).tolist() if count)
        return cls(order, torch.argsort(order), real, counts)

    def pack(self, values: Tensor) -> Tensor:
        """The real tokens' rows of values [B, T, ...], shape [N, ...]."""
        return values[self.order_B].transpose(0, 1)[self.real_TB]

    def unpack(self, values: Tensor) -> Tensor:
        """Values [N] as padded rows [B, T], 0 elsewhere."""
        rows = values.new_zeros(self.real_TB.shape).masked_scatter(self.real_TB, values)
        return rows[:, self.place_B].T

    def sentences(self) -> Tensor:
        """Which of the sorted sentences each token belongs to."""
        return torch.arange(len(self.order_B), device=self.order_B.device).expand(self.real_TB.shape)[
            self.real_TB
        ]


def regrouped(weight: Tensor) -> Tensor:
    """Gate rows in the order of ``cells``, from PyTorch's input, forget, candidate, output."""
    into, forget, candidate, out = torch.chunk(weight, 4)
    return torch.cat([into, forget, out, candidate])


class Trace(NamedTuple):
    """What a forward pass leaves.

    Attributes:
        hidden: States at every token, shape [N S, H].
        gates: Activations of every time step, [rows, G]; those and the following only if kept.
        cells: Their cells, [rows, H].
        squashed: The hyperbolic tangents of these.
    """

    hidden: Tensor
    gates: list[Tensor]
    cells: list[Tensor]
    squashed: list[Tensor]


class Reverse(NamedTuple):
    """What a reverse pass gives: gradients in the first state and cell [R, H], and summed over tokens in the gates."""

    hidden: Tensor
    cell: Tensor
    gates: Tensor


@torch.no_grad()
def forward(
    token_NG: Tensor,
    code_RG: Tensor,
    recurrent_HG: Tensor,
    h: Tensor,
    c: Tensor,
    counts: Sequence[int],
    keep: bool,
) -> Trace:
    """Run an LSTM whose gates are ``token + code + h W``.

    Args:
        token_NG: What the words add to the gates.
        code_RG: What each row adds at every token.
        recurrent_HG: From the hidden state to the gates.
        h: First hidden state, shape [R, H].
        c: First cell, shape [R, H].
        counts: Sentences under way at each time step.
        keep: Whether all is kept for the reverse pass, or the last two time steps.
    """
    rows, units = h.shape
    num_draws, cells = rows // counts[0], cells_for(h)
    sizes = [count * num_draws for count in counts]
    hidden = h.new_empty(sum(sizes), units)
    gates, cell, squashed = (_room(h, sizes, keep, width) for width in (4 * units, units, units))
    states = torch.split(hidden, sizes)
    for t, word in enumerate(torch.split(token_NG, list(counts))):
        if sizes[t] < len(h):  # the shortest sentences have ended
            h, c, code_RG = h[: sizes[t]], c[: sizes[t]], code_RG[: sizes[t]]
        torch.mm(h, recurrent_HG, out=gates[t])
        cells.forward(gates[t], word, code_RG, c, cell[t], squashed[t], states[t])
        h, c = states[t], cell[t]
    return Trace(hidden, gates, cell, squashed)


def _room(like: Tensor, sizes: list[int], keep: bool, width: int) -> list[Tensor]:
    """Room for the rows of every time step: all of them to be kept, or two in turn."""
    if keep:
        return list(torch.split(like.new_empty(sum(sizes), width), sizes))
    turns = like.new_empty(2, sizes[0], width)
    return [turns[t % 2, :size] for t, size in enumerate(sizes)]


@torch.no_grad()
def reverse(trace: Trace, slope: Tensor, recurrent_GH: Tensor, c: Tensor) -> Reverse:
    """Pull a gradient in the hidden states [N S, H] back; afterwards the trace's gates hold theirs.

    Args:
        trace: Kept by ``forward``.
        slope: Gradient in the hidden states.
        recurrent_GH: The recurrent weights.
        c: The first cell, shape [R, H].
    """
    cells = cells_for(slope)
    later, cell_grad = torch.zeros_like(c), torch.zeros_like(c)
    total = c.new_zeros(len(c), 4 * c.shape[1])
    slopes = torch.split(slope, [len(gates) for gates in trace.gates])
    active = None
    for t in range(len(slopes) - 1, -1, -1):
        gates, before = trace.gates[t], trace.cells[t - 1] if t else c
        if active is None or len(gates) > len(active[0]):  # longer sentences than the last ones join
            active = [rows[: len(gates)] for rows in (later, cell_grad, total)]
        if len(before) > len(gates):
            before = before[: len(gates)]
        cells.reverse(gates, before, trace.squashed[t], slopes[t], *active)
        torch.mm(gates, recurrent_GH, out=active[0])
    return Reverse(later, cell_grad, total)


def packed_lstm(
    token_NG: Tensor, code_RG: Tensor, recurrent_GH: Tensor, h: Tensor, c: Tensor, counts: tuple[int, ...]
) -> Tensor:
    """Hidden states at every token, shape [N, H], differentiable in all tensors, and twice; see ``forward``."""
    states: Tensor = _PackedLSTM.apply(token_NG, code_RG, recurrent_GH, h, c, counts)  # type: ignore[no-untyped-call]
    return states


class _PackedLSTM(torch.autograd.Function):
    """The explicit reverse pass; a second derivative goes through the plain recurrence instead."""

    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        code: Tensor,
        recurrent: Tensor,
        h: Tensor,
        c: Tensor,
        counts: tuple[int, ...],
    ) -> Tensor:
        trace = forward(token, code, recurrent.T.contiguous(), h, c, counts, keep=True)
        ctx.counts, ctx.kept = (
            counts,
            trace[1:],
        )  # the output goes below: kept as it is, it would keep itself alive
        ctx.save_for_backward(token, code, recurrent, h, c, trace.hidden)
        return trace.hidden

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, hidden = ctx.saved_tensors
        token, code, recurrent, h, c = inputs
        if torch.is_grad_enabled():
            wanted = [x for x, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
            states = _plain(token, code, recurrent, h, c, ctx.counts)
            grads = iter(
                torch.autograd.grad(states, wanted, slope, create_graph=True, materialize_grads=True)
            )
            return *(next(grads) if needed else None for needed in ctx.needs_input_grad[:5]), None
        kept, *others = ctx.kept
        gates = torch.cat(kept)  # the reverse pass writes over it, and may be asked for again
        trace = Trace(hidden, list(torch.split(gates, ctx.counts)), *others)
        start = reverse(trace, slope.contiguous(), recurrent, c)
        before = torch.split(hidden, ctx.counts)
        previous = torch.cat(
            [h, *(states[:count] for states, count in zip(before, ctx.counts[1:], strict=False))]
        )
        return gates, start.gates, gates.T @ previous, start.hidden, start.cell, None


def _plain(
    token: Tensor, code: Tensor, recurrent: Tensor, h: Tensor, c: Tensor, counts: Sequence[int]
) -> Tensor:
    """The same recurrence in operations that autograd differentiates as often as one likes."""
    states = []
    for word in torch.split(token, list(counts)):
        gates = word + code[: len(word)] + h[: len(word)] @ recurrent.T
        into, forget, out, candidate = torch.chunk(gates, 4, 1)
        c = forget.sigmoid() * c[: len(word)] + into.sigmoid() * candidate.tanh()
        h = out.sigmoid() * c.tanh()
        states.append(h)
    return torch.cat(states)
