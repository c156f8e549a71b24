"""What the processes of the tests do; here, so that a forked process finds it by name.

Tensors go back as lists: float64 survives that to the bit.
"""

import errno
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sri_pyro import checkpoint, config
from sri_pyro.cli import main
from sri_pyro.config import Told, parse_config, train
from sri_pyro.config.cost import Fixed
from sri_pyro.inference import (
    Amortized,
    EvidenceLowerBound,
    FinalState,
    ShortRunLangevin,
    StepSizeTuner,
    Trajectory,
)
from sri_pyro.models import (
    GaussianMixture,
    GRUDecoder,
    LatentTextModel,
    LSTMDecoder,
    LSTMEncoder,
    StandardNormal,
)
from sri_pyro.models.decoders.base import Decoder
from sri_pyro.models.decoders.dropout import NOTHING_DROPPED, Masks
from sri_pyro.numerics.langevin import UnadjustedLangevin
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.processes import Group, sum_gradients
from sri_pyro.target import Target
from sri_pyro.training import Stopped, Training, fit
from sri_pyro.types import EOS, PAD, Batch, Draws, Progress
from sri_pyro.updates import Aggressive

Found = dict[str, Any]
STEEP = 11
"""A word whose well in z is so narrow that steps of 0.1 leave it."""


def sentences(count: int, longest: int, first: int, steep: Sequence[int] = ()) -> Batch:
    """Sentences of all lengths up to the longest, with ids of their own; some begin with the steep word."""
    draw = torch.Generator().manual_seed(first)
    tokens = torch.full((count, longest), PAD)
    for row in range(count):
        length = 1 + row % longest
        tokens[row, :length] = torch.randint(4, STEEP, (length,), generator=draw)
        tokens[row, length - 1] = EOS
        if row in steep:
            tokens[row, :2] = torch.tensor([STEEP, EOS])
            tokens[row, 2:] = PAD
    return Batch(tokens, torch.arange(first, first + count))


BATCHES = (sentences(7, 5, 100), sentences(3, 4, 200), sentences(8, 6, 300))
"""Shares of unequal sizes for 2 and 4 processes; of the second batch the fourth process has no sentence."""
STEEP_BATCHES = (sentences(24, 3, 100, [4, 8]), sentences(7, 3, 200, [1]), sentences(24, 3, 300, [0, 4]))
"""One in twelve, one in seven, one in twelve are steep; of 4 processes the first or second has all of them."""


class Wells(Decoder):
    """Each word is a well in z: operations element by element, which round alike however a batch is cut."""

    def __init__(self) -> None:
        super().__init__(STEEP + 1, latent_dim=2, max_length=5)
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 0.8]))
        stiffness = torch.ones(STEEP + 1)
        stiffness[[PAD, STEEP]] = torch.tensor([0.0, 30.0])
        self.register_buffer("stiffness", stiffness)

    def token_log_probs(self, z: Tensor, tokens: Tensor, masks: Masks = NOTHING_DROPPED) -> Tensor:
        misses = (self.weight * z)[:, None] - 0.1 * tokens[..., None]
        return -0.5 * self.stiffness[tokens] * (misses[..., 0].square() + misses[..., 1].square())

    def begin(self, z: Tensor) -> None:
        raise NotImplementedError

    def advance(self, token: Tensor, z: Tensor, state: None) -> tuple[Tensor, None]:
        raise NotImplementedError


@dataclass
class Recipe:
    """What is trained, and how.

    Attributes:
        decoder: ``lstm``, which has a fast route; ``gru``, which has none; or ``wells``.
        batches: Those of every epoch.
        dtype: Of the weights.
        mixture: Whether the prior is one.
        trajectory: Whether the rule is that of the whole path.
        tuned: Whether the step size is, every third step.
        nlls: What validation finds, epoch by epoch; a further process finds another order.
        options: Of ``Training``.
    """

    decoder: str = "lstm"
    batches: Sequence[Batch] = BATCHES
    dtype: str = "float64"
    mixture: bool = False
    trajectory: bool = False
    tuned: bool = False
    nlls: Sequence[float] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def parts(self) -> tuple[LatentTextModel, "Recording"]:
        torch.manual_seed(3)
        torch.set_default_dtype(getattr(torch, self.dtype))
        prior = GaussianMixture(2, 3) if self.mixture else StandardNormal(2)
        sizes = {"vocab_size": STEEP + 1, "latent_dim": 2, "embedding": 5, "hidden": 6}
        recurrent = {"lstm": LSTMDecoder, "gru": GRUDecoder}
        if self.decoder == "wells":
            return LatentTextModel(prior, Wells()), Recording(self.trajectory)
        model = LatentTextModel(prior, recurrent[self.decoder](**sizes, dropout=0.4, word_dropout=0.2))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(4.0)
        return model, Recording(self.trajectory)


class Recording(ShortRunLangevin):
    """A short run that keeps what it drew: z by step and sentence, and how many chains ran again."""

    def __init__(self, path: bool) -> None:
        super().__init__(10, UnadjustedLangevin(), ConstantSteps(0.1), record_path=path)
        self.drawn: dict[str, Any] = {}
        self.halved: dict[str, int] = {}

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        draws = super().forward(target, num_samples, progress)
        assert progress is not None
        assert target.batch is not None
        for column, example in enumerate(target.batch.ids.tolist()):
            self.drawn[f"{progress.step}/{example}"] = draws.z[:, column].tolist()
            self.halved[f"{progress.step}/{example}"] = int(draws.info["halved"][:, column].sum())
        return draws


class Sums:
    """Counts the sums of numbers over processes, not those of words, and forbids every other collective."""

    def __init__(self) -> None:
        self.count, self._sum = 0, dist.all_reduce
        dist.all_reduce = self
        for name in (
            "broadcast",
            "all_gather",
            "reduce",
            "gather",
            "barrier",
            "reduce_scatter",
            "all_to_all",
        ):
            setattr(dist, name, self.forbidden)

    def __call__(self, tensor: Tensor) -> None:
        self.count += tensor.is_floating_point()
        self._sum(tensor)

    @staticmethod
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a collective that is not an all-reduce")


def fitted(group: Group, recipes: Sequence[Recipe]) -> list[Found]:
    """Train by each recipe, and tell everything that must not depend on the number of processes."""
    sums = Sums()
    return [_fitted(group, recipe, sums) for recipe in recipes]


def _fitted(group: Group, recipe: Recipe, sums: Sums) -> Found:
    model, inference = recipe.parts()
    before, scales, nlls = sums.count, [], iter(recipe.nlls)
    tuner = StepSizeTuner(inference, every=3, num_chains=6, num_sentences=4, factors=(0.7, 1.0, 1.4))

    def watch(record: Mapping[str, Any]) -> None:
        if record["kind"] == "step":
            scales.append(float(inference.step_scale))

    options = Training(**{"epochs": 2, "log_every": 1, "num_samples": 2, "clip_norm": 3.0, "learning_rate": 0.01,
                          **recipe.options})  # fmt: skip
    history = fit(
        model, inference, Trajectory() if recipe.trajectory else FinalState(), Fixed(recipe.batches), options,
        validate=(lambda: {"nll": next(nlls) * (1 - 2 * group.rank)}) if recipe.nlls else None,
        hooks=[tuner] if recipe.tuned else [], group=group, watch=watch,
    )  # fmt: skip
    return {
        "weights": {name: weight.tolist() for name, weight in model.named_parameters()},
        "history": history.records,
        "drawn": inference.drawn,
        "halved": inference.halved,
        "scales": scales,
        "sums": sums.count - before,
        "next draw": torch.rand(1, dtype=torch.float64).item(),
    }


def trained_ahead(group: Group) -> Found:
    """Train a decoder and, ahead of it for two epochs of three, an encoder; each process finds another information."""
    torch.manual_seed(3)
    torch.set_default_dtype(torch.float64)
    sizes = {"vocab_size": STEEP + 1, "latent_dim": 2, "embedding": 5, "hidden": 6}
    model = LatentTextModel(StandardNormal(2), LSTMDecoder(**sizes, dropout=0.4))
    inference, rule, found = Amortized(LSTMEncoder(**sizes)), Aggressive(8, 2), iter([2.0, 1.0, 3.0])
    history = fit(
        model, inference, EvidenceLowerBound(), Fixed(BATCHES),
        Training(epochs=3, log_every=1, optimizer="sgd", learning_rate=0.3, clip_norm=3.0),
        update=rule, group=group,
        validate=lambda: {"nll": 1.0, "mutual_information": next(found) * (1 - 2 * group.rank)},
    )  # fmt: skip
    weights = [*model.named_parameters(), *inference.named_parameters()]
    return {
        "weights": {name: weight.tolist() for name, weight in weights},
        "history": history.records,
        "ahead": bool(rule.ahead),
    }


def trained(
    group: Group,
    data: Mapping[str, Any],
    out: Path,
    stop: Mapping[int, int] | None = None,
    resume: bool = False,
) -> int:
    """Train a configuration: how often it was asked whether to stop.

    Args:
        group: The processes.
        data: The configuration.
        out: The run's folder.
        stop: By rank, the weight step after which that process is told to stop.
        resume: Whether the folder's run goes on.
    """
    asked = 0
    if not group.leads:
        Path.replace = Path.rename = logging.FileHandler = _no_writer  # type: ignore[misc,assignment]

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return stop is not None and asked == stop.get(group.rank)

    try:
        train(parse_config(data), out, resume=resume, told=Told(should_stop=should_stop), group=group)
    except Stopped:
        assert stop
        return asked
    return asked


def _no_writer(*arguments: Any, **_: Any) -> None:
    raise AssertionError(f"a further process writes: {arguments}")


def of_unlike_data(group: Group, data: Mapping[str, Any], out: Path) -> None:
    """Train where each process has other sentences."""
    train(parse_config(data, [f"data.seed={group.rank}"]), out, group=group)


def of_unlike_seeds(group: Group, drawn: int) -> None:
    """Fit with weights that were drawn alike, after other numbers were drawn on the second process."""
    model, inference = Recipe().parts()
    torch.rand(drawn * group.rank)
    fit(model, inference, FinalState(), Fixed(BATCHES), group=group)


def dies(group: Group, data: Mapping[str, Any], out: Path, step: int) -> None:
    """Train, and have the last process killed in the middle of a step."""

    def should_stop() -> bool:
        nonlocal step
        step -= 1
        if not step and group.rank == group.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    train(parse_config(data), out, told=Told(should_stop=should_stop), group=group)


def weights_of(out: Path) -> dict[str, Tensor]:
    """The last weights in a run's folder."""
    tensors, _ = checkpoint.load(out / "last.safetensors")
    return {name: value for name, value in tensors.items() if name.startswith(("model", "inference"))}


def exchanged(group: Group) -> tuple[list[str], list[bool], list[float]]:
    """What a group gives its members: words, who is first, sums."""
    words = group.exchange(f"I am {group.rank}")
    firsts = [group.first("a"), group.first("a"), group.first("b")]
    one, two = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    never, frozen = (
        torch.nn.Parameter(torch.zeros(3)),
        torch.nn.Parameter(torch.zeros(1), requires_grad=False),
    )
    one.grad = torch.tensor([1.0, 10.0]) * (group.rank + 1)
    if group.rank == 0:
        two.grad = torch.tensor([0.1], dtype=torch.float64)
    numbers = sum_gradients(group, [one, never, two, frozen], torch.tensor([0.25, float(group.rank)]))
    assert never.grad is None
    assert frozen.grad is None
    assert two.grad is not None
    assert two.grad.dtype == torch.float64
    group.exchange()
    return words, firsts, [*one.grad.tolist(), *two.grad.tolist(), *numbers.tolist()]


def commanded(group: Group, words: Sequence[str], folder: Path, device_full: bool = False) -> None:
    """A command line in every process, which believes that torchrun started it; what it says goes to files by rank."""
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": str(group.size), "RANK": str(group.rank)}
    for stream in (1, 2):
        os.dup2(os.open(folder / f"{group.rank}.{stream}", os.O_CREAT | os.O_WRONLY), stream)
    config.joined = lambda: nullcontext(group)
    if device_full and group.leads:
        Path.replace = _full  # type: ignore[method-assign,assignment]
    sys.exit(main(list(words)))


def _full(path: Path, target: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(target))
