"""Gathered a block at a time, a corpus is the one that its definition says; what stays in memory is a few bytes."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sri_pyro.data import Corpus, DataError, TextFile, columns, gathering, reading
from sri_pyro.data.ranks import Seen, keyed_ranks
from tests.data.helpers import write
from tests.data.reference import expected

WORDS = [
    "a",
    "b",
    "The",
    "the",
    "Cat.",
    "don’t",
    "!!",
    "<unk>",
    "</s>",
    "<pad>",
    "ΣΑΣ",
    "x\u2028y",
    "3.5",
    "²",
]


@pytest.fixture
def tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces and blocks so small that every boundary falls everywhere: into a word, a sentence, a split."""
    monkeypatch.setattr(columns, "PIECE", 7)
    monkeypatch.setattr(gathering, "_BLOCK", 11)
    monkeypatch.setattr(reading, "_BLOCK", 13)


def random_text(random: np.random.Generator, sentences: int, labelled: bool) -> list[str]:
    lines = ["", "  "]
    for _ in range(sentences):
        words = random.choice(WORDS, size=random.choice([0, 1, 2, 2, 3, 3, 4, 9]))
        label = f"{random.choice(['pos', 'neg', ' neu '])}\t" if labelled else ""
        lines.append(label + random.choice([" ", "  "]).join(words))
    return [*lines, *lines[: sentences // 3], lines[-1] or "pos\ta b"]  # an empty last line is none


def agree(corpus: Corpus, texts: dict[str, list[str]], options: TextFile) -> None:
    wanted = expected(texts, options)
    assert list(corpus.vocabulary.words[4:]) == wanted.words
    for name, split in corpus.splits.items():
        assert [split.sentence(i).tolist() for i in range(len(split))] == wanted.rows[name]
        assert split.ids.tolist() == list(range(len(split)))
        numbers = [-1] * len(split) if split.labels is None else split.labels.tolist()
        assert [corpus.label_names[n] if n >= 0 else None for n in numbers] == wanted.labels[name]
    assert corpus.provenance.counts == wanted.counts
    assert corpus.provenance.shared_with_train == wanted.shared


OPTIONS: list[dict[str, Any]] = [
    {},
    {"tokenize": "words", "lowercase": True},
    {"drop_duplicates": False, "min_count": 2, "seed": 2**62},
    {"max_length": 3, "too_long": "truncate", "min_length": 2},
    {"max_length": 3, "max_vocabulary": 13, "test_fraction": 0.3, "valid_fraction": 0.45},
    {"max_sentences": 40, "max_length": None},
    {"max_sentences": 40, "max_length": 4, "drop_duplicates": False},
    {"labelled": "no", "tokenize": "words"},
]


@pytest.mark.usefixtures("tiny_pieces")
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "defaults")
@pytest.mark.parametrize(
    "given", [(), ("valid",), ("valid", "test")], ids=lambda given: "+".join(given) or "one"
)
@pytest.mark.parametrize("stored", [False, True], ids=["memory", "store"])
def test_a_corpus_is_what_its_definition_says(
    tmp_path: Path, options: dict[str, Any], given: tuple[str, ...], stored: bool
) -> None:
    """Oracle: the definition on words, sets and lists. Catches a wrong tie, copy, count or order of any kind.

    Lines end in ``\\r\\n``, the last one in nothing.
    """
    random = np.random.default_rng(len(options) + 10 * len(given))
    for labelled in (False, True):
        texts, paths = {}, {}
        for name in ("test", "valid", "train"):
            if name == "train" or name in given:
                texts[name] = random_text(random, 150 if name == "train" else 30, labelled)
                path = tmp_path / f"{name}{labelled}"
                path.write_bytes("\r\n".join(texts[name]).encode())
                paths["path" if name == "train" else f"{name}_path"] = str(path)
        cache = {"cache": str(tmp_path / "cache")} if stored else {}
        source = TextFile(**{"min_count": 1, **paths, **options, **cache})
        agree(source.load(), texts, source)
        if stored:
            agree(source.load(), texts, source)  # out of the store


def test_what_stands_behind_the_last_sentence_wanted_is_never_judged(tmp_path: Path) -> None:
    """The old word of the limit: nothing is read behind it. A block that is judged whole would refuse the text."""
    good = [f"w{i} a b" for i in range(12)]
    for bad, options, message in (
        ("a b c d e", {"max_length": 4, "too_long": "error"}, "line 13 of {} has 5 words where max_length"),
        ("no label", {"labelled": "yes"}, "line 13 of {} has no label and tab"),
    ):
        lines = [f"x\t{line}" for line in good] if "labelled" in options else good
        path = write(tmp_path / "text", [*lines, bad])
        corpus = TextFile(path=path, min_count=1, max_sentences=12, **options).load()
        assert corpus.provenance.counts["train"] == {"read": 12, "kept": 12}
        with pytest.raises(DataError, match=message.format(path)):
            TextFile(path=path, min_count=1, max_sentences=13, **options).load()


@pytest.mark.usefixtures("tiny_pieces")
def test_copies_are_found_in_whatever_block_the_first_one_stood() -> None:
    """Oracle: a set of Python's. Catches a rank that is lost while runs are merged, and one in two runs."""
    random = np.random.default_rng(0)
    seen, known = Seen(), set[int]()
    for size in random.integers(0, 40, size=300):
        ranks = random.integers(0, 4000, size=size).astype(np.uint64)
        fresh = []
        for rank in ranks.tolist():
            fresh.append(rank not in known)
            known.add(rank)
        assert seen.fresh(ranks).tolist() == fresh


def test_sentences_of_one_rank_are_copies_and_ranks_are_those_of_the_policy() -> None:
    """Pinned, since every split of every run hangs on them: computed with Python's hashlib alone."""
    ranks = keyed_ranks([("a", "rose"), ("a",)], 7, b"split")
    assert [hex(rank) for rank in ranks] == ["0x21db5e474801e06", "0x95f38a6e49511a49"]


def peak(source: TextFile) -> int:
    tracemalloc.start()
    try:
        source.load()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_memory_grows_by_a_few_bytes_a_sentence_and_not_with_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty words make 80 bytes of tokens, and 400 of text: a program that holds either fails.

    What may be held for each sentence: its rank three times while copies are merged, its id and its place, and two
    masks.
    """
    for module, name in ((columns, "PIECE"), (gathering, "_BLOCK"), (reading, "_BLOCK")):
        monkeypatch.setattr(module, name, 1 << 10)
    random = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(500)])
    lines = [" ".join(row) for row in words[random.integers(0, 500, size=(20_000, 20))]]
    peaks = [
        peak(TextFile(path=write(tmp_path / f"{n}", lines[:n]), cache=str(tmp_path / "cache")))
        for n in (5_000, 20_000)
    ]
    assert (peaks[1] - peaks[0]) / 15_000 < 40
