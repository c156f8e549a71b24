r"""The exact fast route of the LSTM decoder: log p(x | z) and its z-gradient, weights fixed.

What does not depend on z is computed once per batch. The softmax gradient is attention over the vocabulary
(``vocabulary``). The reverse pass is written out and computes no weight gradient. Sentences are sorted by length,
longest first, so that the chains that are still under way at a token are the first rows of every matrix and no
padded token is ever computed.

Axes: S draws, B sentences, T tokens, D latent dimensions, H hidden units, V words; N real tokens of the batch, those
of one time step side by side; R = S B rows, the draws of a sentence side by side. Gate columns are in the order of
``cells``: input, forget, output, candidate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sri_pyro.models.decoders.cells import cells_for
from sri_pyro.models.decoders.dropout import NOTHING_DROPPED, Masks, times
from sri_pyro.models.decoders.frozen_tail import Softmax
from sri_pyro.models.decoders.inputs import require_tokens, shifted
from sri_pyro.models.decoders.vocabulary import log_normaliser, vocabulary_attention
from sri_pyro.types import PAD, Batch

if TYPE_CHECKING:
    from sri_pyro.models.decoders.recurrent import LSTMDecoder

BUDGET = 128 * 2**20
"""Bytes that a pass may keep for its reverse; more draws than fit go in several passes, one draw always fits."""


def versions(weights: Iterable[Tensor]) -> tuple[int, ...]:
    """How often each weight was changed in place, as far as PyTorch counts.

    Fused optimisers on the CPU are not counted (PyTorch 2.13), nor weights made under inference mode.
    """
    return tuple(0 if weight.is_inference() else weight._version for weight in weights)


class Pass(NamedTuple):
    """What a forward pass leaves.

    Attributes:
        hidden: States at every token, shape [N S, H].
        gates: Activations of every time step, shape [rows, 4H]; those and the following only if kept.
        cells: Their cells, shape [rows, H].
        squashed: The hyperbolic tangents of these.
        start: The first hidden state and cell, each [R, H].
    """

    hidden: Tensor
    gates: list[Tensor]
    cells: list[Tensor]
    squashed: list[Tensor]
    start: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ConditionedLSTM:
    """One batch's log p(x | z) as a function of z alone; ``build`` makes it from a decoder.

    Some weights are copied here and others are not, so that it serves the weights it was built from and refuses once
    they have changed.

    Attributes:
        order_B: Sentences, longest first.
        place_B: Where each sentence stands among the sorted ones.
        counts: How many of them have a token at each time step.
        sentence_N: Which of the sorted sentences each token belongs to.
        token_gates_NG: Inputs of the gates from words and biases.
        recurrent_HG: From the hidden state to the gates.
        reverse_GH: Its transpose; both lie in memory as matrix products want them.
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
    """

    order_B: Tensor
    place_B: Tensor
    counts: tuple[int, ...]
    sentence_N: Tensor
    token_gates_NG: Tensor
    recurrent_HG: Tensor
    reverse_GH: Tensor
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

    @classmethod
    @torch.no_grad()
    def build(cls, decoder: LSTMDecoder, batch: Batch, masks: Masks = NOTHING_DROPPED) -> ConditionedLSTM:
        """Everything that does not depend on z: token-side gate inputs and target rows."""
        require_tokens(batch.tokens, decoder.vocab_size)
        cell, output, start = decoder.cell, decoder.output, decoder.start
        order = torch.argsort(batch.lengths, descending=True, stable=True)
        tokens_TB = batch.tokens[order].T
        real = tokens_TB != PAD
        targets = tokens_TB[real]

        def packed(values_BT: Tensor) -> Tensor:
            """The real tokens' rows, time step after time step."""
            return values_BT[order].transpose(0, 1)[real]

        words = times(
            decoder.embedding(packed(masks.read(shifted(batch.tokens)))),
            None if masks.words is None else packed(masks.words),
        )
        gates = {name: regrouped(weight.detach()) for name, weight in cell.named_parameters()}
        input_GE, recurrent_GH = gates["weight_ih_l0"], gates["weight_hh_l0"]
        bias_G = gates["bias_ih_l0"] + gates["bias_hh_l0"]
        width = decoder.embedding.embedding_dim
        bias_V = decoder.output_bias(output)
        start_bias = None if start is None else start.bias
        return cls(
            order_B=order,
            place_B=torch.argsort(order),
            counts=tuple(count for count in real.sum(1).tolist() if count),
            sentence_N=torch.arange(len(batch), device=order.device).expand(real.shape)[real],
            token_gates_NG=torch.addmm(bias_G, words, input_GE[:, :width].T),
            recurrent_HG=recurrent_GH.T.contiguous(),
            reverse_GH=recurrent_GH,
            code_to_gates_GD=input_GE[:, width:].contiguous(),
            code_to_start_HD=words.new_zeros(cell.hidden_size, 0) if start is None else start.weight.detach(),
            start_bias_H=words.new_zeros(cell.hidden_size) if start_bias is None else start_bias.detach(),
            hidden_wiring=decoder.wiring == "hidden",
            target_weight_NH=output.weight.detach()[targets],
            target_bias_N=bias_V[targets],
            output_weight_VH=output.weight.detach(),
            output_bias_V=bias_V,
            state_mask_NH=None if masks.states is None else packed(masks.states),
            weights=tuple(decoder.parameters()),
            versions=versions(decoder.parameters()),
        )

    @torch.no_grad()
    def value(self, z: Tensor) -> Tensor:
        """Log p(x | z) in nats for z [S, B, D], shape [S, B]."""
        self._require_same_weights()
        values = []
        for part in self._parts(z):
            states = self._masked(self.run(part, keep=False).hidden, len(part))
            normaliser = log_normaliser(states.flatten(0, 1), self.output_weight_VH, self.output_bias_V)
            values.append(self._log_likelihood(states, normaliser))
        return torch.cat(values)

    @torch.no_grad()
    def value_and_grad(self, z: Tensor, softmax: Softmax | None = None) -> tuple[Tensor, Tensor]:
        """Log p(x | z) in nats [S, B] and its gradient in z [S, B, D]; those of a surrogate if a softmax is given."""
        self._require_same_weights()
        values, grads = [], []
        # A surrogate remembers every hidden state, so that its draws are never parted.
        for part in self._parts(z) if softmax is None else (z,):
            run = self.run(part, keep=True)
            states = self._masked(run.hidden, len(part))
            mean_weight, normaliser = (softmax or self._softmax)(states.flatten(0, 1))
            values.append(self._log_likelihood(states, normaliser))
            slope = times(self.target_weight_NH[:, None] - mean_weight.view(states.shape), self._state_mask)
            grads.append(self._reverse(slope.flatten(0, 1), run, part.shape))
        return torch.cat(values), torch.cat(grads)

    def _softmax(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return vocabulary_attention(states, self.output_weight_VH, self.output_bias_V)

    def _require_same_weights(self) -> None:
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
        return z[:, self.order_B].transpose(0, 1).flatten(0, 1)

    def unsorted(self, values_RK: Tensor, num_draws: int) -> Tensor:
        """Rows [R, K] back in the order of draws and sentences, [S, B, K]."""
        by_sentence = values_RK.view(len(self.place_B), num_draws, values_RK.shape[1])
        return by_sentence[self.place_B].transpose(0, 1)

    def run(self, z: Tensor, keep: bool) -> Pass:
        """Hidden states at every token, and what the reverse pass needs if it is wanted."""
        num_draws, cells = len(z), cells_for(z)
        z_RD = self.rows(z)
        code = z_RD @ self.code_to_gates_GD.T
        state = torch.addmm(self.start_bias_H, z_RD, self.code_to_start_HD.T)
        h, c = (state, torch.zeros_like(state)) if self.hidden_wiring else (state.tanh(), state)
        units = state.shape[1]
        hidden = z.new_empty(len(self.sentence_N) * num_draws, units)
        gates, cell, squashed = (self._room(z, keep, width) for width in (4 * units, units, units))
        start = (h, c)
        words = torch.split(self.token_gates_NG, self.sizes(1))
        states = torch.split(hidden, self.sizes(num_draws))
        for t, word in enumerate(words):
            if len(gates[t]) < len(h):  # the shortest sentences have ended
                h, c, code = (rows[: len(gates[t])] for rows in (h, c, code))
            torch.mm(h, self.recurrent_HG, out=gates[t])
            cells.forward(gates[t], word, code, c, cell[t], squashed[t], states[t])
            h, c = states[t], cell[t]
        return Pass(hidden, gates, cell, squashed, start)

    def sizes(self, num_draws: int) -> list[int]:
        """Rows of every time step."""
        return [count * num_draws for count in self.counts]

    def _room(self, z: Tensor, keep: bool, width: int) -> list[Tensor]:
        """Room for rows of every time step: all of them to be kept, or two in turn."""
        sizes = self.sizes(len(z))
        if keep:
            return list(torch.split(z.new_empty(sum(sizes), width), sizes))
        turns = z.new_empty(2, sizes[0], width)
        return [turns[t % 2, :size] for t, size in enumerate(sizes)]

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
        sums = log_probs.new_zeros(len(self.order_B), num_draws).index_add_(0, self.sentence_N, log_probs)
        return self.unsorted(sums.view(-1, 1), num_draws)[..., 0]

    def _reverse(self, hidden_grad: Tensor, run: Pass, shape: torch.Size) -> Tensor:
        """Pull the gradient in the hidden states back to z [S, B, D]; what the pass has kept is used up."""
        cells, (h0, c0) = cells_for(hidden_grad), run.start
        later, cell_grad = torch.zeros_like(h0), torch.zeros_like(h0)
        gate_sum = h0.new_zeros(len(h0), 4 * h0.shape[1])
        slopes = torch.split(hidden_grad, self.sizes(shape[0]))
        for t in range(len(slopes) - 1, -1, -1):
            gates, before = run.gates[t], run.cells[t - 1] if t else c0
            active = len(gates)
            cells.reverse(
                gates, before[:active], run.squashed[t], slopes[t],
                later[:active], cell_grad[:active], gate_sum[:active],
            )  # fmt: skip
            torch.mm(gates, self.reverse_GH, out=later[:active])
        start = later if self.hidden_wiring else cell_grad + later * (1 - h0 * h0)
        grad = torch.addmm(start @ self.code_to_start_HD, gate_sum, self.code_to_gates_GD)
        return self.unsorted(grad, shape[0])


def regrouped(weight: Tensor) -> Tensor:
    """Gate rows in the order of ``cells``, from PyTorch's input, forget, candidate, output."""
    into, forget, candidate, out = weight.chunk(4)
    return torch.cat([into, forget, out, candidate])
