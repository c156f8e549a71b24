r"""Exact curvature of the LSTM decoder's log p(x | z) in z: Hessians, and Hessian-vector products.

The Hessian in edge form takes tangents forward only, all D directions beside each other:

.. math::
    \nabla_z^2 \log p(x \mid z) = -\sum_t A_t^\top A_t + \sum_{t, u} V_{tu}^\top M_{tu} V_{tu} + C_0,
    \qquad A_t = \operatorname{diag}(\sqrt{p_t})\, (W - \mathbf 1 \bar w_t^\top)\, \frac{\partial h_t}{\partial z}

The first sum is the curvature of the softmax, with :math:`p_t` the law of token t and
:math:`\bar w_t = W^\top p_t`; its rows are centred before they are squared, so that nothing cancels. The second
is the curvature of every unit u of the cell: V holds its six tangents (see ``lstm_sweeps``), M the second
derivatives of the cell, weighted with the adjoints of one ordinary reverse pass. :math:`C_0` is the curvature of
:math:`h_0 = \tanh c_0` in the wiring "cell". There is no second reverse pass.

A token takes about :math:`D (8 H^2 + 2 H V + 2 D V + 10 D H)` operations, where a gradient takes
:math:`16 H^2 + 4 H V`. Tangents exist of one time step of a chunk of chains, and those of h of ``WAITING_ROWS``
at most besides.

A Hessian-vector product is one direction forward, and back again with M V as sources: two to three gradients.

Axes: S draws, B sentences, N chains of a chunk, longest sentence first; n of them that have a token still; T
tokens, R real tokens of those chains, D latent dimensions, H hidden units, V words.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sri_pyro.models.decoders.compiled_curvature import add_curvature, functions_for
from sri_pyro.models.decoders.dropout import times
from sri_pyro.models.decoders.lstm_sweeps import (
    Chunk,
    Network,
    Sweep,
    bends,
    chunks,
    pull_back,
    run,
    tangents,
)

if TYPE_CHECKING:
    from sri_pyro.models.decoders.fast_lstm import ConditionedLSTM

WAITING_ROWS = 2048
"""Tangents of hidden states that wait to meet the output weights together, unless one time step has more."""
WORDS = 528
"""Words whose logits have tangents at once."""
CACHE_LINE = 16
"""Numbers by which rows of tangents are longer than they need be: rows of 2^k bytes would share sets of a cache."""


@torch.no_grad()
def hessian(likelihood: ConditionedLSTM, z: Tensor) -> Tensor:
    """The Hessian of log p(x | z) in z for every chain: z [S, B, D] to [S, B, D, D], exactly symmetric."""
    draws, batch, dim = z.shape
    found = z.new_zeros(draws * batch, dim, dim)
    network = Network.of(likelihood)
    functions = functions_for(network)
    for chunk in chunks(likelihood, z, directions=1 if functions else dim):
        found[chunk.chains] = hessian_by(functions, network, chunk)
    return found.view(draws, batch, dim, dim)


@torch.no_grad()
def hessian_vector_product(likelihood: ConditionedLSTM, z: Tensor, vector: Tensor) -> Tensor:
    """That Hessian times a vector, for every chain: z and vector [S, B, D] to [S, B, D]."""
    draws, batch, dim = z.shape
    found, vectors = z.new_zeros(draws * batch, dim), vector.flatten(0, 1)
    network = Network.of(likelihood)
    for chunk in chunks(likelihood, z, directions=1):
        found[chunk.chains] = _product(network, chunk, vectors[chunk.chains])
    return found.view(draws, batch, dim)


def hessian_by(functions: ctypes.CDLL | None, network: Network, chunk: Chunk) -> Tensor:
    """Of one chunk, [N, D, D]; by compiled functions if there are any."""
    sweep = run(network, chunk)
    law_RV, mean_RH = _law(network, chunk, sweep)
    adjoint = pull_back(network, sweep, _entering(chunk, chunk.target_weight_RH - mean_RH))
    square_TNX, cross_TNX = bends(sweep, adjoint)
    found_NDD = _start_curvature(network, sweep, adjoint.start_h_NH)
    if functions is None:
        _by_operations(found_NDD, network, chunk, sweep, (square_TNX, cross_TNX), law_RV, mean_RH)
    else:
        add_curvature(functions, found_NDD, network, chunk, sweep, (square_TNX, cross_TNX), law_RV, mean_RH)
    return 0.5 * (found_NDD + found_NDD.mT)


def _by_operations(
    found_NDD: Tensor,
    network: Network,
    chunk: Chunk,
    sweep: Sweep,
    bends: tuple[Tensor, Tensor],
    law_RV: Tensor,
    mean_RH: Tensor,
) -> None:
    """What ``add_curvature`` does, by PyTorch's operations."""
    ones = network.output_weight_VH.new_ones(len(network.output_weight_VH), 1)
    centring_weight_VX = torch.cat([network.output_weight_VH, -ones], 1)
    softmax = SoftmaxCurvature(found_NDD, centring_weight_VX, law_RV.sqrt_(), mean_RH, chunk.state_mask_RH)
    (square_TNX, cross_TNX), width = bends, network.hidden
    weighted = square_TNX.new_empty(len(found_NDD), network.dim, 5 * width)
    directions = network.code_to_gates_DG[None], network.code_to_start_DH[None]
    for t, (units, hidden) in enumerate(tangents(network, sweep, *directions)):
        alive = len(units)
        # A mixed derivative enters once at double weight, and the answer is made symmetric at the end.
        bent = torch.mul(units[..., : 5 * width], square_TNX[t, :alive, None], out=weighted[:alive])
        bent[..., : 3 * width].addcmul_(units[..., 3 * width :], cross_TNX[t, :alive, None], value=2)
        found_NDD[:alive].baddbmm_(bent, units[..., : 5 * width].mT)
        softmax.subtract(hidden)
    softmax.finish()


class SoftmaxCurvature:
    r"""Takes :math:`A_t^\top A_t` off the Hessians of some chains, token after token.

    Tokens wait until there are enough of them to meet the output weights together.

    Args:
        found_NDD: The Hessians, changed in place.
        centring_weight_VX: Output weights, and a column of -1, X = H + 1.
        root_RV: Square roots of the laws of the tokens, in the order in which these come.
        mean_RH: Means of the output weights under the laws.
        state_mask_RH: Dropout of the states that predict the tokens.
    """

    def __init__(
        self,
        found_NDD: Tensor,
        centring_weight_VX: Tensor,
        root_RV: Tensor,
        mean_RH: Tensor,
        state_mask_RH: Tensor | None,
    ) -> None:
        self._found_NDD = found_NDD
        self._weight_VX = centring_weight_VX
        self._root_RV = root_RV
        self._mean_RH = mean_RH
        self._state_mask_RH = state_mask_RH
        chains, dim, _ = found_NDD.shape
        words, features = centring_weight_VX.shape
        room = max(chains, min(WAITING_ROWS // dim, len(root_RV)))
        self._tangents = mean_RH.new_empty(room, dim, features)
        self._block = mean_RH.new_empty(min(WORDS, words), room * dim + CACHE_LINE)
        self._gram = mean_RH.new_empty(room, dim, dim)
        self._waiting: list[int] = []
        self._done = 0

    def subtract(self, hidden_nDH: Tensor) -> None:
        """One more token of the first n chains, by the tangents of the hidden states that predict it."""
        filled, alive = sum(self._waiting), len(hidden_nDH)
        if filled + alive > len(self._tangents):
            self.finish()
            filled = 0
        tokens = slice(self._done + filled, self._done + filled + alive)
        mask = None if self._state_mask_RH is None else self._state_mask_RH[tokens, None]
        waiting = self._tangents[filled : filled + alive]
        waiting[..., :-1] = times(hidden_nDH, mask)
        torch.bmm(waiting[..., :-1], self._mean_RH[tokens, :, None], out=waiting[..., -1:])
        self._waiting.append(alive)

    def finish(self) -> None:
        """Account for all tokens that wait."""
        filled = sum(self._waiting)
        rows = self._tangents[:filled].flatten(0, 1)
        root = self._root_RV[self._done : self._done + filled].T
        gram = self._gram[:filled].zero_()
        for start in range(0, len(self._weight_VX), WORDS):
            weight = self._weight_VX[start : start + WORDS]
            logits = self._block[: len(weight), : len(rows)]
            torch.mm(weight, rows.T, out=logits)
            scaled = logits.view(len(weight), *gram.shape[:2]).mul_(root[start : start + WORDS, :, None])
            # Words lead: with directions side by side the small products are twice as fast.
            scaled = scaled.transpose(0, 1)
            gram.baddbmm_(scaled.mT, scaled)
        for token in torch.split(gram, self._waiting):
            self._found_NDD[: len(token)] -= token
        self._done += filled
        self._waiting.clear()


def _product(network: Network, chunk: Chunk, vector_ND: Tensor) -> Tensor:
    """Of one chunk, [N, D]."""
    sweep = run(network, chunk)
    law_RV, mean_RH = _law(network, chunk, sweep)
    adjoint = pull_back(network, sweep, _entering(chunk, chunk.target_weight_RH - mean_RH))
    square_TNX, cross_TNX = bends(sweep, adjoint)
    width = network.hidden
    start_NH = vector_ND @ network.code_to_start_DH
    direction = (vector_ND @ network.code_to_gates_DG)[:, None], start_NH[:, None]
    sources_TNX = square_TNX.new_zeros(*square_TNX.shape[:2], 6 * width)
    hidden_TNH = torch.zeros_like(sweep.hidden_TNH)
    for t, (units, hidden) in enumerate(tangents(network, sweep, *direction)):
        unit, bent = units[:, 0], sources_TNX[t, : len(units)]
        cross = cross_TNX[t, : len(units)]
        hidden_TNH[t, : len(units)] = hidden[:, 0]
        torch.mul(unit[:, : 5 * width], square_TNX[t, : len(units)], out=bent[:, : 5 * width])
        bent[:, : 3 * width].addcmul_(unit[:, 3 * width :], cross)
        bent[:, 3 * width :].addcmul_(unit[:, : 3 * width], cross)
    read_RH = times(hidden_TNH[chunk.real_TN], chunk.state_mask_RH)
    centred_RV = (read_RH @ network.output_weight_VH.T).sub_((read_RH * mean_RH).sum(-1, keepdim=True))
    moved_RH = centred_RV.mul_(law_RV) @ network.output_weight_VH
    moved = pull_back(network, sweep, _entering(chunk, -moved_RH), sources_TNX)
    linear_NH = moved.start_h_NH
    if network.cell_wiring:
        h = sweep.start_h_NH
        linear_NH = moved.start_c_NH + (1 - h * h) * (linear_NH - 2 * h * adjoint.start_h_NH * start_NH)
    return moved.gates_TNG.sum(0) @ network.code_to_gates_DG.T + linear_NH @ network.code_to_start_DH.T


def _law(network: Network, chunk: Chunk, sweep: Sweep) -> tuple[Tensor, Tensor]:
    """The law of every real token [R, V], and the mean of the output weights under it [R, H]."""
    read_RH = times(sweep.hidden_TNH[chunk.real_TN], chunk.state_mask_RH)
    law_RV = torch.addmm(network.output_bias_V, read_RH, network.output_weight_VH.T).softmax(-1)
    return law_RV, law_RV @ network.output_weight_VH


def _entering(chunk: Chunk, grad_RH: Tensor) -> Tensor:
    """A gradient in what the output layer reads, as one in all hidden states [T, N, H]."""
    grad_TNH = grad_RH.new_zeros(*chunk.real_TN.shape, grad_RH.shape[-1])
    grad_TNH[chunk.real_TN] = times(grad_RH, chunk.state_mask_RH)
    return grad_TNH


def _start_curvature(network: Network, sweep: Sweep, adjoint_NH: Tensor) -> Tensor:
    """That of h_0 = tanh(c_0), weighted with its adjoint, [N, D, D]; zero where h_0 is linear in z."""
    if not network.cell_wiring:
        return adjoint_NH.new_zeros(len(adjoint_NH), network.dim, network.dim)
    h = sweep.start_h_NH
    bend_NH = -2 * h * (1 - h * h) * adjoint_NH
    return (network.code_to_start_DH * bend_NH[:, None]) @ network.code_to_start_DH.T
