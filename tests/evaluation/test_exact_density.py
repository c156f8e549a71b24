"""Inferences that give the density of their draws: a KL without bias, and a Jensen check that can fail.

Gates allow one false alarm in a million runs of a test (``oracles.gate``).
"""

import math

import pytest
import torch
from torch import Tensor, nn

from sri_pyro.evaluation import Evaluation, EvaluationOptions, PriorImportance, evaluate
from sri_pyro.evaluation.chains import run_chains
from sri_pyro.evaluation.headline import headline
from sri_pyro.inference import PriorDraws
from sri_pyro.models import GaussianMixture, LatentTextModel, LSTMDecoder
from sri_pyro.target import Target
from sri_pyro.types import Batch, Draws, Progress
from tests.oracles import LOG_2PI, gate, standard_normal_target

BATCH = Batch(torch.tensor([[5, 6, 4, 3], [6, 3, 0, 0], [7, 8, 3, 0]]))


class Overstated(nn.Module):
    """Draws from the prior whose density is said to be lower than it is, by some nats."""

    def __init__(self, nats: float) -> None:
        super().__init__()
        self.nats = nats

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        draws = PriorDraws()(target, num_samples)
        return Draws(draws.z, draws.log_q - self.nats)


class TwoModes(nn.Module):
    """Draws of 0.5 N(-3, 0.5^2) + 0.5 N(3, 0.5^2) in one dimension, of known density if asked for."""

    def __init__(self, tell: bool) -> None:
        super().__init__()
        self.tell = tell

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        side = torch.randint(2, (num_samples, target.batch_size, 1)) * 6.0 - 3
        z = side + 0.5 * torch.randn_like(side)
        modes = torch.distributions.Normal(torch.tensor([-3.0, 3.0]), 0.5)
        return Draws(z, (modes.log_prob(z).logsumexp(-1) - math.log(2)) if self.tell else None)


def evaluated(inference: nn.Module) -> Evaluation:
    """Eight batches of three sentences of a model whose prior is far from Gaussian."""
    prior = GaussianMixture(2, 4, spread=4.0)
    model = LatentTextModel(prior, LSTMDecoder(10, 2, embedding=4, hidden=5)).eval()
    return evaluate(model, inference, [BATCH] * 8, PriorImportance(64), EvaluationOptions(num_chains=64))


def test_draws_from_the_prior_have_no_divergence_from_it() -> None:
    """KL(q || prior) = 0 for every sentence, whatever the prior. The Gaussian entropy says -1.1 nats here."""
    found = evaluated(PriorDraws())
    assert found.metrics["kl_q_prior"]["method"] == "monte_carlo_log_q"
    assert found.metrics["kl_q_posterior"]["method"] == "monte_carlo_log_q"
    assert found.table["kl_q_prior"].abs().max() < 1e-5
    assert found.metrics["jensen"]["binding"] is True
    assert found.metrics["jensen"]["violated"] is False
    rows = {row.name: row.note for row in headline(found.metrics)}
    assert rows["KL(inference ‖ prior)"] == "Mean over draws of known density: unbiased."


def test_a_density_that_is_said_to_be_lower_than_it_is_violates_jensen() -> None:
    """Planted: log q two nats too low makes Recon + KL smaller than the NLL, which no right density can."""
    found = evaluated(Overstated(2.0))
    assert found.table["kl_q_prior"].to_numpy() == pytest.approx(-2.0, abs=1e-4)
    assert found.metrics["jensen"]["violated"] is True


@pytest.mark.usefixtures("float64")
def test_entropy_of_two_modes() -> None:
    r"""Entropy log 2 + 0.5 log(2 pi e / 4) of modes 12 deviations apart; a mean over M draws errs by sqrt(0.5 / M).

    Cross-entropy with N(0, 1): (log 2 pi + 9.25) / 2. The Gaussian of the same moments, the positive control, has
    1.1 nats more entropy, and is what draws without a density must get.
    """
    chains, rows = 2000, 3

    def flat(z: Tensor) -> Tensor:
        return z.new_zeros(z.shape[:-1])

    target = standard_normal_target(flat, rows, 1)
    exact = math.log(2) + 0.5 * (LOG_2PI + 1) + math.log(0.5)
    told = run_chains(target, TwoModes(tell=True), EvaluationOptions(num_chains=chains))
    assert ((told.entropy - exact).abs() < gate(rows, 1e-6) * math.sqrt(0.5 / chains)).all()
    assert told.has_density.all()
    assert ((told.cross_entropy - 0.5 * (LOG_2PI + 9.25)).abs() < 0.5).all()
    untold = run_chains(target, TwoModes(tell=False), EvaluationOptions(num_chains=chains))
    assert ((untold.entropy - 0.5 * (LOG_2PI + 1 + math.log(9.25))).abs() < 0.1).all()
    assert not untold.has_density.any()


def test_a_sentence_whose_runs_stand_still_has_no_entropy_and_stops_nobody() -> None:
    """Row 1 of three never moves, and row 2 is NaN: both have none, and the first has that of N(0, 1), 1.42 nats."""

    class Stuck(nn.Module):
        def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
            spread = torch.tensor([1.0, 0.0, math.nan])[:, None]
            return Draws(spread * torch.randn(num_samples, 3, 1))

    target = standard_normal_target(lambda z: -z.square().sum(-1), 3, 1)
    found = run_chains(target, Stuck(), EvaluationOptions(num_chains=1000))
    assert found.entropy.isnan().tolist() == [False, True, True]
    assert abs(found.entropy[0].item() - 0.5 * (LOG_2PI + 1)) < gate(1, 1e-6) / math.sqrt(2000)
