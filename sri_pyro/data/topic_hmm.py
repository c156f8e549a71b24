"""A grammar with a topic in it: the code that a latent variable of a sentence ought to find.

Axes: N sentences, K topics, S states, V words, T words of the longest sentence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sri_pyro.data.errors import DataError
from sri_pyro.data.tokens import Sentence

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TopicHMM:
    r"""A topic is drawn for the sentence, then a hidden Markov model of that topic writes it.

    .. math:: p(x_{1:n}) = \sum_k \pi_k \sum_{s_{1:n}} \mu_{k s_1} B_{k s_1 x_1}
              \Bigl[\prod_{t=2}^{n} A_{k s_{t-1} s_t} B_{k s_t x_t}\Bigr] e_{k s_n},

    computed exactly by the forward algorithm. A sentence ends after a word with probability
    :math:`e_{ks}`; each row of A sums to :math:`1 - e_{ks}`. The entropy has no closed form: its
    estimate is the mean of -log p over sampled sentences.

    Attributes:
        topic_prior: :math:`\pi`, shape [K].
        initial: :math:`\mu`, shape [K, S].
        transition: A, shape [K, S, S].
        stop: e, shape [K, S], each above 0.
        emission: B, shape [K, S, V].
        words: The V words.

    Raises:
        DataError: If probabilities do not sum to one or a sentence might never end.
    """

    topic_prior: Floats
    initial: Floats
    transition: Floats
    stop: Floats
    emission: Floats
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        sums = {
            "topic_prior": self.topic_prior.sum(-1),
            "initial": self.initial.sum(-1),
            "transition plus stop": self.transition.sum(-1) + self.stop,
            "emission": self.emission.sum(-1),
        }
        for name, total in sums.items():
            if not np.allclose(total, 1, atol=1e-9):
                raise DataError(f"{name} must sum to 1 over its last axis; got sums {np.unique(total)}.")
        if not (self.stop > 0).all():
            raise DataError("every state needs a probability to stop above 0; else no sentence ends.")

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics' names, which label the sentences."""
        return tuple(f"topic{k}" for k in range(len(self.topic_prior)))

    @property
    def mean_length(self) -> float:
        """Expected predicted tokens of a sentence, the end of sentence included."""
        visits = np.linalg.solve(
            np.eye(self.stop.shape[-1]) - self.transition, np.ones((*self.stop.shape, 1))
        )
        return 1 + float(self.topic_prior @ (self.initial * visits[..., 0]).sum(-1))

    def sample(self, n: int, seed: int | np.random.Generator) -> list[Sentence]:
        """Draw n independent sentences, labelled with their topics."""
        random = np.random.default_rng(seed)
        draw = partial(np.searchsorted, side="right")  # never an outcome of probability 0
        K, S, V = self.emission.shape
        # A last column "stop" makes the step after a word one draw from S + 1 outcomes.
        step = np.cumsum(np.concatenate([self.transition, self.stop[..., None]], -1), -1)
        start, write = np.cumsum(self.initial, -1), np.cumsum(self.emission, -1)
        prior = np.cumsum(self.topic_prior)
        sentences = []
        for _ in range(n):
            k = min(int(draw(prior, random.random())), K - 1)
            state = min(int(draw(start[k], random.random())), S - 1)
            written: list[str] = []
            while state < S:
                word = int(draw(write[k, state], random.random()))
                written.append(self.words[min(word, V - 1)])
                state = min(int(draw(step[k, state], random.random())), S)
            sentences.append(Sentence(tuple(written), self.topics[k]))
        return sentences

    def log_prob(self, words: Sequence[str]) -> float:
        """Log p(x) in nats of a sentence, its end included; -inf for what cannot be produced."""
        return float(self.log_probs([Sentence(tuple(words))])[0])

    def log_probs(self, sentences: Sequence[Sentence]) -> Floats:
        """Log p(x) in nats of each sentence, shape [N]."""
        joint = self._log_joint(sentences)
        peak = joint.max(-1)
        shift = np.where(np.isfinite(peak), peak, 0.0)
        with np.errstate(divide="ignore"):
            return np.asarray(shift + np.log(np.exp(joint - shift[:, None]).sum(-1)))

    def topic_posterior(self, words: Sequence[str]) -> Floats:
        """p(topic | x), shape [K].

        Raises:
            DataError: If the sentence has probability zero.
        """
        return np.asarray(self.topic_posteriors([Sentence(tuple(words))])[0])

    def topic_posteriors(self, sentences: Sequence[Sentence]) -> Floats:
        """p(topic | x) of each sentence, shape [N, K].

        Raises:
            DataError: If a sentence has probability zero.
        """
        log_prob = self.log_probs(sentences)
        if not np.isfinite(log_prob).all():
            raise DataError("a sentence that the grammar cannot produce has no topic; check its words.")
        return np.asarray(np.exp(self._log_joint(sentences) - log_prob[:, None]))

    def topic_information(self, sentences: Sequence[Sentence]) -> tuple[float, float]:
        """I(topic; x) in nats, estimated on sampled sentences, and its standard error.

        .. math:: I = H(\\pi) - E_x\\, H(p(\\text{topic} \\mid x))
        """
        posterior = self.topic_posteriors(sentences)
        prior = -float((self.topic_prior * np.log(self.topic_prior)).sum())
        left = -np.where(posterior > 0, posterior * np.log(np.maximum(posterior, 1e-300)), 0).sum(-1)
        return prior - float(left.mean()), float(left.std(ddof=1) / math.sqrt(len(left)))

    def _log_joint(self, sentences: Sequence[Sentence]) -> Floats:
        """Log p(topic, x), shape [N, K], by the forward recursion, rescaled at every word."""
        index = {word: v for v, word in enumerate(self.words)}
        N, (K, S, V) = len(sentences), self.emission.shape
        lengths = np.array([len(s.words) for s in sentences])
        # Column V stands for every word outside the grammar: no state writes it.
        tokens = np.full((N, lengths.max(initial=0)), V)
        for row, sentence in zip(tokens, sentences, strict=True):
            row[: len(sentence.words)] = [index.get(word, V) for word in sentence.words]
        write = np.concatenate([self.emission, np.zeros((K, S, 1))], -1)
        joint = np.full((N, K), -np.inf)  # a sentence without words has probability 0
        scale = np.zeros((N, K))
        forward = np.broadcast_to(self.initial, (N, K, S))
        with np.errstate(divide="ignore"):
            for t in range(tokens.shape[1]):
                if t > 0:
                    forward = np.einsum("nks,ksr->nkr", forward, self.transition)
                forward = forward * write[:, :, tokens[:, t]].transpose(2, 0, 1)
                total = forward.sum(-1)
                forward = forward / np.where(total > 0, total, 1.0)[..., None]
                scale = scale + np.log(total)
                ends = lengths == t + 1
                stop = np.log((forward[ends] * self.stop).sum(-1))
                joint[ends] = np.log(self.topic_prior) + scale[ends] + stop
        return joint


def topic_hmm(num_topics: int = 4, num_states: int = 5) -> TopicHMM:
    """The built-in topic model over 61 words, made by arithmetic so that it never changes.

    Topics share all words and states share the way to go on; each topic ranks the words in an order of
    its own. A sentence of a few words leaves the topic open, a long one gives it away.

    Example:
        >>> hmm = topic_hmm()
        >>> information, error = hmm.topic_information(hmm.sample(2000, seed=0))
        >>> f"{information:.1f} of {math.log(4):.1f} nats, {hmm.mean_length:.4f} tokens"
        '1.3 of 1.4 nats, 10.2865 tokens'
    """
    if not 2 <= num_topics <= 8 or num_states < 2:
        raise DataError(
            "topic_hmm needs 2 to 8 topics and at least 2 states; "
            f"got {num_topics} topics and {num_states} states."
        )
    V = 61  # a prime, and 2 generates its multiplicative group: multiplication permutes the ranks
    topics, states = np.arange(num_topics), np.arange(num_states)
    order = np.array([pow(2, 7 * int(k), V) for k in topics])
    rank = (order[:, None, None] * np.arange(V) + (states * 12)[:, None]) % V
    weight = (2.0 + rank) ** -1.8
    stop = 0.01 + 0.29 * (states / (num_states - 1)) ** 3  # early states rarely stop
    onward = np.eye(num_states)[np.minimum(states + 1, num_states - 1)]
    moves = 0.4 * np.eye(num_states) + 0.5 * onward + 0.1 / num_states  # stay, go on, or jump
    shape = (num_topics, num_states)
    return TopicHMM(
        topic_prior=np.full(num_topics, 1 / num_topics),
        initial=np.broadcast_to(np.eye(num_states)[0], shape),
        transition=np.broadcast_to(moves * (1 - stop)[:, None], (*shape, num_states)),
        stop=np.broadcast_to(stop, shape),
        emission=weight / weight.sum(-1, keepdims=True),
        words=tuple(f"w{v}" for v in range(V)),
    )
