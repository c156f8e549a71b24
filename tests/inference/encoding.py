"""What the tests of amortised inference share: sentences, a small model with an encoder, and Gaussian targets."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from sri_pyro.models import DECODERS, Encoder, LatentTextModel, LSTMEncoder, StandardNormal
from sri_pyro.models.priors import Prior
from sri_pyro.target import AutogradLikelihood, Target
from sri_pyro.types import EOS, PAD, Batch, Progress
from tests.oracles import LOG_2PI, randomise

VOCABULARY, DIM = 9, 3
BATCH = Batch(torch.tensor([[5, 6, 4, EOS], [6, EOS, PAD, PAD], [8, 1, EOS, PAD]]), torch.tensor([40, 7, 11]))
START = Progress(step=0, epoch=0.0)


def text(decoder: str = "lstm", prior: Prior | None = None, dropout: float = 0.0) -> LatentTextModel:
    """A model with weights that matter."""
    options = {} if decoder == "bag_of_words" else {"embedding": 4, "dropout": dropout}
    network = DECODERS[decoder](vocab_size=VOCABULARY, latent_dim=DIM, hidden=5, **options)
    model = LatentTextModel(prior or StandardNormal(DIM), network)
    randomise(model, 0.7)
    return model.eval()


def encoder() -> LSTMEncoder:
    """An encoder with weights that matter."""
    network = LSTMEncoder(vocab_size=VOCABULARY, latent_dim=DIM, embedding=4, hidden=5)
    randomise(network, 0.5)
    return network


class Table(Encoder):
    """An encoder that looks up the moments of each sentence by its id."""

    def __init__(self, mean: Tensor, log_variance: Tensor) -> None:
        super().__init__()
        self.latent_dim = mean.shape[-1]
        self.moments = nn.Parameter(torch.stack([mean, log_variance]))

    def forward(self, batch: Batch) -> dist.TorchDistribution:
        mean, log_variance = self.moments[:, batch.ids]
        return dist.Normal(mean, (0.5 * log_variance).exp()).to_event(1)


class Observed(nn.Module):
    """p(x | z) = N(x; W z, I), with W learned, for rows x [B, E]: everything about it is known."""

    def __init__(self, weight: Tensor, x: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.x = x

    def log_likelihood(self, z: Tensor) -> Tensor:
        return -0.5 * ((self.x - z @ self.weight.T).square() + LOG_2PI).sum(-1)

    def target(self, key: int | None = None) -> Target:
        """The rows as sentences, so that an encoder reads them."""
        rows, dim = len(self.x), self.weight.shape[1]
        prior = StandardNormal(dim)
        return Target(
            log_prior=lambda z: prior().log_prob(z),
            log_likelihood=self.log_likelihood,
            sample_prior=lambda num: torch.randn(num, rows, dim),
            batch_size=rows,
            dim=dim,
            conditioned=AutogradLikelihood(self.log_likelihood, self),
            batch=Batch(torch.full((rows, 1), EOS), key=key),
            module=self,
            prior=prior,
        )

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean [B, D] and precision [D, D]."""
        precision = torch.eye(self.weight.shape[1]) + self.weight.T @ self.weight
        return self.x @ self.weight @ torch.linalg.inv(precision), precision

    def log_evidence(self) -> Tensor:
        """Log p(x) of every row: x ~ N(0, I + W W^T)."""
        covariance = torch.eye(len(self.weight)) + self.weight @ self.weight.T
        law = torch.distributions.MultivariateNormal(torch.zeros(len(self.weight)), covariance)
        return law.log_prob(self.x)
