"""Where stores lie, which texts have one, and what is said where there can be none."""

import os
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sri_pyro.data import DataError, TextFile, store, textfile
from tests.data.helpers import stores, write
from tests.oracles import sentence


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    """The kernel's own refusal to write on, by the limit of a file's size. A mapped file would kill the process."""
    path = write(tmp_path / "text", [f"w{i} w{i + 1} w{i + 2} w{i + 3}" for i in range(3000)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with pytest.raises(DataError) as refusal:
            TextFile(path=path, min_count=1, cache=str(cache)).load()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(refusal.value) == (
        f"the tokens of {path} cannot be stored in {cache} (File too large); make room there, or name another "
        "folder with data.cache or the environment variable SRI_PYRO_CACHE."
    )
    assert stores(cache) == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, source: TextFile) -> None:
    file = tmp_path / "file"
    file.write_text("")
    message = (
        f"the tokens of {source.path} cannot be stored in {file / 'cache'} (Not a directory); make room there, or "
        "name another folder with data.cache or the environment variable SRI_PYRO_CACHE."
    )
    with pytest.raises(DataError, match=sentence(message)):
        TextFile(path=source.path, cache=str(file / "cache")).load()


def test_a_text_of_which_no_corpus_can_be_made_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "few", ["a b", "c d"])
    with pytest.raises(DataError, match=r"^too few sentences to split"):
        TextFile(path=path, cache=str(cache)).load()
    assert stores(cache) == []


def test_a_pipe_is_read_into_memory_and_cannot_be_stored(
    tmp_path: Path, cache: Path, lines: list[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    message = (
        f"{pipe} can be read only once, and a text whose tokens are kept is read twice; give a file, or leave "
        "data.cache out."
    )
    with pytest.raises(DataError, match=sentence(message)):
        TextFile(path=str(pipe), cache=str(cache)).load()
    write(tmp_path / "text", lines)
    writer = subprocess.Popen(["cp", str(tmp_path / "text"), str(pipe)])  # waits for the reader
    corpus = TextFile(path=str(pipe), min_count=1).load()
    assert writer.wait() == 0
    assert corpus.digest == TextFile(path=str(tmp_path / "text"), min_count=1).load().digest


# --- where and when ----------------------------------------------------------------------------------


def test_large_texts_are_stored_where_the_environment_says(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small ones, and the first few sentences of any, touch no folder that nobody named."""
    monkeypatch.setenv("SRI_PYRO_CACHE", str(tmp_path / "named"))
    path = write(tmp_path / "text", lines)
    TextFile(path=path, min_count=1).load()
    assert not (tmp_path / "named").exists()
    monkeypatch.setattr(textfile, "LARGE", 100)
    TextFile(path=path, min_count=1, max_sentences=100).load()
    assert not (tmp_path / "named").exists()
    corpus = TextFile(path=path, min_count=1).load()
    assert len(stores(tmp_path / "named" / "tokens")) == 1
    assert isinstance(corpus.train.tokens.base, np.memmap)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["named", "text"], "nothing beside the text"


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"SRI_PYRO_CACHE": "~/mine", "XDG_CACHE_HOME": "/var/x"}, "/home/me/mine/tokens"),
        ({"SRI_PYRO_CACHE": "", "XDG_CACHE_HOME": "/var/x"}, "/var/x/sri_pyro/tokens"),
        ({}, "/home/me/.cache/sri_pyro/tokens"),
    ],
)
def test_the_cache_is_where_users_keep_caches(
    variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SRI_PYRO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert store.default_cache() == Path(folder)
