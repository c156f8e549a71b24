"""Statistics of texts against counting by hand, and pages that repeat, are too short, or copy the training text."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from sri_pyro.evaluation.text_criticism import check_texts
from sri_pyro.evaluation.text_statistics import (
    STATISTICS,
    Pool,
    grams,
    jensen_shannon,
    self_bleu,
)
from sri_pyro.evaluation.verdicts.criticism import judge_criticism

NAMES = list(STATISTICS)
VOCABULARY = [f"w{i}" for i in range(40)]
LAW = 1 / np.arange(1, 41)


def page(num: int, seed: int, least: int = 4, most: int = 9) -> list[list[str]]:
    """Sentences of independent words by Zipf's law, now and then an unknown one."""
    random = np.random.default_rng(seed)
    sizes = random.integers(least, most + 1, num)
    return [["<unk>" if random.random() < 0.03 else str(w)
             for w in random.choice(VOCABULARY, size, p=LAW / LAW.sum())] for size in sizes]  # fmt: skip


HELD_OUT, TRAINING = page(240, 1), page(400, 2)


def p_of(written: Sequence[Sequence[str]], replicates: int = 199) -> dict[str, float]:
    return dict(zip(NAMES, check_texts(written, HELD_OUT, TRAINING, replicates).p_holm, strict=True))


def test_the_same_law_passes() -> None:
    assert min(p_of(page(120, 3)).values()) > 0.05


def test_the_level_is_kept() -> None:
    """Simulation: 40 held-out texts and pages of one law. At level 0.2 each statistic rejects no more often than a
    binomial law of that chance does in all but 1e-8 of cases. Catches p-values of the wrong tail or too small a null.
    """
    found = [check_texts(page(40, 100 + i), page(80, 500 + i), replicates=19).p for i in range(40)]
    rejections = (np.array(found) <= 0.2 + 1e-9).sum(0)
    assert (rejections <= 8 + 5.7 * math.sqrt(6.4)).all(), rejections


def test_a_page_that_repeats_is_found() -> None:
    """Half of each sentence is said twice."""
    off = {
        name
        for name, p in p_of([words[: len(words) // 2] * 2 for words in page(120, 4)]).items()
        if p <= 0.05
    }
    assert "repetition" in off


def test_a_page_of_one_sentence_is_found() -> None:
    """Catches self-BLEU without the others, and distinct-n that looks within sentences."""
    off = {name for name, p in p_of([page(1, 5)[0]] * 120).items() if p <= 0.05}
    assert {"self_bleu", "distinct_1", "distinct_2", "unigram", "length"} <= off


def test_a_page_that_is_too_short_is_found() -> None:
    off = {name for name, p in p_of(page(120, 6, least=3, most=6)).items() if p <= 0.05}
    assert "length" in off
    assert "unigram" not in off


def test_a_copy_of_the_training_text_is_found() -> None:
    """Words and lengths are right, and nothing is new."""
    off = {name for name, p in p_of(TRAINING[:120]).items() if p <= 0.05}
    assert off == {"novelty"}


def test_unknown_words_are_counted() -> None:
    known = [[word if word != "<unk>" else "w0" for word in words] for words in page(120, 7)]
    assert p_of(known)["unknown"] <= 0.05


def bleu(words: Sequence[str], others: Sequence[Sequence[str]]) -> float:
    """By the definition, a reference at a time."""
    total = 0.0
    for n in (1, 2, 3):
        own = Counter(grams(words, n))
        matches = sum(min(c, max(Counter(grams(o, n))[g] for o in others)) for g, c in own.items())
        precision = (matches + (n > 1)) / (sum(own.values()) + (n > 1))
        if not precision:
            return 0.0
        total += math.log(precision) / 3
    return math.exp(total)


def test_self_bleu_is_that_of_the_definition() -> None:
    """Oracle: brute force. Catches a sentence that is its own reference, ties for the most frequent use, and rows of a
    subset that see others.
    """
    pool, rows = Pool([*HELD_OUT[:30], ["w0", "w0", "w0", "w1"], ["w0", "w0"], ["x"]]), np.arange(3, 33)
    sentences = [*HELD_OUT[3:30], ["w0", "w0", "w0", "w1"], ["w0", "w0"], ["x"]]
    expected = np.mean([bleu(words, sentences[:i] + sentences[i + 1 :]) for i, words in enumerate(sentences)])
    assert self_bleu(pool, rows)[0] == pytest.approx(expected)


def test_values_by_hand() -> None:
    pool = Pool(
        [["a", "b", "a"], ["c"], ["a", "b", "c", "d", "<unk>"], []], training=[["x", "a", "b", "c", "d"]]
    )
    rows = np.array([0, 1, 2, 3])
    values = {name: each.shown(each.summary(pool, rows)) for name, each in STATISTICS.items()}
    assert values["length"] == pytest.approx(9 / 4)
    assert values["distinct_1"] == pytest.approx(5 / 9)
    assert values["distinct_2"] == pytest.approx(5 / 6)
    assert values["repetition"] == pytest.approx(1 / 9)
    assert values["unknown"] == pytest.approx(1 / 9)
    assert values["novelty"] == pytest.approx(1 / 2)
    counts = np.array([3, 2, 2, 1, 1]) / 9
    assert values["unigram"] == pytest.approx(-(counts * np.log(counts)).sum())
    first, second = np.array([0.2, 0.8, 0.0]), np.array([0.5, 0.1, 0.4])
    assert jensen_shannon(first, second) == pytest.approx(jensenshannon(first, second) ** 2)


def test_few_sentences_are_refused() -> None:
    with pytest.raises(ValueError, match="got 9 that were written and 240 held out, of which half"):
        check_texts(page(9, 1), HELD_OUT)


def test_halves_follow_the_generator() -> None:
    torch.manual_seed(3)
    first = check_texts(page(60, 1), HELD_OUT, replicates=9)
    torch.manual_seed(3)
    assert check_texts(page(60, 1), HELD_OUT, replicates=9).discrepancy == first.discrepancy


@pytest.mark.parametrize(("own", "copies"), [(0.2, True), (0.95, False)])
def test_only_too_few_new_phrases_are_called_copying(own: float, copies: bool) -> None:
    """A verdict that reads the name of the statistic and not its sign tells novel writers to stop copying."""
    checks = {"novelty": {"value": own, "held_out": 0.9, "p_holm": 0.01}}
    texts = {
        "codes": {},
        "texts": {"prior": checks},
        "num_texts": {"prior": 100},
        "num_held_out": 200,
        "num_codes": 100,
    }
    (found,) = [each for each in judge_criticism(texts) if each.topic == "texts"]
    assert ("copies the training text" in found.advice) is copies


@pytest.mark.parametrize(("p", "at_most"), [(0.0025, True), (0.005, False)])
def test_the_least_p_value_is_called_so_and_numbers_have_their_names(p: float, at_most: bool) -> None:
    """Oracle: of 399 simulations the least p-value is 1 / 400, of eight tests at once 0.02.

    Catches "0.02" for what may be far less, "5.21" without a unit, and 0.000449 that reads as the p-value.
    """
    unknown = {"value": 0.000449, "held_out": 0.0, "p": p, "p_holm": 8 * p, "about": "share of unknown words"}
    unigram = {"value": 5.21, "held_out": 5.25, "p": p, "p_holm": 8 * p, "about": "frequencies of words"}
    numbers = {
        "codes": {}, "texts": {"prior": {"unigram": unigram, "unknown": unknown}}, "num_texts": {"prior": 100},
        "num_held_out": 200, "num_codes": 0, "replicates": 399,
    }  # fmt: skip
    (found,) = judge_criticism(numbers)
    said = f"p-value {'at most ' if at_most else ''}{8 * p:.2g}"
    assert f"unknown (share of unknown words): 0.000449 against 0 held out, {said}." in found.evidence
    assert f"shown is their entropy in nats): 5.21 against 5.25 held out, {said};" in found.evidence
    assert ("none of 399 simulations was as extreme" in found.evidence) is at_most
