"""The sizes that are measured, and the least work that a step of each is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Size:
    """A decoder and a batch of full-length sentences.

    Attributes:
        name: Its name in tables.
        vocabulary: V.
        embedding: E.
        hidden: H.
        batch: B, sentences.
        length: T, tokens of each.
        latent: D.
        steps: K, inner steps of a training step.
    """

    name: str
    vocabulary: int
    embedding: int
    hidden: int
    batch: int
    length: int
    latent: int = 32
    steps: int = 20

    @property
    def tokens(self) -> int:
        """Of a batch."""
        return self.batch * self.length

    @property
    def step_flops(self) -> int:
        """Of one gradient in z: the recurrence forward and reverse, the logits, and their mean output weight.

        What does not depend on z is computed before the steps; elementwise work is not counted.
        """
        return self.tokens * (16 * self.hidden**2 + 4 * self.hidden * self.vocabulary)

    @property
    def weight_flops(self) -> int:
        """Of one gradient in the weights: every product once forward and twice in reverse."""
        gates = 8 * self.hidden * (self.hidden + self.embedding)
        return 3 * self.tokens * (gates + 2 * self.hidden * self.vocabulary)

    @property
    def training_flops(self) -> int:
        """Of a training step."""
        return self.steps * self.step_flops + self.weight_flops

    def plain(self) -> dict[str, str | int]:
        """As values that go into JSON."""
        return asdict(self)


SIZES = MappingProxyType(
    {
        size.name: size
        for size in (
            Size("S", vocabulary=2_000, embedding=64, hidden=128, batch=64, length=12),
            Size("M", vocabulary=10_000, embedding=256, hidden=256, batch=32, length=25),
            Size("N", vocabulary=10_000, embedding=512, hidden=1_024, batch=32, length=12),
        )
    }
)
