r"""The exact fast route of the LSTM decoder: log p(x | z) and its z-gradient, weights fixed.

What does not depend on z is computed once per batch. The softmax gradient is attention over the vocabulary
(``vocabulary``). The reverse pass is written out and computes no weight gradient, and no padded token is ever
computed (``packed``).

Axes: S draws, B sentences, T tokens, D latent dimensions, H hidden units, V words; N real tokens of the batch, those
of one time step side by side; R = S B rows, the draws of a sentence side by side. Gate columns are in the order of
``cells``: input, forget, output, candidate.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sri_pyro.models.decoders import lstm_hessian
from sri_pyro.models.decoders.cells import cells_for
from sri_pyro.models.decoders.compiled_layer import can_compute
from sri_pyro.models.decoders.compiled_lstm import CompiledLSTM, compiled
from sri_pyro.models.decoders.dropout import NOTHING_DROPPED, Masks, times
from sri_pyro.models.decoders.frozen_tail import Softmax
from sri_pyro.models.decoders.inputs import require_tokens
from sri_pyro.models.decoders.packed import Packing, Trace, forward, regrouped, reverse
from sri_pyro.models.decoders.replay import Replay
from sri_pyro.models.decoders.vocabulary import log_normaliser, vocabulary_attention
from sri_pyro.types import Batch

if TYPE_CHECKING:
    from sri_pyro.models.decoders.recurrent import LSTMDecoder

BUDGET = 128 * 2**20
"""Bytes that a pass may keep for its reverse; more draws than fit go in several passes, one draw always fits."""


def versions(weights: Iterable[Tensor]) -> tuple[int, ...]:
    """How often each weight was changed in place, as far as PyTorch counts.

    Fused optimisers on the CPU are not counted (PyTorch 2.13), nor weights made under inference mode.
    """
    return tuple(0 if weight.is_inference() else weight._version for weight in weights)


@dataclass(frozen=True)
class ConditionedLSTM:
    """One batch's log p(x | z) as a function of z alone; ``build`` makes it from a decoder.

    Some weights are copied here and others are not, so that it serves the weights it was built from and refuses once
    they have changed.

    Attributes:
        packing: How its sentences are sorted and packed.
        sentence_N: Which of the sorted sentences each token belongs to.
        token_gates_NG: Inputs of the gates from words and biases.
        recurrent_HG: From the hidden state to the gates.
        recurrent_GH: Its transpose; both lie in memory as matrix products want them.
        code_to_gates_GD: From z to the gates.
        code_to_start_HD: From z to the first state.
        start_bias_H: Bias there.
        hidden_wiring: Whether z starts the hidden state, or the cell.
        target_weight_NH: Output weights of the words that came.
        target_bias_N: Their biases.
        output_weight_VH: Of all words.
        output_bias_V: Of all words.
        state_mask_NH: Dropout of hidden states.
        weights: The decoder's.
        versions: Theirs, when this was made.
        replay: How a GPU repeats the exact gradient.
    """

    packing: Packing
    sentence_N: Tensor
    token_gates_NG: Tensor
    recurrent_HG: Tensor
    recurrent_GH: Tensor
    code_to_gates_GD: Tensor
    code_to_start_HD: Tensor
    start_bias_H: Tensor
    hidden_wiring: bool
    target_weight_NH: Tensor
    target_bias_N: Tensor
    output_weight_VH: Tensor
    output_bias_V: Tensor
    state_mask_NH: Tensor | None = None
    weights: tuple[Tensor, ...] = ()
    versions: tuple[int, ...] = ()
    replay: Replay = field(default_factory=Replay, repr=False, compare=False)

    @classmethod
    @torch.no_grad()
    def build(cls, decoder: LSTMDecoder, batch: Batch, masks: Masks = NOTHING_DROPPED) -> ConditionedLSTM:
        """Everything that does not depend on z: token-side gate inputs and target rows."""
        require_tokens(batch.tokens, decoder.vocab_size)
        cell, output, start = decoder.cell, decoder.output, decoder.start
        packing = Packing.of(batch.tokens)
        targets = packing.pack(batch.tokens)
        words = decoder.embedded(batch.tokens, packing, masks)
        gates = {name: regrouped(weight.detach()) for name, weight in cell.named_parameters()}
        input_GE, recurrent_GH = gates["weight_ih_l0"], gates["weight_hh_l0"]
        bias_G = gates["bias_ih_l0"] + gates["bias_hh_l0"]
        width = decoder.embedding.embedding_dim
        bias_V = decoder.output_bias(output)
        start_bias = None if start is None else start.bias
        return cls(
            packing=packing,
            sentence_N=packing.sentences(),
            token_gates_NG=torch.addmm(bias_G, words, input_GE[:, :width].T),
            recurrent_HG=recurrent_GH.T.contiguous(),
            recurrent_GH=recurrent_GH,
            code_to_gates_GD=input_GE[:, width:].contiguous(),
            code_to_start_HD=words.new_zeros(cell.hidden_size, 0) if start is None else start.weight.detach(),
            start_bias_H=words.new_zeros(cell.hidden_size) if start_bias is None else start_bias.detach(),
            hidden_wiring=decoder.wiring == "hidden",
            target_weight_NH=output.weight.detach()[targets],
            target_bias_N=bias_V[targets],
            output_weight_VH=output.weight.detach(),
            output_bias_V=bias_V,
            state_mask_NH=None if masks.states is None else packing.pack(masks.states),
            weights=tuple(decoder.parameters()),
            versions=versions(decoder.parameters()),
        )

    @torch.no_grad()
    def value(self, z: Tensor) -> Tensor:
        """Log p(x | z) in nats for z [S, B, D], shape [S, B]."""
        self._require(z)
        if (whole := self._compiled(z)) is not None:
            return whole.value(z)
        values = []
        for part in self._parts(z):
            z_RD = self.rows(part)
            states = self._masked(self.run(z_RD, self.start(z_RD), keep=False).hidden, len(part))
            normaliser = log_normaliser(states.flatten(0, 1), self.output_weight_VH, self.output_bias_V)
            values.append(self._log_likelihood(states, normaliser))
        return torch.cat(values)

    @torch.no_grad()
    def value_and_grad(self, z: Tensor, softmax: Softmax | None = None) -> tuple[Tensor, Tensor]:
        """Log p(x | z) in nats [S, B] and its gradient in z [S, B, D]; those of a surrogate if a softmax is given."""
        self._require(z)
        if softmax is not None:  # it remembers every hidden state, so that its draws are never parted
            return self._under(softmax, z)
        if (whole := self._compiled(z)) is not None:
            return whole.value_and_grad(z)
        value, grad = self.replay(self.by_operations, z, variant=cells_for(z))
        return value, grad

    def _compiled(self, z: Tensor) -> CompiledLSTM | None:
        """The same in one compiled call, where that can be."""
        return self._laid_out if can_compute(z, self.output_weight_VH) else None

    @functools.cached_property
    def _laid_out(self) -> CompiledLSTM | None:
        functions = compiled()
        return CompiledLSTM.of(self, functions) if functions else None

    @torch.no_grad()
    def by_operations(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What ``value_and_grad`` gives, operation by operation."""
        values, grads = zip(*(self._swept(part, self.exact_softmax) for part in self._parts(z)), strict=True)
        return torch.cat(values), torch.cat(grads)

    def exact_softmax(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Mean output weights and log-normalisers of hidden states [n, H], by PyTorch's operations."""
        return vocabulary_attention(states, self.output_weight_VH, self.output_bias_V)

    def _under(self, softmax: Softmax, z: Tensor) -> tuple[Tensor, Tensor]:
        if (whole := self._compiled(z)) is None:
            return self._swept(z, softmax)
        hidden, gradient = whole.states(z)
        value, slope = self.scored(hidden, len(z), softmax)
        return value, gradient(slope)

    def _swept(self, z: Tensor, softmax: Softmax) -> tuple[Tensor, Tensor]:
        """Forward and in reverse."""
        z_RD = self.rows(z)
        h0, c0 = self.start(z_RD)
        trace = self.run(z_RD, (h0, c0), keep=True)
        value, slope = self.scored(trace.hidden, len(z), softmax)
        back = reverse(trace, slope, self.recurrent_GH, c0)
        begin = back.hidden if self.hidden_wiring else back.cell + back.hidden * (1 - h0 * h0)
        grad = torch.addmm(begin @ self.code_to_start_HD, back.gates, self.code_to_gates_GD)
        return value, self.unsorted(grad, len(z))

    def scored(self, hidden: Tensor, num_draws: int, softmax: Softmax) -> tuple[Tensor, Tensor]:
        """Log-likelihoods [S, B], and their gradient in the hidden states [N S, H]."""
        states = self._masked(hidden, num_draws)
        mean_weight, normaliser = softmax(states.flatten(0, 1))
        slope = times(self.target_weight_NH[:, None] - mean_weight.view(states.shape), self._state_mask)
        return self._log_likelihood(states, normaliser), slope.flatten(0, 1)

    def hessian(self, z: Tensor) -> Tensor:
        """The Hessian of log p(x | z) in z, shape [S, B, D, D]; exact, see ``lstm_hessian``."""
        self._require(z)
        return lstm_hessian.hessian(self, z)

    def hessian_vector_product(self, z: Tensor, vector: Tensor) -> Tensor:
        """That Hessian times a vector [S, B, D] for every chain, shape [S, B, D]; exact."""
        self._require(z)
        return lstm_hessian.hessian_vector_product(self, z, vector)

    def _require(self, z: Tensor) -> None:
        """Raise unless z is about these sentences and the weights are those that this was built from."""
        sentences, dim = len(self.packing.order_B), self.code_to_gates_GD.shape[1]
        if z.ndim != 3 or z.shape[1:] != (sentences, dim):
            raise ValueError(
                f"z must have shape [draws, {sentences}, {dim}], a code for every sentence of the batch; got "
                f"{tuple(z.shape)}."
            )
        if versions(self.weights) != self.versions:
            raise RuntimeError(
                "the decoder's weights have changed since this target was made; make another with "
                "model.target(batch) after each weight step."
            )

    def _parts(self, z: Tensor) -> Iterable[Tensor]:
        """Draws cut into passes whose memory is bounded."""
        per_draw = len(self.sentence_N) * 7 * len(self.recurrent_HG) * z.element_size()
        return torch.split(z, max(1, BUDGET // per_draw))

    def rows(self, z: Tensor) -> Tensor:
        """Codes [S, B, D] in the order of rows, [R, D]."""
        return z[:, self.packing.order_B].transpose(0, 1).flatten(0, 1)

    def unsorted(self, values_RK: Tensor, num_draws: int) -> Tensor:
        """Rows [R, K] back in the order of draws and sentences, [S, B, K]."""
        by_sentence = values_RK.view(len(self.packing.place_B), num_draws, values_RK.shape[1])
        return by_sentence[self.packing.place_B].transpose(0, 1)

    def start(self, z_RD: Tensor) -> tuple[Tensor, Tensor]:
        """The first hidden state and cell of every row, each [R, H]."""
        state = torch.addmm(self.start_bias_H, z_RD, self.code_to_start_HD.T)
        return (state, torch.zeros_like(state)) if self.hidden_wiring else (state.tanh(), state)

    def run(self, z_RD: Tensor, start: tuple[Tensor, Tensor], keep: bool) -> Trace:
        """Hidden states at every token, and what the reverse pass needs if it is wanted."""
        code = z_RD @ self.code_to_gates_GD.T
        return forward(self.token_gates_NG, code, self.recurrent_HG, *start, self.packing.counts, keep)

    @property
    def _state_mask(self) -> Tensor | None:
        return None if self.state_mask_NH is None else self.state_mask_NH[:, None]

    def _masked(self, hidden: Tensor, num_draws: int) -> Tensor:
        """Hidden states as the output layer sees them, [N, S, H]."""
        return times(hidden.view(-1, num_draws, hidden.shape[1]), self._state_mask)

    def _log_likelihood(self, states: Tensor, normaliser: Tensor) -> Tensor:
        """Log-probabilities of the targets, given the normalisers [N S], summed over each sentence, [S, B]."""
        num_draws = states.shape[1]
        logit = (states * self.target_weight_NH[:, None]).sum(-1) + self.target_bias_N[:, None]
        log_probs = logit - normaliser.view(-1, num_draws)
        sums = log_probs.new_zeros(len(self.packing.order_B), num_draws).index_add_(
            0, self.sentence_N, log_probs
        )
        return self.unsorted(sums.view(-1, 1), num_draws)[..., 0]
