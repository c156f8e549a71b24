"""A store gives the corpus that the text gives, never an old or damaged one, and appears whole or not at all."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sri_pyro.data import Corpus, LengthBuckets, TextFile, store
from tests.data.helpers import stores, write

ROOT = Path(__file__).parents[2]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The text of every corpus that is made from a text, and not taken from a store."""
    read: list[str] = []
    true = TextFile._read

    def counting(self: TextFile, *args: object) -> Corpus:
        read.append(self.path)
        return true(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(TextFile, "_read", counting)
    return read


def test_a_text_is_read_once_and_mapped_ever_after(source: TextFile, cache: Path, made: list[str]) -> None:
    """Oracle: the corpus in memory. Catches what a store forgets: labels, counts, vocabulary, shared sentences."""
    first, second = source.load(), source.load()
    assert len(made) == 1
    plain = TextFile(path=source.path, min_count=1).load()
    for corpus in (first, second):
        assert corpus.digest == plain.digest
        record = corpus.record()
        assert record["options"].pop("cache") == str(cache)
        plain_record = plain.record()
        assert plain_record["options"].pop("cache") is None
        assert record == plain_record
        assert corpus.vocabulary == plain.vocabulary
        for split in corpus.splits.values():
            assert split.labels is not None
            for array in (split.tokens, split.offsets, split.labels):
                assert isinstance(array.base, np.memmap)
                assert not array.flags.writeable
    batches = LengthBuckets(second.train, 8, seed=0).epoch(0)
    in_memory = LengthBuckets(plain.train, 8, seed=0).epoch(0)
    for one, other in zip(batches, in_memory, strict=True):
        assert one.tokens.equal(other.tokens)
        assert one.ids.equal(other.ids)


def test_the_content_counts_and_not_where_it_lies(tmp_path: Path, source: TextFile, made: list[str]) -> None:
    source.load()
    copy = tmp_path / "copy"
    copy.write_bytes(Path(source.path).read_bytes())
    moved = TextFile(path=str(copy), min_count=1, cache=source.cache).load()
    assert len(made) == 1
    assert moved.record()["origin"] == {"files": {"train": str(copy)}}
    assert moved.record()["options"]["path"] == str(copy)


def test_a_changed_text_or_option_is_another_store(source: TextFile, made: list[str]) -> None:
    """A key of names, times or sizes serves the old tokens: here all three stay what they were."""
    path = Path(source.path)
    before, times = source.load(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(path.read_bytes().replace(b"a f k", b"e j o", 1))
    os.utime(path, ns=times)
    assert source.load().digest != before.digest
    for options in ({"seed": 1}, {"min_count": 2}, {"lowercase": True}, {"labelled": "no"}):
        TextFile(**{"path": source.path, "min_count": 1, "cache": source.cache, **options}).load()
    assert len(made) == 6
    assert source.load().digest != before.digest
    assert len(made) == 6


def test_a_text_that_changes_while_it_is_read_is_stored_as_what_was_read(
    source: TextFile, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the store is of the bytes that were tokenised. Named by the first look, it would be served
    for the old text when that comes back.
    """
    path = Path(source.path)
    old, new = path.read_bytes(), path.read_bytes().replace(b"pos\t", b"old\t")
    look = store.content_digest

    def and_then_it_changes(name: str) -> str:
        digest = look(name)
        path.write_bytes(new)
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(store, "content_digest", and_then_it_changes)
        assert source.load().label_names == ("neg", "old")
    assert source.load().label_names == ("neg", "old")
    path.write_bytes(old)
    assert source.load().label_names == ("neg", "pos")
    assert len(stores(cache)) == 2


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink], ids=["cut", "flipped", "gone"])
@pytest.mark.parametrize(
    "file", ["train.tokens", "valid.offsets", "test.labels", "vocabulary.txt", "header.json"]
)
def test_a_damaged_store_is_made_again(
    source: TextFile, cache: Path, made: list[str], damage: Callable[[Path], None], file: str
) -> None:
    """One bit is enough; what is mapped meanwhile stays as it was."""
    before = source.load()
    damage(stores(cache)[0] / file)
    again = source.load()
    assert len(made) == 2
    assert again.record() == before.record()
    assert source.load().digest == before.digest
    assert len(made) == 2
    assert len(stores(cache)) == 1


@pytest.mark.parametrize(
    "change", [("counts", {}), ("labels", ["neg", "old"]), ("shared_with_train", {"test": 1})]
)
def test_a_header_that_says_something_else_is_not_believed(
    source: TextFile, cache: Path, made: list[str], change: tuple[str, object]
) -> None:
    before = source.load()
    header = stores(cache)[0] / "header.json"
    header.write_text(json.dumps({**json.loads(header.read_text()), change[0]: change[1]}))
    assert source.load().record() == before.record()
    assert len(made) == 2


def test_a_file_in_the_place_of_a_store_gives_way(source: TextFile, cache: Path) -> None:
    digest = source.load().digest
    place = stores(cache)[0]
    place.rename(cache / "elsewhere")
    place.write_text("in the way")
    assert source.load().digest == digest
    assert place.is_dir()


# --- several processes, and those that die -----------------------------------------------------------


def test_two_processes_that_make_one_store_agree(source: TextFile, cache: Path) -> None:
    code = (
        "import sys; from sri_pyro.data import TextFile; "
        "print(TextFile(path=sys.argv[1], min_count=1, cache=sys.argv[2]).load().digest)"
    )
    command = [sys.executable, "-c", code, source.path, str(cache)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert said == {source.load().digest}
    assert len(stores(cache)) == 1


def test_a_store_that_appears_during_the_making_stays(
    source: TextFile, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without locks. The second one's folder must neither fail nor stay behind."""
    monkeypatch.setattr(store, "fcntl", None)
    true = store._write_header

    def late(*args: object) -> None:
        true(*args)  # type: ignore[arg-type]
        monkeypatch.setattr(store, "_write_header", true)
        source.load()  # the other process, from beginning to end

    monkeypatch.setattr(store, "_write_header", late)
    assert source.load().digest == TextFile(path=source.path, min_count=1).load().digest
    assert len(stores(cache)) == 1


def test_a_store_that_appears_at_the_last_moment_stays(
    source: TextFile, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process is done between the look at the place and the taking of it."""
    true = Path.rename

    def late(self: Path, target: Path) -> Path:
        if target.parent == cache:
            shutil.copytree(self, target)
        return true(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert source.load().digest == TextFile(path=source.path, min_count=1).load().digest
    assert len(stores(cache)) == 1


def test_what_a_killed_process_left_is_removed(source: TextFile, cache: Path) -> None:
    source.load()
    place = stores(cache)[0]
    place.rename(cache / f".{place.name}.x7f")  # as it is while it is made
    source.load()
    assert stores(cache) == [place]


def test_a_store_of_another_format_or_unicode_is_not_read(
    source: TextFile, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another Python may know other letters and blanks, and would make other words of the same text."""
    source.load()
    monkeypatch.setattr(store, "FORMAT", 0)
    source.load()
    monkeypatch.setattr(store.unicodedata, "unidata_version", "0.0")
    source.load()
    assert len(made) == 3


def test_whoever_changes_what_a_store_holds_is_told_to_say_so(tmp_path: Path, cache: Path) -> None:
    """Pinned: whoever changes how text becomes tokens, or how a store is laid out, has to raise ``FORMAT``.

    Without that, a new version would go on serving the corpora of the old one.
    """
    lines = [f"Don’t “panic”... it's {i}.5% of U.S. İ ΣΑΣ x²!! <unk> </s> {'b' * (i % 7)}" for i in range(40)]
    path = write(tmp_path / "text", lines)
    digests = [
        TextFile(path=path, tokenize=tokenize, lowercase=True, min_count=1).load().digest[:12]
        for tokenize in ("whitespace", "words")
    ]
    TextFile(path=path, cache=str(cache), tokenize="words").load()
    layout = sorted(file.name for file in stores(cache)[0].iterdir())
    assert (store.FORMAT, *digests) == (1, "4d0c2467b16f", "08ae10822898")
    assert layout == [
        "header.json", "test.offsets", "test.tokens", "train.offsets", "train.tokens", "valid.offsets",
        "valid.tokens", "vocabulary.txt",
    ]  # fmt: skip
