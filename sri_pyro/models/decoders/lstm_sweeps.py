r"""The sweeps through an LSTM that its curvature in z is made of: forward, tangents forward, and back.

A unit of the cell is two functions, :math:`c = f c' + i g` and :math:`h = o \tanh c`, of the inputs
:math:`a_i, a_o, a_f, a_g` of its gates and of its cell state :math:`c'` before. Its six tangents stand beside
each other in blocks of H, so that two that meet in a mixed second derivative are three blocks apart:

.. code-block:: text

    a_i  a_o  a_f | a_g   c   c'

Axes: S draws, B sentences, N chains of a chunk, longest sentence first; n of them that have a token still; T
tokens, R real tokens of those chains, K directions of z, D latent dimensions, H hidden units, G = 4 H gates in
the order i, o, f, g, V words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sri_pyro.models.decoders.fast_lstm import ConditionedLSTM

TANGENT_ELEMENTS = 2**20
"""Tangents of a chunk of chains at one time step, at most: about the size of a cache."""
KEPT_ELEMENTS = 2**22
"""What is kept of all tokens of a chunk of chains, at most: some V + 32 H numbers for each.

A chunk has one chain at least, however large that is.
"""


@dataclass(frozen=True)
class Network:
    """The weights, laid out for chains as rows, with gates in our order."""

    recurrent_GH: Tensor
    code_to_gates_DG: Tensor
    code_to_start_DH: Tensor
    start_bias_H: Tensor
    cell_wiring: bool
    output_weight_VH: Tensor
    output_bias_V: Tensor

    @classmethod
    def of(cls, likelihood: ConditionedLSTM) -> Network:
        """Those of a decoder that is conditioned on a batch."""
        return cls(
            recurrent_GH=_reordered(likelihood.recurrent_GH),
            code_to_gates_DG=_reordered(likelihood.code_to_gates_GD).T.contiguous(),
            code_to_start_DH=likelihood.code_to_start_HD.T.contiguous(),
            start_bias_H=likelihood.start_bias_H,
            cell_wiring=not likelihood.hidden_wiring,
            output_weight_VH=likelihood.output_weight_VH,
            output_bias_V=likelihood.output_bias_V,
        )

    @property
    def hidden(self) -> int:
        """H."""
        return self.recurrent_GH.shape[1]

    @property
    def dim(self) -> int:
        """D."""
        return self.code_to_start_DH.shape[0]


def _reordered(gates_GX: Tensor) -> Tensor:
    """Rows of gates [..., G, X], from the order of ``cells``, i, f, o, g, to i, o, f, g."""
    let_in, forget, let_out, candidate = gates_GX.chunk(4, -2)
    return torch.cat([let_in, let_out, forget, candidate], -2)


@dataclass(frozen=True)
class Chunk:
    """Some chains, longest sentence first.

    Attributes:
        chains: Which they are among all S B, shape [N].
        z_ND: Where they are.
        token_gates_TNG: What the tokens add to the inputs of the gates.
        real_TN: Where there is a token; at every time the first n chains.
        target_weight_RH: Output weights of the real tokens, time after time.
        state_mask_RH: Dropout of the states that predict these.
    """

    chains: Tensor
    z_ND: Tensor
    token_gates_TNG: Tensor
    real_TN: Tensor
    target_weight_RH: Tensor
    state_mask_RH: Tensor | None


def chunks(likelihood: ConditionedLSTM, z: Tensor, directions: int) -> Iterator[Chunk]:
    """Cut the chains of z [S, B, D] into chunks, small enough for tangents in K directions; none if z is empty."""
    if not z.numel():
        return
    draws, batch, _ = z.shape
    packing, masks = likelihood.packing, likelihood.state_mask_NH
    # Which packed row each token has, in the order of the batch; padding has that of some other token.
    sorted_TB = packing.real_TB.flatten().cumsum(0).view_as(packing.real_TB) - 1
    row_TB, real_TB = sorted_TB[:, packing.place_B], packing.real_TB[:, packing.place_B]
    lengths_N = real_TB.sum(0).expand(draws, batch).flatten()
    words, hidden = likelihood.output_weight_VH.shape
    kept = int(lengths_N.max()) * (words + 32 * hidden)
    size = max(1, min(TANGENT_ELEMENTS // (6 * hidden * directions), KEPT_ELEMENTS // kept))
    for chains in torch.split(lengths_N.argsort(descending=True, stable=True), size):
        length, sentences = int(lengths_N[chains[0]]), chains % batch
        real_TN = real_TB[:length, sentences]
        rows_TN = row_TB[:length, sentences]
        rows = rows_TN[real_TN]
        yield Chunk(
            chains=chains,
            z_ND=z.flatten(0, 1)[chains],
            token_gates_TNG=_reordered(likelihood.token_gates_NG[rows_TN].mT).mT,
            real_TN=real_TN,
            target_weight_RH=likelihood.target_weight_NH[rows],
            state_mask_RH=None if masks is None else masks[rows],
        )


class Sweep(NamedTuple):
    """What a sweep forward leaves.

    Attributes:
        alive: n, at every time.
        start_h_NH: h before the first token.
        gates_TNG: Values of the gates.
        slopes_TNG: Their derivatives in their inputs.
        squashed_TNH: tanh c.
        hidden_TNH: h.
        first_TNG: Derivatives in the inputs of the gates: of c in a_i, a_f and a_g, of h in a_o.
        through_TNH: Derivative of h in c.
    """

    alive: list[int]
    start_h_NH: Tensor
    gates_TNG: Tensor
    slopes_TNG: Tensor
    squashed_TNH: Tensor
    hidden_TNH: Tensor
    first_TNG: Tensor
    through_TNH: Tensor


def run(network: Network, chunk: Chunk) -> Sweep:
    """Forward through all tokens, and through the padding: nothing comes back from there."""
    start = torch.addmm(network.start_bias_H, chunk.z_ND, network.code_to_start_DH)
    start_h, c = (start.tanh(), start) if network.cell_wiring else (start, torch.zeros_like(start))
    gates_TNG = chunk.token_gates_TNG + chunk.z_ND @ network.code_to_gates_DG
    before, squashed, hidden = [], [], []
    h, width = start_h, network.hidden
    for gates in gates_TNG:
        gates.addmm_(h, network.recurrent_GH.T)
        gates[:, : 3 * width].sigmoid_()
        gates[:, 3 * width :].tanh_()
        i, o, f, g = gates.chunk(4, -1)
        before.append(c)
        c = torch.addcmul(f * c, i, g)
        squashed.append(c.tanh())
        h = o * squashed[-1]
        hidden.append(h)
    i, o, f, g = gates_TNG.chunk(4, -1)
    squashed_TNH = torch.stack(squashed)
    slopes_TNG = torch.cat([i * (1 - i), o * (1 - o), f * (1 - f), 1 - g * g], -1)
    return Sweep(
        alive=chunk.real_TN.sum(1).tolist(),
        start_h_NH=start_h,
        gates_TNG=gates_TNG,
        slopes_TNG=slopes_TNG,
        squashed_TNH=squashed_TNH,
        hidden_TNH=torch.stack(hidden),
        first_TNG=slopes_TNG * torch.cat([g, squashed_TNH, torch.stack(before), i], -1),
        through_TNH=o * (1 - squashed_TNH * squashed_TNH),
    )


class Adjoint(NamedTuple):
    """Derivatives of a number in the inputs of the gates, in h and in c at every time, and in the start."""

    gates_TNG: Tensor
    h_TNH: Tensor
    c_TNH: Tensor
    start_h_NH: Tensor
    start_c_NH: Tensor


def pull_back(
    network: Network, sweep: Sweep, entering_TNH: Tensor, sources_TNX: Tensor | None = None
) -> Adjoint:
    """Back through all tokens.

    Args:
        network: The weights.
        sweep: The sweep forward.
        entering_TNH: Derivatives in h that enter from the output layer.
        sources_TNX: Those that enter besides, in the six blocks of a unit, X = 6 H.
    """
    width = network.hidden
    gates, of_h, of_c = [], [], []
    dh = dc = torch.zeros_like(sweep.start_h_NH)
    for t in range(len(entering_TNH) - 1, -1, -1):
        dh = dh + entering_TNH[t]
        dc = torch.addcmul(dc, dh, sweep.through_TNH[t])
        if sources_TNX is not None:
            dc += sources_TNX[t, :, 4 * width : 5 * width]
        of_h.append(dh)
        of_c.append(dc)
        gates.append(torch.cat([dc, dh, dc, dc], -1).mul_(sweep.first_TNG[t]))
        dc = dc * sweep.gates_TNG[t, :, 2 * width : 3 * width]
        if sources_TNX is not None:
            gates[-1] += sources_TNX[t, :, : 4 * width]
            dc += sources_TNX[t, :, 5 * width :]
        dh = gates[-1] @ network.recurrent_GH
    return Adjoint(torch.stack(gates[::-1]), torch.stack(of_h[::-1]), torch.stack(of_c[::-1]), dh, dc)


def bends(sweep: Sweep, adjoint: Adjoint) -> tuple[Tensor, Tensor]:
    """Second derivatives of every unit, weighted with the adjoints of its h and its c.

    Returns:
        The pure ones, of a_i, a_o, a_f, a_g and c, [T, N, 5 H]; and the mixed ones, of a_i with a_g, of a_o with
        c, and of a_f with the c before, [T, N, 3 H]. All others are zero.
    """
    i, o, f, g = sweep.gates_TNG.chunk(4, -1)
    slope_i, slope_o, slope_f, slope_g = sweep.slopes_TNG.chunk(4, -1)
    squashed = sweep.squashed_TNH
    of_gates = adjoint.gates_TNG * torch.cat([1 - 2 * i, 1 - 2 * o, 1 - 2 * f, -2 * g], -1)
    of_c = -2 * adjoint.h_TNH * sweep.through_TNH * squashed
    mixed = [
        adjoint.c_TNH * slope_i * slope_g,
        adjoint.h_TNH * slope_o * (1 - squashed * squashed),
        adjoint.c_TNH * slope_f,
    ]
    return torch.cat([of_gates, of_c], -1), torch.cat(mixed, -1)


def tangents(
    network: Network, sweep: Sweep, gates_NKG: Tensor, start_NKH: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Tangents in K directions, time after time, of the chains that have a token then.

    Args:
        network: The weights.
        sweep: The sweep forward.
        gates_NKG: What the directions add to the inputs of the gates, at every time; N may be 1, for all chains.
        start_NKH: What they add to the linear start; likewise.

    Yields:
        The six blocks of a unit, [n, K, 6 H], and h, [n, K, H], both to be read before the next time.
    """
    width, chains = network.hidden, len(sweep.start_h_NH)
    gates_NKG, start_NKH = gates_NKG.expand(chains, -1, -1), start_NKH.expand(chains, -1, -1)
    units_NKX = start_NKH.new_zeros(*start_NKH.shape[:2], 6 * width)
    hidden_NKH = start_NKH.clone()
    if network.cell_wiring:
        units_NKX[..., 4 * width : 5 * width] = start_NKH
        hidden_NKH *= (1 - sweep.start_h_NH * sweep.start_h_NH)[:, None]
    for t, alive in enumerate(sweep.alive):
        units, hidden = units_NKX[:alive], hidden_NKH[:alive]
        gates, c, before = torch.split(units, [4 * width, width, width], -1)
        before.copy_(c)
        gates.copy_(gates_NKG[:alive])
        units.flatten(0, 1)[:, : 4 * width].addmm_(hidden.flatten(0, 1), network.recurrent_GH.T)
        in_i, in_o, in_f, in_g = gates.chunk(4, -1)
        by_i, by_o, by_f, by_g = sweep.first_TNG[t, :alive, None].chunk(4, -1)
        torch.mul(before, sweep.gates_TNG[t, :alive, None, 2 * width : 3 * width], out=c)
        c.addcmul_(in_i, by_i).addcmul_(in_f, by_f).addcmul_(in_g, by_g)
        torch.mul(c, sweep.through_TNH[t, :alive, None], out=hidden)
        hidden.addcmul_(in_o, by_o)
        yield units, hidden
