"""Sentences that the default estimator cannot fit: each says so in its own row, and none stops or moves the others.

Gates allow one false alarm in a million runs of a test (``oracles.gate``).
"""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sri_pyro.evaluation import GaussianImportance, estimate_evidence
from sri_pyro.evaluation.evidence import score
from sri_pyro.evaluation.gaussian import refitted
from sri_pyro.inference import ShortRunLangevin
from sri_pyro.numerics.gaussians import Moments
from sri_pyro.target import Target
from tests.evaluation.helpers import Independent, selectable
from tests.oracles import LinearGaussian, gate, standard_normal_target

pytestmark = pytest.mark.usefixtures("float64")

DIM = 8


def narrow(widths: Tensor) -> Target:
    """Likelihoods exp(-(z - 1)^2 / 2 w^2) in 8 dimensions, of width w per sentence."""
    target = standard_normal_target(
        lambda z: -0.5 * ((z - 1) / widths[:, None]).square().sum(-1), len(widths), DIM
    )
    return replace(target, select=lambda rows: narrow(widths[rows]))


def narrow_log_evidence(widths: Tensor) -> Tensor:
    """In closed form: w^2 / (1 + w^2) to the power D / 2, times exp(-D / (2 (1 + w^2)))."""
    variance = widths.square()
    return 0.5 * DIM * ((variance / (1 + variance)).log() - 1 / (1 + variance))


@pytest.mark.parametrize("can_be_cut", [True, False])
def test_a_weight_that_is_all_spoils_no_other_sentence(can_be_cut: bool) -> None:
    """One draw carries the weight of a sentence a thousand times narrower than its run; two neighbours are easy.

    Oracle: closed forms. Catches the covariance of one draw, 0 / 0, which used to raise for the whole batch,
    and a number of the hard sentence that passes for an estimate. The bound is loose by hundreds of nats.
    """
    widths = torch.tensor([1.0, 0.001, 2.0])
    target = narrow(widths) if can_be_cut else replace(narrow(widths), select=None)
    evidence, draws = estimate_evidence(target, ShortRunLangevin(10), GaussianImportance(refits=2))
    exact = narrow_log_evidence(widths)
    assert draws.rounds.tolist()[1] == 3
    assert evidence.khat[1] > evidence.threshold[1]
    assert torch.isfinite(evidence.log_px).all()
    assert evidence.log_px[1] < exact[1]
    easy = torch.tensor([0, 2])
    assert (evidence.khat < evidence.threshold)[easy].all()
    assert ((evidence.log_px - exact).abs() < gate(2, 1e-6) * evidence.se + 0.01)[easy].all()


def test_a_refit_keeps_the_covariance_where_one_draw_has_all_the_weight() -> None:
    """By hand: 40 nats above three others the mean goes to the draw; equal weights give moments; NaN keeps both.

    The shrinking of equal weights is 4 / (4 + 5) of their covariance and 5 / 9 of the one before.
    """
    z = torch.tensor([0.0, 1.0, 2.0, 5.0]).reshape(4, 1, 1).expand(4, 3, 1)
    log_weight = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [40.0, 0.0, math.nan]])
    draws = replace(score(narrow(torch.ones(3)), z, torch.zeros(4, 3)), log_weight=log_weight)
    fit = refitted(draws, Moments(torch.full((3, 1), -1.0), torch.full((3, 1, 1), 0.5)))
    assert fit.mean.flatten().tolist() == pytest.approx([5.0, 2.0, -1.0])
    variance = z[:, 0, 0].var().item()
    assert fit.covariance.flatten().tolist() == pytest.approx([0.5, (4 * variance + 5 * 0.5) / 9, 0.5])


@pytest.mark.parametrize("diverged", [math.nan, math.inf, 1e200])
def test_a_run_that_diverges_leaves_a_bound_without_a_passing_khat(diverged: float) -> None:
    """Row 1 of three has no moments: k-hat +inf, no refit, and a number from the prior alone; its neighbours keep
    theirs.

    Oracle: the closed form, for all three (the prior is near this posterior, so that the bound is tight). Catches
    NaN that comes to the neighbours by the pooled covariance, and a row of NaN that raises for the batch.
    """
    oracle = LinearGaussian.build("flat", dim=3, information=1.5)
    _, x = oracle.sample(3)
    mean, covariance = oracle.posterior(x)
    mean = mean.clone()
    mean[1, 0] = diverged
    pilot = Independent(mean, covariance.diagonal().sqrt().expand(3, 3))
    if math.isfinite(diverged):  # squares overflow only where draws differ
        pilot.deviation = pilot.deviation * torch.tensor([1.0, diverged, 1.0])[:, None]
    evidence, draws = estimate_evidence(selectable(oracle, x), pilot, GaussianImportance(refits=2))
    assert (evidence.khat == math.inf).tolist() == [False, True, False]
    assert (evidence.khat < evidence.threshold).tolist() == [True, False, True]
    assert draws.rounds[1] == 1
    error = evidence.log_px - oracle.log_evidence(x)
    assert (error.abs() < gate(3, 1e-6) * evidence.se + 0.01).all()


def test_a_likelihood_that_is_no_number_refuses_its_own_sentence() -> None:
    """A row whose likelihood is NaN on half of its draws has no estimate; the sentence beside it has the closed form.

    Catches the average of the draws that are left, which would pass for an estimate.
    """
    widths = torch.ones(2)
    fine = narrow(widths)

    def broken(z: Tensor) -> Tensor:
        found = fine.log_likelihood(z)
        return torch.where((z[..., 0] > 0.5) & (torch.arange(2) == 0), math.nan, found)

    pilot = Independent(torch.full((2, DIM), 0.5), torch.full((2, DIM), math.sqrt(0.5)))
    evidence, _ = estimate_evidence(standard_normal_target(broken, 2, DIM), pilot, GaussianImportance())
    assert evidence.log_px.isnan().tolist() == [True, False]
    assert (evidence.khat == math.inf).tolist() == [True, False]
    error = (evidence.log_px - narrow_log_evidence(widths))[1].abs()
    assert error < gate(1, 1e-6) * evidence.se[1] + 0.01


def test_a_sentence_that_has_passed_is_not_drawn_again() -> None:
    """On a target that cannot be cut every row is drawn in each round: only rows that failed all before may change.

    40 rows of pilots from hopeless to good, four refits of 64 draws, five replicates. Rows that pass by a hair
    fail again in most later rounds, so that judging by the last draws alone would take some of them back.
    """
    target = replace(narrow(torch.full((40,), 0.577)), select=None)
    deviation = torch.linspace(0.1, 0.5, 40)[:, None].expand(40, DIM)
    pilot = Independent(torch.full((40, DIM), 0.75), deviation)
    replaced = 0
    for _ in range(5):
        rounds = [
            set(rows.tolist()) for rows, _ in GaussianImportance(num_samples=64, refits=4)(target, pilot)
        ]
        assert all(later <= before for before, later in itertools.pairwise(rounds))
        replaced += len(rounds) > 2
    assert replaced  # there was something to take back
