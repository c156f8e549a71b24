"""Two grammars whose log p(x) is exact: floors that no model may beat, and one code worth finding.

Axes: N sentences, K topics, S states, V words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sri_pyro.data.errors import DataError
from sri_pyro.data.tokens import Sentence

Floats = NDArray[np.float64]


class Grammar(Protocol):
    """A law of sentences that can be sampled and evaluated exactly."""

    @property
    def words(self) -> tuple[str, ...]:
        """Every word that it can produce."""

    def sample(self, n: int, seed: int | np.random.Generator) -> list[Sentence]:
        """Draw n independent sentences."""

    def log_prob(self, words: Sequence[str]) -> float:
        """Log p(x) in nats, the end of sentence included; -inf for what it cannot produce."""

    def log_probs(self, sentences: Sequence[Sentence]) -> Floats:
        """Log p(x) of each sentence, shape [N]."""


class Rule(NamedTuple):
    """``head -> word rest...``: a word of the class ``emits``, then the symbols of ``rest``."""

    head: str
    probability: float
    emits: str
    rest: tuple[str, ...] = ()


@dataclass(frozen=True)
class PCFG:
    r"""A probabilistic grammar with one derivation for each sentence, and its entropy in closed form.

    Every rule writes a word first, and no two rules of a head may write the same word. So reading from
    the left, each word names its rule: the grammar is unambiguous, log p(x) is the sum over one
    derivation, and the entropy of a symbol's yield is that of its rule and word plus that of what
    follows,

    .. math:: H = h_0 + M H = (I - M)^{-1} h_0,

    where :math:`h_{0}` holds each symbol's entropy of (rule, word) in nats and :math:`M_{ab}` the
    expected number of b in the expansion of a. Lengths follow with 1 in place of :math:`h_0`. The end
    of a sentence is certain when nothing is left to expand: it costs no nats, but is a predicted token.

    Args:
        rules: The rules; the first one's head is the start symbol.
        classes: Words of each class with their probabilities.

    Raises:
        DataError: If a symbol has no rule, probabilities do not sum to one, two rules of a head share
            a word, or derivations do not end (spectral radius of M at least 1).

    References:
        | Grenander, Syntax-controlled probabilities (1967); Chi, Statistical properties of
          probabilistic context-free grammars (1999)

    Example:
        >>> grammar = PCFG([Rule("S", 0.5, "x"), Rule("S", 0.5, "y", ("S",))],
        ...                {"x": {"a": 1.0}, "y": {"b": 1.0}})
        >>> round(grammar.log_prob(["b", "b", "a"]) / math.log(2), 6), grammar.mean_length
        (-3.0, 3.0)
    """

    rules: Sequence[Rule]
    classes: Mapping[str, Mapping[str, float]]
    _table: dict[str, dict[str, tuple[float, tuple[str, ...]]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, words in self.classes.items():
            if not math.isclose(sum(words.values()), 1, abs_tol=1e-9):
                raise DataError(f"the words of class {name!r} must have probabilities that sum to 1.")
        table: dict[str, dict[str, tuple[float, tuple[str, ...]]]] = {r.head: {} for r in self.rules}
        for rule in self.rules:
            for symbol in rule.rest:
                if symbol not in table:
                    raise DataError(f"symbol {symbol!r} has no rule; add one, or remove the symbol.")
            for word, probability in self.classes[rule.emits].items():
                if word in table[rule.head]:
                    raise DataError(
                        f"two rules of {rule.head!r} write {word!r}; the grammar would be ambiguous."
                    )
                log_prob = math.log(rule.probability) + math.log(probability)
                table[rule.head][word] = (log_prob, rule.rest)
        for head, entries in table.items():
            if not math.isclose(sum(math.exp(p) for p, _ in entries.values()), 1, abs_tol=1e-9):
                raise DataError(f"the rules of {head!r} must have probabilities that sum to 1.")
        object.__setattr__(self, "_table", table)
        if np.abs(np.linalg.eigvals(self._expansion)).max() >= 1:
            raise DataError("derivations of this grammar do not end; make recursive rules rarer.")

    @property
    def words(self) -> tuple[str, ...]:
        """Every word, class by class."""
        return tuple(dict.fromkeys(word for words in self.classes.values() for word in words))

    @property
    def _expansion(self) -> Floats:
        """M: the expected number of each symbol in the expansion of each symbol."""
        index = {head: i for i, head in enumerate(self._table)}
        M = np.zeros((len(index), len(index)))
        for rule in self.rules:
            for symbol in rule.rest:
                M[index[rule.head], index[symbol]] += rule.probability
        return M

    def _accumulate(self, per_symbol: Sequence[float]) -> float:
        """Expected sum over a derivation from the start symbol of something each symbol adds."""
        M = self._expansion
        return float(np.linalg.solve(np.eye(len(M)) - M, np.asarray(per_symbol, float))[0])

    @cached_property
    def entropy(self) -> float:
        """Entropy of a sentence in nats, the end of sentence included."""
        h0 = [-sum(math.exp(p) * p for p, _ in rules.values()) for rules in self._table.values()]
        return self._accumulate(h0)

    @cached_property
    def mean_length(self) -> float:
        """Expected predicted tokens of a sentence, the end of sentence included."""
        return self._accumulate([1.0] * len(self._table)) + 1

    @property
    def floor_perplexity(self) -> float:
        """exp(nats per predicted token): the perplexity of the true law."""
        return math.exp(self.entropy / self.mean_length)

    def sample(self, n: int, seed: int | np.random.Generator) -> list[Sentence]:
        """Draw n independent sentences."""
        random = np.random.default_rng(seed)
        choices = {
            head: (list(entries), np.cumsum([math.exp(p) for p, _ in entries.values()]))
            for head, entries in self._table.items()
        }
        sentences = []
        for _ in range(n):
            words: list[str] = []
            stack = [self.rules[0].head]
            while stack:
                head = stack.pop()
                names, cumulative = choices[head]
                at = np.searchsorted(cumulative, random.random(), side="right")
                words.append(names[min(int(at), len(names) - 1)])
                stack.extend(reversed(self._table[head][words[-1]][1]))
            sentences.append(Sentence(tuple(words)))
        return sentences

    def log_prob(self, words: Sequence[str]) -> float:
        """Log p(x) in nats of a sentence; -inf for what the grammar cannot produce."""
        stack, total = [self.rules[0].head], 0.0
        for word in words:
            if not stack:
                return -math.inf
            log_prob, rest = self._table[stack.pop()].get(word, (-math.inf, ()))
            total += log_prob
            stack.extend(reversed(rest))
        return -math.inf if stack else total

    def log_probs(self, sentences: Sequence[Sentence]) -> Floats:
        """Log p(x) in nats of each sentence, shape [N]."""
        return np.array([self.log_prob(sentence.words) for sentence in sentences])


def _zipf(prefix: str, size: int) -> dict[str, float]:
    """Words ``prefix1``, ``prefix2``, ... with probabilities proportional to 1 / rank."""
    weights = 1 / np.arange(1, size + 1)
    return {f"{prefix}{i + 1}": float(w) for i, w in enumerate(weights / weights.sum())}


_CLASSES: Final = {
    "determiner": _zipf("d", 3),
    "noun": _zipf("n", 24),
    "relational": _zipf("r", 6),  # a noun that takes a complement: "edge of"
    "adjective": _zipf("a", 10),
    "name": _zipf("m", 8),
    "preposition": _zipf("p", 4),
    "intransitive": _zipf("i", 8),
    "transitive": _zipf("t", 12),
    "ditransitive": _zipf("g", 5),
    "clausal": _zipf("c", 4),  # a verb that takes a sentence: "says"
    "adverb": _zipf("b", 5),
}

_RULES: Final = (
    Rule("S", 0.58, "determiner", ("N", "VP")),
    Rule("S", 0.32, "name", ("VP",)),
    Rule("S", 0.10, "adverb", ("S",)),
    Rule("NP", 0.65, "determiner", ("N",)),
    Rule("NP", 0.35, "name"),
    Rule("N", 0.62, "noun"),
    Rule("N", 0.25, "adjective", ("N",)),
    Rule("N", 0.13, "relational", ("PP",)),
    Rule("PP", 1.00, "preposition", ("NP",)),
    Rule("VP", 0.25, "intransitive"),
    Rule("VP", 0.50, "transitive", ("NP",)),
    Rule("VP", 0.13, "ditransitive", ("NP", "PP")),
    Rule("VP", 0.12, "clausal", ("S",)),
)


def english_like_pcfg() -> PCFG:
    """The built-in grammar: noun phrases, four kinds of verbs, embedded sentences; 89 words.

    Example:
        >>> grammar = english_like_pcfg()
        >>> f"{grammar.entropy:.4f} nats, {grammar.mean_length:.4f} tokens"
        '15.2788 nats, 6.8597 tokens'
    """
    return PCFG(_RULES, _CLASSES)
