r"""The exact fast route of the LSTM decoder: log p(x | z) and its z-gradient, weights fixed.

Three ideas. What does not depend on z is computed once per batch. The softmax gradient is attention
over the vocabulary, :math:`\partial \log p(y \mid h)/\partial h = w_y - \mathbb{E}_{v \sim p}[w_v]`, so a
fused kernel computes it and no token-by-vocabulary tensor is stored. The reverse pass is written out and
computes no weight gradient.

Axes: S draws, B sentences, T tokens, D latent dimensions, H hidden units, V words. Inside a step,
matrices are (features, S B), so that weights multiply from the left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sri_pyro.models.decoders.dropout import NOTHING_DROPPED, Masks, times
from sri_pyro.models.decoders.inputs import require_tokens, shifted
from sri_pyro.types import PAD, Batch

if TYPE_CHECKING:
    from sri_pyro.models.decoders.recurrent import LSTMDecoder

ROWS_PER_CHUNK = 4096
"""Tokens whose logits exist at once where the fused kernel is not to be had."""


def vocabulary_attention(h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean output weight under the softmax, and its log-normaliser, for every hidden state.

    .. math:: \bar w(h) = \sum_v \operatorname{softmax}(W h + b)_v\, w_v, \qquad
              \ell(h) = \log \sum_v e^{w_v \cdot h + b_v}

    Returns:
        :math:`\bar w`, shape [N, H], and :math:`\ell`, shape [N].
    """
    if not len(h_NH):
        return torch.zeros_like(h_NH), h_NH.new_zeros(
            0
        )  # the fused kernel would divide by the number of rows
    if h_NH.device.type == "cpu":
        # The fused CPU kernel gives the log-normaliser along with the mean; the public wrapper drops it.
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            h_NH[None, None],
            weight_VH[None, None],
            weight_VH[None, None],
            attn_mask=bias_V.expand(1, 1, len(h_NH), -1),
            scale=1.0,
        )
        return out[0, 0], lse.reshape(-1)
    means, normalisers = [], []
    for chunk in torch.split(h_NH, ROWS_PER_CHUNK):
        logits = torch.addmm(bias_V, chunk, weight_VH.T)
        lse = logits.logsumexp(-1)
        means.append((logits - lse[:, None]).exp_() @ weight_VH)
        normalisers.append(lse)
    return torch.cat(means), torch.cat(normalisers)


def versions(weights: Iterable[Tensor]) -> tuple[int, ...]:
    """How often each weight was changed in place, as far as PyTorch counts.

    Fused optimisers on the CPU are not counted (PyTorch 2.13), nor weights made under inference mode.
    """
    return tuple(0 if weight.is_inference() else weight._version for weight in weights)


@dataclass(frozen=True)
class ConditionedLSTM:
    """One batch's log p(x | z) as a function of z alone; ``build`` makes it from a decoder.

    Gate rows are in PyTorch's order: input, forget, cell, output. Some weights are copied here and others
    are not, so that it serves the weights it was built from and refuses once they have changed.
    """

    token_gates_TGB: Tensor
    recurrent_GH: Tensor
    code_to_gates_GD: Tensor
    code_to_start_HD: Tensor
    start_bias_H: Tensor
    hidden_wiring: bool
    real_TB: Tensor
    target_weight_NH: Tensor
    target_bias_N: Tensor
    output_weight_VH: Tensor
    output_bias_V: Tensor
    state_mask_NH: Tensor | None = None
    weights: tuple[Tensor, ...] = ()
    versions: tuple[int, ...] = ()

    @classmethod
    @torch.no_grad()
    def build(cls, decoder: LSTMDecoder, batch: Batch, masks: Masks = NOTHING_DROPPED) -> ConditionedLSTM:
        """Everything that does not depend on z: token-side gate inputs and target rows."""
        cell, output = decoder.cell, decoder.output
        weights = {name: parameter.detach() for name, parameter in cell.named_parameters()}
        bias = decoder.unpredictable if output.bias is None else output.bias + decoder.unpredictable
        require_tokens(batch.tokens, decoder.vocab_size)
        width = decoder.embedding.embedding_dim
        tokens_TB = batch.tokens.T
        words_BTE = times(decoder.embedding(masks.read(shifted(batch.tokens))), masks.words)
        input_weight = weights["weight_ih_l0"]
        gates = words_BTE.transpose(0, 1) @ input_weight[:, :width].T
        gates += weights["bias_ih_l0"] + weights["bias_hh_l0"]
        real = tokens_TB != PAD
        targets = tokens_TB[real]
        hidden = cell.hidden_size
        start = decoder.start
        start_bias = None if start is None else start.bias
        return cls(
            token_gates_TGB=gates.mT.contiguous(),
            recurrent_GH=weights["weight_hh_l0"],
            code_to_gates_GD=input_weight[:, width:].contiguous(),
            code_to_start_HD=gates.new_zeros(hidden, 0) if start is None else start.weight.detach(),
            start_bias_H=gates.new_zeros(hidden) if start_bias is None else start_bias,
            hidden_wiring=decoder.wiring == "hidden",
            real_TB=real,
            target_weight_NH=output.weight.detach()[targets],
            target_bias_N=bias[targets],
            output_weight_VH=output.weight.detach(),
            output_bias_V=bias,
            weights=tuple(decoder.parameters()),
            versions=versions(decoder.parameters()),
            state_mask_NH=None if masks.states is None else masks.states.transpose(0, 1)[real],
        )

    @torch.no_grad()
    def value(self, z: Tensor) -> Tensor:
        """Log p(x | z) in nats for z [S, B, D], shape [S, B]."""
        self._require_same_weights()
        hidden, _ = self._forward(z, keep=False)
        log_probs, _ = self._score(hidden, z.shape[0])
        return log_probs

    @torch.no_grad()
    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log p(x | z) in nats [S, B] and its gradient in z [S, B, D]."""
        self._require_same_weights()
        hidden, saved = self._forward(z, keep=True)
        log_probs, hidden_grad = self._score(hidden, z.shape[0])
        return log_probs, self._backward(hidden_grad, saved, z.shape)

    def _require_same_weights(self) -> None:
        if versions(self.weights) != self.versions:
            raise RuntimeError(
                "the decoder's weights have changed since this target was made; make another with "
                "model.target(batch) after each weight step."
            )

    def _start(self, z_DN: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.addmm(self.start_bias_H[:, None], self.code_to_start_HD, z_DN)
        if self.hidden_wiring:
            return state, torch.zeros_like(state)
        return torch.tanh(state), state

    def _forward(self, z: Tensor, keep: bool) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """Hidden states [T, H, N], and what the reverse pass needs of every step."""
        num_draws, batch, dim = z.shape
        z_DN = z.reshape(num_draws * batch, dim).T
        code_gates = self.code_to_gates_GD @ z_DN
        h, c = self._start(z_DN)
        saved: list[tuple[Tensor, ...]] = [(h, c)] if keep else []
        states = []
        for token_gates in self.token_gates_TGB:
            gates = torch.addmm(code_gates, self.recurrent_GH, h)
            gates.view(-1, num_draws, batch).add_(token_gates[:, None])
            i, f, g, o = gates.chunk(4)
            i, f, g, o = i.sigmoid_(), f.sigmoid_(), g.tanh_(), o.sigmoid_()
            new_c = torch.addcmul(f * c, i, g)
            squashed = new_c.tanh()
            if keep:
                saved.append((i, f, g, o, c, squashed))
            h, c = o * squashed, new_c
            states.append(h)
        return torch.stack(states), saved

    def _score(self, hidden_THN: Tensor, num_draws: int) -> tuple[Tensor, Tensor]:
        """Log-likelihoods [S, B] and their gradient in the hidden states [T, H, N]."""
        length, units, columns = hidden_THN.shape
        by_token = hidden_THN.view(length, units, num_draws, -1).permute(0, 3, 2, 1)
        mask = None if self.state_mask_NH is None else self.state_mask_NH[:, None]
        rows = times(by_token[self.real_TB], mask)  # [real tokens, S, H]
        flat = rows.reshape(-1, units)
        mean_weight, normaliser = vocabulary_attention(flat, self.output_weight_VH, self.output_bias_V)
        logit = torch.einsum("nsh,nh->ns", rows, self.target_weight_NH) + self.target_bias_N[:, None]
        log_probs = rows.new_zeros(length, by_token.shape[1], num_draws)
        log_probs[self.real_TB] = logit - normaliser.view(-1, num_draws)
        grad = rows.new_zeros(by_token.shape)
        grad[self.real_TB] = times(self.target_weight_NH[:, None] - mean_weight.view(rows.shape), mask)
        return log_probs.sum(0).T, grad.permute(0, 3, 2, 1).reshape(length, units, columns)

    def _backward(
        self, hidden_grad_THN: Tensor, saved: list[tuple[Tensor, ...]], shape: torch.Size
    ) -> Tensor:
        """Pull the gradient in the hidden states back to z [S, B, D]."""
        dh: Tensor = torch.zeros_like(hidden_grad_THN[0])
        dc = torch.zeros_like(dh)
        gate_sum = dh.new_zeros(4 * dh.shape[0], dh.shape[1])
        for t in range(len(hidden_grad_THN) - 1, -1, -1):
            i, f, g, o, c, squashed = saved[t + 1]
            dh = dh + hidden_grad_THN[t]
            dc = torch.addcmul(dc, dh * o, 1 - squashed * squashed)
            gates = torch.cat(
                [
                    dc * g * i * (1 - i),
                    dc * c * f * (1 - f),
                    dc * i * (1 - g * g),
                    dh * squashed * o * (1 - o),
                ]
            )
            gate_sum += gates
            dc = dc * f
            dh = self.recurrent_GH.T @ gates
        h0, _ = saved[0]
        start = dh if self.hidden_wiring else dc + dh * (1 - h0 * h0)
        grad = torch.addmm(self.code_to_start_HD.T @ start, self.code_to_gates_GD.T, gate_sum)
        return grad.T.reshape(shape)
