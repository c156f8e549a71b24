"""A corpus as its definition says, without a thought for time or memory: words, sets and sorted lists."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sri_pyro.data import TextFile, split_words
from sri_pyro.types import EOS, SPECIAL_SYMBOLS, UNK

Row = tuple[tuple[str, ...], str | None]


class Expected(NamedTuple):
    words: list[str]
    rows: dict[str, list[list[int]]]
    labels: dict[str, list[str | None]]
    counts: dict[str, dict[str, int]]
    shared: dict[str, int]


def expected(texts: Mapping[str, Sequence[str]], options: TextFile) -> Expected:
    """Of the lines of the texts given for test, valid and train, in this order, and without errors."""
    counts: dict[str, Counter[str]] = {}
    parts: dict[str, list[Row]] = {}
    for name, lines in texts.items():
        elsewhere = {words for rows in parts.values() for words, _ in rows}
        limit = options.max_sentences if name == "train" else None
        counts[name], parts[name] = Counter(), []
        for line in lines:
            if len(parts[name]) == limit:
                break
            counts[name]["read"] += 1
            if row := _kept(line, lines, options, counts[name]):
                _add(row, parts[name], elsewhere if options.drop_duplicates else None, counts[name])
        counts[name]["kept"] = len(parts[name])
    shares = {"test": options.test_fraction, "valid": options.valid_fraction}
    parts |= _cut(parts["train"], {n: share for n, share in shares.items() if n not in parts}, options.seed)
    tally = Counter(word for words, _ in parts["train"] for word in words if word not in SPECIAL_SYMBOLS)
    ranked = sorted((w for w, n in tally.items() if n >= options.min_count), key=lambda w: -tally[w])
    most = None if options.max_vocabulary is None else options.max_vocabulary - 4
    ids = {word: i for i, word in enumerate(ranked[:most], 4)}
    known = {words for words, _ in parts["train"]}
    names = ("train", "valid", "test")
    return Expected(
        words=list(ids),
        rows={n: [[*(ids.get(w, UNK) for w in words), EOS] for words, _ in parts[n]] for n in names},
        labels={n: [label for _, label in parts[n]] for n in names},
        counts={n: {what: k for what, k in tallies.items() if k} for n, tallies in counts.items()},
        shared={n: sum(words in known for words, _ in parts[n]) for n in ("valid", "test")},
    )


def _cut(rows: list[Row], shares: Mapping[str, float], seed: int) -> dict[str, list[Row]]:
    def rank(words: tuple[str, ...]) -> bytes:
        key = seed.to_bytes(8, "little")
        return hashlib.blake2b(" ".join(words).encode(), digest_size=8, key=key, person=b"split").digest()

    ranked = sorted({words for words, _ in rows}, key=rank)
    number, places = len(ranked), {}
    for name, share in shares.items():
        size = max(1, round(share * number))
        places |= dict.fromkeys(ranked[:size], name)
        ranked = ranked[size:]
    return {name: [row for row in rows if places.get(row[0], "train") == name] for name in ("train", *shares)}


def _kept(line: str, lines: Sequence[str], options: TextFile, counts: Counter[str]) -> Row | None:
    first = next(one for one in lines if one.strip())
    labelled = options.labelled == "yes" or (options.labelled == "auto" and "\t" in first)
    label, _, text = line.partition("\t") if labelled else ("", "", line)
    words = split_words(text, options)
    limit = options.max_length
    if not words:
        counts["blank"] += 1
        return None
    if limit is not None and len(words) > limit:
        counts["truncated" if options.too_long == "truncate" else "too_long"] += 1
        if options.too_long == "drop":
            return None
        words = words[:limit]
    if len(words) < options.min_length:
        counts["too_short"] += 1
        return None
    return words, label.strip() or None


def _add(row: Row, rows: list[Row], elsewhere: set[tuple[str, ...]] | None, counts: Counter[str]) -> None:
    if elsewhere is not None and row[0] in {words for words, _ in rows}:
        counts["duplicate"] += 1
    elif elsewhere is not None and row[0] in elsewhere:
        counts["in_another_split"] += 1
    else:
        rows.append(row)
