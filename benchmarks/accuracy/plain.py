r"""The competitor: what a user of Pyro writes from the paper's equations, without this library.

A Pyro program of the text model, and Langevin steps whose gradient is that of a trace's log joint. The network's layers
are PyTorch's own and are shared with the trained decoder, so that both sides have one posterior; nothing else is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from sri_pyro.models import LSTMDecoder
from sri_pyro.types import BOS, PAD

Program = Callable[[Tensor], None]
"""A Pyro program of observed rows [B, ...] with the latent site ``z`` [B, D] in a plate over the rows."""


def text_program(decoder: nn.Module) -> Program:
    r"""The text model of a trained decoder: :math:`z \sim N(0, I)`, words from an LSTM that z starts and feeds.

    The two symbols that never come get a bias of -inf, as in the decoder; padding is masked.
    """
    assert isinstance(decoder, LSTMDecoder)
    assert decoder.start is not None
    begun = decoder.start
    output = copy.deepcopy(decoder.output)
    with torch.no_grad():
        output.bias[[PAD, BOS]] = -torch.inf

    def program(tokens: Tensor) -> None:
        before = torch.cat([torch.full_like(tokens[:, :1], BOS), tokens[:, :-1]], 1)
        with pyro.plate("sentences", len(tokens)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([decoder.latent_dim]).to_event(1))
            start = begun(z)[None]
            codes = z[:, None].expand(-1, tokens.shape[1], -1)
            inputs = torch.cat([decoder.embedding(before), codes], -1)
            states, _ = decoder.cell(inputs, (start, torch.zeros_like(start)))
            words = dist.Categorical(logits=output(states))
            pyro.sample("x", words.mask(tokens != PAD).to_event(1), obs=tokens)

    return program


def gradient(program: Program, data: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Log p(x, z) of all rows together, a scalar, and its gradient in z [B, D]."""
    z = z.detach().requires_grad_()
    trace = poutine.trace(poutine.condition(program, data={"z": z})).get_trace(data)
    log_joint = trace.log_prob_sum()
    (grad,) = torch.autograd.grad(log_joint, z)
    return log_joint.detach(), grad


def langevin(
    program: Program,
    data: Tensor,
    z: Tensor,
    step_sizes: Sequence[float],
    noise: Callable[[Tensor], Tensor] = torch.randn_like,
) -> Tensor:
    """Equation 7 of the paper: K steps of one chain for every row, from z [B, D]."""
    for step in step_sizes:
        _, grad = gradient(program, data, z)
        z = z + step * grad + math.sqrt(2 * step) * noise(z)
    return z
