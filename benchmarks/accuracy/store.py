"""What has been measured stays measured: each result is a file of the work folder, and is made once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from sri_pyro.writing import atomic_path

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

log = logging.getLogger(__name__)
Spent = TypeVar("Spent", bound="DataclassInstance")


@dataclass(frozen=True)
class Effort:
    """How much is spent.

    Attributes:
        overrides: Of the demo's configuration.
        sentences: Held-out sentences that are judged.
        chains: Chains for each of them, from which a divergence is estimated.
        reference_draws: Importance draws for each of them, from which the posterior is known.
        tuning_sentences: Validation sentences on whose posteriors step sizes are tuned.
        tuning_chains: Chains for each of those.
        long_steps: K beyond 20.
        mcmc_sentences: Of the judged ones, those that HMC and NUTS get.
        oracle_runs: Runs of HMC and of NUTS on the oracle.
        mcmc_runs: Those on text.
        own_chains: Sentences that get a NUTS chain to themselves.
        batch: Rows that are computed together, in timings and in HMC and NUTS.
        timed_batches: Batches of nearly equal length that are timed, short and long ones.
        rounds: How often everything is timed.
    """

    overrides: tuple[str, ...] = ()
    sentences: int = 24
    chains: int = 256
    reference_draws: int = 65536
    tuning_sentences: int = 8
    tuning_chains: int = 128
    long_steps: tuple[int, ...] = (40,)
    mcmc_sentences: int = 4
    oracle_runs: int = 16
    mcmc_runs: int = 8
    own_chains: int = 3
    batch: int = 64
    timed_batches: int = 4
    rounds: int = 15


QUICK = Effort(
    overrides=(
        "data.max_sentences=1500",
        "training.epochs=3",
        "training.validate_every=3",
        "model.decoder.hidden=32",
    ),
    sentences=8,
    chains=128,
    reference_draws=1024,
    tuning_sentences=4,
    tuning_chains=48,
    long_steps=(),
    mcmc_sentences=4,
    oracle_runs=8,
    mcmc_runs=8,
    own_chains=1,
    rounds=3,
)
"""Shows in minutes that everything runs; its numbers mean little."""


class Store(Generic[Spent]):
    """Named results in a folder, as JSON.

    Args:
        folder: Made if it is not there.
        effort: How much is spent; a folder that was begun with another effort is refused.

    Raises:
        ValueError: If it was.
    """

    def __init__(self, folder: Path, effort: Spent) -> None:
        self.folder = folder
        self.effort = effort
        folder.mkdir(parents=True, exist_ok=True)
        wanted = json.loads(json.dumps(asdict(effort)))
        if self.once("effort", lambda: wanted) != wanted:
            raise ValueError(
                f"{folder} holds measurements of another effort; name another folder with --work, or delete it."
            )

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """A result by name: read if it is there, else made and kept.

        Each is seeded by its name, so that it does not depend on what was made before it.
        """
        path = self.folder / f"{name}.json"
        if not path.exists():
            log.info("%s", name)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int.from_bytes(name.encode(), "big") % 2**63)
                value = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(value))
        return json.loads(path.read_text())
