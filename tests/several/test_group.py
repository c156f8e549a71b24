"""A group of processes: what they say and sum, who may speak, and what a wrong start is told."""

import pytest
import torch
from torch import nn

from sri_pyro import processes
from sri_pyro.config import ConfigError
from sri_pyro.config.build import find_device
from sri_pyro.processes import ALONE, Group, joined, sum_gradients
from tests.oracles import sentence
from tests.several.starting import together, values
from tests.several.work import exchanged, of_unlike_seeds


@pytest.mark.parametrize("size", [2, 3])
def test_words_and_sums_reach_everybody(size: int) -> None:
    """Oracle: arithmetic. A parameter that one process has a gradient for gets it everywhere; one that none has, none.

    Catches words out of order, two that are first, a sum that forgets the precision of a parameter.
    """
    found = values(size, exchanged)
    total = size * (size + 1) / 2
    for words, _, sums in found:
        assert words == [f"I am {rank}" for rank in range(size)]
        assert sums == [total, 10 * total, 0.1, 0.25 * size, total - size]
    firsts = [one for _, one, _ in found]
    assert [sum(asked) for asked in zip(*firsts, strict=True)][::2] == [1, 1]
    assert not any(second for _, second, _ in firsts)


def test_one_alone_is_first_and_sums_nothing() -> None:
    weight, numbers = nn.Parameter(torch.ones(1)), torch.tensor([1.5])
    assert sum_gradients(ALONE, [weight], numbers) is numbers
    assert weight.grad is None
    assert ALONE.exchange("word") == ["word"]
    assert ALONE.first("a")
    assert ALONE.first("a")
    assert ALONE.leads
    ALONE.require_same({"data": "abc"}, "mend it")
    with joined() as group:
        assert group is ALONE


def test_processes_that_were_seeded_apart_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal weights, and generators that stand elsewhere: every step would have another key, unnoticed."""
    assert [one.error for one in together(2, of_unlike_seeds, 0)] == ["", ""]
    for one in together(2, of_unlike_seeds, 1):
        assert one.error.startswith("ValueError: the processes differ in their generator: process 0 has ")
        assert one.error.endswith("; seed them alike, draw alike, and compute on machines of one kind.")


def test_a_process_that_torchrun_did_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    said = (
        "WORLD_SIZE is 4, and torchrun did not start this process; start all of them by torchrun --nproc-per-node N -m "
        "sri_pyro train FILE --out FOLDER, or unset WORLD_SIZE."
    )
    with pytest.raises(ValueError, match=sentence(said)), joined():
        pass


def test_a_group_of_one_needs_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torchrun --nproc-per-node 1`` is a run like any other."""
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setattr(processes.dist, "init_process_group", None)
    with joined() as group:
        assert group is ALONE


def test_every_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    second = Group(rank=3, size=4, local_rank=1, local_size=2)  # of the second machine
    assert str(find_device("cuda", second)) == "cuda:1"
    assert str(find_device("cpu", second)) == "cpu"
    assert str(find_device("cuda:1")) == "cuda:1"
    with pytest.raises(ConfigError) as told:
        find_device("cuda:1", second)
    assert str(told.value) == (
        "device is 'cuda:1' and 4 processes need a GPU each; set device = 'cuda', of which each takes its own"
    )
    with pytest.raises(ConfigError) as told:
        find_device("cuda", Group(rank=3, size=4, local_rank=3, local_size=4))
    assert str(told.value) == (
        "there are 4 processes on this machine and 2 GPUs; start as many processes as there are GPUs, or set device = "
        "'cpu'"
    )
