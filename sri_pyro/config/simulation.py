"""Simulation: sentences that a model writes, with the codes that it wrote them from."""

from __future__ import annotations

import torch
from torch import Tensor

from sri_pyro.models import LatentTextModel
from sri_pyro.target import evaluating
from sri_pyro.types import Batch


def simulated(model: LatentTextModel, num_sentences: int, batch_size: int) -> list[tuple[Batch, Tensor]]:
    r"""Pairs :math:`z^* \sim p(z), x^* \sim p(x \mid z^*)`, in batches by length; z has shape [B, D].

    Given :math:`x^*`, :math:`z^*` is a draw of its posterior. A sentence that has not ended at the decoder's
    ``max_length`` stays as it is: its probability is that of beginning so. Nothing is chosen by z.

    Args:
        model: Writes them, by ancestral sampling.
        num_sentences: How many; 0 for none.
        batch_size: Sentences at a time.
    """
    if not num_sentences:
        return []
    with torch.no_grad(), evaluating(model):
        z = model.prior().sample((num_sentences,))
    batch = Batch(model.decoder.generate(z))
    order = batch.lengths.argsort(stable=True)
    return [(batch.select(rows), z[rows]) for rows in torch.split(order, batch_size)]
