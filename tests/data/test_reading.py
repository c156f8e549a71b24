"""Every way a file can be wrong, and the sentence that says so."""

import gzip
import hashlib
import itertools
from contextlib import closing
from pathlib import Path

import pytest

from sri_pyro.data import DataError, read_lines, reading
from sri_pyro.data.reading import content_digest
from tests.oracles import sentence


def test_plain_and_gzip_give_the_same_lines_and_only_newlines_end_them(tmp_path: Path) -> None:
    """A reader built on str.splitlines would cut at U+2028 and shift every later line number."""
    content = "\ufeffeins\r\nzwei\u2028still two\n\n vier".encode()
    plain, packed = tmp_path / "a.txt", tmp_path / "no-suffix"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    expected = ["eins", "zwei\u2028still two", "", " vier"]
    assert list(read_lines(plain)) == expected
    assert list(read_lines(packed)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "{} is empty; give a text file, one sentence a line."),
        (gzip.compress(b""), "{} is empty; give a text file, one sentence a line."),
        (
            b"fine\nbad\0byte\n",
            "{} is binary (a zero byte in line 2); give UTF-8 text, one sentence a line.",
        ),
        (
            b"fine\n\xe9t\xe9\n",
            "line 2 of {} is not UTF-8 (byte 0xe9 at position 1); convert the file, for example with "
            "iconv -t utf-8.",
        ),
        (
            gzip.compress(b"many words " * 500)[:-12],
            "{} is damaged gzip (Compressed file ended before the end-of-stream marker was reached); "
            "make or fetch it again.",
        ),
        (
            b"short\n" + b"x" * 101 + b"\nshort\n",
            "line 2 of {} is longer than 100 bytes; give one sentence a line, ended by line breaks.",
        ),
    ],
    ids=["empty", "empty-gzip", "binary", "latin1", "cut-gzip", "long-line"],
)
def test_unusable_content_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    limit = 100 if b"xxx" in content else 1 << 20
    with pytest.raises(DataError, match=sentence(message.format(path))):
        list(read_lines(path, limit))


def test_flipped_bits_in_gzip_are_named(tmp_path: Path) -> None:
    """A flip in the data fails the inflater or the checksum: zlib.error and BadGzipFile both count."""
    whole = gzip.compress(b"a few words in a line\n" * 50)
    for at in range(10, len(whole) - 4, 3):
        path = tmp_path / "bad.gz"
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(DataError):
            list(read_lines(path))


def test_a_missing_file_a_folder_and_a_false_name_are_named(tmp_path: Path) -> None:
    missing, false = tmp_path / "none.txt", tmp_path / "text.gz"
    false.write_text("plain\n")
    cases = {
        missing: f"{missing} does not exist; give a text file, one sentence a line.",
        tmp_path: f"{tmp_path} is a folder; give a text file, one sentence a line.",
        false: f"{false} is named .gz but is not gzip; rename it, or make it again.",
    }
    for path, message in cases.items():
        with pytest.raises(DataError, match=sentence(message)):
            list(read_lines(path))


def test_an_endless_line_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A gzip bomb of one line: 200 MB unpacked. Reading it whole would break the bound."""
    import tracemalloc

    path = tmp_path / "bomb"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(200):
            file.write(b"x" * 1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="longer than 1048576 bytes"):
            list(read_lines(path))
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("block", [2, 3, 7])
@pytest.mark.parametrize("packed", [False, True])
def test_lines_do_not_depend_on_the_blocks_that_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, packed: bool
) -> None:
    """Oracle: the whole text, cut at line breaks. Boundaries fall into letters of three bytes and into line ends."""
    monkeypatch.setattr(reading, "_BLOCK", block)
    path = tmp_path / "text"
    for content in (
        "\ufeffein “s”\r\n\r\nzw\rei\u2028\n\ndrei",
        "a\r",
        "\n",
        "\r\n\n",
        "\ufeff\ufeffa\n\ufeffb\n",
    ):
        raw = content.encode()
        path.write_bytes(gzip.compress(raw) if packed else raw)
        lines = content.removeprefix("\ufeff").split("\n")
        wanted = [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]
        assert list(read_lines(path)) == wanted


def test_lines_before_a_bad_one_are_given(tmp_path: Path) -> None:
    """Whoever wants the first two lines never hears of the third, whatever block they stand in."""
    path = tmp_path / "text"
    for bad, message in ((b"\xff", "line 3 of .* is not UTF-8"), (b"\0", "zero byte in line 3")):
        path.write_bytes(b"one\ntwo\nbad" + bad + b"\nfour\n")
        lines = read_lines(path)
        assert [next(lines), next(lines)] == ["one", "two"]
        with pytest.raises(DataError, match=message):
            next(lines)


@pytest.mark.parametrize("taken", [0, 1, 3, 5000])
@pytest.mark.parametrize("packed", [False, True])
def test_the_digest_is_of_the_whole_file_however_much_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int, packed: bool
) -> None:
    """Oracle: the bytes. A digest of the lines that were wanted would not change with those behind them."""
    monkeypatch.setattr(reading, "_BLOCK", 64)
    path = tmp_path / "text"
    content = b"".join(b"%d a line of some length\r\n" % i for i in range(5000))
    path.write_bytes(gzip.compress(content) if packed else content)
    digest = hashlib.sha256()
    with closing(read_lines(path, digest=digest)) as lines:
        next(lines)
        for _ in itertools.islice(lines, taken):
            pass
    wanted = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest.hexdigest() == content_digest(path) == wanted
