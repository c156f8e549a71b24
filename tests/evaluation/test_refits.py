"""Refits of the default estimator: who gets one, what it mends, and what adapting to one's own draws costs.

Gates allow one false alarm in 1e8 runs of a test (``oracles.gate``).
"""

import pytest
import torch
from torch import Tensor

from sri_pyro.evaluation import GaussianImportance, SentenceEvidence, estimate_evidence
from sri_pyro.inference import ShortRunLangevin
from sri_pyro.numerics.langevin import LeimkuhlerMatthews
from tests.evaluation.helpers import TUNED, Independent, exact_text, off, selectable, t_gate
from tests.oracles import LinearGaussian, gate

pytestmark = pytest.mark.usefixtures("float64")


def misled(rows: int, bad: list[int]) -> tuple[LinearGaussian, Tensor, Independent]:
    """Exact pilots for most sentences, and for a few a tight pilot one and a half deviations to the side."""
    oracle = LinearGaussian.build("flat", dim=3, information=1.5)
    _, x = oracle.sample(rows)
    mean, covariance = oracle.posterior(x)
    deviation = covariance.diagonal().sqrt().expand(rows, 3).clone()
    mean = mean.clone()
    mean[bad] += 2.0 * deviation[bad]
    return oracle, x, Independent(mean, deviation)


def test_refit_replaces_the_bad_rows_and_no_others() -> None:
    """Rows whose k-hat fails get another fit and twice the draws; the rest keep round one to the last bit.

    Oracle: the closed form for the numbers, the same seed without refits for the rows left alone. Catches
    rows put back in the wrong place, and log-likelihoods of another sentence.
    """
    bad = [1, 4]
    oracle, x, pilot = misled(6, bad)
    pilot.deviation[bad] *= 0.35
    target = selectable(oracle, x)
    # pooling would widen the tight pilots; with 3 dimensions and 64 chains a sentence keeps most of its own
    torch.manual_seed(5)
    first, _ = estimate_evidence(target, pilot, GaussianImportance(refits=0))
    torch.manual_seed(5)
    second, draws = estimate_evidence(target, pilot, GaussianImportance(refits=1))
    failed = first.khat > first.threshold
    assert failed[bad].all()
    assert not failed[[0, 2, 3, 5]].any()
    assert draws.rounds.tolist() == [2 if b else 1 for b in failed.tolist()]
    assert second.num_samples.tolist() == [1024 if b else 512 for b in failed.tolist()]
    assert torch.equal(second.log_px[~failed], first.log_px[~failed])
    assert torch.equal(second.khat[~failed], first.khat[~failed])
    assert (second.khat < first.khat)[failed].all()
    assert (second.se < first.se)[failed].all()
    exact = oracle.log_evidence(x)
    assert ((second.log_px - exact).abs() < gate(6) * second.se + 0.01).all()
    assert draws.z.shape == (512, 6, 3)
    torch.testing.assert_close(draws.log_likelihood, oracle.log_likelihood(x, draws.z), rtol=0, atol=1e-9)
    own = (draws.log_weight[:, failed].exp().mean(0).log() - exact[failed]).abs()
    assert (own < gate(2) * 2 * second.se[failed] + 0.01).all()  # the first half of 1024 draws
    centre, _ = oracle.posterior(x)
    assert (second.posterior_mean - centre).abs().max() < 0.5  # pilots were up to 3 deviations off


def test_refits_go_on_doubling_while_they_are_needed() -> None:
    """Three rounds at most, 512, 1024 and 2048 draws, and never one more than asked for."""
    oracle, x, pilot = misled(2, [0, 1])
    pilot.mean[0] += 3.0
    pilot.deviation *= 0.1
    rounds = [
        estimate_evidence(selectable(oracle, x), pilot, GaussianImportance(refits=n))[1].rounds.max().item()
        for n in (0, 1)
    ]
    assert rounds == [1, 2]
    evidence, draws = estimate_evidence(selectable(oracle, x), pilot, GaussianImportance(refits=4))
    assert torch.equal(evidence.num_samples, 512.0 * 2.0 ** (draws.rounds - 1))


def test_a_target_that_cannot_be_cut_is_refitted_too() -> None:
    """Targets of foreign programs have no ``select``; a bad fit of theirs must be mended, and not left in silence.

    Pilots in the right place and a third as wide as the posterior: over seeds, k-hat is 1.13 before and 0.03 after
    the refit, 6.2 and 5.8 of its own deviations (of 120 sentences) from the threshold of 0.7, so that fewer than
    one seed in a million should fail. At 512 draws it could not be asked: a refit rests on some six effective
    draws of misled pilots there, and k-hat passes in little more than half of all seeds.
    """
    oracle, x, pilot = misled(2, [])
    pilot.deviation *= 0.35
    parts = GaussianImportance(num_samples=200_000, prior_share=0.002)(oracle.target(x), pilot)
    first = SentenceEvidence.of(parts[0][1])
    evidence, draws = estimate_evidence(oracle.target(x), pilot, lambda *_: parts)
    assert draws.rounds.tolist() == [2, 2]
    assert evidence.num_samples.tolist() == [400_000, 400_000]
    assert (first.khat > first.threshold).all()
    assert (evidence.khat < evidence.threshold).all()
    assert (evidence.ess > 2 * first.ess).all()
    assert ((evidence.log_px - oracle.log_evidence(x)).abs() < gate(2, 1e-6) * evidence.se).all()


def test_adaptation_does_not_push_the_average_weight_up() -> None:
    """Refitting where k-hat fails picks estimates by their own draws: E p_hat <= p(x) must survive it."""
    oracle, exact, *_ = exact_text("gru", 1)
    target = oracle.target()
    pilot = Independent(torch.full((40, 1), 1.5), torch.full((40, 1), 0.4))
    estimator = GaussianImportance(num_samples=32, pilot_chains=8, prior_share=0.3)
    ratios = [(estimate_evidence(target, pilot, estimator)[0].log_px - exact).exp().mean() for _ in range(60)]
    assert off(torch.stack(ratios) - 1) < t_gate(60)


@pytest.mark.parametrize("options", [{"pilot_chains": 256}, {}], ids=["256 pilots", "default"])
def test_a_sentence_alone_is_estimated_as_well_as_in_a_batch(options: dict) -> None:
    """A batch of one has nobody to share a covariance with, and its number is claimed all the same.

    A single sentence that is scored, and the last batch of an epoch, are such batches. The gate is 0.15 nats,
    and no estimate that k-hat lets pass may be more than 8 of its stated errors off.
    """
    oracle = LinearGaussian.build("power1")
    _, x = oracle.sample(40)
    run = ShortRunLangevin(20, LeimkuhlerMatthews(), TUNED["power1"])
    errors = []
    for b, exact in enumerate(oracle.log_evidence(x).tolist()):
        alone = selectable(oracle, x[b : b + 1])
        found, _ = estimate_evidence(alone, run, GaussianImportance(**options))
        errors.append(found.log_px.item() - exact)
        assert found.khat > found.threshold or abs(errors[-1]) < 8 * found.se
    assert abs(sum(errors) / 40) < 0.15
