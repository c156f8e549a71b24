"""What the tests of data share: a text on disk, and the sentences of a split."""

from pathlib import Path

from sri_pyro.data import Corpus


def write(path: Path, lines: list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def texts(corpus: Corpus, split: str) -> list[str]:
    return [corpus.text(split, i) for i in range(len(corpus.splits[split]))]
