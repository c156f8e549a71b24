"""Divergence: how chains that left every posterior there is run again with shorter steps.

Axes: S draws, B sentences, D latent dimensions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sri_pyro.types import Draws

log = logging.getLogger(__name__)

LASTING = 0.1
"""Share of diverging chains beyond which a halving stays. A few steep sentences early in training must not shorten
the steps of all that follow: a run that hardly leaves the prior teaches the decoder to ignore it."""
MOST_HALVINGS = 20

Attempt = Callable[[int], tuple[Draws, Tensor]]
"""From how often the steps are halved to draws and which of their chains diverged, shape [S, B]."""


def guarded(attempt: Attempt) -> tuple[Draws, Tensor]:
    """Run chains, and run those that diverged again with their steps halved, until none does.

    Args:
        attempt: One run.

    Returns:
        The draws, with ``halved`` in their ``info``, [S, B]: which chains ran again; and the counts that ``tell`` and
        ``lasting`` read: chains, and those that diverged after 0, 1, ... halvings.

    Raises:
        FloatingPointError: If chains diverge however small the steps are.
    """
    draws, bad = attempt(0)
    halved = torch.zeros(bad.shape, dtype=torch.bool)
    diverging: list[int] = []
    while bool(bad.any()):
        if len(diverging) == MOST_HALVINGS:
            sentence = int(bad.any(0).nonzero()[0])
            raise FloatingPointError(
                f"chains diverge at every step size (sentence {sentence} of the batch first); the log joint or "
                "its gradient is not finite there. Check the decoder's weights and the data."
            )
        diverging.append(int(bad.sum()))
        halved |= bad.cpu()
        # All run again, for a target cannot be cut; those that had ended well keep their first end.
        again, still_bad = attempt(len(diverging))
        draws, bad = replaced(draws, again, bad), bad & still_bad
    never = [0] * (MOST_HALVINGS - len(diverging))
    counts = torch.tensor([halved.numel(), *diverging, *never], dtype=torch.float64)
    return Draws(draws.z, info={**draws.info, "halved": halved}), counts


def tell(counts: Tensor, steps: Sequence[float]) -> None:
    """Log which chains diverged; ``counts`` as ``guarded`` gives them, the steps before any halving."""
    chains, *diverging = (int(number) for number in counts)
    for halvings, bad in enumerate(diverging):
        if bad:
            log.warning(
                "%d of %d chains diverged at step sizes up to %.3g; running them again at half the step.",
                bad, chains, 0.5**halvings * max(steps),
            )  # fmt: skip


def lasting(counts: Tensor) -> float:
    """The factor on the steps that stays: a half for each time that too many chains of a batch diverged.

    Example:
        >>> lasting(torch.tensor([64.0, 20.0, 7.0, 3.0]))
        0.25
    """
    chains, *diverging = counts.tolist()
    factor: float = 0.5 ** sum(bad / chains > LASTING for bad in diverging)
    return factor


def replaced(draws: Draws, others: Draws, where: Tensor) -> Draws:
    """Chains [S, B] of one run with those of another in some places, and all that is told of them."""

    def pick(mine: Tensor, other: Tensor) -> Tensor:
        return torch.where(where.reshape(*where.shape, *(1,) * (mine.ndim - 2)), other, mine)

    info = {name: pick(value, others.info[name]) for name, value in draws.info.items()}
    return Draws(pick(draws.z, others.z), info=info)
