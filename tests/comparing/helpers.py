"""What the tests of a comparison share: tiny systems on a tiny text, and processes that are calls."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sri_pyro.cli import main
from sri_pyro.comparing import jobs
from sri_pyro.comparing.jobs import PROGRAM
from tests.cli.helpers import DATA, SENTENCES

REST = """
[training]
epochs = {epochs}
batch_size = 16
checkpoint_every = 1
[validation]
num_sentences = 6
num_samples = 8
pilot_chains = 4
[evaluation]
num_chains = 8
traced_sentences = 0
exported_draws = 8
"""
LATENT = """
[model]
prior.dim = {dim}
decoder = {{ kind = "lstm", embedding = 4, hidden = 6, max_length = 8 }}
[inference]
num_steps = 3
"""
SYSTEMS = {
    "lm": ('preset = "language_model"\n', "[model]\ndecoder.embedding = 4\ndecoder.hidden = 6\n", ""),
    "two": (
        "",
        LATENT.format(dim=2),
        'estimator = { kind = "gaussian", num_samples = 200, pilot_chains = 8 }\n',
    ),
    "three": (
        "",
        LATENT.format(dim=3),
        'estimator = { kind = "gaussian", num_samples = 200, pilot_chains = 8 }\n',
    ),
}


def write_systems(folder: Path, epochs: int = 2) -> list[Path]:
    """Three files that agree in data and evaluation: a language model and two with codes."""
    (folder / "text.txt").write_text("\n".join(SENTENCES) + "\n")
    paths = []
    for name, (head, model, estimator) in SYSTEMS.items():
        path = folder / f"{name}.toml"
        text = head + DATA.format(path=folder / "text.txt") + model + REST.format(epochs=epochs) + estimator
        path.write_text(text)
        paths.append(path)
    return paths


class Calls:
    """In place of processes: each command is called here and now, unless it is planted that it fails."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.failing: Callable[[Sequence[str]], bool] = lambda words: False

    def __call__(self, words: Sequence[str], *, stdout: Any, **_: Any) -> Ended:
        assert tuple(words[: len(PROGRAM)]) == PROGRAM
        own = list(words[len(PROGRAM) :])
        self.commands.append(own)
        if self.failing(own):
            stdout.write(b"sri-pyro: planted: this one fails\n")
            return Ended(2)
        with open(stdout.fileno(), "w", closefd=False) as log, contextlib.redirect_stdout(log):
            return Ended(main(own))

    @property
    def told(self) -> list[str]:
        """The commands, by what they do and to which run."""
        return [
            f"{words[0]} {re.findall(r'[a-z]+/seed-[0-9]+', ' '.join(words))[-1]}" for words in self.commands
        ]


def called(patch: pytest.MonkeyPatch) -> Calls:
    """Have processes called, and no report drawn, which takes most of the time of an evaluation so small."""
    found = Calls()
    patch.setattr(jobs, "Popen", found)
    patch.setattr("sri_pyro.evaluation.report.write_report", _empty_report)
    return found


def _empty_report(folder: Path, title: str) -> Path:
    (folder / "report.html").write_text(title)
    return folder / "report.html"


class Ended:
    """A process that has ended."""

    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int:
        return self.code


def untimed(folder: Path) -> dict[str, Any]:
    """All that a comparison wrote, without wall times."""
    record = json.loads((folder / "comparison.json").read_text())
    for system in record["systems"]:
        system["over_seeds"].pop("training_seconds")
        for seed in system["seeds"]:
            seed["cost"].pop("training_seconds")
    csv = [line.rsplit(",", 1)[0] for line in (folder / "table.csv").read_text().splitlines()]
    return {"json": record, "csv": csv}
