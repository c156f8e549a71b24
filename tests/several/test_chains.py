"""Persistent chains with one process, two and four: all keep the same chains, and those that one process keeps."""

from typing import Any

import pytest
import torch

from tests.several.chains import persisted
from tests.several.starting import values
from tests.several.work import BATCHES, STEEP_BATCHES


@pytest.fixture(scope="module")
def found() -> dict[int, list[dict[str, Any]]]:
    """By number of processes, what each found."""
    return {size: values(size, persisted) for size in (1, 2, 4)}


@pytest.mark.parametrize("size", [2, 4])
def test_all_processes_keep_the_chains_that_one_keeps(size: int, found: dict[int, Any]) -> None:
    """Oracle: one process. Catches chains that stay where they were run, or land on another sentence.

    Operations are element by element and round alike however a batch is cut; weights agree to rounding, since
    gradients are summed in another order, and chains follow the weights.
    """
    alone, several = found[1][0], found[size]
    assert len({one["digest"] for one in several}) == 1
    visited = torch.cat([batch.ids for batch in [*BATCHES, *STEEP_BATCHES]]).unique()
    for one in several:
        assert torch.tensor(one["begun"]).nonzero()[:, 0].tolist() == visited.tolist()
        assert one["begun"] == alone["begun"]
        assert one["scale"] == alone["scale"]
        assert one["next draw"] == alone["next draw"]
        for name in ("chains", *alone["weights"]):
            mine, theirs = (it[name] if name == "chains" else it["weights"][name] for it in (one, alone))
            torch.testing.assert_close(torch.tensor(mine), torch.tensor(theirs), rtol=0, atol=1e-5)
    assert torch.tensor(alone["chains"])[visited].abs().min() > 0
