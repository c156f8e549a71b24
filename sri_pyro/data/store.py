"""Token stores: the corpus of a large text on disk, made once and mapped into memory ever after.

A store is a folder in a cache. Its name is a digest of the texts' bytes and of the options that count, so that a
text that has changed is another store; the texts are read for it each time, about a second for a gigabyte. It
holds plain arrays and a header, and is taken only if the digest of the corpus is the one that was written: what
is damaged is made again. A store appears whole or not at all, and nothing that is mapped is ever written to, so
that processes may make, replace and use the same one at once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from sri_pyro.data.columns import mapped
from sri_pyro.data.corpus import SPLITS, Corpus, Provenance
from sri_pyro.data.encoding import COLUMNS
from sri_pyro.data.errors import DataError
from sri_pyro.data.reading import content_digest
from sri_pyro.data.split import Split
from sri_pyro.data.tokens import TextOptions
from sri_pyro.data.vocabulary import Vocabulary
from sri_pyro.writing import CACHE, cache_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # a module elsewhere

FORMAT: Final = 1
"""To be raised whenever the same text and options make another corpus, or a store is laid out otherwise."""

Build: TypeAlias = "Callable[[Path, Path, Mapping[str, hashlib._Hash]], Corpus]"


def default_cache() -> Path:
    """``tokens`` in the folder of what can be made again."""
    return cache_folder() / "tokens"


def stored_corpus(
    cache: Path,
    texts: Mapping[str, str],
    options: TextOptions,
    relevant: Mapping[str, Any],
    about: Provenance,
    build: Build,
) -> Corpus:
    """The corpus of some texts out of its store, which is made if it is missing or damaged.

    Args:
        cache: Where stores lie.
        texts: Files by their splits.
        options: How they are read.
        relevant: Those options that the corpus depends on, besides the texts' content.
        about: The record, but for the counts.
        build: Makes the corpus: its rows in one folder, its splits in another; the bytes that it reads of the
            text of each split go to a digest as well.

    Raises:
        DataError: If the store cannot be written, or what ``build`` says.
    """
    place = cache / _key({name: content_digest(path) for name, path in texts.items()}, relevant)
    if (corpus := _opened(place, options, about)) is not None:
        return corpus
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(place) as alone:
            if (corpus := _opened(place, options, about)) is not None:
                return corpus  # made by another process meanwhile
            if alone:
                _sweep(place)
            with tempfile.TemporaryDirectory(dir=cache, prefix=f".{place.name}.") as work:
                rows, splits = Path(work, "rows"), Path(work, "splits")
                rows.mkdir()
                splits.mkdir()
                digests = {name: hashlib.sha256() for name in texts}
                _write_header(build(rows, splits, digests), splits)
                # Named by what was read, which is another text if it was changed after the first look.
                place = cache / _key({name: digest.hexdigest() for name, digest in digests.items()}, relevant)
                _publish(splits, place)
    except OSError as error:
        raise DataError(
            f"the tokens of {', '.join(texts.values())} cannot be stored in {cache} "
            f"({error.strerror or error}); make room there, or name another folder with data.cache or the "
            f"environment variable {CACHE}."
        ) from None
    if (corpus := _opened(place, options, about)) is None:
        raise DataError(f"{place} is damaged as soon as it is written; name another folder with data.cache.")
    return corpus


def _key(contents: Mapping[str, str], relevant: Mapping[str, Any]) -> str:
    """The name of a store."""
    facts = {
        "format": FORMAT,
        "unicode": unicodedata.unidata_version,  # of this Python: what is white space, a letter, lower case
        "texts": contents,
        "options": relevant,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _write_header(corpus: Corpus, folder: Path) -> None:
    """Write what is to be known of a corpus besides its arrays, which are there."""
    corpus.vocabulary.save(folder / "vocabulary.txt")
    header: dict[str, Any] = {
        "sentences": {name: len(split) for name, split in corpus.splits.items()},
        "tokens": {name: split.num_tokens for name, split in corpus.splits.items()},
        "labels": corpus.label_names,
        "counts": corpus.provenance.counts,
        "shared_with_train": corpus.provenance.shared_with_train,
    }
    header = {"seal": _seal(header, corpus), **header}
    (folder / "header.json").write_text(json.dumps(header, indent=1), encoding="utf-8")


def _seal(header: Mapping[str, Any], corpus: Corpus) -> str:
    rest = {name: value for name, value in header.items() if name != "seal"}
    return hashlib.sha256(f"{json.dumps(rest, sort_keys=True)} {corpus.digest}".encode()).hexdigest()


def _opened(place: Path, options: TextOptions, about: Provenance) -> Corpus | None:
    """The corpus of a store; None if there is none, or it is not as it was written."""
    try:
        header = json.loads((place / "header.json").read_text(encoding="utf-8"))
        corpus = Corpus(
            **{name: _opened_split(place / name, header, name) for name in SPLITS},
            vocabulary=Vocabulary.load(place / "vocabulary.txt"),
            options=options,
            provenance=replace(about, counts=header["counts"], shared_with_train=header["shared_with_train"]),
            label_names=tuple(header["labels"]),
        )
        return corpus if header["seal"] == _seal(header, corpus) else None
    except (OSError, ValueError, LookupError, TypeError, AssertionError):  # a split asserts what holds for it
        return None


def _opened_split(file: Path, header: Mapping[str, Any], name: str) -> Split:
    sentences = header["sentences"][name]
    lengths = {"tokens": header["tokens"][name], "offsets": sentences + 1, "labels": sentences}
    arrays = {
        column: mapped(file.with_suffix(f".{column}"), dtype, lengths[column])
        for column, dtype in COLUMNS.items()
        if column != "labels" or header["labels"]
    }
    return Split(**arrays, ids=np.arange(sentences))


@contextmanager
def _locked(place: Path) -> Iterator[bool]:
    """Wait until no other process makes this store. False where there are no locks: then two may make it."""
    if fcntl is None:
        yield False
        return
    with place.with_name(f".{place.name}.lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # falls with the process, however that ends
        except OSError:  # a file system without locks
            yield False
            return
        yield True


def _sweep(place: Path) -> None:
    """Remove what killed processes left of this store."""
    for left in place.parent.glob(f".{place.name}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)


def _publish(splits: Path, place: Path) -> None:
    """Put a store where it belongs; if another process puts it there at the same time, that one stays."""
    with suppress(FileNotFoundError):
        place.rename(splits.with_name("damaged"))  # and is removed with the folder that it now lies in
    try:
        splits.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
