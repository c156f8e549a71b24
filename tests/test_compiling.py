"""Compiling on first use: what comes of it, what is kept, and what happens where it cannot be done.

The compiler is a script that notes every time it makes a library, and hands on to the real one.
"""

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from sri_pyro import compiling

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
NEEDS_A_COMPILER = pytest.mark.skipif(COMPILER is None, reason="there is no compiler")


class Workshop:
    """A C file, a compiler that counts, a cache folder, and room for temporary files."""

    def __init__(self, folder: Path) -> None:
        self.source, self.cache, self.temporary = folder / "answer.c", folder / "cache", folder / "tmp"
        self.count, self.compiler = folder / "count", folder / "bin" / "counting-cc"
        self.source.write_text("int answer(void) { return ANSWER; }\n")
        self.temporary.mkdir()
        self.compiler.parent.mkdir()
        self.replace_compiler(
            f'case " $* " in *" -shared "*) echo made >> "{self.count}";; esac\nexec {COMPILER} "$@"'
        )

    def replace_compiler(self, script: str) -> None:
        self.compiler.write_text(f"#!/bin/sh\n{script}\n")
        self.compiler.chmod(stat.S_IRWXU)

    def library(self, *definitions: str):
        """As another process would ask: this one forgets what it has."""
        compiling.library.cache_clear()
        return compiling.library(self.source, *definitions)

    def made(self) -> int:
        """How often a library has been compiled."""
        return len(self.count.read_text().splitlines()) if self.count.exists() else 0

    def kept(self) -> list[Path]:
        """Files in the cache folder."""
        return sorted(path for path in self.cache.rglob("*") if path.is_file())

    def left_behind(self) -> list[Path]:
        """Whatever lies where temporary files are made."""
        return list(self.temporary.iterdir())


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    shop = Workshop(tmp_path)
    for name in ("SRI_PYRO_COMPILE", "SRI_PYRO_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CC", str(shop.compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(shop.cache))
    monkeypatch.setattr(tempfile, "tempdir", str(shop.temporary))
    yield shop
    compiling.library.cache_clear()


@NEEDS_A_COMPILER
def test_a_library_is_compiled_once_and_kept_for_other_processes(shop: Workshop) -> None:
    assert shop.library("ANSWER=42").answer() == 42
    assert shop.made() == 1
    kept = shop.kept()
    assert len(kept) == 1
    assert kept[0].parent == shop.cache / "sri_pyro" / "compiled"
    assert shop.library("ANSWER=42").answer() == 42
    assert compiling.library(shop.source, "ANSWER=42").answer() == 42
    assert shop.made() == 1
    assert shop.kept() == kept
    assert shop.left_behind() == []


@NEEDS_A_COMPILER
def test_another_source_or_definition_is_another_library(shop: Workshop) -> None:
    assert [shop.library(f"ANSWER={n}").answer() for n in (1, 2, 1)] == [1, 2, 1]
    assert shop.made() == 2
    shop.source.write_text("int answer(void) { return 10 * ANSWER; }\n")
    assert [shop.library(f"ANSWER={n}").answer() for n in (1, 2)] == [10, 20]
    assert shop.made() == 4
    assert len(shop.kept()) == 4


@NEEDS_A_COMPILER
def test_another_header_is_another_library(shop: Workshop) -> None:
    """Catches a digest of the source alone, under which an old library would answer for new formulas."""
    header = shop.source.with_name("constant.h")
    shop.source.write_text('#include "constant.h"\nint answer(void) { return CONSTANT + ANSWER; }\n')
    for constant in (100, 200):
        header.write_text(f"#define CONSTANT {constant}\n")
        assert shop.library("ANSWER=1").answer() == constant + 1
    assert shop.made() == 2


@NEEDS_A_COMPILER
def test_a_source_that_does_not_compile_is_nothing_and_leaves_nothing(shop: Workshop) -> None:
    shop.source.write_text("int answer(void) { return ; oops\n")
    assert shop.library("ANSWER=1") is None
    assert shop.kept() == shop.left_behind() == []
    shop.source.write_text("int answer(void) { return ANSWER; }\n")
    assert shop.library("ANSWER=1").answer() == 1


@NEEDS_A_COMPILER
def test_a_compiler_that_dies_half_way_leaves_nothing(shop: Workshop) -> None:
    """It writes a part of its output, then fails: a part must never be found by the next process."""
    shop.replace_compiler(
        '[ "$1" = --version ] && exit 0\n'
        'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo half | tee "$2" "$0.ran"; shift; done\nexit 1'
    )
    assert shop.library("ANSWER=1") is None
    assert shop.compiler.with_name("counting-cc.ran").exists()  # positive control
    assert shop.kept() == shop.left_behind() == []


@NEEDS_A_COMPILER
def test_a_compiler_may_complain_in_any_encoding(shop: Workshop) -> None:
    shop.replace_compiler("case \"$*\" in *--version*) exit 0;; esac; printf '\\344\\366' >&2; exit 1")
    assert shop.library("ANSWER=1") is None


@NEEDS_A_COMPILER
def test_a_compiler_that_claims_success_without_a_library_is_not_believed(shop: Workshop) -> None:
    shop.replace_compiler("exit 0")
    assert shop.library("ANSWER=1") is None
    assert shop.left_behind() == []


@NEEDS_A_COMPILER
@pytest.mark.parametrize("where", ["a file stands there", "no home"])
def test_without_a_cache_folder_it_is_made_for_this_process_alone(
    where: str, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the folder's place cannot be written into by anybody, not even by the superuser."""
    if where == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(shop.source / "below a file"))
    else:
        shop.cache.write_text("in the way")
    assert shop.library("ANSWER=7").answer() == 7
    assert shop.library("ANSWER=7").answer() == 7
    assert shop.made() == 2


@NEEDS_A_COMPILER
def test_a_source_that_does_not_compile_leaves_nothing_without_a_cache_folder_either(shop: Workshop) -> None:
    shop.cache.write_text("in the way")
    shop.source.write_text("int answer(void) { return ; oops\n")
    assert shop.library("ANSWER=1") is None
    assert shop.left_behind() == []


@NEEDS_A_COMPILER
def test_a_user_without_a_home_needs_none(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number that has no name: there ``~`` stays what it is."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert shop.library("ANSWER=7").answer() == 7


@NEEDS_A_COMPILER
def test_the_home_folder_has_the_cache_where_nothing_else_is_said(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(shop.cache))
    assert shop.library("ANSWER=3").answer() == 3
    assert [path.parent for path in shop.kept()] == [shop.cache / ".cache" / "sri_pyro" / "compiled"]


@NEEDS_A_COMPILER
def test_a_spoilt_library_in_the_cache_is_no_obstacle(shop: Workshop) -> None:
    """A disk that was full, or a file of another machine: made again or done without, but no error."""
    shop.library("ANSWER=1")
    (kept,) = shop.kept()
    kept.unlink()  # not written over: this process has it open
    kept.write_bytes(b"not a library")
    again = shop.library("ANSWER=1")
    assert again is None or again.answer() == 1


def test_no_compiler_is_nothing(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(shop.temporary))
    assert shop.library("ANSWER=1") is None
    monkeypatch.setenv("CC", "a compiler that nobody has")
    assert shop.library("ANSWER=1") is None
    assert shop.kept() == shop.left_behind() == []


def test_the_switch_forbids_it(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRI_PYRO_COMPILE", "0")
    assert shop.library("ANSWER=1") is None
    assert shop.made() == 0
    assert shop.kept() == []
