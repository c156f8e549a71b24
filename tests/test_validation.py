"""Validation: its numbers and their errors against a recomputation from the sentences' own estimates."""

import math
import re
from typing import Any

import pytest
import torch

from sri_pyro.config import build, load_corpus, parse_config
from sri_pyro.config.build import Parts
from sri_pyro.config.validation import NOISE_SEED, errors
from sri_pyro.evaluation import GaussianImportance, estimate_evidence, figures
from sri_pyro.numerics.information import mutual_information
from sri_pyro.numerics.keyed import fold

TINY: dict[str, Any] = {
    "data": {"kind": "pcfg", "num_train": 40, "num_valid": 30, "num_test": 12},
    "model": {"prior": {"dim": 2}, "decoder": {"embedding": 4, "hidden": 6}},
    "validation": {"num_sentences": 20, "num_samples": 16, "pilot_chains": 4, "batch_size": 8},
}


def parts(*overrides: str) -> Parts:
    config = parse_config(TINY, overrides)
    return build(config, load_corpus(config), torch.device("cpu"))


def test_errors_are_those_of_the_sentences() -> None:
    """Oracle: the estimator asked again with the same noise, and the textbook's formulas. Catches a standard
    deviation in place of an error, n in place of n - 1, a batch's mean in place of a sentence's value,
    and a share of those that fail.
    """
    built = parts("validation.num_samples=60")
    scores = built.validate()
    estimator, nll, se, passed = GaussianImportance(60, 4, refits=0), [], [], []
    for place, batch in enumerate(built.validation):
        torch.manual_seed(fold(NOISE_SEED, place))
        target = built.model.target(batch)
        evidence, _ = estimate_evidence(target, built.inference, estimator)
        nll += (-evidence.log_px).tolist()
        se += evidence.se.tolist()
        passed += [khat < 1 - 1 / math.log10(60) for khat in evidence.khat.tolist()]
    assert len(nll) == 20
    mean = sum(nll) / 20
    spread = sum((value - mean) ** 2 for value in nll) / 19
    assert scores["nll"] == pytest.approx(mean)
    assert scores["nll_se"] == pytest.approx(math.sqrt(spread / 20))
    assert scores["nll_mc_se"] == pytest.approx(math.sqrt(sum(value**2 for value in se)) / 20)
    assert 0 < scores["nll_mc_se"] < scores["nll_se"]
    assert 0 < sum(passed) < 20
    assert scores["khat_share_below"] == sum(passed) / 20
    assert scores["khat_threshold"] == pytest.approx(1 - 1 / math.log10(60))
    tokens = sum(int(batch.lengths.sum()) for batch in built.validation)
    assert scores["uniform_nll"] == pytest.approx(math.log(built.model.decoder.vocab_size) * tokens / 20)


def test_the_spread_holds_the_monte_carlo_error_already() -> None:
    """Sentences with variance 4 estimated with noise of variance 1: the mean of 50 has variance (4 + 1) / 50.

    Adding the noise to the spread would give (4 + 1 + 1) / 50, above the bound. The mean of 4000 estimated
    variances is known to 0.0032 of itself (chi-square of 49 degrees): five errors are 1.6 %.
    """
    estimates = 2 * torch.randn(4000, 50, dtype=torch.float64) + torch.randn(4000, 50, dtype=torch.float64)
    found = [errors(nll, torch.ones(50)) for nll in estimates]
    variance = sum(each["nll_se"] ** 2 for each in found) / len(found)
    assert variance == pytest.approx(5 / 50, rel=0.016)
    assert found[0]["nll_mc_se"] == pytest.approx(math.sqrt(1 / 50))


def test_one_sentence_has_no_error() -> None:
    """NaN would be no JSON, and would make a checkpoint's header differ from itself."""
    scores = parts("validation.num_sentences=1").validate()
    assert scores.keys() == {
        "nll", "ppl", "kl_posterior_prior", "reconstruction", "uniform_nll", "khat", "khat_threshold",
        "khat_share_below",
    }  # fmt: skip


def test_the_mutual_information_is_that_of_all_sentences_at_once() -> None:
    """Oracle: laws and draws of every batch side by side, the noise as above. Catches a mean over batches, draws in
    train mode, and columns of another sentence. Draws without a law have none.
    """
    built = parts("preset=vae_small", 'inference.encoder={kind="lstm", embedding=3, hidden=5}')
    with torch.no_grad():
        for weight in built.inference.parameters():
            weight.normal_()
        built.inference.encoder.moments.weight[:2].mul_(4.0)  # the means far apart,
        built.inference.encoder.moments.bias[2:].fill_(-3.0)  # and the scales small beside
    scores, codes = built.validate(), []
    for place, batch in enumerate(built.validation):
        torch.manual_seed(fold(NOISE_SEED, place))
        target = built.model.target(batch)
        estimate_evidence(target, built.inference, GaussianImportance(16, 4, refits=0))
        draws = built.inference(target)
        codes.append(torch.stack([draws.law.mean, draws.law.stddev, draws.z[0]]).detach())
    mean, scale, z = torch.cat(codes, 1)
    expected = float(mutual_information(mean, scale, z))
    assert scores["mutual_information"] == pytest.approx(expected, rel=1e-9)
    assert 0.1 < expected < math.log(20)
    assert "mutual_information" not in parts().validate()


def test_a_language_model_has_no_monte_carlo_error() -> None:
    scores = parts("preset=language_model", "model.prior.dim=0").validate()
    assert scores["nll_mc_se"] == 0
    assert scores["nll_se"] > 0


def test_validating_twice_gives_the_same_numbers_and_leaves_the_generator_alone() -> None:
    built = parts()
    before = torch.get_rng_state()
    assert built.validate() == built.validate()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_report_draws_the_errors_that_were_recorded() -> None:
    """Two epochs with errors have two bars with two caps each, and one epoch of an older run has none."""
    plain = [{"kind": "validation", "epoch": epoch, "nll": 40.0 - epoch} for epoch in (1.0, 2.0, 3.0)]
    (without,) = figures.training(plain, with_code=True)
    known = [{**record, "nll_se": 0.5} for record in plain]
    (some,) = figures.training([plain[0], *known[1:]], with_code=True)
    (every,) = figures.training(known, with_code=True)
    assert "no error is recorded" in without.caption
    for panel in (some, every):
        assert "Bars, where there are any, are two standard errors of the level." in panel.caption
    bars = [drawn(panel.svg, 'stroke-width: 0.8"') for panel in (without, some, every)]
    assert [count - bars[0] for count in bars] == [0, 2, 3]


def drawn(svg: str, style: str) -> int:
    """How many coloured paths have a style; axes and ticks are grey."""
    return sum(style in path for path in re.findall(r"<path [^>]*>", svg, re.DOTALL))
