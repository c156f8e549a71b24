"""Ids, order, the special symbols, and the file."""

import hashlib
import os
import re
from pathlib import Path

import pytest

from sri_pyro.data import DataError, Vocabulary
from sri_pyro.types import EOS, SPECIAL_SYMBOLS, UNK


def test_frequency_orders_the_words_and_first_appearance_breaks_ties() -> None:
    sentences = [["b", "c", "a"], ["c", "a", "d"]]
    assert Vocabulary.build(sentences).words == (*SPECIAL_SYMBOLS, "c", "a", "b", "d")
    assert Vocabulary.build(sentences, min_count=2).words == (*SPECIAL_SYMBOLS, "c", "a")
    assert Vocabulary.build(sentences, max_size=5).words == (*SPECIAL_SYMBOLS, "c")


def test_user_text_cannot_forge_a_special_symbol() -> None:
    """A program that looks up the literal would put EOS or PAD inside a sentence."""
    vocabulary = Vocabulary.build([["</s>", "a", "<pad>", "<s>", "<unk>"]])
    assert vocabulary.words == (*SPECIAL_SYMBOLS, "a")
    assert vocabulary.encode(["<s>", "a", "<pad>", "</s>", "<unk>", "b"]) == [
        UNK, 4, UNK, UNK, UNK, UNK, EOS,
    ]  # fmt: skip


def test_decode_inverts_encode_and_refuses_foreign_ids() -> None:
    vocabulary = Vocabulary.build([["x", "y"]])
    assert vocabulary.decode(vocabulary.encode(["y", "x", "y"])) == ["y", "x", "y"]
    message = "token id 6 is outside the vocabulary of 6 entries; decode with the vocabulary the tokens were made with."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        vocabulary.decode([4, 6])


def test_a_saved_vocabulary_comes_back_and_its_digest_is_the_files(tmp_path: Path) -> None:
    vocabulary = Vocabulary.build([["één", "'s", "\ufeffx", "."]])
    path = tmp_path / "vocabulary.txt"
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary
    assert hashlib.sha256(path.read_bytes()).hexdigest() == vocabulary.digest


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vocabulary.txt"
    old = Vocabulary.build([["old"]])
    old.save(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        Vocabulary.build([["new"]]).save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert Vocabulary.load(path) == old


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\n", "a vocabulary begins with <pad> <unk> <s> </s>; got a b."),
        ("<pad>\n<unk>\n<s>\n</s>\na\na\n", "the vocabulary lists 'a' more than once; each word has one id."),
        ("<pad>\n<unk>\n<s>\n</s>\na b\n", "entry 4 of the vocabulary is not one word: 'a b'."),
        ("<pad>\n<unk>\n<s>\n</s>\n\n", "entry 4 of the vocabulary is not one word: ''."),
    ],
)  # fmt: skip
def test_what_is_no_vocabulary_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "v.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=f"^{re.escape(f'{path} is not a vocabulary: {message}')}$"):
        Vocabulary.load(path)


def test_no_room_for_a_word_is_an_error() -> None:
    message = "a vocabulary needs room for 4 special symbols and a word; got a largest size of 4."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        Vocabulary.build([["a"]], max_size=4)
