"""The LSTM decoder from its equations, one sentence and one token at a time: the oracle of every faster route.

Nothing of the library is used but the weights of a decoder. Autograd differentiates what is written here.
Axes: S draws, B sentences, T tokens, L tokens of one sentence, E embedding, D latent dimensions, H hidden units,
V words.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sri_pyro.models import LSTMDecoder
from sri_pyro.models.decoders.dropout import NOTHING_DROPPED, Masks
from sri_pyro.types import BOS, EOS, PAD, UNK
from tests.oracles import randomise


def small_lstm(**options: object) -> LSTMDecoder:
    """A small decoder with random weights that matter, in eval mode."""
    sizes = {"vocab_size": 8, "latent_dim": 3, "hidden": 5, "embedding": 4, "dropout": 0.0}
    decoder = LSTMDecoder(**sizes | options)
    randomise(decoder, 0.6)
    return decoder.eval()


def rows(vocab_size: int, lengths: list[int], width: int | None = None) -> Tensor:
    """Random sentences of the given lengths, the end of sentence included, in a batch of some width."""
    tokens = torch.full((len(lengths), width or max(lengths)), PAD)
    for row, length in zip(tokens, lengths, strict=True):
        row[: length - 1] = torch.randint(4, vocab_size, (length - 1,))
        row[length - 1] = EOS
    return tokens


def thinning(decoder: LSTMDecoder, tokens: Tensor) -> Masks:
    """One draw of dropout of all three kinds."""

    def factors(width: int) -> Tensor:
        return (torch.rand(*tokens.shape, width) > 0.4) / 0.6

    return Masks(
        unread=torch.rand(tokens.shape) < 0.4,
        words=factors(decoder.embedding.embedding_dim),
        states=factors(decoder.cell.hidden_size),
    )


def lstm_states(
    decoder: LSTMDecoder, z: Tensor, tokens: Tensor, masks: Masks = NOTHING_DROPPED
) -> list[Tensor]:
    """Hidden states that predict the tokens of every sentence, masked, each [S, L, H]; z [S, B, D]."""
    return [_states_of_one(decoder, z[:, n], tokens[n], masks, n) for n in range(len(tokens))]


def _states_of_one(decoder: LSTMDecoder, z: Tensor, row: Tensor, masks: Masks, n: int) -> Tensor:
    network, width = decoder.cell, decoder.cell.hidden_size
    h = c = z.new_zeros(len(z), width)
    if decoder.start is not None and decoder.wiring == "hidden":
        h = z @ decoder.start.weight.T + decoder.start.bias
    elif decoder.start is not None:
        c = z @ decoder.start.weight.T
        h = torch.tanh(c)
    states, before = [], BOS
    for t in range(int((row != PAD).sum())):
        if masks.unread is not None and masks.unread[n, t] and before != BOS:
            before = UNK
        word = decoder.embedding.weight[before]
        if masks.words is not None:
            word = word * masks.words[n, t]
        read = torch.cat([word.expand(len(z), -1), z], -1)
        gates = read @ network.weight_ih_l0.T + network.bias_ih_l0
        gates = gates + h @ network.weight_hh_l0.T + network.bias_hh_l0
        let_in, forget, candidate, let_out = gates.split(width, -1)
        c = torch.sigmoid(forget) * c + torch.sigmoid(let_in) * torch.tanh(candidate)
        h = torch.sigmoid(let_out) * torch.tanh(c)
        states.append(h if masks.states is None else h * masks.states[n, t])
        before = int(row[t])
    return torch.stack(states, 1)


def lstm_logits(decoder: LSTMDecoder, states: Tensor) -> Tensor:
    """Logits of every word, [..., V]; ``PAD`` and ``BOS`` cannot follow, so they have no share of the law."""
    logits = states @ decoder.output.weight.T
    if decoder.output.bias is not None:
        logits = logits + decoder.output.bias
    impossible = torch.zeros(decoder.vocab_size, dtype=torch.bool)
    impossible[[PAD, BOS]] = True
    return logits.masked_fill(impossible, -torch.inf)


def lstm_scores(decoder: LSTMDecoder, z: Tensor, tokens: Tensor, masks: Masks = NOTHING_DROPPED) -> Tensor:
    """Log-probability of every token, [S, B, T], 0 at ``PAD``."""
    sentences = []
    for row, states in zip(tokens, lstm_states(decoder, z, tokens, masks), strict=True):
        logits = lstm_logits(decoder, states)
        scores = [
            logits[:, t, row[t]] - logits[:, t].logsumexp(-1) if t < states.shape[1] else z.new_zeros(len(z))
            for t in range(len(row))
        ]
        sentences.append(torch.stack(scores, -1))
    return torch.stack(sentences, 1)


def lstm_value_and_grad(
    decoder: LSTMDecoder, z: Tensor, tokens: Tensor, masks: Masks = NOTHING_DROPPED
) -> tuple[Tensor, Tensor]:
    """Log p(x | z) [S, B] and its gradient in z [S, B, D], by autograd through the equations."""
    z = z.detach().clone().requires_grad_()
    value = lstm_scores(decoder, z, tokens, masks).sum(-1)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient
