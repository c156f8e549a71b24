r"""Extreme eigenvalues of symmetric matrices that are known by their products alone: Lanczos, many at once.

Axes: any leading shape [...], one matrix each; D dimensions, R rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""Maps a vector of every matrix's own [..., D] to the matrix times that vector, shape [..., D]."""


class Extremes(NamedTuple):
    """The ends of a spectrum, each of shape [...].

    Attributes:
        smallest: The smallest eigenvalue; found by Lanczos it is not below it, but for rounding.
        largest: The largest; likewise not above it.
        residual: Some eigenvalue lies within so much of ``largest``; 0 where all D eigenvalues were computed.
    """

    smallest: Tensor
    largest: Tensor
    residual: Tensor


def extreme_eigenvalues(product: Product, start: Tensor, rounds: int) -> Extremes:
    r"""The ends of the spectrum of A, at one product :math:`Av` a round.

    Lanczos builds an orthonormal basis :math:`V` of the Krylov space of the start, in which A is a tridiagonal
    :math:`T = V^\top A V`. The extreme eigenvalues of T (Ritz values) approach those of A from inside, the sooner the
    better they are separated; after D rounds T has them all. Every new vector is orthogonalised against all before
    it, twice, for without that rounding brings copies of eigenvalues that were found already.

    Args:
        product: A, one for each leading index.
        start: A vector with a share of every eigenvector, a random one for instance, shape [..., D]; not 0.
        rounds: R, at least 1; no more than D are taken.

    Returns:
        The ends, and :math:`|\beta_R| |e_R^\top y|`, the norm of :math:`Au - \theta u` for the largest Ritz pair.

    Raises:
        ValueError: If there is no round, or no dimension.

    References:
        Paige (1972); Parlett (1998), The Symmetric Eigenvalue Problem, Sections 4.5 and 13.

    Example:
        >>> values = torch.tensor([-1.0, 2.0, 3.0, 9.0])
        >>> found = extreme_eigenvalues(lambda v: values * v, torch.ones(4), rounds=4)
        >>> round(found.smallest.item(), 4), round(found.largest.item(), 4)
        (-1.0, 9.0)
    """
    if rounds < 1 or not start.shape[-1]:
        raise ValueError(
            "Lanczos needs at least one round and one dimension; got "
            f"{rounds} rounds and {start.shape[-1]} dimensions."
        )
    basis = torch.nn.functional.normalize(start, dim=-1)[..., None, :]
    diagonal: list[Tensor] = []
    off: list[Tensor] = []
    for _ in range(min(rounds, start.shape[-1])):
        image = product(basis[..., -1, :])
        entry = (image * basis[..., -1, :]).sum(-1)
        for _ in range(2):
            image = image - ((basis @ image[..., None]) * basis).sum(-2)
        size = image.norm(dim=-1)
        if diagonal:  # in a space that maps into itself, what follows repeats a value that lies within
            ended = off[-1] == 0
            entry, size = torch.where(ended, diagonal[0], entry), torch.where(ended, 0.0, size)
        diagonal.append(entry)
        # Rounding alone is left of a vector that lay in the space.
        lost = size <= 8 * torch.finfo(size.dtype).eps * torch.stack(diagonal).abs().amax(0)
        off.append(torch.where(lost, 0.0, size))
        following = torch.where(
            lost[..., None], 0.0, image / size.clamp_min(torch.finfo(size.dtype).tiny)[..., None]
        )
        basis = torch.cat([basis, following[..., None, :]], -2)
    return _ritz(torch.stack(diagonal, -1).double(), torch.stack(off, -1).double(), start.dtype)


def _ritz(diagonal: Tensor, off: Tensor, dtype: torch.dtype) -> Extremes:
    """The ends of a tridiagonal matrix's spectrum, [..., R] each; the last of ``off`` leads out of the space."""
    matrix = torch.diag_embed(diagonal)
    if diagonal.shape[-1] > 1:
        matrix = matrix + torch.diag_embed(off[..., :-1], 1) + torch.diag_embed(off[..., :-1], -1)
    values, vectors = torch.linalg.eigh(matrix)
    residual = off[..., -1] * vectors[..., -1, -1].abs()
    return Extremes(values[..., 0].to(dtype), values[..., -1].to(dtype), residual.to(dtype))
