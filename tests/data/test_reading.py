"""Every way a file can be wrong, and the sentence that says so."""

import gzip
from pathlib import Path

import pytest

from sri_pyro.data import DataError, read_lines
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
