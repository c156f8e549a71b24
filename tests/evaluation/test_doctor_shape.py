"""What the doctor says where draws are not Gaussian: posteriors of two modes whose weights and entropies are known."""

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sri_pyro.evaluation.doctor import DoctorOptions, examine
from sri_pyro.evaluation.doctor_examined import Ends, Examined
from sri_pyro.evaluation.doctor_figures import doctor_panels
from sri_pyro.evaluation.doctor_findings import LOST, difference
from sri_pyro.evaluation.doctor_shape import excess_entropy, expected, mean_excess
from sri_pyro.evaluation.evidence import Weighted, all_rows, score
from sri_pyro.evaluation.findings import Findings
from sri_pyro.evaluation.verdicts.doctor import condition, gained, judge_doctor, nearer
from sri_pyro.evaluation.verdicts.doctor_advice import advice
from sri_pyro.numerics.gaussians import Gaussian
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.target import Inference, Target
from sri_pyro.types import Batch
from tests.evaluation.analyses import back, whole
from tests.evaluation.test_doctor import BATCHES, BEST, LIMIT, ORACLE, Known, dynamics
from tests.oracles import LOG_2PI, LinearGaussian, gate

UNSEEN = LinearGaussian(torch.cat([ORACLE.snr[:-1], torch.zeros(1)]), ORACLE.rotation)
"""The linear Gaussian whose last mode the data do not see: its posterior there is its prior."""


def two_normals(u: Tensor, apart: float) -> Tensor:
    """Log density of the equal mixture of N(-apart, 1) and N(apart, 1)."""
    both = torch.stack([u - apart, u + apart])
    return (-0.5 * (both.square() + LOG_2PI)).logsumexp(0) - math.log(2)


class Modes(nn.Module):
    """The prior of the unseen mode is a mixture of two normals, and so is its posterior, with equal weights."""

    def __init__(self, oracle: LinearGaussian, apart: float, draws: int = 200) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))
        self.oracle, self.apart, self.draws = oracle, apart, draws

    def target(self, batch: Batch) -> Target:
        plain = self.oracle.target(Known().x[batch.ids])

        def log_prior(z: Tensor) -> Tensor:
            u = self.oracle.modes(z)[..., -1]
            return plain.log_prior(z) + 0.5 * (u.square() + LOG_2PI) + two_normals(u, self.apart)

        return replace(plain, log_prior=log_prior)

    def moved(self, z: Tensor, share: float) -> Tensor:
        """Draws of the plain law, moved to one of the modes or the other."""
        side = (torch.rand(z.shape[:2], dtype=z.dtype) < share).to(z.dtype) * 2 - 1
        return z + self.apart * side[..., None] * self.oracle.rotation[:, -1]

    def __call__(self, target: Target, inference: Inference) -> list[tuple[Tensor, Weighted]]:
        """The estimator whose weights are all p(x): draws of the posterior itself."""
        x = next(batch for batch in BATCHES if len(batch) == target.batch_size).ids
        mean, covariance = self.oracle.posterior(Known().x[x])
        law = Gaussian.from_moments(mean, covariance.expand(len(mean), -1, -1))
        plain = law.sample(self.draws)
        z = self.moved(plain, 0.5)
        u = self.oracle.modes(z)[..., -1]
        # The unseen mode is independent of the others: its factor of the density is exchanged.
        others = law.log_prob(z) + 0.5 * (u.square() + LOG_2PI)
        return [(all_rows(z), score(target, z, others + two_normals(u, self.apart)))]


@lru_cache
def examined(apart: float, step: float = BEST, draws: int = 200) -> Findings:
    """Of runs that start in one mode or the other, with unequal shares; they cannot pass between them."""
    torch.manual_seed(1)
    model = Modes(UNSEEN, apart, draws)
    run = replace(
        dynamics(ConstantSteps(step)),
        start=lambda target, num: model.moved(target.sample_prior(num), 0.9),
    )
    return examine(model, nn.Identity(), run, BATCHES, model, DoctorOptions(num_chains=96))


def said(findings: Findings) -> str:
    words = [f"{each.headline} {each.evidence} {each.advice}" for each in judge_doctor(findings.numbers)]
    return " ".join([*words, advice(findings.numbers)])


@pytest.mark.parametrize("draws", [200, 20])
def test_two_modes_are_not_judged(draws: int, tmp_path: Path) -> None:
    """Nine chains of ten stay in a mode of half the posterior: KL is at least 0.9 log 1.8 + 0.1 log 0.2 = 0.37 nats,
    whatever steps and their number are, and F does not see it. Catches a doctor that calls such steps well chosen and
    enough: with a Gaussian entropy they are, by every factor and number of steps. What does not rest on the entropy is
    told as ever: the limit by the oracle's precision, and the correlation of the unseen mode, which stays in its place.
    Of 20 draws no k-hat passes, so that the KL is not known: it is the draws that show their modes.
    """
    found = examined(6.0, draws=draws)
    assert condition(found.numbers) == "withheld"
    assert found.numbers["grid"] is None
    assert found.numbers["lengths"] == []
    levels = {verdict.topic: verdict.level for verdict in judge_doctor(found.numbers)}
    assert levels == {"shape": "caution", "mixing": "caution", "step_size": "info"}
    for claim in ("suffice", "well chosen", "do as well", "closer", "farther", "KL(inference ‖ posterior)"):
        assert claim not in said(found)
    assert "judge it by sri-pyro reference RUN" in advice(found.numbers)
    assert found.numbers["stability"]["share_of_limit"] == pytest.approx(BEST / LIMIT, rel=2e-3)
    assert found.numbers["mixing"]["correlation_with_start"]["value"] > 0.5
    panels = back(tmp_path, found, doctor_panels)
    whole(panels)
    assert [panel.title for panel in panels if "KL" in panel.title] == []
    assert len(panels) == 3


def test_one_mode_is_judged_as_ever() -> None:
    """The same program where the two modes are one: the posterior is Gaussian, and the best step of ten is known."""
    found = examined(0.0)
    assert condition(found.numbers) == "good"
    assert [run["gaussian"] for run in found.numbers["shape"]] == [True] * 4
    levels = {verdict.topic: verdict.level for verdict in judge_doctor(found.numbers)}
    assert levels["step_size"] == "good"
    assert "shape" not in levels
    assert "num_steps" in levels
    assert "neither the evaluation's KL, of the run's own steps on the evaluation's sentences, nor" in said(
        found
    )


def test_unstable_steps_are_so_whatever_the_draws_are() -> None:
    """Stability needs no entropy: the same two modes, at steps beyond the limit 2 / lambda. Nothing is said of what
    the best factor would do.
    """
    found = examined(6.0, step=1.02 * LIMIT)
    assert condition(found.numbers) == "unstable"
    assert judge_doctor(found.numbers)[0].headline == "The steps are unstable."
    assert f"it is unstable: a smallest step of at most {0.8 * LIMIT:.2g} is safe" in advice(found.numbers)


def test_a_negative_kl_is_refused_though_the_draws_look_gaussian() -> None:
    """Log p(x) three nats too low, as where importance draws miss a mode: the KL of exact draws is -3. Catches a test
    that looks at draws alone.
    """

    def low(target: Target, inference: Inference) -> list[tuple[Tensor, Weighted]]:
        [(rows, exact)] = Modes(UNSEEN, 0.0)(target, inference)
        return [(rows, replace(exact, log_weight=exact.log_weight - 3))]

    torch.manual_seed(1)
    options = DoctorOptions(num_chains=96, factors=(1.0,))
    run = dynamics(ConstantSteps(BEST))
    found = examine(Modes(UNSEEN, 0.0), nn.Identity(), run, BATCHES, low, options)
    assert condition(found.numbers) == "withheld"
    verdict = next(each for each in judge_doctor(found.numbers) if each.topic == "shape")
    assert verdict.headline == "No KL is told, for it comes out negative."
    assert "no KL is negative" in verdict.evidence


def test_the_excess_is_that_of_the_law() -> None:
    """Oracle: the negentropy of two equal normals by quadrature, 0.46 nats at 3 deviations from their middle, in five
    dimensions, turned and stretched; the estimate is a lower one. Of Gaussian draws, whatever their covariance, it is
    0: gate at the standard error of 600 data sets and of the simulated mean. Catches entropies along the axes of z,
    across all of which the modes lie, and spacings whose bias, 0.3 nats of 160 draws, is not taken off.
    """
    u = torch.linspace(-14, 14, 5601, dtype=torch.float64)
    density = two_normals(u, 3.0).exp()
    entropy = -(density * two_normals(u, 3.0)).sum() * (u[1] - u[0])
    truth = 0.5 * (LOG_2PI + 1 + math.log(10)) - entropy
    assert truth.item() == pytest.approx(0.462, abs=1e-3)
    torch.manual_seed(2)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    stretch = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.1], dtype=torch.float64)
    normal = torch.randn(160, 600, 5, dtype=torch.float64)
    side = torch.randint(0, 2, normal.shape[:2]) * 2.0 - 1
    modes = normal + 3 * side[..., None] * torch.eye(5, dtype=torch.float64)[0]
    error = expected(160, 5)[1] * math.sqrt(1 / 600 + 1 / 64)
    plain, bimodal = (excess_entropy(z * stretch @ rotation.T).mean() for z in (normal, modes))
    assert abs(plain) < gate(1) * error
    assert truth - 0.15 < bimodal < truth + gate(1) * error


def test_lost_chains_have_no_excess_and_hide_none() -> None:
    z = torch.randn(40, 3, 2, generator=torch.Generator().manual_seed(0))
    z[:20, 1] += 30
    z[5, 2] = torch.inf
    found = excess_entropy(z)
    assert found.isnan().tolist() == [False, False, True]
    assert mean_excess(found, 40, 2).num_samples == 2
    assert mean_excess(found[2:], 40, 2).num_samples == 0
    assert excess_entropy(torch.zeros(40, 1, 2)).isnan().all()


def seen(fresh: tuple[float, float], shorter: tuple[float, float]) -> Examined:
    """Of runs of which nothing is known but their excess entropies: own and best steps, and two factors at K / 2."""

    def ends(*excess: float) -> Ends:
        rows = torch.tensor(excess, dtype=torch.float64)[:, None].expand(-1, 9)
        return Ends(torch.arange(len(excess), dtype=torch.float64)[:, None].expand(-1, 9), 0 * rows, rows)

    nothing = torch.full((9,), torch.nan, dtype=torch.float64)
    arrays = {"khat": nothing, "khat_threshold": nothing, "log_px": nothing}
    return Examined(
        steps=[0.1] * 4, integrator="", maps=True, noise_scale=1.0, started_by="prior", factors=[1.0, 2.0], best=2.0,
        num_chains=32, dim=2, ids=torch.arange(9), num_tokens=torch.ones(9), arrays=arrays, fresh=ends(*fresh),
        lengths={2: ends(*shorter), 8: ends(0.0, 0.0)}, length_factors={2: (1.0, 1.41), 8: (0.71, 1.0)},
    )  # fmt: skip


def test_only_runs_that_conclusions_rest_on_are_looked_at() -> None:
    """A shorter run that has not forgotten a prior of several modes is left out alone, at the factor that is best for
    it; the run's own steps or the best ones take all with them.
    """
    assert [run.num_steps for run in seen((0.0, 0.0), (0.0, 9.0)).compared] == [2, 8]
    assert [run.num_steps for run in seen((0.0, 0.0), (9.0, 0.0)).compared] == [8]
    for fresh in ((9.0, 0.0), (0.0, 9.0)):
        assert seen(fresh, (0.0, 0.0)).withheld
        assert seen(fresh, (0.0, 0.0)).compared == []


def test_a_shorter_run_that_is_left_out_is_named() -> None:
    found = examined(0.0).numbers
    fewer, more = found["lengths"]
    shape = [each | {"gaussian": each["num_steps"] != 5} for each in found["shape"]]
    numbers = {**found, "shape": shape, "lengths": [more]}
    assert fewer["num_steps"] == 5
    verdict = next(each for each in judge_doctor(numbers) if each.topic == "shape")
    assert verdict.headline == "K = 5 cannot be compared by KL."
    assert verdict.advice.endswith("sri-pyro reference RUN --inference short_run,num_steps=5.")


def test_a_run_that_remembers_its_start_never_suffices() -> None:
    """A posterior that is the prior, where nothing is left to gain: after 4 steps of 0.05 chains correlate with their
    start by 0.95^4 / sd = 0.79. Catches "4 steps suffice" beside it.
    """
    flat = LinearGaussian(torch.zeros(8, dtype=torch.float64), ORACLE.rotation)
    torch.manual_seed(1)
    run = dynamics(ConstantSteps(0.05), num_steps=4)
    options = DoctorOptions(num_chains=96, factors=(0.5, 1.0))
    found = examine(Modes(flat, 0.0), nn.Identity(), run, BATCHES, Modes(flat, 0.0), options)
    assert found.numbers["mixing"]["correlation_with_start"]["value"] == pytest.approx(0.79, abs=0.06)
    verdict = next(each for each in judge_doctor(found.numbers) if each.topic == "num_steps")
    assert (verdict.level, verdict.headline) == (
        "info", "More than 4 steps gain nothing, and 4 do not forget their start.",
    )  # fmt: skip
    assert "suffice" not in said(found)
    assert "do as well" not in said(found)


@pytest.mark.parametrize(
    ("value", "se", "words"),
    [
        (-0.551, 0.067, "0.551 ± 0.067 nats farther from it"),
        (0.551, 0.067, "0.551 ± 0.067 nats closer to it"),
        (-0.015, 0.024, "no closer to it (−0.015 ± 0.024 nats)"),
        (0.11, 0.10, "no closer to it (0.11 ± 0.10 nats)"),
        (0.0, 0.0, "no closer to it (0 nats)"),
    ],
)
def test_a_gain_is_closer_farther_or_neither(value: float, se: float, words: str) -> None:
    """By Student's interval of eight sentences."""
    assert nearer({"value": value, "se": se, "num_samples": 8}, " to it", " from it") == words


@pytest.mark.parametrize(("first", "second", "sign"), [(1.0, torch.inf, -1), (torch.inf, 1.0, 1)])
def test_the_sign_of_an_infinite_gain_is_in_the_file(first: float, second: float, sign: int) -> None:
    """Files hold no infinity. Catches a run that is lost and, read again, called infinitely better."""
    gain = difference(torch.tensor([first, 1.0]), torch.tensor([second, 1.0]))
    assert (gain.method == LOST) == (sign < 0)
    record = {"value": None, "se": None, "num_samples": 2, "method": gain.method}
    assert gained(record) == (sign * math.inf, sign * math.inf)
    assert nearer(record, "", "").endswith("farther" if sign < 0 else "closer")
