"""TensorBoard: what is written, oracle: the history's own records; and what is said where it is missing."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from sri_pyro.config import ConfigError, tensorboard_watch


class Writer:
    """Stands for ``SummaryWriter``: keeps what it is given."""

    made: ClassVar[list["Writer"]] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.scalars = folder, purge_step, []
        Writer.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None:
        pass


def test_every_number_is_written_under_its_kind_and_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Writer, "made", [])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    watch = tensorboard_watch(tmp_path)
    assert Writer.made == []  # a run that cannot start leaves nothing behind
    watch({"kind": "step", "step": 40, "loss": 7.5})
    watch({"kind": "validation", "step": 50, "nll": 6.25})
    watch({"kind": "event", "step": 60, "message": "no number"})
    watch({"kind": "step", "step": 3, "loss": 9.5, "stage": "before"})  # its steps are not those of the run
    writer, other = Writer.made
    assert (other.folder, other.purge_step) == (str(tmp_path / "tensorboard" / "before"), 3)
    assert other.scalars == [("step/loss", 9.5, 3)]
    assert writer.folder == str(tmp_path / "tensorboard")
    assert writer.purge_step == 40  # a resumed run takes these steps again
    assert writer.scalars == [("step/loss", 7.5, 40), ("validation/nll", 6.25, 50)]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        ConfigError, match=r'^TensorBoard is not installed; pip install "sri_pyro\[tensorboard\]", or'
    ):
        tensorboard_watch(tmp_path)
