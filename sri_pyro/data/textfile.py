"""The source that users bring: one text or three, read into memory or, if they are large, into a store."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal  # noqa: F401  # Literal stands in annotations of TextOptions, read here

from sri_pyro.data.corpus import Corpus, Provenance, build_corpus, check_known
from sri_pyro.data.errors import DataError
from sri_pyro.data.gathering import Gathering, check_lengths
from sri_pyro.data.reading import read_lines
from sri_pyro.data.rows import Part, Rows
from sri_pyro.data.store import default_cache, stored_corpus
from sri_pyro.data.tokens import Labelled, TextOptions, parse_lines

LARGE: Final = 1 << 24
"""Bytes of text that are read into memory, plain or gzip as they lie on disk; of more, the tokens are stored."""
FEW: Final = 100_000
"""The first so many sentences of any text are read into memory."""


@dataclass(frozen=True, kw_only=True)
class TextFile(TextOptions):
    """A user's text: plain or gzip UTF-8, one sentence a line, or ``label TAB sentence``.

    Splits that have a file of their own are read from it; the others are put aside from ``path``. With
    ``drop_duplicates``, a sentence of the test file is dropped from the validation and training files,
    and one of the validation file from the training file; without it, files stay as they are, and the
    record says how many sentences they share. ``max_sentences`` keeps the first of ``path``.

    A text of more than ``LARGE`` bytes is tokenised once, in bounded memory, and its tokens are kept on disk and mapped
    into memory; see ``sri_pyro.data.store``. Small ones, pipes, and the first ``FEW`` sentences of any text are
    read into memory each time, unless ``cache`` names a folder.

    Args:
        path: The training text.
        valid_path: The validation text; None to put some of ``path`` aside.
        test_path: The test text; None to put some of ``path`` aside.
        labelled: Whether lines begin with a label and a tab. ``auto`` looks at the first line that is
            not blank; then every line has to agree with it.
        cache: Folder that keeps the tokens of this text; None keeps those of texts above 16 MB alone, where
            SRI_PYRO_CACHE says or else in ~/.cache/sri_pyro.
    """

    path: str
    valid_path: str | None = None
    test_path: str | None = None
    labelled: Labelled = "auto"
    cache: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labelled not in ("auto", "yes", "no"):
            raise DataError(f"unknown labelled {self.labelled!r}; known: auto, no, yes")

    def load(self) -> Corpus:
        """Read the files.

        Raises:
            DataError: If a file is unusable, or too little is left of it.
        """
        paths = {"test": self.test_path, "valid": self.valid_path, "train": self.path}
        given = {name: path for name, path in paths.items() if path is not None}
        cache = default_cache() if self.cache is None else Path(self.cache).expanduser()
        if self.cache is None and self._bytes_to_read(given) <= LARGE:
            return self._read(given)
        irrelevant = ("path", "valid_path", "test_path", "cache")
        relevant = {name: value for name, value in asdict(self).items() if name not in irrelevant}
        about = Provenance.of("text", self, {}, files=given)
        return stored_corpus(cache, given, self, relevant, about, partial(self._read, given))

    def _bytes_to_read(self, given: Mapping[str, str]) -> int:
        """Of the files, as they lie there; 0 for a pipe, and for the first sentences of a file if they are few."""
        few = self.max_sentences is not None and self.max_sentences <= FEW
        files = [Path(path) for name, path in given.items() if not (name == "train" and few)]
        return sum(file.stat().st_size for file in files if file.is_file())

    def _read(
        self,
        given: Mapping[str, str],
        rows_in: Path | None = None,
        splits_in: Path | None = None,
        digests: Mapping[str, hashlib._Hash] = MappingProxyType({}),
    ) -> Corpus:
        """Make a corpus of the files of some splits, in folders if some are given."""
        gathering = Gathering(self.seed, rows_in)
        counts: dict[str, Counter[str]] = {name: Counter() for name in given}
        rows: dict[str, Rows] = {}
        for name, path in given.items():  # train last, so that it gives way to the others
            with closing(read_lines(path, digest=digests.get(name))) as lines:
                rows[name] = gathering.select(
                    parse_lines(lines, self, self.labelled, name=path),
                    self,
                    counts[name],
                    name=name,
                    source=path,
                    limit=self.max_sentences if name == "train" else None,
                    elsewhere=list(rows.values()),
                )
            check_lengths(counts[name], self, path)
        parts = {name: Part(part) for name, part in rows.items()}
        missing = {
            name: share
            for name, share in (("test", self.test_fraction), ("valid", self.valid_fraction))
            if name not in given
        }
        if missing:
            parts |= parts["train"].cut(missing)
        about = Provenance.of("text", self, counts, files=given)
        corpus = build_corpus(parts, gathering, self, about, folder=splits_in)
        for name in ("valid", "test"):
            if name in given:
                check_known(corpus.splits[name], given[name])
        return corpus
