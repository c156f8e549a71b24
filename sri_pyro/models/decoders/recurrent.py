"""Recurrent decoders: an LSTM in both published wirings, and a GRU."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sri_pyro.models.decoders.base import Decoder, State, require_rate, require_width
from sri_pyro.models.decoders.dropout import NOTHING_DROPPED, Masks, branches, factors, hidden_words, times
from sri_pyro.models.decoders.fast_lstm import ConditionedLSTM
from sri_pyro.models.decoders.inputs import shifted
from sri_pyro.models.decoders.packed import Packing, packed_lstm, regrouped
from sri_pyro.models.decoders.vocabulary import token_log_probs
from sri_pyro.target import ConditionedLikelihood
from sri_pyro.types import PAD, Batch

Wiring = Literal["hidden", "cell"]
Initialisation = Literal["uniform", "small_uniform"]


class RecurrentDecoder(Decoder):
    """What LSTM and GRU decoders share: z starts the network and is concatenated to every embedding.

    Args:
        vocab_size: V.
        latent_dim: D.
        embedding: Width of a word embedding.
        hidden: Width of the hidden state.
        dropout: Rate on word embeddings and on hidden states, while training weights only.
        word_dropout: Share of input words replaced by the unknown word, while training weights only.
        output_bias: Whether the output layer has a bias.
        initialisation: ``uniform``: U(-0.1, 0.1) everywhere (Kim et al. 2018; the authors' release);
            ``small_uniform``: U(-0.01, 0.01), embeddings U(-0.1, 0.1) (He et al. 2019).
        max_length: The most tokens ``generate`` writes.
        cell: The recurrent network.
    """

    def __init__(
        self,
        cell: type[nn.LSTM] | type[nn.GRU],
        vocab_size: int,
        latent_dim: int,
        embedding: int,
        hidden: int,
        dropout: float,
        word_dropout: float,
        output_bias: bool,
        max_length: int,
    ) -> None:
        super().__init__(vocab_size, latent_dim, max_length)
        require_width(embedding=embedding, hidden=hidden)
        require_rate(dropout=dropout, word_dropout=word_dropout)
        self.dropout = dropout
        self.word_dropout = word_dropout
        self.embedding = nn.Embedding(vocab_size, embedding, padding_idx=PAD)
        self.cell = cell(embedding + latent_dim, hidden, batch_first=True)
        self.output = nn.Linear(hidden, vocab_size, bias=output_bias)

    def draw_masks(self, tokens: Tensor, keys: Tensor | None = None) -> Masks:
        """Dropout of words, of their embeddings and of hidden states."""
        if not self.training:
            return NOTHING_DROPPED
        weight = self.embedding.weight
        of_unread, of_words, of_states = branches(keys, 3)
        return Masks(
            unread=hidden_words(tokens, self.word_dropout, of_unread),
            words=factors((*tokens.shape, self.embedding.embedding_dim), self.dropout, weight, of_words),
            states=factors((*tokens.shape, self.cell.hidden_size), self.dropout, weight, of_states),
        )

    def token_log_probs(self, z: Tensor, tokens: Tensor, masks: Masks = NOTHING_DROPPED) -> Tensor:
        """Teacher-forced log-probabilities, shape [N, T]; the vocabulary is met at real tokens only."""
        words = times(self.embedding(masks.read(shifted(tokens))), masks.words)
        codes = z[:, None].expand(-1, tokens.shape[1], -1)
        states, _ = self._unrolled(torch.cat([words, codes], -1), self.begin(z))
        states = times(states, masks.states)
        real = tokens != PAD
        scores = token_log_probs(
            states[real], self.output.weight, self.output_bias(self.output), tokens[real]
        )
        return z.new_zeros(tokens.shape).masked_scatter(real, scores)

    def _unrolled(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """States at every token and the last, by operations that have a gradient in every mode, and a second one.

        Those of cuDNN have none outside of training mode, no second one, and round to ten bits.
        """
        with torch.backends.cudnn.flags(enabled=False):
            states, state = self.cell(inputs, state)
        return states, state

    def advance(self, token: Tensor, z: Tensor, state: State) -> tuple[Tensor, State]:
        """One token further."""
        word = torch.cat([self.embedding(token), z], -1)
        states, state = self._unrolled(word[:, None], state)
        return self.predict(self.output, states[:, 0]), state


class LSTMDecoder(RecurrentDecoder):
    r"""A one-layer LSTM, in the two wirings the literature uses.

    ``hidden`` (Kim et al. 2018 and the authors' release): :math:`h_0 = W z + b,\; c_0 = 0`.
    ``cell`` (He et al. 2019): :math:`c_0 = W z,\; h_0 = \tanh c_0`.
    In both, z is concatenated to every word embedding. With ``latent_dim = 0`` both start at zero.

    Args:
        vocab_size: V.
        latent_dim: D.
        embedding: Width of a word embedding.
        hidden: Width of the hidden state.
        wiring: Where z enters the initial state.
        dropout: Rate on word embeddings and on hidden states, while training weights only.
        word_dropout: Share of input words replaced by the unknown word, while training weights only.
        output_bias: Whether the output layer has a bias (Kim et al.: yes; He et al.: no).
        initialisation: ``uniform``: U(-0.1, 0.1) everywhere (Kim et al.); ``small_uniform``:
            U(-0.01, 0.01), embeddings U(-0.1, 0.1) (He et al.).
        max_length: The most tokens ``generate`` writes.

    Example:
        >>> decoder = LSTMDecoder(vocab_size=50, latent_dim=32, embedding=8, hidden=16)
        >>> law = decoder(torch.zeros(5, 2, 32), Batch(torch.tensor([[7, 3], [3, 0]])))
        >>> law.log_prob(torch.tensor([[7, 3], [3, 0]])).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        vocab_size: int,
        latent_dim: int = 32,
        embedding: int = 128,
        hidden: int = 256,
        wiring: Wiring = "hidden",
        dropout: float = 0.5,
        word_dropout: float = 0.0,
        output_bias: bool = True,
        initialisation: Initialisation = "uniform",
        max_length: int = 60,
    ) -> None:
        super().__init__(
            nn.LSTM, vocab_size, latent_dim, embedding, hidden,
            dropout, word_dropout, output_bias, max_length,
        )  # fmt: skip
        if wiring not in ("hidden", "cell"):
            raise ValueError(f"unknown wiring {wiring!r}; known: cell, hidden.")
        self.wiring = wiring
        self.start = nn.Linear(latent_dim, hidden, bias=wiring == "hidden") if latent_dim else None
        initialise(self, self.embedding, initialisation)

    def embedded(self, tokens: Tensor, packing: Packing, masks: Masks) -> Tensor:
        """Embeddings of the packed input words of tokens [N, T], dropout applied."""
        words = self.embedding(packing.pack(masks.read(shifted(tokens))))
        return times(words, None if masks.words is None else packing.pack(masks.words))

    def token_log_probs(self, z: Tensor, tokens: Tensor, masks: Masks = NOTHING_DROPPED) -> Tensor:
        """Teacher-forced log-probabilities, shape [N, T]; padded tokens cost nothing."""
        packing, width = Packing.of(tokens), self.embedding.embedding_dim
        gates = {name: regrouped(weight) for name, weight in self.cell.named_parameters()}
        bias = gates["bias_ih_l0"] + gates["bias_hh_l0"]
        words = F.linear(self.embedded(tokens, packing, masks), gates["weight_ih_l0"][:, :width], bias)
        z = z[packing.order_B]
        code = F.linear(z, gates["weight_ih_l0"][:, width:])
        h, c = (state[0] for state in self.begin(z))
        states = packed_lstm(words, code, gates["weight_hh_l0"], h, c, packing.counts)
        states = times(states, None if masks.states is None else packing.pack(masks.states))
        bias = self.output_bias(self.output)
        return packing.unpack(token_log_probs(states, self.output.weight, bias, packing.pack(tokens)))

    def begin(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden and cell state before the first token, each [1, N, H]."""
        if self.start is None:
            zeros = z.new_zeros(1, len(z), self.cell.hidden_size)
            return zeros, zeros
        state = self.start(z)[None]
        if self.wiring == "hidden":
            return state, torch.zeros_like(state)
        return torch.tanh(state), state

    def condition(self, batch: Batch, masks: Masks = NOTHING_DROPPED) -> ConditionedLikelihood:
        """The explicit gradient with the softmax as attention; equal to autograd."""
        return ConditionedLSTM.build(self, batch, masks)


class GRUDecoder(RecurrentDecoder):
    r"""A one-layer GRU with :math:`h_0 = W z + b` and z concatenated to every word embedding.

    Args:
        vocab_size: V.
        latent_dim: D.
        embedding: Width of a word embedding.
        hidden: Width of the hidden state.
        dropout: Rate on word embeddings and on hidden states, while training weights only.
        word_dropout: Share of input words replaced by the unknown word, while training weights only.
        output_bias: Whether the output layer has a bias.
        initialisation: As for ``LSTMDecoder``.
        max_length: The most tokens ``generate`` writes.

    Example:
        >>> decoder = GRUDecoder(vocab_size=50, latent_dim=4, embedding=8, hidden=16)
        >>> decoder.generate(torch.zeros(3, 4), max_length=6).shape
        torch.Size([3, 6])
    """

    def __init__(
        self,
        vocab_size: int,
        latent_dim: int = 32,
        embedding: int = 128,
        hidden: int = 256,
        dropout: float = 0.5,
        word_dropout: float = 0.0,
        output_bias: bool = True,
        initialisation: Initialisation = "uniform",
        max_length: int = 60,
    ) -> None:
        super().__init__(
            nn.GRU, vocab_size, latent_dim, embedding, hidden,
            dropout, word_dropout, output_bias, max_length,
        )  # fmt: skip
        self.start = nn.Linear(latent_dim, hidden) if latent_dim else None
        initialise(self, self.embedding, initialisation)

    def begin(self, z: Tensor) -> Tensor:
        """The hidden state before the first token, [1, N, H]."""
        if self.start is None:
            return z.new_zeros(1, len(z), self.cell.hidden_size)
        return self.start(z)[None]  # type: ignore[no-any-return]  # a module's call is not typed


def initialise(network: nn.Module, embedding: nn.Embedding, how: Initialisation) -> None:
    """Draw all weights and biases of a network from the published uniform laws; see ``LSTMDecoder``."""
    if how not in ("uniform", "small_uniform"):
        raise ValueError(f"unknown initialisation {how!r}; known: small_uniform, uniform.")
    width = 0.1 if how == "uniform" else 0.01
    for parameter in network.parameters():
        nn.init.uniform_(parameter, -width, width)
    nn.init.uniform_(embedding.weight, -0.1, 0.1)
