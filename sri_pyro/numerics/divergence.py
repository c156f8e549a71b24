"""Which chains of a run left every posterior there is.

Axes: S draws, B sentences, D latent dimensions.
"""

from __future__ import annotations

from torch import Tensor

FAR = 1e3
"""A coordinate this far from the origin has left every posterior there is; the chain diverges."""
FALL = 30.0
"""Nats by which, besides one for each coordinate, the log joint may fall along a run; beyond, the chain diverges.

From a draw of the prior to one of the posterior the log joint rises, and where x says nothing it changes by the
difference of two halves of chi-squares, each of D degrees of freedom. That it falls by D + 30 has a probability
below exp(-27) for every D (Chernoff's bound)."""


def diverged(z: Tensor, log_joint: Tensor) -> Tensor:
    """Which chains ended beyond reason, met a value that is not finite, or fell, shape [S, B].

    Args:
        z: Where chains end, shape [S, B, D].
        log_joint: log p(x, z) along the run, nats, the start first, shape [S, B, positions].
    """
    inside = (z.abs() < FAR).all(-1)  # False for NaN too
    fall = log_joint[..., 0] - log_joint[..., -1]
    return ~(inside & log_joint.isfinite().all(-1) & (fall < z.shape[-1] + FALL))
