"""The step-size doctor on posteriors where every answer is known: linear Gaussians, at steps that are too small, right,
folding and unstable.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from sri_pyro.evaluation.doctor import DoctorOptions, examine, without_steps
from sri_pyro.evaluation.doctor_findings import difference, settled_at
from sri_pyro.evaluation.doctor_runs import Dynamics, free_energy
from sri_pyro.evaluation.evidence import Weighted, all_rows, score
from sri_pyro.evaluation.findings import Findings
from sri_pyro.evaluation.verdicts.doctor import condition, judge_doctor
from sri_pyro.evaluation.verdicts.doctor_advice import advice
from sri_pyro.numerics.gaussians import Gaussian
from sri_pyro.numerics.langevin import INTEGRATORS
from sri_pyro.numerics.schedules import ConstantSteps, GeometricSteps, StepSchedule
from sri_pyro.target import Inference, Target
from sri_pyro.types import Batch
from tests.oracles import LinearGaussian, divergence_to_posterior, exact_law, gate

ORACLE = LinearGaussian.build("power1", dim=8, information=5.0)
BATCHES = [Batch(torch.full((n, 2), 5), torch.arange(n) + 10 * n) for n in (4, 8)]


class Known(nn.Module):
    """The linear Gaussian in the place of a text model: a batch's ids choose its data."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.x = ORACLE.sample(100)[1]

    def target(self, batch: Batch) -> Target:
        return ORACLE.target(self.x[batch.ids])


class Exact:
    """Importance sampling from the posterior itself: its weights are all p(x)."""

    def __call__(self, target: Target, inference: Inference) -> list[tuple[Tensor, Weighted]]:
        x = next(batch for batch in BATCHES if len(batch) == target.batch_size).ids
        mean, covariance = ORACLE.posterior(Known().x[x])
        law = Gaussian.from_moments(mean, covariance.expand(len(mean), -1, -1))
        z = law.sample(20)
        return [(all_rows(z), score(target, z, law.log_prob(z)))]


def dynamics(schedule: StepSchedule, integrator: str = "ula", num_steps: int = 10) -> Dynamics:
    return Dynamics(
        INTEGRATORS[integrator](), schedule, num_steps, 1.0, lambda target, num: target.sample_prior(num)
    )


@lru_cache
def examined(step: float, integrator: str = "ula", num_steps: int = 10, chains: int = 96) -> Findings:
    torch.manual_seed(1)
    run = dynamics(ConstantSteps(step), integrator, num_steps)
    return examine(Known(), nn.Identity(), run, BATCHES, Exact(), DoctorOptions(num_chains=chains))


def kl(step: float, integrator: str = "ula", num_steps: int = 10) -> float:
    law = exact_law(integrator, ORACLE.precision, [step] * num_steps)
    return divergence_to_posterior(law, ORACLE.precision)


LIMIT = 2 / float(ORACLE.precision.max())
STEPS = [LIMIT * percent / 100 for percent in range(2, 100)]
BEST = min(STEPS, key=kl)
"""The step of ``ula`` with the least KL in closed form, 0.16 nats: 0.077, 0.38 of the limit."""


@pytest.mark.parametrize(
    ("step", "integrator", "expected", "factor"),
    [
        (BEST / 4, "ula", "too_small", 4.0),
        (BEST, "ula", "good", 1.0),
        (2 * BEST, "ula", "too_large", 0.5),
        (1.1 * LIMIT, "ula", "unstable", 0.25),
        (3 * LIMIT, "ula", "unstable", 0.25),
        (0.76 * LIMIT, "lm", "good", 1.0),
    ],
)
def test_every_condition_is_recognised(step: float, integrator: str, expected: str, factor: float) -> None:
    """Oracle: the closed-form KL of every step, and the limit 2 / lambda; ``lm`` has no KL left at 0.76 of it. Catches
    a doctor that sees stability alone, or the grid alone, a grid that scales the wrong way, and an optimum that the
    Jacobian objective would put at a tenth.
    """
    numbers = examined(step, integrator).numbers
    assert condition(numbers) == expected
    assert numbers["grid"]["best_factor"] == factor


def test_folding_is_told_apart_from_bad_steps() -> None:
    """``lm`` at 0.76 of the limit: s lambda is 1.52 in the stiffest direction, so every step folds, and the draws are
    good. Oracle: the precisions. ``baoab`` has no map of z alone.
    """
    numbers = examined(0.76 * LIMIT, "lm").numbers
    assert numbers["folding"] == {"share": 1.0, "first": 1.0, "last": 1.0}
    topics = {verdict.topic: verdict.level for verdict in judge_doctor(numbers)}
    assert (topics["folding"], topics["step_size"]) == ("info", "good")
    assert examined(BEST).numbers["folding"]["share"] == 0.0
    assert "folding" not in {verdict.topic for verdict in judge_doctor(examined(BEST).numbers)}
    assert examined(0.76 * LIMIT, "baoab").numbers["folding"] is None


@pytest.mark.parametrize("integrator", ["ula", "lm", "baoab"])
def test_the_limit_is_where_contraction_ends(integrator: str) -> None:
    """Oracle: the response of the stiffest mode to its start, by the exact recursion, after 400 steps."""
    for share, contracts in ((0.97, True), (1.03, False)):
        law = exact_law(integrator, ORACLE.precision, [share * LIMIT] * 400)
        assert (law.response[0].abs() < 1) == contracts


def test_the_grid_is_the_exact_curve() -> None:
    """Oracle: closed-form KL at each factor for each data set. Catches a lost factor, entropy or evidence, and a
    divergence of one sentence filed under another. Means of 12 sentences within 0.08 nats or 5 %, six of the
    standard errors that fresh seeds show; the values run from 0.16 to 5.
    """
    step = BEST / 2
    found = examined(step)
    grid = found.groups["grid"]["energy"].values + found.groups["sentences"]["log_px"].values
    for factor, row in zip(found.coords["factor"], torch.as_tensor(grid), strict=True):
        assert row.mean().item() == pytest.approx(exact_kl(factor * step), abs=0.08, rel=0.05)


def exact_kl(step: float) -> float:
    """Mean of KL(q || posterior) over the very data sets that are examined."""
    x = Known().x[torch.cat([batch.ids for batch in BATCHES])]
    law = exact_law("ula", ORACLE.precision, [step] * 10)
    means, ratio = ORACLE.mode_means(x), ORACLE.precision * law.variance
    shift = ORACLE.precision * (law.response * means).square()
    return 0.5 * (ratio - 1 - ratio.log() + shift).sum(1).mean().item()


def test_the_path_is_the_exact_law() -> None:
    """Oracle: correlation with the start and precision by the exact recursion at every step of ``ula``."""
    found, step = examined(BEST), BEST
    seen = torch.as_tensor(found.groups["mixing"]["correlation"].values).mean(1)
    for k in (0, 1, 3, 10):
        law = exact_law("ula", ORACLE.precision, [step] * k)
        truth = law.response.sum() / (8 * law.variance.sum()).sqrt()
        # Of 8 * 96 * 12 pairs: a standard error of about 0.01.
        assert seen[k].item() == pytest.approx(truth.item(), abs=0.06)
    largest = torch.as_tensor(found.groups["curvature"]["largest"].values)
    assert torch.allclose(largest, ORACLE.precision.max(), rtol=2e-3)


def test_too_few_steps_are_told_from_enough() -> None:
    """Oracle: exact KL at the best step of each K. Of ``ula`` K = 3 has 0.91 nats, and K = 6 under 0.4; of ``lm`` at
    K = 20 nothing is left to gain, and 10 steps do as well.
    """
    few = examined(0.124, num_steps=3).numbers
    topics = {verdict.topic: verdict for verdict in judge_doctor(few)}
    assert topics["num_steps"].headline == "3 steps are too few."
    double = few["lengths"][1]
    truth = kl(0.124, num_steps=3) - kl(double["factor"] * 0.124, num_steps=6)
    assert double["gain"]["value"] == pytest.approx(truth, abs=0.25)  # of 12 data sets in place of their mean
    enough = examined(0.76 * LIMIT, "lm", num_steps=20).numbers
    assert "K = 20 suffices, and K = 10 would do as well" in advice(enough)


def test_the_sentence() -> None:
    """Whole sentences, as a reader meets them."""
    assert advice(examined(BEST).numbers).startswith(
        "your step 0.077 is 0.38 of the stability limit of the stiffest sentence; "
    )
    assert advice(examined(BEST).numbers).endswith(
        "no step tried would bring it closer to the posterior by as much as 0.1 nats."
    )
    assert "; it is too small: steps 4 times yours, 0.077, would bring it" in advice(
        examined(BEST / 4).numbers
    )
    assert advice(examined(3 * LIMIT).numbers).endswith(
        "it is unstable: steps 0.25 times yours, 0.15, would hold."
    )
    nothing = without_steps("amortized").numbers
    assert advice(nothing) == "This inference takes no Langevin steps, so there is no step size to advise on."


def test_falling_schedules_and_fixed_ones() -> None:
    """The limit is that of the smallest step; a list of steps has one length. Oracle: the schedule."""
    torch.manual_seed(1)
    falling = dynamics(GeometricSteps(0.3, 0.03), "lm")
    options = DoctorOptions(num_chains=64, factors=(1.0,))
    numbers = examine(Known(), nn.Identity(), falling, BATCHES, Exact(), options).numbers
    assert numbers["stability"]["share_of_limit"] == pytest.approx(0.03 / LIMIT, rel=2e-3)
    assert [each["num_steps"] for each in numbers["lengths"]] == [5, 20]
    assert numbers["folding"]["first"] == 1.0
    assert numbers["folding"]["last"] == 0.0
    rigid = replace(falling, rigid=True)
    assert examine(Known(), nn.Identity(), rigid, BATCHES, Exact(), options).numbers["lengths"] == []


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    options = DoctorOptions(num_chains=64, factors=(1.0, 2.0))
    run = dynamics(ConstantSteps(0.05), num_steps=2)
    examine(Known(), nn.Identity(), run, BATCHES, Exact(), options, watch=lambda *now: told.append(now))
    assert told == [(k, len(told)) for k in range(1, len(told) + 1)]


def test_free_energy_of_a_gaussian() -> None:
    """Oracle: KL = log p(x) + F, and draws of the posterior itself have none. Gate at 6 standard errors of 40 data
    sets. A chain that is lost makes it infinite for its sentence alone.
    """
    _, x = ORACLE.sample(40)
    target = ORACLE.target(x)
    mean, covariance = ORACLE.posterior(x)
    z = Gaussian.from_moments(mean, covariance.expand(40, -1, -1)).sample(200)
    kl = ORACLE.log_evidence(x) + free_energy(target, z)[0]
    assert abs(kl.mean()) < gate(1) * kl.std() / 40**0.5
    z[3, 7] = torch.nan
    assert free_energy(target, z)[0].isinf().nonzero().tolist() == [[7]]


def test_settling_is_seen_against_its_error() -> None:
    """Catches a rule that takes the first step within the error though later ones leave it again."""
    se = torch.full((5,), 0.1)
    assert settled_at(torch.tensor([0.0, -5.0, 0.1, 0.0, 0.0]), se) == 2
    assert settled_at(torch.tensor([-9.0, -8.0, -5.0, -2.0, 0.0]), se) == 4
    assert settled_at(torch.tensor([0.1, 0.0, 0.1, 0.0, 0.0]), se) == 0
    assert settled_at(torch.tensor([0.1, torch.nan, 0.1, 0.0, 0.0]), se) == 2


def test_two_lost_runs_gain_nothing() -> None:
    inf = torch.inf
    assert difference(torch.tensor([1.0, inf]), torch.tensor([1.0, inf])).value == 0.0
    assert difference(torch.tensor([1.0, inf]), torch.tensor([1.0, 2.0])).value == inf


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DoctorOptions(num_chains=4), "the doctor needs num_chains of at least 8"),
        (lambda: DoctorOptions(factors=(0.5, 2.0)), r"factors must be .*, and hold 1; got \[0.5, 2.0\]"),
        (lambda: examine(Known(), nn.Identity(), dynamics(ConstantSteps(0.1)), [], Exact()), "2 sentences; got 0"),
    ],
)  # fmt: skip
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
