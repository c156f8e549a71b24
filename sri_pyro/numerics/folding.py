r"""How one Langevin step stretches and folds space, with its noise held fixed.

With the noise fixed, a step of ``ula`` or ``lm`` maps z to :math:`z + s\nabla\log p(x, z)` plus a constant,
so its Jacobian is :math:`I + s H` with the Hessian :math:`H` of the log joint.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class StepMap(NamedTuple):
    """The Jacobian of one step, per chain.

    Attributes:
        log_abs_det: Logarithm of its absolute determinant, nats, shape [S, B].
        negative: Whether the determinant is negative, so that the step folds there, shape [S, B].
        smallest_eigenvalue: Shape [S, B]; the step is locally one-to-one and orientation-preserving in
            every direction while this is positive.
    """

    log_abs_det: Tensor
    negative: Tensor
    smallest_eigenvalue: Tensor


def step_map(hessian: Tensor, step_size: float) -> StepMap:
    r"""Determinant and smallest eigenvalue of :math:`I + sH`.

    Args:
        hessian: Of the log joint, symmetric, shape [S, B, D, D].
        step_size: s.

    Example:
        >>> fold = step_map(torch.diag(torch.tensor([-1.0, -30.0])).expand(1, 1, 2, 2), step_size=0.1)
        >>> bool(fold.negative), round(fold.smallest_eigenvalue.item(), 3)
        (True, -2.0)
    """
    eigenvalues = 1 + step_size * torch.linalg.eigvalsh(hessian.double())
    negative = (eigenvalues < 0).sum(-1) % 2 == 1
    return StepMap(eigenvalues.abs().log().sum(-1), negative, eigenvalues[..., 0])
