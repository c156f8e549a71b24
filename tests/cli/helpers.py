"""What the tests of the command line share: a tiny text, a tiny run, and how a refusal looks."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SENTENCES = [
    f"{who} {what} {where} ."
    for who in ("the cat", "a dog", "my friend", "the old man")
    for what in ("sits", "sleeps", "waits", "runs", "sings")
    for where in ("at home", "in the garden", "under a tree", "by the sea")
]
DATA = """
[data]
kind = "text"
path = "{path}"
max_length = 12
valid_fraction = 0.2
test_fraction = 0.2
"""
TINY = (
    DATA
    + """[model]
prior.dim = 2
decoder = {{ kind = "lstm", embedding = 4, hidden = 6, max_length = 8 }}
[inference]
num_steps = 3
[training]
epochs = 2
batch_size = 32
checkpoint_every = 2
[validation]
num_sentences = 6
num_samples = 8
pilot_chains = 4
[evaluation]
num_sentences = 8
num_chains = 8
traced_sentences = 2
traced_chains = 8
exported_draws = 8
estimator = {{ kind = "gaussian", num_samples = 40, pilot_chains = 8 }}
"""
)


class Said(NamedTuple):
    code: int
    out: str
    err: str


Say = Callable[..., Said]


def write_config(folder: Path) -> Path:
    (folder / "text.txt").write_text("\n".join(SENTENCES) + "\n")
    (folder / "run.toml").write_text(TINY.format(path=folder / "text.txt"))
    return folder / "run.toml"


def refused(said: Said, sentence: str) -> None:
    assert said.code == 2, said
    assert said.err.strip().splitlines()[-1] == f"sri-pyro: {sentence}"
    assert "Traceback" not in said.err
