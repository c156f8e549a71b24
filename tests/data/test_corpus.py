"""From lines to a corpus: splits, duplicates, vocabulary, lengths and labels, and further texts encoded alike."""

from collections import Counter
from pathlib import Path

import pytest

from sri_pyro.data import DataError, TextFile, TextOptions, Vocabulary, encode_text, read_lines
from tests.data.helpers import texts, write
from tests.oracles import sentence


def test_splits_depend_on_words_and_seed_not_on_the_order(tmp_path: Path, lines: list[str]) -> None:
    """Shuffling the rows with a generator would pass everything but this."""
    forth = TextFile(path=write(tmp_path / "a", lines), min_count=1).load()
    back = TextFile(path=write(tmp_path / "b", lines[::-1]), min_count=1).load()
    other = TextFile(path=write(tmp_path / "a", lines), min_count=1, seed=1).load()
    assert [len(s) for s in forth.splits.values()] == [113, 6, 6]
    for name in forth.splits:
        assert set(texts(forth, name)) == set(texts(back, name))
    assert set(texts(forth, "test")) != set(texts(other, "test"))
    assert texts(forth, "train") == [x for x in lines if x in set(texts(forth, "train"))]


@pytest.mark.parametrize("drop", [True, False])
def test_copies_never_straddle_splits(tmp_path: Path, lines: list[str], drop: bool) -> None:
    path = write(tmp_path / "text", lines + lines[:60] + lines[:30])
    corpus = TextFile(path=path, min_count=1, drop_duplicates=drop).load()
    parts = [set(texts(corpus, name)) for name in corpus.splits]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 125
    assert sum(map(len, corpus.splits.values())) == (125 if drop else 215)
    counts = corpus.provenance.counts["train"]
    assert counts == {"read": 215, "kept": 125, "duplicate": 90} if drop else {"read": 215, "kept": 215}


def test_given_files_give_way_to_the_test_file_or_stay_whole(tmp_path: Path) -> None:
    paths = {
        "path": write(tmp_path / "train", ["a b", "a c", "b c", "c c"]),
        "valid_path": write(tmp_path / "valid", ["a c", "b b"]),
        "test_path": write(tmp_path / "test", ["b b", "c c", "b b"]),
    }
    clean = TextFile(**paths, min_count=1).load()
    assert texts(clean, "train") == ["a b", "b c"]
    assert texts(clean, "valid") == ["a c"]
    assert texts(clean, "test") == ["b b", "c c"]
    assert clean.provenance.counts["train"]["in_another_split"] == 2
    whole = TextFile(**paths, min_count=1, drop_duplicates=False).load()
    assert [len(s) for s in whole.splits.values()] == [4, 2, 3]
    assert whole.provenance.shared_with_train == {"valid": 1, "test": 1}


def test_the_vocabulary_is_the_training_splits_alone(tmp_path: Path) -> None:
    corpus = TextFile(
        path=write(tmp_path / "a", ["x y", "y z"]),
        valid_path=write(tmp_path / "b", ["x new"]),
        test_path=write(tmp_path / "c", ["y z new"]),
        min_count=1,
    ).load()
    assert corpus.vocabulary.words[4:] == ("y", "x", "z")
    assert corpus.valid.unknown_share == 0.5
    assert corpus.test.unknown_share == pytest.approx(1 / 3)


def test_lengths_truncation_and_the_first_sentences(tmp_path: Path) -> None:
    path = write(tmp_path / "a", ["one", *(f"w{i} b c d" for i in range(30)), "", "1 2 3 4 5 6"])
    cut = TextFile(path=path, min_length=2, max_length=5, too_long="truncate").load()
    assert cut.provenance.counts["train"] == {
        "read": 33, "too_short": 1, "kept": 31, "blank": 1, "truncated": 1,
    }  # fmt: skip
    first = TextFile(path=path, max_sentences=12, min_count=1).load()
    assert sum(map(len, first.splits.values())) == 12
    assert first.provenance.counts["train"]["read"] == 12, "what is not wanted is not read"


def test_one_endless_line_is_left_out_unless_the_limit_is_lifted(tmp_path: Path) -> None:
    """Without a limit of its own, a text with one line of 5,000 words pads a batch to 5,000."""
    path = tmp_path / "text.txt"
    path.write_text("\n".join([f"sentence number {i} here" for i in range(60)] + ["here " * 5000]))
    corpus = TextFile(path=str(path), min_count=1).load()
    assert corpus.provenance.options["max_length"] == 100
    assert corpus.provenance.counts["train"] == {"read": 61, "kept": 60, "too_long": 1}
    counts: Counter[str] = Counter()
    split = encode_text(path.read_text().splitlines(), corpus.vocabulary, corpus.options, counts=counts)
    assert len(split) == 60
    assert (counts["read"], counts["too_long"]) == (61, 1)
    whole = TextFile(path=str(path), min_count=1, max_length=None).load()
    assert sum(map(len, whole.splits.values())) == 61


def test_labels_are_read_named_and_kept_with_their_sentences(tmp_path: Path) -> None:
    every = [f"{'neg' if i % 3 else 'pos'}\tw{i} is here" for i in range(60)]
    corpus = TextFile(path=write(tmp_path / "a", every), min_count=1).load()
    assert corpus.label_names == ("neg", "pos")
    assert corpus.train.labels is not None
    for i in range(len(corpus.train)):
        number = int(corpus.text("train", i).split()[0][1:])
        assert corpus.label_names[corpus.train.labels[i]] == ("neg" if number % 3 else "pos")
    plain = TextFile(path=str(tmp_path / "a"), labelled="no", min_count=1).load()
    assert plain.label_names == ()
    assert plain.train.labels is None


def test_a_further_text_keeps_its_line_numbers_copies_and_short_lines() -> None:
    vocabulary = Vocabulary.build([["a", "b"]])
    options = TextOptions(min_length=2, max_length=3)
    split = encode_text(["good\ta b", "", "bad\ta", "x\ta b", "x\ta b a b"], vocabulary, options)
    assert split.ids.tolist() == [0, 2, 3]
    assert [split.sentence(i).tolist() for i in range(3)] == [[4, 5, 3], [4, 3], [4, 5, 3]]
    with pytest.raises(DataError, match=r"^every sentence of the text is longer than max_length = 3"):
        encode_text(["a b a b"], vocabulary, options)
    with pytest.raises(DataError, match=r"^the text has no sentence; give one a line\.$"):
        encode_text(["", " "], vocabulary, options)


# --- texts of which no corpus can be made ----------------------------------------------------------


def test_a_text_with_nothing_usable_says_why(tmp_path: Path) -> None:
    long = write(tmp_path / "long", ["a b c d", "e f g h", ""])
    blank = write(tmp_path / "blank", ["", "  "])
    few = write(tmp_path / "few", ["a b", "a b", "c d"])
    rare = write(tmp_path / "rare", [f"w{i}" for i in range(20)])
    cases = [
        (
            {"path": long, "max_length": 3},
            f"every sentence of {long} is longer than max_length = 3 words; raise it, set too_long to "
            '"truncate", or give one sentence a line.',
        ),
        (
            {"path": long, "max_length": 3, "too_long": "error"},
            f"line 1 of {long} has 4 words where max_length allows 3; raise max_length, or set too_long "
            'to "drop" or "truncate".',
        ),
        ({"path": blank}, f"{blank} has no sentence; give one a line."),
        (
            {"path": few},
            "too few sentences to split: 2 distinct ones are left and at least 10 are needed; give more "
            "text, or a file for each split.",
        ),
        (
            {"path": few, "valid_path": few, "test_path": rare, "min_count": 1},
            "no sentence is left for train (26 read, 22 kept, 1 duplicate, 3 in_another_split); give more "
            "text, or relax min_length, max_length or drop_duplicates.",
        ),
        ({"path": rare}, "no word stands 2 times in the training split; lower min_count."),
    ]
    for options, message in cases:
        with pytest.raises(DataError, match=sentence(message)):
            TextFile(**options).load()


def test_a_line_without_its_label_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a", ["x\tone", "", "two"])
    message = (
        f"line 3 of {path} has no label and tab, which a labelled text needs; write label TAB sentence "
        'in every line, or in none (with data.labelled = "no" tabs are blanks).'
    )
    with pytest.raises(DataError, match=sentence(message)):
        TextFile(path=path).load()


def test_a_test_file_in_another_language_is_refused(tmp_path: Path, lines: list[str]) -> None:
    foreign = write(tmp_path / "b", ["ganz und gar a"])
    message = (
        f"75% of the words of {foreign} are not in the vocabulary; it is probably of another language "
        "or tokenisation than the text trained on."
    )
    with pytest.raises(DataError, match=sentence(message)):
        TextFile(path=write(tmp_path / "a", lines), test_path=foreign).load()
    vocabulary = Vocabulary.build([line.split() for line in lines])
    with pytest.raises(DataError, match=sentence(message)):
        encode_text(read_lines(foreign), vocabulary, TextOptions(), name=foreign)
