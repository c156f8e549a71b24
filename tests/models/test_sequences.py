"""Scoring, counting and drawing sentences, against complete enumeration of a tiny language."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from sri_pyro.models import DECODERS, Strategy, TokenSequence
from sri_pyro.types import BOS, EOS, PAD, UNK
from tests.oracles import all_rows, randomise, sentence

pytestmark = pytest.mark.usefixtures("float64")
VOCAB, LENGTH = 6, 3


def decoder_of(name: str, latent_dim: int = 2, forbid: bool = False):
    """A small decoder with random weights; ``forbid`` takes PAD and BOS out of its softmax."""
    decoder = DECODERS[name](vocab_size=VOCAB, latent_dim=latent_dim, hidden=4, dropout=0.0)
    randomise(decoder, 0.8)
    if forbid:
        with torch.no_grad():
            decoder.output.bias[[PAD, BOS]] = -60.0
    return decoder.eval()


def forbidden_mass(decoder, z: Tensor) -> Tensor:
    """Probability that one of the first tokens is PAD or BOS, which no row of a batch can express.

    Walks all prefixes by ``begin`` and ``advance``, so it does not use the scores that it completes.
    """
    words = [UNK, *range(4, VOCAB)]
    total = torch.zeros(len(z))
    alive = [(torch.full((len(z),), BOS), decoder.begin(z), torch.zeros(len(z)))]
    for _ in range(LENGTH):
        longer = []
        for token, state, log_prob in alive:
            logits, after = decoder.advance(token, z, state)
            law = logits.log_softmax(-1)
            total += (log_prob[:, None] + law[:, [PAD, BOS]]).exp().sum(-1)
            longer += [(torch.full((len(z),), w), after, log_prob + law[:, w]) for w in words]
        alive = longer
    return total


@pytest.mark.parametrize("name", DECODERS)
def test_probabilities_of_all_rows_add_up(name: str) -> None:
    """Sentences + unfinished prefixes + what starts with a forbidden symbol = 1, for every z.

    Scoring normalises over the whole vocabulary, PAD and BOS included, as the published code does.
    """
    decoder, z = decoder_of(name), torch.randn(4, 2)
    finished, cut = all_rows(VOCAB, LENGTH)
    mass = [decoder.log_likelihood(z[:, None], rows).exp().sum(-1) for rows in (finished, cut)]
    torch.testing.assert_close(
        mass[0] + mass[1] + forbidden_mass(decoder, z), torch.ones(4), rtol=0, atol=1e-12
    )
    assert (mass[1] > 1e-3).all()


@pytest.mark.parametrize("name", DECODERS)
def test_the_law_that_scores_is_the_law_that_generates(name: str) -> None:
    """Over all rows that generation can write, the scores of a model must add up to one.

    Generation never chooses PAD or BOS; if scoring gives them probability, simulated sentences follow
    another law than the one that is scored, and every perplexity is too high by the missing mass.
    """
    decoder, z = decoder_of(name), torch.randn(4, 2)
    total = decoder.log_likelihood(z[:, None], torch.cat(all_rows(VOCAB, LENGTH))).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones(4), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DECODERS)
def test_end_of_sentence_is_counted(name: str) -> None:
    """Without EOS the score changes by exactly its log-probability, which is not small."""
    decoder, z = decoder_of(name), torch.randn(1, 2)
    whole, prefix = torch.tensor([[4, 5, EOS]]), torch.tensor([[4, 5, PAD]])
    state = decoder.begin(z)
    for token in (BOS, 4, 5):
        logits, state = decoder.advance(torch.tensor([token]), z, state)
    end = logits.log_softmax(-1)[0, EOS].item()
    difference = decoder.log_likelihood(z, whole) - decoder.log_likelihood(z, prefix)
    assert difference.item() == pytest.approx(end, abs=1e-12)
    assert end < -0.01


@pytest.mark.parametrize("name", DECODERS)
def test_padding_is_never_scored(name: str) -> None:
    decoder, z = decoder_of(name), torch.randn(1, 2)
    tight = decoder.log_likelihood(z, torch.tensor([[5, EOS]]))
    wide = decoder.log_likelihood(z, torch.tensor([[5, EOS, PAD, PAD, PAD]]))
    assert wide.item() == pytest.approx(tight.item(), abs=1e-12)


# --- Drawing -----------------------------------------------------------------------------------------------


def by_hand(logits: Tensor, strategy: Strategy) -> Tensor:
    """Next-token law of one row: forbid, divide by the temperature, keep the nucleus, renormalise."""
    logits = logits.clone()
    logits[[PAD, BOS]] = -math.inf
    if strategy.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(), len(logits)).double()
    law = (logits / strategy.temperature).softmax(0)
    kept, mass = torch.zeros_like(law), 0.0
    for token in law.argsort(descending=True).tolist():
        if mass >= strategy.top_p:
            break
        kept[token] = law[token]
        mass += law[token].item()
    return kept / kept.sum()


def assert_frequencies(drawn: Tensor, law: Tensor, alpha: float = 1e-8) -> None:
    """Chi-square test of category counts; what has no probability must not occur at all."""
    assert p_value(drawn, law) > alpha


def p_value(drawn: Tensor, law: Tensor) -> float:
    counts = torch.bincount(drawn, minlength=len(law)).double()
    if counts[law == 0].sum() > 0:
        return 0.0
    expected = law * len(drawn)
    common = expected >= 50
    if common.sum() == (law > 0).sum():
        pairs = counts[common], expected[common]
    else:
        pairs = (
            torch.cat([counts[common], counts[~common].sum()[None]]),
            torch.cat([expected[common], expected[~common].sum()[None]]),
        )
    if len(pairs[0]) == 1:
        return 1.0
    statistic = ((pairs[0] - pairs[1]).square() / pairs[1]).sum().item()
    return float(stats.chi2.sf(statistic, len(pairs[0]) - 1))


STRATEGIES = {
    "ancestral": Strategy(),
    "cool": Strategy(temperature=0.5),
    "hot": Strategy(temperature=2.0),
    "nucleus": Strategy(top_p=0.7),
    "narrow nucleus": Strategy(top_p=0.05),
    "cool nucleus": Strategy(temperature=0.6, top_p=0.85),
    "greedy": Strategy.greedy(),
}


@pytest.mark.parametrize("how", STRATEGIES)
def test_choice_follows_the_exact_next_token_law(how: str) -> None:
    logits, n = 1.5 * torch.randn(3, 9), 20_000
    logits[0, PAD] = logits[1, BOS] = 6.0  # tempting, and never chosen
    drawn = STRATEGIES[how].choose(logits.repeat_interleave(n, 0)).reshape(3, n)
    for row, tokens in zip(logits, drawn, strict=True):
        law = by_hand(row, STRATEGIES[how])
        assert_frequencies(tokens, law)
        if how == "ancestral":  # positive control
            assert p_value(tokens, by_hand(row, Strategy(temperature=0.8))) < 1e-12


def test_a_temperature_near_zero_is_greedy() -> None:
    """Logits over such a number are infinite, and the law of one that is would be NaN."""
    logits = 1.5 * torch.randn(200, 9)
    assert torch.equal(Strategy(temperature=1e-300).choose(logits), Strategy.greedy().choose(logits))


def test_nucleus_is_the_smallest_set_that_reaches_its_share() -> None:
    """Probabilities 0.5, 0.3, 0.2: a share of 0.5 keeps one token, 0.6 two, 0.81 three."""
    logits = torch.full((9,), -math.inf)
    logits[torch.tensor([4, 5, 6])] = torch.tensor([0.5, 0.3, 0.2]).log()
    for share, kept in ((0.49, {4}), (0.6, {4, 5}), (0.81, {4, 5, 6}), (1.0, {4, 5, 6})):
        drawn = Strategy(top_p=share).choose(logits.expand(2000, -1))
        assert set(drawn.tolist()) == kept


def test_greedy_takes_the_best_allowed_token() -> None:
    logits = torch.tensor([[9.0, 0.0, 8.0, 1.0, 2.0], [0.0, 3.0, 0.0, 1.0, 2.0]])
    assert Strategy.greedy().choose(logits).tolist() == [4, 1]
    assert Strategy(temperature=0.0, top_p=0.5).choose(logits).tolist() == [4, 1]


def test_choice_does_not_overwrite_the_logits() -> None:
    logits = torch.randn(3, 9)
    before = logits.clone()
    for strategy in STRATEGIES.values():
        strategy.choose(logits)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("how", ["ancestral", "cool", "nucleus"])
@pytest.mark.parametrize("name", DECODERS)
def test_generated_sentences_follow_their_exact_law(name: str, how: str) -> None:
    """Frequencies of all 40 rows against products of exact next-token laws."""
    decoder, strategy, z = decoder_of(name), STRATEGIES[how], torch.randn(1, 2)
    rows = torch.cat(all_rows(VOCAB, LENGTH))
    law = torch.ones(len(rows))
    for i, row in enumerate(rows.tolist()):
        state, before = decoder.begin(z), BOS
        for token in row:
            if before == EOS:
                break
            logits, state = decoder.advance(torch.tensor([before]), z, state)
            law[i] *= by_hand(logits[0], strategy)[token]
            before = token
    assert law.sum().item() == pytest.approx(1.0, abs=1e-12)
    drawn = decoder.generate(z.expand(30_000, 2), max_length=LENGTH, strategy=strategy)
    index = {tuple(row): i for i, row in enumerate(rows.tolist())}
    found = torch.tensor([index[tuple(row)] for row in drawn.tolist()])  # a KeyError is an impossible row
    assert_frequencies(found, law)


@pytest.mark.parametrize("name", DECODERS)
def test_generated_frequencies_match_the_scores(name: str) -> None:
    """Where PAD and BOS have no probability, log_prob is the log-frequency of what sample draws."""
    decoder, z = decoder_of(name, forbid=True), torch.randn(2)
    rows = torch.cat(all_rows(VOCAB, LENGTH))
    law = TokenSequence(decoder, z.expand(len(rows), 2), LENGTH).log_prob(rows).exp().detach()
    drawn = TokenSequence(decoder, z, LENGTH).sample(torch.Size([30_000]))
    index = {tuple(row): i for i, row in enumerate(rows.tolist())}
    assert_frequencies(torch.tensor([index[tuple(row)] for row in drawn.tolist()]), law)


@pytest.mark.parametrize("name", DECODERS)
def test_greedy_sentences_are_the_argmax_at_every_step(name: str) -> None:
    decoder, z = decoder_of(name), torch.randn(6, 2)
    drawn = decoder.generate(z, max_length=5, strategy=Strategy.greedy())
    assert torch.equal(drawn, decoder.generate(z, max_length=5, strategy=Strategy.greedy()))
    for code, row in zip(z, drawn.tolist(), strict=True):
        state, before = decoder.begin(code[None]), BOS
        for token in row:
            if before == EOS:
                break
            logits, state = decoder.advance(torch.tensor([before]), code[None], state)
            assert token == by_hand(logits[0], Strategy.greedy()).argmax()
            before = token


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0; got -1.0. 0 decodes greedily, 1 samples."),
        (
            {"temperature": math.nan},
            "temperature must be at least 0; got nan. 0 decodes greedily, 1 samples.",
        ),
        (
            {"temperature": math.inf},
            "temperature must be a finite number; got inf. 0 decodes greedily, 1 samples.",
        ),
        ({"top_p": 0.0}, "top_p must lie in (0, 1]; got 0.0. 1 keeps every token."),
        ({"top_p": 1.5}, "top_p must lie in (0, 1]; got 1.5. 1 keeps every token."),
        ({"top_p": math.nan}, "top_p must lie in (0, 1]; got nan. 1 keeps every token."),
    ],
)
def test_strategies_out_of_range_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=sentence(message)):
        Strategy(**options)


# --- The distribution as Pyro sees it ----------------------------------------------------------------------


def test_token_sequence_has_the_shapes_of_a_pyro_distribution() -> None:
    decoder = decoder_of("lstm")
    law = TokenSequence(decoder, torch.randn(5, 4, 2), LENGTH)
    assert law.batch_shape == (5, 4)
    assert law.event_shape == (LENGTH,)
    assert law.sample().shape == (5, 4, LENGTH)
    assert law.sample(torch.Size([7])).shape == (7, 5, 4, LENGTH)
    rows = torch.tensor([[4, EOS, PAD], [EOS, PAD, PAD], [4, 5, 4], [5, 5, EOS]])
    assert law.log_prob(rows).shape == (5, 4)
    wider = TokenSequence(decoder, torch.randn(4, 2), LENGTH).expand(torch.Size([3, 4]))
    assert wider.batch_shape == (3, 4)
    assert wider.sample().shape == (3, 4, LENGTH)


def test_token_sequence_sums_the_decoders_log_probs() -> None:
    decoder, z = decoder_of("lstm"), torch.randn(4, 2)
    rows = torch.tensor([[4, EOS, PAD], [EOS, PAD, PAD], [4, 5, 4], [5, 5, EOS]])
    found = TokenSequence(decoder, z, LENGTH).log_prob(rows)
    torch.testing.assert_close(found, decoder.token_log_probs(z, rows).sum(-1), rtol=0, atol=1e-12)
    assert found.requires_grad
