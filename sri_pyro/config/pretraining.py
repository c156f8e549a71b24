"""Pretraining: an autoencoder's training in front of a run, whose inference the run begins with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch

from sri_pyro.config.build import Parts
from sri_pyro.config.folder import RunFolder
from sri_pyro.inference import EvidenceLowerBound
from sri_pyro.numerics.keyed import Purpose, fold
from sri_pyro.numerics.kl_weights import ConstantWeight
from sri_pyro.processes import Group
from sri_pyro.training import Watch, fit

log = logging.getLogger(__name__)

STAGE = "pretraining"


def autoencoder() -> EvidenceLowerBound:
    """The objective: the evidence lower bound without its KL term."""
    return EvidenceLowerBound(ConstantWeight(0.0))


def pretrain(
    parts: Parts,
    seed: int,
    folder: RunFolder,
    resume: bool,
    *,
    watch: Watch | None,
    should_stop: Callable[[], bool] | None,
    group: Group,
) -> None:
    """Train model and inference as an autoencoder, in a folder within the run's; the best weights are in them then.

    What is finished already is not done again.

    Args:
        parts: Freshly built.
        seed: Of the run; the noise follows from it, and is not that of the training to come.
        folder: Of the run.
        resume: Continue what the folder of the stage holds.
        watch: Sees every record, with its ``stage``.
        should_stop: As for ``fit``.
        group: The processes.

    Raises:
        Stopped: If ``should_stop`` said so; all is saved.
    """
    assert parts.pretraining is not None
    whose = folder.identity()
    torch.manual_seed(fold(seed, Purpose.PRETRAINING))
    log.info("%s: %s", STAGE, "continued" if resume else "begun")
    fit(
        parts.model,
        parts.inference,
        autoencoder(),
        parts.batches,
        parts.pretraining,
        validate=parts.validate,
        folder=folder.pretraining.path,
        resume=resume,
        # Shapes and names are those of the run's own checkpoints, so that nothing else would tell them apart.
        identity={**whose, "configuration": f"{STAGE} of {whose['configuration']}"},
        watch=None if watch is None else _staged(watch),
        should_stop=should_stop,
        group=group,
    )
    log.info("%s: finished", STAGE)


def _staged(watch: Watch) -> Watch:
    def see(record: Mapping[str, float | str]) -> None:
        watch({**record, "stage": STAGE})

    return see
