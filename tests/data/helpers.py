"""What the tests of data share: a text on disk, the sentences of a split, the stores of a cache."""

from pathlib import Path

from sri_pyro.data import Corpus


def write(path: Path, lines: list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def texts(corpus: Corpus, split: str) -> list[str]:
    return [corpus.text(split, i) for i in range(len(corpus.splits[split]))]


def stores(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if not path.name.endswith(".lock"))
