r"""Amortised inference: an encoder reads the sentence and gives a distribution, from which z is drawn.

Axes: S draws, B sentences, D latent dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from sri_pyro.models.encoders import Encoder
from sri_pyro.numerics import keyed
from sri_pyro.target import Target
from sri_pyro.types import Batch, Draws, Progress


class Amortized(nn.Module):
    r"""Draw z from an encoder's Gaussian, :math:`z = \mu_\phi(x) + \sigma_\phi(x)\, \epsilon`.

    The draws carry a graph to the encoder's weights and have an exact density, so that objectives like ``elbo`` train
    it together with the model. The noise is keyed where the target's batch has a key.

    Args:
        encoder: q(z | x).

    Raises:
        ValueError: When it draws, if the target is not about sentences, or has another number of dimensions.

    Example:
        >>> from sri_pyro.models import LatentTextModel, LSTMDecoder, LSTMEncoder, StandardNormal
        >>> decoder = LSTMDecoder(vocab_size=50, latent_dim=4, embedding=8, hidden=16)
        >>> target = LatentTextModel(StandardNormal(4), decoder).target(Batch(torch.tensor([[7, 9, 3]])))
        >>> inference = Amortized(LSTMEncoder(vocab_size=50, latent_dim=4, embedding=8, hidden=16))
        >>> draws = inference(target, num_samples=5)
        >>> draws.z.shape, draws.log_q.shape
        (torch.Size([5, 1, 4]), torch.Size([5, 1]))

    References:
        Kingma, Welling (2014); Bowman, Vilnis, Vinyals, Dai, Jozefowicz, Bengio (2016).
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        """Draw ``num_samples`` codes for every sentence."""
        batch = readable(target, self.encoder)
        law = self.encoder(batch)
        z = reparameterised(law, batch, num_samples)
        return Draws(z, law.log_prob(z), law=law)


def readable(target: Target, encoder: Encoder) -> Batch:
    """The sentences of a target that an encoder is to read.

    Raises:
        ValueError: If it cannot read them.
    """
    if target.batch is None:
        raise ValueError(
            "an encoder reads sentences, and this target is not about any; infer z of other programs by short_run."
        )
    if encoder.latent_dim != target.dim:
        raise ValueError(
            f"encoder and prior must agree about z: the encoder has latent_dim = {encoder.latent_dim}, the prior "
            f"dim = {target.dim}."
        )
    return target.batch


def reparameterised(law: Distribution, batch: Batch, num_samples: int, index: int = 0) -> Tensor:
    """Draws [S, B, D] from a law of independent normals, with their graph; keyed where the batch has a key.

    Args:
        law: Of batch shape [B] and event shape [D].
        batch: The sentences.
        num_samples: S.
        index: Which of several draws under the same key this is.
    """
    return law.mean + law.stddev * standard_normals(batch, law.mean, num_samples, index)


def standard_normals(
    batch: Batch | None,
    like: Tensor,
    num: int,
    index: int = 0,
    purpose: keyed.Purpose = keyed.Purpose.ENCODER,
) -> Tensor:
    """Noise [num, B, D] for the sentences of a batch, keyed where it has a key.

    Args:
        batch: The sentences; None for rows that are none.
        like: Of shape [B, D], and of the noise's precision and device.
        num: How many for each sentence.
        index: Which of several draws under the same key this is.
        purpose: What it is drawn for.
    """
    if batch is None or batch.key is None:
        return torch.randn(num, *like.shape, dtype=like.dtype, device=like.device)
    keys = keyed.chains(keyed.fold(batch.key, purpose, index), batch.ids, num)
    return keyed.normal(keys, like.shape[-1:], like.dtype)
