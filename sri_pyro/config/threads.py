"""Threads: how many compute for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Fix how many threads compute for a while, since sums in another order are other sums.

    It is not idle to set the number that there already is: until a number is set, PyTorch leaves it to MKL to
    take fewer. A run that is begun sets it as the one that is continued does, so that both compute alike.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
