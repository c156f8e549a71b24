"""Lanczos against whole spectra."""

import pytest
import torch
from torch import Tensor

from sri_pyro.numerics.lanczos import extreme_eigenvalues


def matrices(values: Tensor) -> Tensor:
    """Symmetric matrices [B, D, D] with the spectra given [B, D], each turned its own way."""
    rotation = torch.linalg.qr(torch.randn(*values.shape, values.shape[-1], dtype=values.dtype)).Q
    return (rotation * values[:, None]) @ rotation.mT


def product(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def test_all_rounds_give_both_ends() -> None:
    """Oracle: the spectra the matrices are built from. Catches a wrong sign or place of an off-diagonal entry, a
    start that is not normalised, and batches that mix.
    """
    values = torch.cat([torch.linspace(-3, 40, 20), torch.linspace(1, 2, 20)]).reshape(2, 20).double()
    matrix = matrices(values)
    found = extreme_eigenvalues(lambda v: product(matrix, v), 7 * torch.randn(2, 20).double(), 99)
    assert torch.allclose(found.smallest, values[:, 0], atol=1e-9)
    assert torch.allclose(found.largest, values[:, -1], atol=1e-9)


def test_few_rounds_err_to_the_inside_within_the_residual() -> None:
    """Oracle: the same, and the bound of a residual. Catches a residual of the wrong Ritz vector, and values from
    outside of the spectrum, as lost orthogonality or one coefficient too many bring.
    """
    values = 1 + 11 / torch.arange(1, 33).double().flip(0).repeat(50, 1)
    matrix = matrices(values)
    found = extreme_eigenvalues(lambda v: product(matrix, v), torch.randn(50, 32).double(), 8)
    short = values[:, -1] - found.largest
    assert (short > 0).all()
    assert (short < 0.01).all()
    nearest = (values - found.largest[:, None]).abs().amin(1)
    assert (nearest <= found.residual + 1e-12).all()
    assert ((found.residual > 0) & (found.residual < 0.3)).all()  # that of the other end is above 0.5
    assert (found.smallest >= values[:, 0] - 1e-12).all()


def test_many_rounds_in_single_precision_stay_inside() -> None:
    """Spectra with a gap, where Lanczos without reorthogonalisation loses its basis after a few rounds."""
    values = torch.cat([1 + 0.01 * torch.rand(3, 59), torch.tensor([[1e4], [300.0], [35.0]])], 1)
    matrix = matrices(values.double()).float()
    found = extreme_eigenvalues(lambda v: product(matrix, v), torch.randn(3, 60), 60)
    assert torch.allclose(found.largest, values[:, -1], rtol=1e-4)
    assert torch.allclose(found.smallest.double(), values.double().amin(1), atol=1e-6 * 1e4)


def test_a_space_that_maps_into_itself_ends_the_search() -> None:
    """Two eigenvalues only, and a start that has but one: no spurious zeros beside them. Oracle: the eigenvalues."""
    values = torch.tensor([5.0, 5.0, 5.0, 9.0]).double().expand(2, 4)
    start = torch.tensor([[1.0, 2.0, 0.5, 1.0], [1.0, 2.0, 0.5, 0.0]]).double()
    found = extreme_eigenvalues(lambda v: values * v, start, 4)
    assert torch.allclose(found.smallest, torch.tensor([5.0, 5.0]).double())
    assert torch.allclose(found.largest, torch.tensor([9.0, 5.0]).double())


def test_nothing_to_do_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^Lanczos needs at least one round .* got 0 rounds and 3 dimensions\.$"
    ):
        extreme_eigenvalues(lambda v: v, torch.ones(3), 0)
    with pytest.raises(ValueError, match="0 dimensions"):
        extreme_eigenvalues(lambda v: v, torch.ones(3, 0), 2)
