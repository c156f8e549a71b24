"""Exact log-probabilities and entropies against enumeration, the inside algorithm and simulation."""

import itertools
import math
import re
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest

from sri_pyro.data import (
    PCFG,
    DataError,
    Rule,
    Sentence,
    TopicHMM,
    english_like_pcfg,
    topic_hmm,
)

GATE = 5.7
"""Standard errors; with the handful of checks here a false alarm in ten million."""


@pytest.fixture(scope="module")
def branching() -> PCFG:
    """Two symbols, branching, rare recursion: strings beyond 9 words have mass below 1e-9."""
    return PCFG(
        [
            Rule("S", 0.02, "open", ("S", "T")),
            Rule("S", 0.98, "leaf"),
            Rule("T", 0.03, "more", ("T",)),
            Rule("T", 0.97, "end"),
        ],
        {
            "open": {"(": 1.0},
            "leaf": {"a": 0.7, "b": 0.3},
            "more": {"+": 1.0},
            "end": {")": 0.9, "]": 0.1},
        },
    )


def yields(grammar: PCFG, symbols: tuple[str, ...], budget: int) -> Iterator[tuple[str, ...]]:
    """Every string of at most ``budget`` words, once per derivation; blind to probabilities."""
    if not symbols:
        yield ()
    elif len(symbols) <= budget:
        for rule in grammar.rules:
            if rule.head == symbols[0]:
                for rest in yields(grammar, rule.rest + symbols[1:], budget - 1):
                    yield from ((word, *rest) for word in grammar.classes[rule.emits])


def inside(grammar: PCFG, words: tuple[str, ...]) -> float:
    """p(words): the inside algorithm over all derivations, which needs no unambiguity."""

    @cache
    def span(symbols: tuple[str, ...], i: int, j: int) -> float:
        if not symbols:
            return float(i == j)
        if len(symbols) > 1:
            return sum(span(symbols[:1], i, k) * span(symbols[1:], k, j) for k in range(i + 1, j))
        return sum(
            rule.probability * grammar.classes[rule.emits].get(words[i], 0) * span(rule.rest, i + 1, j)
            for rule in grammar.rules
            if rule.head == symbols[0] and i < j
        )

    return span((grammar.rules[0].head,), 0, len(words))


def test_closed_form_entropy_is_that_of_the_enumerated_strings(branching: PCFG) -> None:
    """Catches M for its transpose, counts of symbols for their presence, and a word's choice left out."""
    strings = list(yields(branching, ("S",), budget=13))
    assert len(strings) == len(set(strings)), "one derivation each"
    log_p = np.array([branching.log_prob(words) for words in strings])
    p = np.exp(log_p)
    assert p.sum() == pytest.approx(1, abs=1e-8)
    assert -(p * log_p).sum() == pytest.approx(branching.entropy, abs=1e-6)
    length = sum(q * (len(words) + 1) for q, words in zip(p, strings, strict=True))
    assert length == pytest.approx(branching.mean_length, abs=1e-6)


def test_log_prob_is_the_inside_probability() -> None:
    """On sampled sentences of the built-in grammar, and on sentences it cannot produce."""
    grammar = english_like_pcfg()
    short = [s.words for s in grammar.sample(300, seed=1) if len(s.words) <= 9]
    assert len({len(words) for words in short}) >= 6
    for words in short[:100]:
        assert math.exp(grammar.log_prob(words)) == pytest.approx(inside(grammar, words), rel=1e-9)
        for wrong in (words[:-1], words[::-1], (*words, "n1"), (*words, "unheard-of")):
            assert math.exp(grammar.log_prob(wrong)) == pytest.approx(inside(grammar, wrong), rel=1e-9)


def test_samples_of_the_pcfg_have_its_entropy_and_length() -> None:
    """Catches a sampler of another law: the mean of -log p is the entropy only under p itself."""
    grammar = english_like_pcfg()
    sentences = grammar.sample(20_000, seed=0)
    for values, expected in (
        (-grammar.log_probs(sentences), grammar.entropy),
        (np.array([len(s.words) + 1.0 for s in sentences]), grammar.mean_length),
    ):
        assert abs(values.mean() - expected) < GATE * values.std(ddof=1) / math.sqrt(len(values))
    assert grammar.floor_perplexity == pytest.approx(9.275064, abs=1e-6)


def test_word_frequencies_of_the_sampler_are_the_grammars(branching: PCFG) -> None:
    """The entropy alone would not see two words of a class exchanged together with their weights."""
    n = 40_000
    first = [s.words[0] for s in branching.sample(n, seed=3)]
    for word, p in {"(": 0.02, "a": 0.98 * 0.7, "b": 0.98 * 0.3}.items():
        assert abs(first.count(word) / n - p) < GATE * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            [Rule("S", 0.5, "x"), Rule("S", 0.5, "x", ("S",))],
            "two rules of 'S' write 'a'; the grammar would be ambiguous.",
        ),
        (
            [Rule("S", 0.4, "x"), Rule("S", 0.6, "y", ("S", "S"))],
            "derivations of this grammar do not end; make recursive rules rarer.",
        ),
        ([Rule("S", 0.9, "x")], "the rules of 'S' must have probabilities that sum to 1."),
        (
            [Rule("S", 1.0, "x", ("T",))],
            "symbol 'T' has no rule; add one, or remove the symbol.",
        ),
    ],
    ids=["ambiguous", "endless", "unnormalised", "undefined"],
)
def test_what_is_no_such_grammar_is_refused(rules: list[Rule], message: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        PCFG(rules, {"x": {"a": 1.0}, "y": {"b": 1.0}})


def tiny_hmm() -> TopicHMM:
    """Three topics, two states, two words, no symmetry; sentences end soon."""
    stop = np.array([[0.9, 0.95], [0.92, 0.97], [0.96, 0.91]])
    moves = np.array([[[0.3, 0.7], [0.6, 0.4]], [[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [1.0, 0.0]]])
    return TopicHMM(
        topic_prior=np.array([0.2, 0.5, 0.3]),
        initial=np.array([[0.8, 0.2], [0.1, 0.9], [0.4, 0.6]]),
        transition=moves * (1 - stop)[..., None],
        stop=stop,
        emission=np.array([[[0.7, 0.3], [0.1, 0.9]], [[0.4, 0.6], [0.5, 0.5]], [[1, 0], [0.25, 0.75]]]),
        words=("u", "v"),
    )


def by_paths(hmm: TopicHMM, words: tuple[str, ...]) -> np.ndarray:
    """p(topic, x), shape [K], by summing over every path of states."""
    tokens = [hmm.words.index(word) for word in words]
    total = np.zeros(len(hmm.topic_prior))
    for k, prior in enumerate(hmm.topic_prior):
        for path in itertools.product(range(hmm.stop.shape[1]), repeat=len(words)):
            p = prior * hmm.initial[k, path[0]] * hmm.stop[k, path[-1]]
            for a, b in itertools.pairwise(path):
                p *= hmm.transition[k, a, b]
            for state, token in zip(path, tokens, strict=True):
                p *= hmm.emission[k, state, token]
            total[k] += p
    return total


@pytest.mark.parametrize("make", [tiny_hmm, topic_hmm])
def test_forward_algorithm_is_the_sum_over_paths(make: type[TopicHMM]) -> None:
    """Catches the end of a sentence forgotten, a transposed transition, and a topic prior left out."""
    hmm = make()
    sentences = [s for s in hmm.sample(200, seed=2) if len(s.words) <= 4][:25]
    joint = np.array([by_paths(hmm, s.words) for s in sentences])
    np.testing.assert_allclose(hmm.log_probs(sentences), np.log(joint.sum(-1)), rtol=1e-10)
    posterior = joint / joint.sum(-1, keepdims=True)
    np.testing.assert_allclose(hmm.topic_posteriors(sentences), posterior, rtol=1e-9)
    one = sentences[0].words
    assert hmm.log_prob(one) == pytest.approx(math.log(joint[0].sum()), rel=1e-10)
    np.testing.assert_allclose(hmm.topic_posterior(one), posterior[0], rtol=1e-9)


def test_the_probabilities_of_all_sentences_sum_to_one() -> None:
    """By enumeration up to 7 words; the rest has mass below 0.1^7."""
    hmm = tiny_hmm()
    every = [Sentence(w) for n in range(1, 8) for w in itertools.product(hmm.words, repeat=n)]
    p = np.exp(hmm.log_probs(every))
    assert p.sum() == pytest.approx(1, abs=1e-7)
    length = sum(q * (len(s.words) + 1) for q, s in zip(p, every, strict=True))
    assert length == pytest.approx(hmm.mean_length, abs=1e-6)


def test_samples_of_the_hmm_follow_the_exact_law() -> None:
    """Frequencies of short sentences with their topics, against the joint by paths."""
    hmm, n = tiny_hmm(), 40_000
    drawn = hmm.sample(n, seed=4)
    for words in (("u",), ("v",), ("u", "v"), ("v", "v")):
        for topic, p in zip(hmm.topics, by_paths(hmm, words), strict=True):
            share = sum(s == (words, topic) for s in drawn) / n
            assert abs(share - p) < GATE * math.sqrt(p * (1 - p) / n) + 1e-12


def test_most_of_the_topic_can_be_found_and_not_by_chance() -> None:
    """A good code finds more than 9/10 of log 4; of the labels, the posterior's mean says as much.

    Calibration: the expected probability that the posterior gives to the true topic equals that of a
    topic drawn from it, whatever the law; wrong labels would leave it at 1/4.
    """
    hmm = topic_hmm()
    sentences = hmm.sample(4_000, seed=5)
    information, error = hmm.topic_information(sentences)
    assert 0.9 * math.log(4) < information - GATE * error < information < math.log(4)
    posterior = hmm.topic_posteriors(sentences)
    truth = np.array([hmm.topics.index(s.label or "") for s in sentences])
    surplus = posterior[np.arange(len(truth)), truth] - np.square(posterior).sum(-1)
    assert abs(surplus.mean()) < GATE * surplus.std(ddof=1) / math.sqrt(len(surplus))


def test_what_the_hmm_cannot_produce_has_probability_zero() -> None:
    hmm = topic_hmm()
    assert hmm.log_prob(()) == hmm.log_prob(("w1", "word")) == -math.inf
    message = "a sentence that the grammar cannot produce has no topic; check its words."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        hmm.topic_posterior(("word",))
    with pytest.raises(DataError, match=r"^topic_hmm needs 2 to 8 topics and at least 2 states; got 9"):
        topic_hmm(num_topics=9)
