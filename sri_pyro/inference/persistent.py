"""Persistent chains: Langevin runs that go on, for every training sentence, where its last one ended.

Axes: S chains, B sentences, D latent dimensions.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from sri_pyro.inference.divergence import guarded, lasting, tell
from sri_pyro.inference.short_run import ShortRunLangevin, run_chains
from sri_pyro.numerics.divergence import diverged
from sri_pyro.numerics.langevin import Integrator
from sri_pyro.numerics.schedules import ConstantSteps, NoiseSchedule, StepSchedule
from sri_pyro.target import Target
from sri_pyro.types import Draws, Progress

MOST_EXAMPLES = 2**24
"""Ids travel between processes in single precision, which is exact up to here."""


class PersistentLangevin(nn.Module):
    r"""Alternating back-propagation: draw z by Langevin chains that go on from weight step to weight step.

    At its n-th visit sentence b runs K steps on :math:`\log p(x_b, z)`, at the weights of that moment, from where its
    chain ended:

    .. math:: z_b^{(n)} = \mathrm{Langevin}_K\big(z_b^{(n-1)}\big)

    so that a short run at every visit is one long chain over all of training, whose target moves as slowly as the
    weights do. Each training sentence has ``num_chains`` of them, in the buffer ``chains`` [N, S, D], found by the
    batch's ids; ``begun`` [N] tells which have been visited. Both travel with the weights.

    A sentence without a chain starts from the prior and runs ``cold_steps`` steps instead. That is so at its first
    visit, and always outside of training: without a ``progress``, or in eval mode. Held-out sentences have ids too, and
    they are never looked up. A model is therefore trained on draws of long chains, and evaluated by those of short
    runs (``cold``, a ``ShortRunLangevin``).

    The law of the draws has no density. A chain that diverges starts again from the prior with its steps halved, as
    those of ``ShortRunLangevin`` do. Noise is keyed where the batch has a key: a draw is a function of the weights, the
    key, the sentence and its chain, whatever other sentences the batch has. Of several processes each runs the chains
    of its own sentences, and where they end travels with the gradient, so that all keep the same.

    Args:
        num_steps: K, steps of a chain at every visit.
        cold_steps: Steps of a run that starts from the prior.
        num_chains: S, chains kept of each training sentence; as many as a weight step draws.
        integrator: How a step is made; ``lm`` by default.
        step_schedule: The step sizes of a run before scaling; a constant one by default.
        noise: The noise scale, over training; evaluation uses the final one.
        num_examples: N, training sentences; of none no chain is kept, and all runs start from the prior.
        latent_dim: D.

    Raises:
        ValueError: If a number of steps or chains is not positive, or there are too many sentences; in training, if
            the sentences have no ids, an id is not below N, or another number of draws is asked for than is kept.

    Example:
        >>> from sri_pyro.models import LatentTextModel, LSTMDecoder, StandardNormal
        >>> from sri_pyro.types import Batch
        >>> decoder = LSTMDecoder(vocab_size=50, latent_dim=4, embedding=8, hidden=16)
        >>> target = LatentTextModel(StandardNormal(4), decoder).target(Batch(torch.tensor([[7, 9, 3]])))
        >>> inference = PersistentLangevin(num_steps=5, num_examples=3, latent_dim=4)
        >>> draws = inference(target, progress=Progress(step=0, epoch=0.0))
        >>> torch.equal(inference.chains[0], draws.z[:, 0]), inference.begun.tolist()
        (True, [True, False, False])

    References:
        Han, Lu, Zhu, Wu (2017), Alternating back-propagation for generator network. Warm and cold starts:
        Pang, Nijkamp, Han, Wu (2021), Section 3.
    """

    chains: Tensor
    begun: Tensor

    def __init__(
        self,
        num_steps: int = 20,
        cold_steps: int = 20,
        num_chains: int = 1,
        integrator: Integrator | None = None,
        step_schedule: StepSchedule | None = None,
        noise: NoiseSchedule | None = None,
        num_examples: int = 0,
        latent_dim: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("num_steps", num_steps), ("cold_steps", cold_steps), ("num_chains", num_chains)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        if num_examples > MOST_EXAMPLES:
            raise ValueError(
                f"chains are kept of at most {MOST_EXAMPLES:,} sentences; the training split has {num_examples:,}. "
                "Train on fewer, or use the inference 'short_run'."
            )
        self.num_steps = num_steps
        self.num_chains = num_chains
        self.cold = ShortRunLangevin(cold_steps, integrator, step_schedule or ConstantSteps(), noise)
        self.cold.step_schedule(num_steps)  # a list of another length fails here, not in the second epoch
        self.register_buffer("chains", torch.zeros(num_examples, num_chains, latent_dim))
        self.register_buffer("begun", torch.zeros(num_examples, dtype=torch.bool))

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        """Run the chains of every sentence, or short runs outside of training.

        Returns:
            Draws with ``info``: ``cold``, which chains started from the prior, and ``halved``, which of those did
            because they had diverged, [S, B]. Outside of training that of ``ShortRunLangevin``.

        Raises:
            FloatingPointError: If chains diverge however small the steps are.
        """
        if progress is None or not self.training or not len(self.begun):
            return self.cold(target, num_samples, progress if self.training else None)  # type: ignore[no-any-return]
        ids = self._ids(target, num_samples)
        start, begun = self.chains[ids].movedim(1, 0), self.begun[ids]
        draws, counts = guarded(partial(self._attempt, target, start, begun, progress))
        progress.count(counts, self._hear)
        ends = draws.z.movedim(1, 0).flatten(1)
        progress.gather(torch.cat([ids[:, None].to(ends), ends], 1), self._keep)
        return draws

    def _ids(self, target: Target, num_samples: int) -> Tensor:
        """Which chains are those of the target's sentences, shape [B]."""
        if target.batch is None:
            raise ValueError(
                "persistent chains are found by the ids of sentences, and this target has none; use the inference "
                "'short_run'."
            )
        if num_samples != self.num_chains:
            raise ValueError(
                f"{self.num_chains} chains of each sentence are kept and {num_samples} draws were asked for; set "
                "num_chains of the inference to num_samples of training."
            )
        ids = target.batch.ids
        if int(ids.max()) >= len(self.begun):
            raise ValueError(
                f"chains are kept of {len(self.begun)} sentences and the batch has the id {int(ids.max())}; give "
                "num_examples of the training split, and call eval() for sentences that are not in it."
            )
        return ids

    def _attempt(
        self, target: Target, start: Tensor, begun: Tensor, progress: Progress, halvings: int
    ) -> tuple[Draws, Tensor]:
        """One run of all chains, of which those that diverged are cold from then on; and which of them diverged."""
        warm = begun.expand(start.shape[:-1]) & (halvings == 0)
        if bool(warm.all()):
            # A start is drawn and not used, so that the next one is the same whoever else is in the batch.
            target.sample_prior(len(start))
            z, bad = self._continued(target, start, progress)
            return Draws(z, info={"cold": ~warm}), bad
        draws, bad = self.cold.attempt(target, len(start), halvings, progress)
        z = draws.z
        if bool(warm.any()):
            ends, bad_ends = self._continued(target, start, progress)
            z, bad = torch.where(warm[..., None], ends, z), torch.where(warm, bad_ends, bad)
        return Draws(z, info={"cold": ~warm}), bad

    def _continued(self, target: Target, start: Tensor, progress: Progress) -> tuple[Tensor, Tensor]:
        """Where chains end that go on, and which of them diverged."""
        scale = float(self.cold.step_scale)
        steps = [scale * step for step in self.cold.step_schedule(self.num_steps)]
        log_joint: list[Tensor] = []
        z = run_chains(
            target, start, steps, self.cold.integrator, self.cold.noise(progress),
            visit=lambda step, z, value, grad: log_joint.append(value),
        )  # fmt: skip
        return z, diverged(z, torch.stack(log_joint, dim=-1))

    def _hear(self, counts: Tensor) -> None:
        """Shorten the steps if too many chains of the batch diverged."""
        tell(counts, self.cold.step_sizes())
        self.cold.step_scale.mul_(lasting(counts))

    def _keep(self, ends: Tensor) -> None:
        """Keep where the chains of a batch ended; of every sentence its id and its chains, shape [B, 1 + S D]."""
        ids = ends[:, 0].long().to(self.begun.device)
        self.chains[ids] = ends[:, 1:].to(self.chains).view(-1, *self.chains.shape[1:])
        self.begun[ids] = True
