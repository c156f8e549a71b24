"""Curvature of log p(x, z): closed forms, and both ways of computing it against each other."""

from dataclasses import replace

import pytest
import torch

from sri_pyro.evaluation import curvature
from sri_pyro.evaluation.curvature import precision_ends
from sri_pyro.target import AutogradLikelihood, CurvedLikelihood
from tests.oracles import EnumerableText, LinearGaussian, bimodal


def test_precisions_of_a_gaussian_posterior() -> None:
    """Oracle: the closed form 1 + snr, found here by products alone (D = 32 > 12 rounds). Catches a lost prior and the
    Hessian's sign.
    """
    oracle = LinearGaussian.build("power1")
    _, x = oracle.sample(3)
    ends = precision_ends(oracle.target(x), torch.randn(2, 3, 32, dtype=torch.float64))
    largest = oracle.precision.max()
    assert torch.allclose(ends.largest, largest.expand(2, 3), rtol=2e-3)
    assert (ends.largest <= largest + 1e-9).all()
    assert ((oracle.precision.min() <= ends.smallest + 1e-9) & (ends.smallest < 1.6)).all()


def test_a_saddle_has_a_negative_end() -> None:
    """Oracle: float64 autograd of the Hessian, at a code between two modes."""
    target = bimodal()
    z = torch.randn(40, 3, 2, dtype=torch.float64)
    values = torch.linalg.eigvalsh(-target.hessian(z))
    ends = precision_ends(target, z)
    assert torch.allclose(ends.smallest, values[..., 0])
    assert torch.allclose(ends.largest, values[..., -1])
    assert (ends.smallest < 0).any()


def test_products_and_the_whole_hessian_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The LSTM's exact Hessian against Lanczos on twice differentiated autograd, in chunks and at once."""
    model = EnumerableText.build("lstm", latent_dim=2)
    target = model.target()
    assert isinstance(target.conditioned, CurvedLikelihood)
    z = torch.randn(4, target.batch_size, 2, dtype=torch.float64)
    whole = precision_ends(target, z)
    plain = replace(target, conditioned=AutogradLikelihood(target.log_likelihood, target.module))
    monkeypatch.setattr(curvature, "HESSIANS", target.batch_size + 1)
    parts = precision_ends(plain, z, rounds=1)
    assert (parts.largest <= whole.largest + 1e-9).all()
    monkeypatch.setattr(curvature, "WORTH_WHOLE", 0)
    products = precision_ends(target, z, rounds=2)
    assert torch.allclose(products.largest, whole.largest, atol=1e-8)
    assert torch.allclose(products.smallest, whole.smallest, atol=1e-8)


def test_a_lost_chain_is_unknown_and_hurts_no_other() -> None:
    target = bimodal()
    z = torch.zeros(2, 3, 2, dtype=torch.float64)
    z[1, 2, 0] = torch.inf
    ends = precision_ends(target, z)
    assert ends.largest.isnan().tolist() == [[False] * 3, [False, False, True]]
