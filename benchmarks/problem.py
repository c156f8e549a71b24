"""What every contestant is given: weights and tokens from a seed, as NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.sizes import Size

Array = NDArray[np.floating]

PAD, BOS, FIRST_WORD = 0, 2, 4
IMPOSSIBLE = -1e4
"""Output bias of the two words that never follow: their probability is 0 in every precision, so that contestants
that do not know of such words compute the same."""
WIDTH = 0.1
"""Weights are uniform on [-WIDTH, WIDTH]."""


@dataclass(frozen=True)
class Problem:
    """A batch and the weights of the decoder that scores it.

    Attributes:
        size: Shapes.
        tokens: Word ids, shape [B, T]; no row is shorter.
        weights: By the names of an ``nn.Module`` with ``embedding``, ``cell``, ``start`` and ``output``.
        step_size: s of the Langevin step.
        learning_rate: Of Adam; small, so that the problem stays the same over many rounds.
        clip_norm: The gradient's norm is clipped here before Adam's step.
        device: Where contestants of PyTorch compute.
    """

    size: Size
    tokens: NDArray[np.int64]
    weights: dict[str, Array]
    step_size: float = 0.02
    learning_rate: float = 1e-4
    clip_norm: float = 5.0
    device: str = "cpu"

    @classmethod
    def build(cls, size: Size, precision: str = "float32", device: str = "cpu", **settings: float) -> Problem:
        """The problem of a size; the same numbers in both precisions, to rounding.

        Args:
            size: Shapes.
            precision: ``float32`` or ``float64``.
            device: Where contestants of PyTorch compute.
            settings: Step size, learning rate or norm, where they are not the usual ones.
        """
        random = np.random.default_rng(0)
        V, E, H, D = size.vocabulary, size.embedding, size.hidden, size.latent
        shapes = {
            "embedding.weight": (V, E),
            "cell.weight_ih_l0": (4 * H, E + D),
            "cell.weight_hh_l0": (4 * H, H),
            "cell.bias_ih_l0": (4 * H,),
            "cell.bias_hh_l0": (4 * H,),
            "start.weight": (H, D),
            "start.bias": (H,),
            "output.weight": (V, H),
            "output.bias": (V,),
        }
        weights = {
            name: random.uniform(-WIDTH, WIDTH, shape).astype(precision) for name, shape in shapes.items()
        }
        weights["output.bias"][[PAD, BOS]] = IMPOSSIBLE
        tokens = random.integers(FIRST_WORD, V, (size.batch, size.length))
        return cls(size, tokens, weights, device=device, **settings)

    def codes(self, seed: int = 1) -> Array:
        """Draws of the prior, shape [B, D], in the precision of the weights."""
        drawn = np.random.default_rng(seed).standard_normal((self.size.batch, self.size.latent))
        return drawn.astype(self.weights["output.weight"].dtype)

    def tensor(self, values: NDArray[np.generic]) -> Tensor:
        """A copy on the device."""
        return torch.tensor(values, device=self.device)
