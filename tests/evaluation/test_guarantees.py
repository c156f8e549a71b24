"""What holds whatever the weights' tails: the corpus's product by Markov, each sentence's interval by Bennett.

Oracles: laws of weights with known mean, and quadrature over an enumerable language.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
import torch

from sri_pyro.evaluation import (
    AnnealedImportance,
    EvaluationOptions,
    GaussianImportance,
    JacobianImportance,
    Ladder,
    PriorImportance,
    estimate_evidence,
    evaluate,
)
from sri_pyro.evaluation.guarantees import LawOfWeights, bounded, guaranteed_perplexity, guarantees
from sri_pyro.evaluation.headline import headline
from sri_pyro.evaluation.sandwich import between_bounds
from sri_pyro.types import Batch
from tests.evaluation.helpers import run
from tests.oracles import EnumerableText, quadrature

pytestmark = pytest.mark.usefixtures("float64")

ESTIMATORS: dict[str, Any] = {
    "gaussian": GaussianImportance(refits=0),
    "gaussian, refitted": GaussianImportance(refits=3),
    "prior": PriorImportance(),
    "annealed": AnnealedImportance(num_samples=32, temperatures=5),
    "ladder": Ladder(),
}


def written_by(oracle: EnumerableText, num: int) -> tuple[Batch, torch.Tensor]:
    """Sentences of the model, and the codes that it wrote them from."""
    z = torch.randn(num, 1)
    tokens = oracle.model.decoder.generate(z, oracle.rows.tokens.shape[1])
    place = {tuple(row): k for k, row in enumerate(oracle.rows.tokens.tolist())}
    return oracle.rows.select(torch.tensor([place[tuple(row)] for row in tokens.tolist()])), z


def test_the_bound_of_a_corpus_by_hand() -> None:
    """Two sentences of 7 tokens, -14 nats: exp of 14 + log 20 over 7; and the other way round for upper bounds."""
    log_px, lengths = torch.tensor([-10.0, -4.0]), torch.tensor([4, 3])
    assert guaranteed_perplexity(log_px, lengths) == pytest.approx(math.exp((14 + math.log(20)) / 7))
    below = guaranteed_perplexity(log_px, lengths, 0.025, lower=True)
    assert below == pytest.approx(math.exp((14 - math.log(40)) / 7))
    assert math.isnan(guaranteed_perplexity(torch.tensor([-10.0, math.nan]), lengths))
    assert guaranteed_perplexity(torch.tensor([-math.inf, -1.0]), lengths) == math.inf


def test_the_bound_holds_where_a_standard_error_fails() -> None:
    """3 draws of log-normal weights of deviation 3, 4,000 corpora of 5 sentences: normal intervals fail.


    The bound may fail on 5 %; Markov's inequality is far from tight here, and a bound without its three nats fails on
    more than that. The gate: a binomial share of 5 % is above 7.5 % in 1e-11 of all runs.
    """
    generator = torch.Generator().manual_seed(0)
    log_w = 3.0 * torch.randn(4000, 5, 3, generator=generator) - 4.5
    log_px = log_w.logsumexp(-1) - math.log(3)
    lengths = torch.ones(5)
    held = [guaranteed_perplexity(each, lengths) >= 1.0 for each in log_px]
    assert 1 - sum(held) / len(held) < 0.075
    bare = (log_px.sum(-1) <= 0).double().mean()
    assert bare > 0.9, "such weights almost always under-state"
    spread = log_w.exp().std(-1) / math.sqrt(3)
    missed = (log_px.exp() + 1.96 * spread < 1).double().mean()
    assert missed > 0.5


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_no_weight_is_above_the_bound_and_the_interval_holds_the_truth(name: str) -> None:
    """40 rows of a language, against quadrature: of every estimator the largest weight, and Bennett's interval."""
    torch.manual_seed(5)
    oracle = EnumerableText.build("gru", latent_dim=1)
    target, estimator = oracle.target(), ESTIMATORS[name]
    truth = quadrature(target).log_evidence
    assert isinstance(estimator, LawOfWeights)
    found, draws = estimate_evidence(target, run(), estimator)
    bound = estimator.log_bound(draws.rounds)
    assert bool((draws.log_weight.amax(0) <= bound).all())
    ends = bounded(estimator, found.log_px, found.num_samples, draws.rounds)
    inside = (ends.lower <= truth) & (truth <= ends.upper)
    assert bool((inside | ends.vacuous).all())
    assert bool((~ends.vacuous).any())


def test_rounds_that_weights_chose_share_the_risk_and_take_the_products_guarantee_away() -> None:
    """Among four rounds each gets a quarter of the risk: wider than one round's; and no word of the corpus."""
    log_px, draws, once = torch.full((3,), -1.0), torch.full((3,), 4096.0), torch.ones(3, dtype=torch.int64)
    one, four = GaussianImportance(refits=0), GaussianImportance(refits=3)
    narrow, wide = (bounded(each, log_px, draws, once) for each in (one, four))
    assert bool((wide.lower < narrow.lower).all() and (narrow.upper < wide.upper).all())
    lengths = torch.ones(3)
    assert math.isnan(guarantees(four, log_px, lengths, wide).perplexity)
    assert guarantees(one, log_px, lengths, narrow).perplexity == pytest.approx(
        math.exp((3 + math.log(20)) / 3)
    )
    assert not isinstance(JacobianImportance(), LawOfWeights)


def test_an_evaluation_carries_them_and_the_headline_says_them() -> None:
    """Columns within [-inf, 0], the metrics by the functions above, and a line of the table; none without a code."""
    torch.manual_seed(7)
    oracle = EnumerableText.build("gru", latent_dim=1)
    estimator = GaussianImportance(refits=0)
    written = [written_by(oracle, 12)]
    options = EvaluationOptions(num_chains=16, exported_draws=8)
    found = evaluate(
        oracle.model,
        run(),
        [oracle.rows.select(torch.arange(9))],
        estimator,
        options,
        simulated=lambda: written,
    )
    told, table = found.metrics["guarantees"], found.table
    log_px, lengths = (torch.tensor(table[name].to_numpy()) for name in ("log_px", "num_tokens"))
    assert told["perplexity"] == guaranteed_perplexity(log_px, lengths)
    assert told["bounded_sentences"] == table["bennett_lower"].notna().sum()
    assert (table["bennett_lower"].dropna() < table["bennett_upper"].dropna()).all()
    truth = quadrature(oracle.model.target(written[0][0])).log_evidence
    exact = math.exp(-float(truth.sum() / written[0][0].lengths.sum()))
    assert told["simulated_lower"] < exact < told["simulated_upper"]
    (row,) = [row for row in headline(found.metrics) if row.name == "Perplexity, guaranteed"]
    assert row.value == f"at most {told['perplexity']:.4g}"
    assert "the model wrote" in row.note
    silent = {**found.metrics, "guarantees": {**told, "perplexity": math.nan}}
    assert not [row for row in headline(silent) if row.name == "Perplexity, guaranteed"]


def test_upper_bounds_give_the_lower_end() -> None:
    """Bounds turned round, the lower end above the upper one, are what a wrong sign would give."""
    torch.manual_seed(3)
    oracle = EnumerableText.build("gru", latent_dim=1)
    batch, z = written_by(oracle, 30)
    estimator = GaussianImportance(refits=0)
    found: pd.DataFrame = between_bounds(oracle.model, run(), [(batch, z)], estimator)
    log_px, lengths = torch.tensor(found["log_px"].to_numpy()), batch.lengths
    ends = bounded(estimator, log_px, torch.full_like(log_px, 512), torch.ones(30, dtype=torch.int64))
    told = guarantees(estimator, log_px, lengths, ends, found)
    plain = math.exp(-float(log_px.sum() / lengths.sum()))
    assert told.simulated_lower < plain < told.perplexity < told.simulated_upper
