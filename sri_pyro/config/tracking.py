"""Tracking: the records of training as TensorBoard scalars, for those who watch many runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from sri_pyro.config.schema import ConfigError


def tensorboard_watch(folder: Path) -> Callable[[Mapping[str, float | str]], None]:
    """Make a watcher that writes every number of every record to ``folder/tensorboard``, by its step.

    A stage of training before, whose steps count for themselves, has a folder of its own in there.

    Writing begins with the first record, so that a run which cannot start leaves nothing behind; what a
    stopped run wrote beyond its last checkpoint is purged when it goes on.

    Raises:
        ConfigError: If the optional package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        missing = (
            'TensorBoard is not installed; pip install "sri_pyro[tensorboard]", or leave --tensorboard out. The '
            "same records stand in history.jsonl."
        )
        raise ConfigError([missing]) from None
    writers: dict[str, SummaryWriter] = {}

    def watch(record: Mapping[str, float | str]) -> None:
        step, stage = int(record["step"]), str(record.get("stage", ""))
        if stage not in writers:
            writers[stage] = SummaryWriter(str(folder / "tensorboard" / stage), purge_step=step)
        for name, value in record.items():
            if isinstance(value, float | int) and name != "step":
                writers[stage].add_scalar(f"{record['kind']}/{name}", value, step)
        writers[stage].flush()

    return watch
