"""The ladder: who climbs, what is counted, what it costs, and that nothing that decides is counted.

Gates allow one false alarm in 1e8 runs of a test (``oracles.gate``).
"""

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sri_pyro.evaluation import Ladder, SentenceEvidence, estimate_evidence, rungs
from sri_pyro.evaluation.evidence import Weighted
from sri_pyro.inference import ShortRunLangevin
from sri_pyro.numerics.langevin import LeimkuhlerMatthews
from sri_pyro.numerics.weights import pareto_smooth
from tests.evaluation.helpers import TUNED, Forbidden, Independent, exact_text, off, selectable, t_gate
from tests.oracles import LinearGaussian, gate

pytestmark = pytest.mark.usefixtures("float64")


def misled(rows: int, bad: list[int], dim: int = 3) -> tuple[LinearGaussian, Tensor, Independent]:
    """Exact pilots for most sentences; for a few a tenth as wide and far away, which one refit does not mend."""
    oracle = LinearGaussian.build("flat", dim=dim, information=dim / 2)
    _, x = oracle.sample(rows)
    mean, covariance = oracle.posterior(x)
    deviation = covariance.diagonal().sqrt().expand(rows, dim).clone()
    mean = mean.clone()
    mean[bad] += 8.0 * deviation[bad]
    deviation[bad] *= 0.1
    return oracle, x, Independent(mean, deviation)


@pytest.mark.parametrize("can_be_cut", [True, False])
def test_only_those_that_fail_climb_and_all_come_out_right(can_be_cut: bool) -> None:
    """Two of six sentences are misled by eight dimensions: they climb, the others stay on the first rung.

    Oracle: the closed form, row by row. Catches rows put back in the wrong place, and draws of another sentence.
    """
    bad = [1, 4]
    oracle, x, pilot = misled(6, bad, dim=8)
    target = selectable(oracle, x) if can_be_cut else oracle.target(x)
    evidence, draws = estimate_evidence(target, pilot, Ladder(num_samples=1024, chains=128))
    assert (draws.rounds > 1).tolist() == [row in bad for row in range(6)]
    assert (draws.rounds > 2)[bad].any()
    error = evidence.log_px - oracle.log_evidence(x)
    assert (error.abs() < gate(6) * evidence.se + 0.02).all()
    torch.testing.assert_close(draws.log_likelihood, oracle.log_likelihood(x, draws.z), rtol=0, atol=1e-9)
    assert (draws.gradients > 0).tolist() == (draws.rounds > 2).tolist()  # these pilots take none
    assert draws.evaluations.min() == 2048  # a trial, and what counts


def test_the_error_asked_for_is_met_by_as_many_draws_as_it_takes() -> None:
    """0.03 nats in 32 dimensions: every sentence gets 512 draws or a doubling of them, and most meet it.

    Oracle: closed form for the error that was really made. A trial of 512 draws knows its variance to a fifth or so,
    so that one in eight may come out a little above; none by half.
    """
    oracle = LinearGaussian.build("power1")
    _, x = oracle.sample(24)
    run = ShortRunLangevin(20, LeimkuhlerMatthews(), TUNED["power1"])
    evidence, draws = estimate_evidence(selectable(oracle, x), run, Ladder(target_se=0.03))
    assert (evidence.se <= 0.03).double().mean() > 0.7
    assert evidence.se.max() < 0.06
    doublings = (evidence.num_samples / 512).log2()
    assert torch.equal(doublings, doublings.round())
    assert doublings.min() >= 1
    assert draws.z.shape[0] == 256  # what is kept does not grow with what is counted
    error = (evidence.log_px - oracle.log_evidence(x)) / evidence.se
    assert error.square().mean().sqrt() < 1.8
    assert torch.equal(
        draws.evaluations - draws.evaluations.min(),
        (evidence.num_samples - evidence.num_samples.min()).long(),
    )
    assert (draws.gradients == 64 * 20).all()  # pilots, and nothing else


def test_counted_weights_are_unbiased_though_trials_choose_rung_and_number() -> None:
    """E p_hat = p(x): few draws, a bad pilot, a target that asks for more; 40 replicates of 60 sentences in 2-d.

    Oracle: the closed form.
    """
    oracle = LinearGaussian.build("flat", dim=2, information=1.0)
    _, x = oracle.sample(60)
    target, exact = selectable(oracle, x), oracle.log_evidence(x)
    mean, covariance = oracle.posterior(x)
    pilot = Independent(mean + 0.8, 0.5 * covariance.diagonal().sqrt().expand(60, 2))
    estimator = Ladder(num_samples=32, pilot_chains=8, prior_share=0.3, target_se=0.15, most_samples=64)
    estimator = replace(estimator, chains=32, most_chains=32, most_temperatures=4, leapfrog=1)
    ratios, rounds = [], []
    for _ in range(40):
        evidence, draws = estimate_evidence(target, pilot, estimator)
        ratios.append((evidence.log_px - exact).exp().mean())
        rounds.append(draws.rounds)
    assert abs(off(torch.stack(ratios) - 1)) < t_gate(40)
    assert len(torch.cat(rounds).unique()) > 2  # there was something to choose


def test_trials_are_not_counted_and_khat_is_that_of_all_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws are recorded where they are made: the first batch of a rung decides, the others are the estimate."""
    made: list[Weighted] = []
    draw = rungs.GaussianRung.draw

    def recorded(self: rungs.GaussianRung, num_samples: int) -> Weighted:
        made.append(draw(self, num_samples))
        return made[-1]

    monkeypatch.setattr(rungs.GaussianRung, "draw", recorded)
    monkeypatch.setattr(rungs, "COLUMNS", 1000)
    oracle, x, pilot = misled(2, [])
    pilot.deviation *= 1.5
    evidence, draws = estimate_evidence(selectable(oracle, x), pilot, Ladder(target_se=0.015, kept=100))
    assert len(made) > 6
    trial, counted = made[:2], made[2:]  # 512 draws of two sentences, 500 at a time
    assert sum(len(part.z) for part in trial) == 512
    together = evidence.num_samples == evidence.num_samples.max()
    log_weight = torch.cat([part.log_weight for part in counted if part.log_weight.shape[1] == 2])
    if together.all():
        assert torch.equal(evidence.khat, pareto_smooth(log_weight)[1])
        whole = SentenceEvidence.of(
            Weighted(
                torch.cat([part.z for part in counted]),
                log_weight,
                torch.cat([part.log_likelihood for part in counted]),
                draws.rounds,
                draws.refused,
            )
        )
        for name, value in vars(whole).items():
            torch.testing.assert_close(getattr(evidence, name), value, rtol=1e-9, atol=1e-9)
    assert torch.equal(draws.z, counted[0].z[:100])
    assert not torch.isin(draws.z, torch.cat([part.z for part in trial])).any()


def test_a_run_that_diverges_is_annealed() -> None:
    """Row 1 of three has no moments, and no Gaussian: its number comes from the rungs that need none."""
    oracle = LinearGaussian.build("flat", dim=3, information=1.5)
    _, x = oracle.sample(3)
    mean, covariance = oracle.posterior(x)
    mean = mean.clone()
    mean[1, 0] = torch.nan
    pilot = Independent(mean, covariance.diagonal().sqrt().expand(3, 3))
    evidence, draws = estimate_evidence(selectable(oracle, x), pilot, Ladder())
    assert (draws.rounds > 2).tolist() == [False, True, False]
    error = evidence.log_px - oracle.log_evidence(x)
    assert (error.abs() < gate(3, 1e-6) * evidence.se + 0.01).all()


def test_without_a_latent_dimension_there_is_nothing_to_climb() -> None:
    oracle = exact_text("gru", 1)[0]
    target = replace(
        oracle.target(),
        dim=0,
        sample_prior=lambda num: torch.zeros(num, 40, 0),
        log_prior=lambda z: z.sum(-1),
    )
    target = replace(target, conditioned=_Flat())
    evidence, _ = estimate_evidence(target, Forbidden(), Ladder())
    assert evidence.log_px.tolist() == pytest.approx([-2.0] * 40)


class _Flat:
    def value(self, z: Tensor) -> Tensor:
        return torch.full(z.shape[:-1], -2.0)


@pytest.mark.parametrize(
    "option",
    [
        {"target_se": 0.0},
        {"pilot_chains": 1},
        {"chains": 1},
        {"prior_share": 1.0},
        {"most_samples": 600},
        {"most_chains": 10},
        {"conditional_ess": 1.0},
        {"most_temperatures": 0},
        {"kept": 0},
    ],
    ids=str,
)
def test_an_option_out_of_range_is_named(option: dict) -> None:
    with pytest.raises(ValueError, match=re.escape(next(iter(option)))):
        Ladder(**option)
