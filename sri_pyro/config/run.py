"""Run: a trained model with all that belongs to it, loaded from its folder, and what one asks of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sri_pyro import checkpoint
from sri_pyro.config.build import (
    available_devices,
    build_model,
    evaluation_section,
    find_device,
    text_options,
)
from sri_pyro.config.folder import RunFolder
from sri_pyro.config.frames import batch_frame, by_line, posterior_moments
from sri_pyro.config.overridden import overridden
from sri_pyro.config.settings import Config
from sri_pyro.config.text import Tell, Text, read_text, unknown_words
from sri_pyro.data import DataError, Vocabulary, in_order
from sri_pyro.data.tokens import Labelled
from sri_pyro.evaluation import SentenceEvidence, estimate_evidence
from sri_pyro.evaluation.evidence import Weighted
from sri_pyro.models import LatentTextModel, Strategy
from sri_pyro.types import PAD, UNK, Batch
from sri_pyro.wording import counted

log = logging.getLogger(__name__)

Watch = Callable[[int, int], None]
"""Hears how many sentences are done, and of how many."""
WRITTEN_AT_ONCE = 256
"""Sentences that are written as one batch."""


@dataclass(frozen=True, repr=False)
class Run:
    """A trained model, loaded.

    Everything random draws from PyTorch's generator; seed it for the same numbers again.

    Attributes:
        folder: Where it came from.
        config: What it was made by.
        model: With its best weights, in eval mode.
        inference: With its tuned step size.
        vocabulary: Of the model.
    """

    folder: RunFolder
    config: Config
    model: LatentTextModel
    inference: nn.Module
    vocabulary: Vocabulary

    def __repr__(self) -> str:
        prior, decoder = self.config.prior.kind, self.config.decoder.kind
        return f"Run({str(self.folder.path)!r}: {prior} prior, {decoder} decoder, {len(self.vocabulary):,} words)"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def score(
        self, sentences: Path | Iterable[str], *, tell: Tell = log.warning, watch: Watch | None = None
    ) -> pd.DataFrame:
        """Estimate log p(x) of any sentences, by the estimator that the configuration names.

        Args:
            sentences: One text each, or the path of a file with one a line. Blank ones are left out, and
                longer ones as the configuration's ``too_long`` says.
            tell: Hears how many were left out and why, which are mostly unknown words, and for how many k-hat fails.
            watch: Hears how many are done.

        Returns:
            One row per sentence: ``line`` (from 1), ``text`` as it was given, ``num_tokens`` (the end
            counted), ``num_unknown``, ``log_px`` and its Monte Carlo standard error ``se`` in nats,
            ``khat`` with its ``threshold``, ``ess``.

        Raises:
            DataError: If no sentence is usable.
        """
        frames = []
        text = self.read(sentences)
        text.tell(tell)
        for batch, evidence, _ in self._weighted(text, tell, watch):
            columns = {
                "num_unknown": (batch.tokens == UNK).sum(-1),
                "log_px": evidence.log_px,
                "se": evidence.se,
                "khat": evidence.khat,
                "threshold": evidence.threshold,
                "ess": evidence.ess,
            }
            frames.append(batch_frame(text, batch, columns))
        return by_line(frames)

    def encode(
        self, sentences: Path | Iterable[str], *, tell: Tell = log.warning, watch: Watch | None = None
    ) -> pd.DataFrame:
        """Posterior means and standard deviations of z, from the importance weights of ``score``.

        Args:
            sentences: As for ``score``.
            tell: As for ``score``.
            watch: As for ``score``.

        Returns:
            One row per sentence: ``line``, ``text``, ``num_tokens``, ``khat``, ``z_mean_0``, ...,
            ``z_sd_0``, ....

        Raises:
            DataError: If no sentence is usable.
            ValueError: If the model has no z.
        """
        self._require_codes("encode")
        frames = []
        text = self.read(sentences)
        text.tell(tell)
        for batch, evidence, draws in self._weighted(text, tell, watch):
            mean, sd = posterior_moments(draws)
            columns = {"khat": evidence.khat}
            columns |= {f"z_mean_{d}": mean[:, d] for d in range(mean.shape[1])}
            columns |= {f"z_sd_{d}": sd[:, d] for d in range(sd.shape[1])}
            frames.append(batch_frame(text, batch, columns))
        return by_line(frames)

    def sample(self, num: int = 10, temperature: float = 1.0, top_p: float = 1.0) -> list[str]:
        """Write sentences for draws of z from the prior.

        Args:
            num: How many.
            temperature: 1 samples the model, 0 decodes greedily.
            top_p: Nucleus; 1 keeps every word.

        Raises:
            ValueError: If ``num`` is below 1, or a temperature or nucleus is out of range.
        """
        return list(chain.from_iterable(self.sampled(num, temperature, top_p)))

    def sampled(self, num: int = 10, temperature: float = 1.0, top_p: float = 1.0) -> Iterator[list[str]]:
        """The sentences of ``sample`` as they are written, of any number in bounded memory.

        They come in batches of ``WRITTEN_AT_ONCE``, the last one shorter, each of which draws its codes and
        then its words. The same seed therefore gives the same sentences, and a larger number the same whole
        batches first.

        Args:
            num: As for ``sample``.
            temperature: As for ``sample``.
            top_p: As for ``sample``.

        Raises:
            ValueError: As for ``sample``, before the first batch.
        """
        if num < 1:
            raise ValueError(f"the number of samples must be at least 1; got {num}.")
        strategy = Strategy(temperature, top_p)
        sizes = (min(WRITTEN_AT_ONCE, num - done) for done in range(0, num, WRITTEN_AT_ONCE))
        return (self.write(self._codes(size), strategy) for size in sizes)

    def _codes(self, num: int) -> Tensor:
        with torch.no_grad():
            z: Tensor = self.model.prior().sample((num,))
        return z

    def interpolate(self, first: str, last: str, steps: int = 7, *, tell: Tell = log.warning) -> pd.DataFrame:
        """Decode greedily along the line between the posterior means of two sentences.

        Args:
            first: Where it starts.
            last: Where it ends.
            steps: How many codes, both ends counted.
            tell: Hears which words the model does not know.

        Returns:
            Columns ``share`` (of the way) and ``text``.

        Raises:
            DataError: If a sentence is not usable.
            ValueError: If there are fewer than two steps, or the model has no z.
        """
        rows = chain.from_iterable(self.interpolated(first, last, steps, tell=tell))
        frame = pd.DataFrame(rows, columns=["share", "text"])
        return frame.astype({"share": np.float32})

    def interpolated(
        self, first: str, last: str, steps: int = 7, *, tell: Tell = log.warning
    ) -> Iterator[list[tuple[float, str]]]:
        """The rows of ``interpolate`` as they are written, in batches of ``WRITTEN_AT_ONCE``.

        Only the two posterior means are random, and are found first: the same seed gives the same sentences.

        Args:
            first: As for ``interpolate``.
            last: As for ``interpolate``.
            steps: As for ``interpolate``.
            tell: As for ``interpolate``.

        Raises:
            DataError: As for ``interpolate``, before the first batch.
            ValueError: As for ``interpolate``, before the first batch.
        """
        self._require_codes("interpolate")
        if steps < 2:
            raise ValueError(f"an interpolation needs at least 2 steps; got {steps}.")
        codes = self.encode([first, last], tell=lambda _: None)
        if unknown := unknown_words((first, last), self.vocabulary, text_options(self.config)):
            tell(f"the model does not know {', '.join(unknown)}, and reads <unk> instead")
        if len(codes) < 2:
            raise DataError("an interpolation needs two sentences; one of those given is empty or too long.")
        means = torch.tensor(codes.filter(like="z_mean_").to_numpy(), dtype=torch.get_default_dtype())
        return self.written_between(means[0], means[1], steps)

    def written_between(
        self, first: Tensor, last: Tensor, steps: int = 7
    ) -> Iterator[list[tuple[float, str]]]:
        """The share of the way and the sentence, decoded greedily, along the line between two codes [D], in batches."""
        share = torch.linspace(0, 1, steps)
        for start in range(0, steps, WRITTEN_AT_ONCE):
            part = share[start : start + WRITTEN_AT_ONCE]
            z = torch.lerp(first, last, part[:, None].to(first)).to(self.device)
            yield list(zip(part.tolist(), self.write(z, Strategy.greedy()), strict=True))

    def read(self, sentences: Path | Iterable[str]) -> Text:
        """Sentences as they are given and as the model reads them.

        Raises:
            DataError: If no sentence is usable, or one is not a text.
        """
        # A text that was read without labels may hold tabs, which are blanks then.
        labelled: Labelled = "no" if self.config.data.options.get("labelled") == "no" else "auto"
        return read_text(sentences, self.vocabulary, text_options(self.config), labelled)

    def _weighted(
        self, text: Text, tell: Tell, watch: Watch | None
    ) -> Iterator[tuple[Batch, SentenceEvidence, Weighted]]:
        section = evaluation_section(self.config)
        assert section.estimator is not None, "every preset names one"
        done, failed, total = 0, 0, len(text.split)
        for batch in in_order(text.split, section.batch_size):
            if watch is not None:
                watch(done, total)
            target = self.model.target(batch.to(self.device))
            evidence, draws = estimate_evidence(target, self.inference, section.estimator)
            failed += int((~(evidence.khat < evidence.threshold)).sum())
            yield batch, evidence, draws
            done += len(batch)
        if watch is not None:
            watch(done, total)
        if failed:
            tell(
                f"k-hat is not below its threshold for {failed:,} of {counted(total, 'sentence')}: do not trust what "
                "rests on their importance weights; use the estimator 'ladder' (--target-se 0.05) or 'annealed' "
                "(--set evaluation.estimator=annealed)"
            )

    def _require_codes(self, verb: str) -> None:
        if not self.model.prior.dim:
            raise ValueError(f"there is nothing to {verb}: the model in {self.folder.path} has no z.")

    def write(self, z: Tensor, strategy: Strategy | None = None) -> list[str]:
        """Sentences for codes z [N, D]; ancestral samples unless a strategy says otherwise."""
        return [self.text(row) for row in self.model.decoder.generate(z, strategy=strategy).tolist()]

    def text(self, tokens: Sequence[int]) -> str:
        """Token ids as words joined by blanks, up to the end of the sentence."""
        return " ".join(self.vocabulary.decode(token for token in tokens if token != PAD))


def load_run(folder: Path | str, device: str | None = None, overrides: Sequence[str] = ()) -> Run:
    """Load a trained model from its folder.

    Args:
        folder: As ``sri-pyro train`` made it.
        device: Where to put it; by default where it was trained, or the CPU if that device is not here.
        overrides: ``evaluation.a=b`` each, for another estimator of log p(x) than it was trained with.

    Raises:
        ConfigError: If this is no run's folder, its files do not belong together, or an override is not of the section
            ``evaluation``.
        CheckpointError: If there are no weights yet, or they are damaged.

    Example:
        >>> load_run("no/such/folder")
        Traceback (most recent call last):
            ...
        sri_pyro.config.schema.ConfigError: no/such/folder is not a run folder: it has no config.toml
    """
    place = RunFolder(Path(folder))
    config = place.read_config()
    vocabulary = place.read_vocabulary()
    if device is None:
        device = config.device if config.device in ("cuda", *available_devices()) else "cpu"
        device = "cpu" if device == "cuda" and not torch.cuda.is_available() else device
    weights = place.weights()
    tensors, _ = checkpoint.load(weights, place.identity())
    with torch.random.fork_rng():  # initial weights draw from a generator that is not ours to move
        model, inference = build_model(config, len(vocabulary), place.num_examples, find_device(device))
    checkpoint.load_weights(model, checkpoint.part("model", tensors), str(weights))
    checkpoint.load_weights(inference, checkpoint.part("inference", tensors), str(weights))
    config = overridden(config, overrides) if overrides else config
    return Run(place, config, model.eval(), inference.eval(), vocabulary)
