"""Loop: the state of one ``fit``, how it is saved, restored, and told from that of another run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sri_pyro import checkpoint
from sri_pyro.checkpoint import IDENTITY
from sri_pyro.course import Course, Training
from sri_pyro.history import History
from sri_pyro.processes import ALONE, Group
from sri_pyro.types import Progress

if TYPE_CHECKING:
    from sri_pyro.step import UpdateRule

LAST = "last.safetensors"
BEST = "best.safetensors"
HISTORY = "history.jsonl"


@dataclass
class Loop:
    """The state of one ``fit``, and how it is saved and restored."""

    model: nn.Module
    inference: nn.Module
    update: UpdateRule
    """How a weight step moves their weights; what it remembers is saved, and is not among the best weights."""
    optimizer: torch.optim.Optimizer
    options: Training
    history: History
    folder: Path | None
    identity: Mapping[str, str]
    """Digests of what the run is made from; every checkpoint bears them, and none that bears others is taken up."""
    group: Group = ALONE
    """The processes that train together; the first one writes."""
    course: Course = field(default_factory=Course)
    kept: dict[str, Tensor] = field(default_factory=dict)
    """The best weights, where there is no folder for them."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves."""
        return learned(self.model, self.inference)

    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers of model and inference, as they are saved."""
        return {
            **checkpoint.prefixed("model", self.model.state_dict()),
            **checkpoint.prefixed("inference", self.inference.state_dict()),
        }

    def remembered(self) -> dict[str, Tensor]:
        """The state of the update rule, as it is saved."""
        return checkpoint.prefixed("update", self.update.state_dict())

    def save(self) -> None:
        """Write the newest checkpoint and the records up to it; nothing without a folder, or from a further process."""
        if self.folder is None or not self.group.leads:
            return
        moments, header = checkpoint.optimizer_tensors(self.optimizer)
        generators = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            generators["cuda"] = torch.cuda.get_rng_state()
        tensors = {
            **self.weights(),
            **self.remembered(),
            **checkpoint.prefixed("optimizer", moments),
            **checkpoint.prefixed("generator", generators),
        }
        self.history.flush()
        state = {"course": vars(self.course), "optimizer": header, "history": len(self.history)}
        checkpoint.save(self.folder / LAST, tensors, {**state, IDENTITY: dict(self.identity)})

    def restore(self) -> None:
        """Take up what ``save`` wrote last."""
        assert self.folder is not None
        tensors, state = checkpoint.load(self.folder / LAST, self.identity)
        self.load_weights(tensors, f"{self.folder / LAST}")
        checkpoint.load_weights(self.update, checkpoint.part("update", tensors), f"{self.folder / LAST}")
        checkpoint.restore_optimizer(
            self.optimizer, checkpoint.part("optimizer", tensors), state["optimizer"]
        )
        generators = checkpoint.part("generator", tensors)
        torch.set_rng_state(generators["cpu"])
        if "cuda" in generators and torch.cuda.is_available():
            torch.cuda.set_rng_state(generators["cuda"])
        self.course = Course(**state["course"])
        self.history.truncate(state["history"])

    def keep_best(self, scores: Mapping[str, float]) -> None:
        """Keep the weights in place as the best on validation, with what it found."""
        if self.folder is None:
            self.kept = {name: tensor.detach().clone() for name, tensor in self.weights().items()}
        elif self.group.leads:
            header = {"epoch": self.course.epoch, **scores, IDENTITY: dict(self.identity)}
            checkpoint.save(self.folder / BEST, self.weights(), header)

    def go_back(self) -> None:
        """Put the best weights back; those in place stay where no validation has been a number yet."""
        if self.course.best == math.inf:
            return
        if self.folder is None:
            self.load_weights(self.kept, "the best weights")
            return
        tensors, _ = checkpoint.load(self.folder / BEST, self.identity)
        self.load_weights(tensors, str(self.folder / BEST))

    def load_weights(self, tensors: Mapping[str, Tensor], what: str) -> None:
        """Put weights of ``weights`` in place; ``what`` names them where they do not fit."""
        checkpoint.load_weights(self.model, checkpoint.part("model", tensors), what)
        checkpoint.load_weights(self.inference, checkpoint.part("inference", tensors), what)

    def require_equal(self) -> None:
        """See that all processes have the same weights, and a generator that stands at the same place.

        Raises:
            ValueError: If not.
        """
        if self.group.size == 1:
            return
        facts = {
            "weights": checkpoint.digest({**self.weights(), **self.remembered()}),
            "generator": checkpoint.digest({"state": torch.get_rng_state()}),
        }
        self.group.require_same(facts, "seed them alike, draw alike, and compute on machines of one kind")

    def progress(self, batches: int) -> Progress:
        """Where training stands, in an epoch of so many batches."""
        return Progress(self.course.step, self.course.epoch + self.course.batch / batches)


def learned(model: nn.Module, inference: nn.Module) -> list[nn.Parameter]:
    """Everything that a weight step may move, each once: an inference may share parameters with the model."""
    return list(nn.ModuleList([model, inference]).parameters())
