"""Processes: one alone, or several that train one model together, on PyTorch's distributed engine.

They know one way to reach each other, the sum over all of them, for gradients and for words alike: nothing is
unpickled, and a process that is gone is missed at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

PATIENCE = timedelta(minutes=10)
"""How long a process waits for another that does not answer. One that died is noticed at once."""
LAUNCH = "torchrun --nproc-per-node N -m sri_pyro train FILE --out FOLDER"


class ProcessLostError(ConnectionError):
    """Another process of the group ended, or does not answer."""


@dataclass(frozen=True)
class Group:
    """The processes that train one model, as one of them sees it; by default it is alone.

    Every method but ``first`` is called by all processes, in the same order.

    Attributes:
        rank: Which of them this one is; 0 is the first, which writes.
        size: How many there are.
        local_rank: Which of those on this machine it is; its GPU has that number.
        local_size: How many there are on this machine.
        store: The engine's store, which outlives a process of several.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: Store | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> None:
        """Put the sum over all processes in a tensor's place; equal on all of them to the bit.

        Raises:
            ProcessLostError: If one of them is not there any more.
        """
        if self.size == 1:
            return
        try:
            dist.all_reduce(tensor)
        except RuntimeError as error:
            minutes = PATIENCE.total_seconds() / 60
            raise ProcessLostError(
                f"one of the {self.size} processes was killed, failed, or did not answer for {minutes:g} minutes "
                "(torchrun says which)"
            ) from error

    def exchange(self, words: str = "") -> list[str]:
        """What every process says, the first one first. None goes on before all have spoken.

        Raises:
            ProcessLostError: If one of them is not there any more.
        """
        if self.size == 1:
            return [words]
        # By sums, for those notice at once that a process is gone, and a store that is asked for a word waits.
        said = torch.tensor(list(words.encode()), dtype=torch.uint8)
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(said)
        self.sum(lengths)
        letters = torch.zeros(self.size, int(lengths.max()), dtype=torch.uint8)
        letters[self.rank, : len(said)] = said
        self.sum(letters)
        return [bytes(row[:length].tolist()).decode() for row, length in zip(letters, lengths, strict=True)]

    def require_same(self, facts: Mapping[str, str], mending: str) -> None:
        """Refuse to go on where a fact, such as a digest of the data, is another one elsewhere.

        Raises:
            ValueError: Naming the fact, the first process where it differs, and what mends it.
        """
        for name, value in facts.items():
            first, *others = self.exchange(value)
            for rank, other in enumerate(others, 1):
                if other != first:
                    raise ValueError(
                        f"the processes differ in their {name}: process 0 has {first[:12]}, process {rank} has "
                        f"{other[:12]}; {mending}."
                    )

    def first(self, event: str) -> bool:
        """Whether no other process has said this of an event before."""
        if self.store is None:
            return True
        try:
            return bool(self.store.add(f"sri_pyro/first/{event}", 1) == 1)
        except RuntimeError:  # nobody is left to say it
            return True


ALONE = Group()


def sum_gradients(group: Group, parameters: Sequence[nn.Parameter], numbers: Tensor) -> Tensor:
    """Put the sums of gradients over all processes in their places, and give those of some numbers; one all-reduce.

    A parameter that no process has a gradient for keeps none, so that an optimiser leaves it alone.

    Args:
        group: The processes.
        parameters: The same ones, in the same order, on each.
        numbers: Shape [n]; they travel in the precision of the gradients, which is exact for counts up to 2^24.

    Returns:
        The sums of the numbers, shape [n].
    """
    if group.size == 1:
        return numbers
    learning = [p for p in parameters if p.requires_grad]
    dtype, device = torch.float32, numbers.device
    for parameter in learning:
        dtype, device = torch.promote_types(dtype, parameter.dtype), parameter.device
    reached = torch.tensor([p.grad is not None for p in learning])
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
    pieces = [*gradients, reached, numbers]
    flat = torch.cat([piece.detach().reshape(-1).to(device, dtype) for piece in pieces])
    group.sum(flat)
    *sums, reaching, totals = torch.split(flat, [piece.numel() for piece in pieces])
    for parameter, gradient, anybody in zip(learning, sums, reaching.tolist(), strict=True):
        parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if anybody else None
    return totals.to(numbers)


@contextmanager
def joined() -> Iterator[Group]:
    """Meet the processes that torchrun started with this one; a process that it did not start is alone.

    Example:
        >>> with joined() as group:
        ...     print(group.rank, "of", group.size)
        0 of 1

    Raises:
        ValueError: If there should be several, and torchrun did not start them.
        ProcessLostError: If the others do not come.
    """
    size = int(os.environ.get("WORLD_SIZE") or 1)
    if size == 1:
        yield ALONE
        return
    if not dist.is_torchelastic_launched():
        raise ValueError(
            f"WORLD_SIZE is {size}, and torchrun did not start this process; start all of them by {LAUNCH}, or unset "
            "WORLD_SIZE."
        )
    from torch.distributed.rendezvous import rendezvous  # not every build of PyTorch has it

    try:
        store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    except (RuntimeError, ValueError) as error:
        raise ProcessLostError(f"the {size} processes did not find each other ({error})") from None
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    with member(Group(rank, size, local_rank, local_size, store)) as group:
        yield group


@contextmanager
def member(group: Group) -> Iterator[Group]:
    """Open the engine for a group that has a store, and close it at the end; a failed process leaves it as it is."""
    from torch.distributed.distributed_c10d import PrefixStore

    assert group.store is not None
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    group.store.set_timeout(PATIENCE)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo",
        store=PrefixStore("engine", group.store),
        rank=group.rank,
        world_size=group.size,
        timeout=PATIENCE,
    )
    yield group
    dist.destroy_process_group()
