"""A large text: from lines to batches, in processes of their own.

The text is drawn word by word from a Zipf law into a temporary folder. It is read with the defaults of ``TextFile``,
once as it is and once again, as a second run would; then one epoch of batches is gone through. What the library keeps
of the first time goes to a temporary folder too.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fresh import MEBIBYTE, in_fresh_process, peak_bytes
from benchmarks.measurements.measurement import Measurement, Run
from benchmarks.rows import Row, single

SENTENCES, QUICK_SENTENCES = 1_000_000, 50_000
DIFFERENT_WORDS, MAX_VOCABULARY = 200_000, 20_000
SHORTEST, LONGEST = 4, 20
"""Words of a sentence; all lengths are equally likely."""
BATCH = 64
PIECE = 50_000
"""Sentences that are drawn and written at once."""
WORDS = {
    "first": "tokenise, count and encode (and keep, where the library does)",
    "again": "open the same text again",
    "epoch": f"one epoch of batches of {BATCH}",
}


def write_text(path: Path, sentences: int, seed: int = 0) -> None:
    """Write sentences of words ``w0``, ``w1``, ..., the commonest first."""
    random = np.random.default_rng(seed)
    share = 1 / np.arange(1, DIFFERENT_WORDS + 1)
    cumulative = np.cumsum(share) / share.sum()
    with path.open("w", encoding="utf-8") as file:
        for done in range(0, sentences, PIECE):
            lengths = random.integers(SHORTEST, LONGEST + 1, min(PIECE, sentences - done))
            words = np.searchsorted(cumulative, random.random(lengths.sum()))
            names = iter([f"w{word}" for word in words.tolist()])
            file.writelines(
                " ".join(next(names) for _ in range(length)) + "\n" for length in lengths.tolist()
            )


def measure(run: Run) -> list[Row]:
    """Seconds and peak memory of each part."""
    sentences = QUICK_SENTENCES if run.quick else SENTENCES
    answers = {}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        run.watch("writing a text")
        write_text(text, sentences)
        for name in ("first", "again"):
            run.watch(WORDS[name])
            request = {"path": str(text), "epoch": name == "again"}
            answers[name] = in_fresh_process(__name__, request, SRI_PYRO_CACHE=str(Path(folder, "cache")))
    answers["epoch"] = answers["again"]["epoch"]
    rows = []
    for name, words in WORDS.items():
        rows.append(
            Row(
                f"million/{name}_seconds",
                f"{sentences:,} sentences: {words}",
                single(answers[name]["processor_seconds"]),
                "s",
                note=f"{answers[name]['seconds']:.1f} s by the clock on the wall",
            )
        )
    for name in ("first", "again"):
        what = WORDS[name] + (", and one epoch" if name == "again" else "")
        peak = single(answers[name]["peak"] / MEBIBYTE)
        rows.append(Row(f"million/{name}_peak", f"{sentences:,} sentences: peak memory, {what}", peak, "MiB"))
    return rows


def main(request: dict[str, Any]) -> dict[str, Any]:
    """In the fresh process: load the text, and go through an epoch if asked."""
    from sri_pyro.data import LengthBuckets, TextFile

    spent = _Stopwatch()
    corpus = TextFile(path=request["path"], max_vocabulary=MAX_VOCABULARY).load()
    answer: dict[str, Any] = spent.answer()
    if request["epoch"]:
        spent = _Stopwatch()
        tokens = sum(batch.tokens.numel() for batch in LengthBuckets(corpus.train, BATCH, seed=0).epoch(0))
        answer["epoch"] = {**spent.answer(), "tokens": tokens}
    return {**answer, "peak": peak_bytes()}


class _Stopwatch:
    def __init__(self) -> None:
        self.wall, self.processor = time.monotonic(), time.process_time()

    def answer(self) -> dict[str, float]:
        return {
            "seconds": time.monotonic() - self.wall,
            "processor_seconds": time.process_time() - self.processor,
        }


MEASUREMENTS = [Measurement("million", "A million sentences", measure)]

if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
