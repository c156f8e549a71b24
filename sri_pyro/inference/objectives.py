"""Objectives: from a target and draws to the loss whose weight gradient is the learning rule."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from sri_pyro.numerics.schedules import require_positive
from sri_pyro.target import Target
from sri_pyro.types import Draws, Progress

NEEDS_START: Final = (
    "the objective 'distilled' teaches an encoder where chains end, and none starts them; give the inference "
    "'short_run' a start, such as start = { kind = \"lstm\" }."
)
NEEDS_PATH: Final = (
    "the learning rule 'trajectory' needs every position of the run, and these draws carry only the last; set "
    "record_path = true on the inference 'short_run'."
)


class FinalState:
    r"""The paper's learning rule (``final``): climb the log joint at the end of the run.

    .. math:: \mathcal{L}(\theta) = -\frac1B \sum_b \frac1S \sum_s \log p_\theta(x_b, z_{K,s,b})

    The draws are constants: no gradient flows through the dynamics.

    References:
        Pang, Nijkamp, Han, Wu (2021), Eq. 9.
    """

    def __call__(self, target: Target, draws: Draws, progress: Progress) -> Tensor:
        """Negative mean log joint, nats per sentence."""
        return -target.log_joint(draws.z.detach()).mean()


class Distilled:
    r"""Learn the model as ``final`` does, and teach the encoder that starts the chains where they end (``distilled``).

    .. math:: \mathcal{L}(\theta, \phi) = -\frac1B \sum_b \frac1S \sum_s \big[ \log p_\theta(x_b, z_{K,s,b})
              + \lambda \log q_\phi(z_{K,s,b} \mid x_b) \big]

    The draws are constants. In the encoder this descends :math:`\mathrm{KL}(q_K \| q_\phi)`: it covers the law of the
    chains' ends, and does not seek a mode of the posterior as the evidence lower bound does.

    Args:
        encoder_weight: :math:`\lambda`; it matters only through the optimiser and the clipped norm.

    Raises:
        ValueError: If the weight is not positive; when it is asked, if no encoder started the chains.

    References:
        The same rule for the encoder of a chain: Li, Turner, Liu (2017), Approximate inference with amortised MCMC.
    """

    def __init__(self, encoder_weight: float = 1.0) -> None:
        require_positive(encoder_weight=encoder_weight)
        self.encoder_weight = encoder_weight

    def __call__(self, target: Target, draws: Draws, progress: Progress) -> Tensor:
        """Negative mean log joint and log-density of the encoder, nats per sentence."""
        if "log_encoder" not in draws.info:
            raise ValueError(NEEDS_START)
        log_joint = target.log_joint(draws.z.detach())
        return -(log_joint + self.encoder_weight * draws.info["log_encoder"]).mean()


class Trajectory:
    r"""What the authors' release does (``trajectory``): learn along the whole path.

    .. math:: \mathcal{L}(\theta) = -\sum_{k=0}^{K-1}\sum_b \log p_\theta(x_b \mid z_{k,b})
              - \frac1B\sum_b \log p_\theta(x_b, z_{K,b})

    The release never clears the weight gradients of the inner loop, so every z_k teaches the decoder, the
    prior draw z_0 included, and the end point counts 1 part in K B + 1. This is not Eq. 9 of the paper;
    it is here to be compared with.

    The release has a fixed prior, whose :math:`\log p(z_K)` is a constant in :math:`\theta` and is left out
    there; with it a prior that has weights learns, from the end of the run alone, as in Eq. 9.

    Raises:
        ValueError: If the draws do not carry their path.
    """

    def __call__(self, target: Target, draws: Draws, progress: Progress) -> Tensor:
        """The released loss; a sum over the path, so clip its gradient as the release does."""
        if "path" not in draws.info:
            raise ValueError(NEEDS_PATH)
        path = draws.info["path"].detach()
        earlier = path[:, :, :-1].permute(2, 0, 1, 3).flatten(0, 1)
        # Apart from the end, so that within each pass all tokens count alike, which is the fastest.
        along = target.log_likelihood(earlier).sum() / (len(path) * progress.share)  # a sum over the batch
        return -along - target.log_joint(path[:, :, -1]).mean()
