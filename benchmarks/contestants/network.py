"""The decoder as users of PyTorch write it: one ``nn.LSTM``, z joined to every word and at the start."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.problem import BOS, Array, Problem


class Network(nn.Module):
    """Logits of every token."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        size = problem.size
        self.embedding = nn.Embedding(size.vocabulary, size.embedding)
        self.cell = nn.LSTM(size.embedding + size.latent, size.hidden, batch_first=True)
        self.start = nn.Linear(size.latent, size.hidden)
        self.output = nn.Linear(size.hidden, size.vocabulary)
        put_weights(self, problem)

    def forward(self, z: Tensor, tokens: Tensor) -> Tensor:
        """From codes [B, D] and words [B, T] to [B, T, V]."""
        words = self.embedding(inputs(tokens))
        codes = z[:, None].expand(-1, tokens.shape[1], -1)
        h0 = self.start(z)[None]
        states, _ = self.cell(torch.cat([words, codes], -1), (h0, torch.zeros_like(h0)))
        logits: Tensor = self.output(states)
        return logits


def inputs(tokens: Tensor) -> Tensor:
    """What is read before each word is predicted."""
    return torch.cat([torch.full_like(tokens[:, :1], BOS), tokens[:, :-1]], 1)


def put_weights(module: nn.Module, problem: Problem) -> None:
    """Give a module the problem's weights and their precision."""
    tensors = {name: problem.tensor(weight) for name, weight in problem.weights.items()}
    module.to(tensors["output.weight"]).load_state_dict(tensors)


def take_weights(module: nn.Module) -> dict[str, Array]:
    """A module's weights as arrays of their own."""
    return {name: weight.cpu().numpy().copy() for name, weight in module.state_dict().items()}
