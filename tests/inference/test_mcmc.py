"""Hamiltonian chains against exact posteriors, autograd, and what they must leave alone.

Statistical gates allow one false alarm in 1e8 runs of a test (``oracles.gate``).
"""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from sri_pyro.inference import HamiltonianChain
from sri_pyro.inference.guide import as_guide
from sri_pyro.inference.mcmc import _Potential
from sri_pyro.target import ConditionedLikelihood, Target
from sri_pyro.types import Batch
from tests.oracles import EnumerableText, LinearGaussian, gate, sentence, skewed

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.usefixtures("empty_store")]
KERNELS = [HamiltonianChain("hmc", 30, trajectory_length=1.2), HamiltonianChain("nuts", 30)]


def off(oracle: LinearGaussian, x: Tensor, z: Tensor, precision: Tensor) -> float:
    """Standard errors by which the farthest mean or second moment of any mode is off; z [B, D], one draw a sentence."""
    whitened = (oracle.modes(z) - oracle.mode_means(x)) * precision.sqrt()
    mean = whitened.mean(0).abs() * math.sqrt(len(z))
    second = (whitened.square().mean(0) - 1).abs() * math.sqrt(len(z) / 2)
    return max(mean.max().item(), second.max().item())


@pytest.mark.parametrize("inference", KERNELS, ids=lambda it: it.kernel)
def test_states_after_the_warm_up_are_draws_of_the_posterior(inference: HamiltonianChain) -> None:
    """Oracle: the posterior of 1500 sentences, which are independent in any one state of a settled chain.

    Catches a potential without the prior, a gradient of the other sign, states of the warm-up.
    """
    oracle = LinearGaussian.build("power1", dim=3, information=2.0)
    _, x = oracle.sample(1500)
    draws = inference(oracle.target(x), 3)
    assert draws.z.shape == (3, 1500, 3)
    assert draws.log_q is None
    for state in draws.z:
        assert off(oracle, x, state, oracle.precision) < gate(3 * 3 * 2)
        assert off(oracle, x, state, oracle.snr) > 9  # positive control: the likelihood alone
        assert off(oracle, x, state, torch.ones(3)) > 9  # and draws of the prior's width
    assert not torch.equal(draws.z[0], draws.z[2])
    assert 0 < float(draws.info["acceptance"]) <= 1
    assert int(draws.info["divergences"]) == 0


def text_target(key: int | None = None) -> Target:
    text = EnumerableText.build("lstm", latent_dim=2)
    return text.model.target(Batch(text.rows.tokens[:6], torch.tensor([9, 8, 7, 3, 4, 5]), key))


def test_the_gradient_of_the_potential_is_that_of_autograd() -> None:
    """Oracle: autograd through the model's own distributions, in double precision."""
    target = text_target()
    z = torch.randn(6, 2, requires_grad=True)
    energy = _Potential(target)({"z": z})
    (found,) = torch.autograd.grad(3.0 * energy, z)
    exact = -target.log_joint(z[None]).sum()
    (expected,) = torch.autograd.grad(3.0 * exact, z)
    torch.testing.assert_close(energy, exact, rtol=0, atol=1e-11)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@dataclass
class Counted:
    """A likelihood that counts the gradients it is asked for."""

    wrapped: ConditionedLikelihood
    counts: list[int] = field(default_factory=list)

    def value(self, z: Tensor) -> Tensor:
        return self.wrapped.value(z)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.counts.append(len(z))
        return self.wrapped.value_and_grad(z)


@pytest.mark.parametrize("kernel", ["hmc", "nuts"])
def test_gradients_are_counted(kernel: str) -> None:
    """Oracle: a likelihood that counts. The first step size takes some, too."""
    target = skewed()
    counted = Counted(target.conditioned)
    draws = HamiltonianChain(kernel, 4)(replace(target, conditioned=counted), 2)
    assert int(draws.info["gradients"]) == len(counted.counts) > 6
    assert set(counted.counts) == {1}


def test_more_leapfrog_steps_are_a_longer_trajectory() -> None:
    """A trajectory of num_steps at the first step size, as the step size adapts: its length is what stays."""
    short, long = (
        HamiltonianChain("hmc", 0, num_steps=steps, step_size=0.1)(skewed(), 40).info for steps in (4, 40)
    )
    assert int(long["gradients"]) > 3 * int(short["gradients"])
    same = HamiltonianChain("hmc", 0, trajectory_length=4.0, step_size=0.1)
    steps = max(1, int(4.0 / float(same(skewed(), 40).info["step_size"])))
    assert abs(int(same(skewed(), 40).info["gradients"]) - 40 * steps) < 40 * steps / 2


# --- What it must leave alone ------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["hmc", "nuts"])
def test_keyed_draws_are_functions_of_the_key_and_move_no_generator(kernel: str) -> None:
    inference, state = HamiltonianChain(kernel, 3), torch.get_rng_state()
    first = inference(text_target(key=5), 2).z
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(inference(text_target(key=5), 2).z, first)
    assert not torch.equal(inference(text_target(key=6), 2).z, first)
    with torch.no_grad():
        assert torch.equal(inference(text_target(key=5), 2).z, first)


def test_without_a_key_draws_follow_the_generator() -> None:
    """A seed of its own would give the same draws twice, whatever the caller's generator says."""
    inference = HamiltonianChain("hmc", 2, num_steps=3)
    first, second = (inference(skewed(), 2).z for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(4)
    again = inference(skewed(), 2).z
    torch.manual_seed(4)
    assert torch.equal(inference(skewed(), 2).z, again)


def test_a_draw_depends_on_its_neighbours_and_parts_of_a_batch_have_noise_of_their_own() -> None:
    """The one inference of which that is so: all sentences are one state of one chain."""
    inference, target = HamiltonianChain("hmc", 3, num_steps=3), text_target(key=5)
    whole = inference(target, 2).z
    part = inference(target.select(torch.tensor([0, 2])), 2).z
    assert not torch.allclose(part, whole[:, [0, 2]])
    still = replace(skewed(), sample_prior=lambda num: torch.zeros(num, 3, 1))
    one, other = (
        inference(replace(still, batch=Batch(torch.full((3, 1), 5), torch.arange(3) + first, 5)), 2).z
        for first in (0, 3)
    )
    assert (one - other).abs().min() > 1e-6


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    HamiltonianChain("nuts", 3)(skewed(), 3)
    assert capfd.readouterr() == ("", "")


def test_as_a_guide_its_sites_stay_out_of_the_trace() -> None:
    from pyro import poutine

    text = EnumerableText.build("lstm", latent_dim=2)
    guide = as_guide(HamiltonianChain("hmc", 2, num_steps=2), text.model)
    assert set(poutine.trace(guide).get_trace(text.rows).nodes) - {"_INPUT", "_RETURN", "sentences"} == {"z"}


# --- Edges -------------------------------------------------------------------------------------------------


def test_a_code_without_dimensions_is_drawn_at_once() -> None:
    from sri_pyro.models import LanguageModel, LSTMDecoder

    model = LanguageModel(LSTMDecoder(vocab_size=8, latent_dim=0, embedding=3, hidden=4))
    assert HamiltonianChain()(model.target(Batch(torch.tensor([[5, 3]]))), 4).z.shape == (4, 1, 0)


def test_a_start_that_is_not_finite_is_told() -> None:
    target = skewed()
    broken = Counted(target.conditioned)
    broken.value_and_grad = lambda z: (z[..., 0] * torch.nan, z * torch.nan)  # type: ignore[method-assign]
    message = "the log joint is not finite at a draw of the prior; check the decoder's weights and the data."
    with pytest.raises(FloatingPointError, match=sentence(message)):
        HamiltonianChain("hmc")(replace(target, conditioned=broken))


def test_inference_mode_is_refused() -> None:
    message = (
        "Hamiltonian chains cannot run under torch.inference_mode(); use torch.no_grad(), which is enough."
    )
    with torch.inference_mode(), pytest.raises(RuntimeError, match=sentence(message)):
        HamiltonianChain("hmc")(skewed())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "gibbs"}, "unknown kernel 'gibbs'; known: hmc, nuts."),
        ({"kernel": "nuts", "num_steps": 3},
         "the kernel 'nuts' finds the length of a trajectory itself; leave out num_steps and trajectory_length, or use "
         "the kernel 'hmc'."),
        ({"kernel": "hmc", "num_steps": 3, "trajectory_length": 1.0},
         "num_steps and trajectory_length say the same thing; give one of them."),
        ({"warmup": -1}, "warmup must be at least 0; got -1."),
        ({"kernel": "hmc", "num_steps": 0}, "num_steps must be at least 1; got 0."),
        ({"kernel": "hmc", "trajectory_length": 0.0}, "trajectory_length must be positive; got 0.0."),
        ({"step_size": -0.1}, "step_size must be positive; got -0.1."),
        ({"target_accept": 1.0}, "target_accept must lie between 0 and 1; got 1.0."),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=sentence(message)):
        HamiltonianChain(**options)
