"""What travels between the rooms: batches of tokens, draws of z, numbers with their error, and progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

PAD: Final = 0
"""Fills a row after its end; never scored."""
UNK: Final = 1
"""Stands for every word outside the vocabulary."""
BOS: Final = 2
"""Fed to a decoder before the first word; never predicted, so never counted in a perplexity."""
EOS: Final = 3
"""Ends a sentence; predicted and counted."""
SPECIAL_SYMBOLS: Final = ("<pad>", "<unk>", "<s>", "</s>")
"""The four reserved entries of a vocabulary, in the order of their ids."""

InferenceDropout = Literal["off", "shared", "fresh"]
"""What an inference sees of a decoder's dropout while weights are trained: none of it; the one draw that
the weight step sees too; or another draw in every gradient."""


@dataclass(frozen=True)
class Batch:
    """A batch of B sentences, padded to T predicted tokens.

    A row holds the words, then ``EOS``, then ``PAD``. ``BOS`` is not stored: decoders put it in
    front of their inputs themselves. The number of predicted tokens of a row counts ``EOS``.

    Attributes:
        tokens: Token ids, int64, shape [B, T].
        ids: Which example of the corpus each row is, int64, shape [B]; persistent chains and keyed
            noise find their own by it.
        key: Of a weight step's noise: what is drawn for a sentence is a function of this and of its id, whatever
            other sentences there are (``numerics.keyed``). None draws from PyTorch's generator.

    Raises:
        ValueError: If the shapes disagree, a token id is negative, or a row is no such row.

    Example:
        >>> batch = Batch(torch.tensor([[7, 5, EOS], [9, EOS, PAD]]))
        >>> len(batch), batch.lengths.tolist(), batch.mask.sum().item()
        (2, [3, 2], 5)
    """

    tokens: Tensor
    ids: Tensor = field(default=None)  # type: ignore[assignment]  # filled in below
    key: int | None = None

    def __post_init__(self) -> None:
        if self.tokens.ndim != 2 or self.tokens.dtype != torch.int64:
            raise ValueError(
                "tokens must be int64 of shape [sentences, positions]; got "
                f"{self.tokens.dtype} of shape {tuple(self.tokens.shape)}. Pad rows with PAD = {PAD}."
            )
        if self.tokens.numel() and int(self.tokens.min()) < 0:
            raise ValueError(f"token ids must not be negative; got {int(self.tokens.min())}.")
        if bool((malformed := _malformed(self.tokens)).any()):
            row = int(malformed.nonzero()[0])
            raise ValueError(
                f"row {row} of tokens is {self.tokens[row].tolist()}; a row needs at least one token, nothing "
                f"but PAD = {PAD} after EOS = {EOS}, and no PAD before its end."
            )
        if self.ids is None:
            ids = torch.arange(len(self.tokens), device=self.tokens.device)
            object.__setattr__(self, "ids", ids)
        if self.ids.shape != self.tokens.shape[:1]:
            raise ValueError(
                f"ids must have one entry per sentence, shape ({len(self.tokens)},); "
                f"got {tuple(self.ids.shape)}."
            )

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def mask(self) -> Tensor:
        """True where a token is predicted, shape [B, T]."""
        return self.tokens != PAD

    @property
    def lengths(self) -> Tensor:
        """Predicted tokens per sentence, the end of sentence included, shape [B]."""
        return self.mask.sum(-1)

    def select(self, rows: Tensor) -> Batch:
        """The sentences at some row indices, trimmed to the longest of them."""
        tokens = self.tokens[rows]
        longest = int((tokens != PAD).sum(-1).max())
        return Batch(tokens[:, :longest], self.ids[rows], self.key)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(self.tokens.to(device), self.ids.to(device), self.key)

    def keyed(self, key: int) -> Batch:
        """The same batch with another key of its noise."""
        return replace(self, key=key)


def _malformed(tokens: Tensor) -> Tensor:
    """Which rows [B] are empty, go on after their end or have a gap; decoders would score them all the same."""
    if not tokens.shape[1]:
        return torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    real = tokens != PAD
    resumed = real[:, 1:] & (~real[:, :-1] | (tokens[:, :-1] == EOS))
    return ~real[:, 0] | resumed.any(-1)


@dataclass(frozen=True)
class Draws:
    """Samples of z for one batch, and what is known about them.

    Attributes:
        z: Positions, shape [S, B, D]. Carries a graph only if the sampler is reparameterised.
        log_q: Log-density of each draw in nats, shape [S, B]; None if the sampler has no density.
        law: What they were drawn from, of batch shape [B] and event shape [D], where that is a distribution one can
            name; it carries a graph wherever z does.
        info: Diagnostics by name. Never needed to continue a chain.

    Raises:
        ValueError: If ``log_q`` does not have one value per draw.

    Example:
        >>> Draws(torch.zeros(5, 2, 32)).num_samples
        5
    """

    z: Tensor
    log_q: Tensor | None = None
    info: Mapping[str, Tensor] = field(default_factory=dict)
    law: Distribution | None = None

    def __post_init__(self) -> None:
        if self.z.ndim != 3:
            raise ValueError(
                f"z must have shape [samples, sentences, latent dimensions]; got {tuple(self.z.shape)}."
            )
        if self.log_q is not None and self.log_q.shape != self.z.shape[:-1]:
            raise ValueError(
                f"log_q must have one value per draw, shape {tuple(self.z.shape[:-1])} (z without its "
                f"last axis); got {tuple(self.log_q.shape)}. Sum the density over the latent axis "
                "before building Draws."
            )

    @property
    def num_samples(self) -> int:
        """How many draws of each sentence's z there are."""
        return self.z.shape[0]

    def detach(self) -> Draws:
        """The same draws without a graph, and so without their law, which may have one."""
        log_q = None if self.log_q is None else self.log_q.detach()
        return replace(self, z=self.z.detach(), log_q=log_q, law=None)


Heard = Callable[[Tensor], None]
"""Told what all processes counted together."""


@dataclass(frozen=True)
class Progress:
    """How far training has come, which annealing schedules read, and what part of a batch is here.

    Attributes:
        step: Weight steps done so far, one a batch; the updates that an update rule makes within a step count as one.
        epoch: Passes over the data done so far, as a fraction.
        share: Of the batch's sentences, those of the target; less than 1 where several processes share a batch.
        rows: Which of the batch's sentences those of the target are, shape [B]; None where they are all.
        tally: What this process has counted so far in a weight step, and who hears the sums; None sums at once.
    """

    step: int
    epoch: float
    share: float = 1.0
    rows: Tensor | None = field(default=None, compare=False, repr=False)
    tally: list[tuple[Tensor, Heard]] | None = field(default=None, compare=False, repr=False)

    def count(self, numbers: Tensor, heard: Heard) -> None:
        """Have numbers summed over all processes, and the sums told once they are known.

        They travel with the gradient, so that the sums are known after the weight step's loss and before the weights
        move. Every process must count as many numbers as the others, in the same order.

        Args:
            numbers: Of this process's sentences, shape [n].
            heard: Called with those of the whole batch.

        Example:
            >>> Progress(step=0, epoch=0.0).count(torch.tensor([3.0]), print)
            tensor([3.])
        """
        if self.tally is None:
            heard(numbers)
        else:
            self.tally.append((numbers, heard))

    def gather(self, values: Tensor, heard: Heard) -> None:
        """Have what every process knows of its own sentences put together; as ``count``, by sums with zeros.

        Args:
            values: Of the target's sentences, shape [B, n]; exact to single precision, whatever theirs is.
            heard: Called with those of the whole batch, in its order.

        Example:
            >>> part = Progress(step=0, epoch=0.0, share=0.5, rows=torch.tensor([1]))
            >>> part.gather(torch.tensor([[3.0, 4.0]]), print)
            tensor([[0., 0.],
                    [3., 4.]])
        """
        if self.rows is None:
            self.count(values.flatten(), lambda sums: heard(sums.view(values.shape)))
            return
        whole = values.new_zeros(round(len(values) / self.share), values.shape[1])
        whole[self.rows] = values
        self.count(whole.flatten(), lambda sums: heard(sums.view(whole.shape)))


@dataclass(frozen=True)
class Estimate:
    """A number and what is known about its error.

    Attributes:
        value: The estimate.
        se: Its standard error; NaN if there is none.
        num_samples: What the error averages over (sentences, unless the docs of the metric say else).
        method: The estimator's name, where more than one is in use.

    Example:
        >>> str(Estimate(96.4, 0.6, 500))
        '96.4 ± 0.6'
    """

    value: float
    se: float
    num_samples: int
    method: str = ""

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.se:.2g}"

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """The normal interval ``value ± z se``; 95 % by default."""
        return self.value - z * self.se, self.value + z * self.se
