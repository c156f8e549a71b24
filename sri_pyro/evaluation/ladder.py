r"""The ladder (``ladder``): as much work on every sentence as its log p(x) needs, and draws that decided nothing.

Axes: S draws, B sentences, D latent dimensions. Nats throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sri_pyro.counting import Counted
from sri_pyro.evaluation.annealed import TARGET_ACCEPTANCE
from sri_pyro.evaluation.evidence import (
    PriorImportance,
    Weighted,
    accepted,
    at,
    first,
    joined,
    require_samples,
)
from sri_pyro.evaluation.gaussian import Fit, fitted, refitted
from sri_pyro.evaluation.rungs import AnnealedRung, GaussianRung, Rung
from sri_pyro.evaluation.totals import Totals
from sri_pyro.numerics.weights import relative_variance
from sri_pyro.target import Inference, Target

MARGIN = 1.25
"""More draws than the trial's variance asks for, because that variance is itself estimated."""
ADAPTING = 64
"""Chains that choose temperatures and step sizes."""
RungName = Literal["gaussian", "refitted", "langevin", "hmc"]
RUNGS: tuple[RungName, ...] = ("gaussian", "refitted", "langevin", "hmc")
"""What stands on each rung, from the first."""


@dataclass(frozen=True)
class Ladder:
    r"""Evidence by the cheapest of four ways that passes (``ladder``), with as many draws as an error asks for.

    1. A defensive Gaussian fitted to pilot runs of the inference, its covariance shrunk towards that of the batch.
    2. The Gaussian fitted again from the truncated weights of twice as many draws.
    3. Annealed importance sampling with Langevin transitions. A pilot chooses each sentence's temperatures so that
       the conditional effective sample size between neighbours is a set share of the chains.
    4. The same with HMC transitions.

    On every rung *trial* draws say whether the sentence stays (k-hat and the effective sample size pass, and with
    ``target_se`` no more than the most draws are needed) and how many draws it needs,
    :math:`S \ge 1.25\, CV^2 / \mathrm{se}^2`, rounded up by doubling. Then fresh draws are *counted*, and trials are
    thrown away. So neither the rung nor the number of draws depends on a counted weight:
    :math:`\mathbb{E}\,\hat p(x) = p(x)` holds exactly given the trials, and
    :math:`\mathbb{E} \log \hat p(x) \le \log p(x)`. The price is that a counted k-hat may fail where the trial's had
    passed, and an error may come out above ``target_se``; both are reported as they are. Who stays on no rung is
    counted on the last.

    Counted draws are added up as they come, in pieces that bound the memory; the largest weights are kept, as many
    as k-hat reads of the most draws, so that it is that of all of them.

    Attributes:
        num_samples: Draws of a trial on the first rung; also the least that are counted.
        target_se: Monte Carlo standard error of log p(x) of each sentence that is aimed at, nats; None counts as
            many draws as the trial had.
        most_samples: Most draws of a Gaussian that a sentence gets.
        pilot_chains: Short runs per sentence that the first fit is made from; more if the batch has few sentences.
        inflation: Factor on a fitted covariance.
        prior_share: Share of the prior in a Gaussian's proposal.
        chains: Annealed chains of a trial.
        most_chains: Most annealed chains that a sentence gets.
        conditional_ess: Share of the chains that is left between neighbouring temperatures.
        most_temperatures: Limit of their number.
        leapfrog: Leapfrog steps of an HMC transition.
        kept: Draws of each sentence that are handed on, for export.

    Raises:
        ValueError: If an option is out of range.

    References:
        Truncated weights: Ionides (2008). Annealed importance sampling: Neal (2001). Conditional effective sample
        size: Zhou, Johansen, Aston (2016).
    """

    num_samples: int = 512
    target_se: float | None = None
    most_samples: int = 65536
    pilot_chains: int = 64
    inflation: float = 1.2
    prior_share: float = 0.05
    chains: int = 256
    most_chains: int = 4096
    conditional_ess: float = 0.99
    most_temperatures: int = 200
    leapfrog: int = 3
    kept: int = 256

    def __post_init__(self) -> None:
        require_samples(self.num_samples)
        if self.target_se is not None and not 0 < self.target_se < math.inf:
            raise ValueError(f"target_se must be a positive number of nats; got {self.target_se}.")
        if min(self.pilot_chains, self.chains) < 2 or self.inflation <= 0 or not 0 < self.prior_share < 1:
            raise ValueError(
                "the estimator 'ladder' needs pilot_chains >= 2, chains >= 2, inflation > 0 and prior_share in "
                f"(0, 1); got {self.pilot_chains}, {self.chains}, {self.inflation}, {self.prior_share}."
            )
        if self.most_samples < 2 * self.num_samples or self.most_chains < self.chains:
            raise ValueError(
                "the estimator 'ladder' needs most_samples >= 2 num_samples, which a refit draws, and "
                f"most_chains >= chains; got {self.most_samples} for {self.num_samples}, and {self.most_chains} for "
                f"{self.chains}."
            )
        if not 0 < self.conditional_ess < 1 or min(self.most_temperatures, self.leapfrog, self.kept) < 1:
            raise ValueError(
                "the estimator 'ladder' needs conditional_ess in (0, 1), and most_temperatures, leapfrog and kept of "
                f"at least 1; got {self.conditional_ess}, {self.most_temperatures}, {self.leapfrog}, {self.kept}."
            )

    looks = 1

    def log_bound(self, rounds: Tensor) -> Tensor:
        """Of a Gaussian's weights as the prior's share has it; of annealed ones 0."""
        gaussian = rounds <= RUNGS.index("refitted") + 1
        return torch.where(gaussian, -math.log(self.prior_share), 0.0).double()

    def __call__(self, target: Target, inference: Inference) -> list[tuple[Tensor, Weighted]]:
        """Climb where trials say so, and count fresh draws."""
        if target.dim == 0:
            return PriorImportance(self.num_samples)(target, inference)
        counted = Counted()
        target = counted.target(target)
        fit = fitted(target, inference, self.pilot_chains)
        rows = torch.arange(target.batch_size, device=fit.unfitted.device)
        ledger = _Ledger(counted, rows, min(self.kept, self.num_samples, self.chains))
        climbing, trial = rows > -1, None
        for number, name in enumerate(RUNGS, start=1):
            rung = self._rung(name, target, fit, trial)
            trial = _drawn(rung, self._trial_size(name))
            needed, sizes = self._needed(trial.log_weight, name)
            stays = accepted(trial.log_weight) & (needed <= self._most(name)) & ~fit.unfitted
            stays = climbing & (stays | (name == RUNGS[-1]))
            ledger.charge(rows[climbing])
            ledger.count(rung, rows, stays, sizes, number)
            climbing = climbing & ~stays
            if not bool(climbing.any()):
                break
            if target.select is not None:
                target, rows, trial = (
                    target.select(climbing.nonzero()[:, 0]),
                    rows[climbing],
                    at(trial, climbing),
                )
                fit, climbing = fit.at(climbing), climbing[climbing]
        return [(ledger.rows, ledger.weighted())]

    def _rung(self, name: RungName, target: Target, fit: Fit, trial: Weighted | None) -> Rung:
        """The rung of that name; a refit is made from the trial before, and so is what it falls back on."""
        if name == "langevin" or name == "hmc":
            return AnnealedRung.adapted(
                target, ADAPTING, self.conditional_ess, self.most_temperatures, name, self.leapfrog
            )
        where = fit.moments if trial is None else refitted(trial, fit.moments)
        return GaussianRung(target, where, fit.dtype, self.inflation, self.prior_share)

    def _trial_size(self, name: str) -> int:
        return {"gaussian": self.num_samples, "refitted": 2 * self.num_samples}.get(name, self.chains)

    def _most(self, name: str) -> int:
        return self.most_chains if name in TARGET_ACCEPTANCE else self.most_samples

    def _needed(self, log_weight: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Draws that the error aimed at asks for, and those that are counted, each [B]."""
        if self.target_se is None:
            needed = torch.full(log_weight.shape[1:], len(log_weight), device=log_weight.device)
            return needed, needed
        variance = relative_variance(log_weight.double()).nan_to_num(math.inf)
        needed = MARGIN * variance / self.target_se**2
        least = self.chains if name in TARGET_ACCEPTANCE else self.num_samples
        doublings = (needed / least).log2().ceil().clamp(0, 40)
        return needed, (least * 2**doublings).clamp(max=self._most(name)).long()


class _Ledger:
    """What has been counted of every sentence, and what was spent on it.

    Args:
        counted: What the target has been asked in all.
        rows: Of the batch, all.
        keep: Draws that are kept of each sentence.
    """

    def __init__(self, counted: Counted, rows: Tensor, keep: int) -> None:
        self.rows, self._counted, self._keep = rows, counted, keep
        self._gradients, self._evaluations = torch.zeros_like(rows), torch.zeros_like(rows)
        self._charged = (0, 0)
        self._pieces: list[tuple[Tensor, Totals, Weighted]] = []

    def charge(self, rows: Tensor) -> None:
        """Put what was asked since the last time on the account of some sentences; each had all of it."""
        gradients, evaluations = self._counted.gradients, self._counted.evaluations
        self._gradients[rows] += gradients - self._charged[0]
        self._evaluations[rows] += evaluations - self._charged[1]
        self._charged = (gradients, evaluations)

    def count(self, rung: Rung, rows: Tensor, staying: Tensor, sizes: Tensor, number: int) -> None:
        """Draw afresh, from the sentences that need least to those that need most, and add up.

        Args:
            rung: From which.
            rows: Its sentences.
            staying: Those that are counted here, shape [b].
            sizes: Draws of each, shape [b].
            number: Of the rung.
        """
        if not bool(staying.any()):
            return
        most, done = int(sizes[staying].max()), 0
        totals: Totals | None = None
        kept: Weighted | None = None
        for size in sorted(set(sizes[staying].tolist())):
            if rung.target.select is not None and not bool(staying.all()):
                rung, rows, sizes = rung.at(staying.nonzero()[:, 0]), rows[staying], sizes[staying]
                totals = None if totals is None else totals.at(staying)
                kept = None if kept is None else at(kept, staying)
                staying = staying[staying]
            while done < size:
                draws = rung.draw(min(rung.at_once, size - done))
                part = Totals.of(draws.z, draws.log_weight, draws.log_likelihood, most)
                totals = part if totals is None else totals.plus(part, most)
                if done < self._keep:
                    kept = draws if kept is None else joined([kept, draws])
                    kept = first(kept, self._keep)
                done += len(draws.z)
            assert totals is not None
            assert kept is not None
            self.charge(rows[staying])
            ends = staying & (sizes == size)
            here = replace(at(kept, ends), rounds=torch.full_like(rows[ends], number))
            self._pieces.append((rows[ends], totals.at(ends), here))
            staying = staying & ~ends

    def weighted(self) -> Weighted:
        """All sentences, in the order of the batch."""
        rows, totals, kept = zip(*self._pieces, strict=True)
        order = torch.cat(rows).argsort()
        draws = at(joined(kept, dim=1), order)
        return replace(
            draws,
            totals=Totals.joined(totals).at(order),
            gradients=self._gradients,
            evaluations=self._evaluations,
        )


def _drawn(rung: Rung, num_samples: int) -> Weighted:
    """Draws that are all kept, made in pieces that bound the memory."""
    sizes = range(0, num_samples, rung.at_once)
    return joined([rung.draw(min(rung.at_once, num_samples - done)) for done in sizes])
