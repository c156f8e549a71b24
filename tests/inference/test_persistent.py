"""Persistent chains against the exact law of many visits, of whom they belong to, and of when they are not looked at.

Statistical gates allow one false alarm in 1e8 runs of a test (``oracles.gate``).
"""

import math
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sri_pyro import checkpoint
from sri_pyro.config import Told, parse_config, train
from sri_pyro.inference import PersistentLangevin, ShortRunLangevin
from sri_pyro.numerics import keyed
from sri_pyro.numerics.langevin import INTEGRATORS, UnadjustedLangevin
from sri_pyro.numerics.schedules import ConstantSteps, GeometricSteps, LinearNoise, ListedSteps
from sri_pyro.target import Target
from sri_pyro.training import Stopped
from sri_pyro.types import Batch, Progress
from tests.configurations import PCFG, problems
from tests.oracles import LinearGaussian, RunLaw, exact_law, gate, sentence, standard_normal_target

pytestmark = pytest.mark.usefixtures("float64")
NOW = Progress(step=3, epoch=0.5)
CURVATURE = torch.tensor([1.0, 3.0, 50.0, 2.0], dtype=torch.float64)


def target_of(ids: list[int], key: int | None = None) -> Target:
    """Sentence i has the posterior precision of ``CURVATURE[i]``, in two dimensions; keyed as a text model's."""
    of_rows = CURVATURE[ids]
    target = standard_normal_target(lambda z: -0.5 * (of_rows - 1) * z.square().sum(-1), len(ids), 2)
    target = replace(target, batch=Batch(torch.tensor([[5]] * len(ids)), torch.tensor(ids), key))
    starts = count()

    def keyed_start(num: int) -> Tensor:
        root = keyed.fold(key, keyed.Purpose.START, next(starts))
        return keyed.normal(keyed.chains(root, torch.tensor(ids), num), (2,), torch.float64)

    return target if key is None else replace(target, sample_prior=keyed_start)


def persistent(**options) -> PersistentLangevin:
    return PersistentLangevin(
        **{"num_steps": 4, "cold_steps": 3, "num_examples": 4, "latent_dim": 2, **options}
    )


def law_of_visits(name: str, precision: Tensor, step: float, cold: int, warm: int, visits: int) -> RunLaw:
    """Of a chain that ran cold once and then went on; each run is affine: v' = r^2 v + c with v = 1 giving r^2 + c."""
    law, again = exact_law(name, precision, [step] * cold), exact_law(name, precision, [step] * warm)
    response, variance = law.response, law.variance
    for _ in range(visits - 1):
        response = response * again.response
        variance = again.response.square() * (variance - 1) + again.variance
    return RunLaw(response, variance)


def worst(oracle: LinearGaussian, x: Tensor, z: Tensor, law: RunLaw) -> float:
    """Standard errors by which the farthest mean or second moment of any mode is off its law."""
    whitened = (oracle.modes(z) - law.mean(oracle.mode_means(x))) / law.variance.sqrt()
    mean = whitened.mean(0).abs() * math.sqrt(len(z))
    second = (whitened.square().mean(0) - 1).abs() * math.sqrt(len(z) / 2)
    return max(mean.max().item(), second.max().item())


@pytest.mark.parametrize("name", INTEGRATORS)
def test_a_chain_over_many_visits_reaches_the_posterior(name: str) -> None:
    """Oracle: the exact law of 1, 2 and 25 visits of six steps, and the posterior, which the last is close to.

    Catches chains that start anew at every visit, that are kept from before the run, or lose a visit.
    """
    oracle, n, step = LinearGaussian.build("power1", dim=3, information=2.0), 4000, 0.02
    x = torch.tensor([[3.0, -2.0, 1.0]])
    target = replace(oracle.target(x), batch=Batch(torch.tensor([[5]]), torch.tensor([1])))
    run = persistent(num_steps=6, num_chains=n, integrator=INTEGRATORS[name](), step_schedule=ConstantSteps(step),
                     latent_dim=3)  # fmt: skip
    checks = 3 * 3 * 2 + 3 * 2
    for visit in range(1, 26):
        z = run(target, n, NOW).z
        if visit in (1, 2, 25):
            law = law_of_visits(name, oracle.precision, step, 3, 6, visit)
            assert worst(oracle, x, z, law) < gate(checks)
            if visit == 1:  # positive control: a visit too many
                assert worst(oracle, x, z, law_of_visits(name, oracle.precision, step, 3, 6, visit + 1)) > 9
    posterior = RunLaw(torch.zeros(3), 1 / oracle.precision)
    bias = (law.variance * oracle.precision - 1).abs().max().item()  # what discretisation leaves
    assert bias < 0.12
    assert worst(oracle, x, z, posterior) < gate(checks) + bias * math.sqrt(n / 2)
    for anew in (3, 6):  # positive control: chains that start anew at every visit
        assert worst(oracle, x, z, exact_law(name, oracle.precision, [step] * anew)) > 20


@pytest.mark.parametrize("held_out", ["in eval mode", "without progress"])
def test_outside_of_training_no_chain_is_read_or_written(held_out: str) -> None:
    """Oracle: a short run of ``cold_steps`` on the same noise. Held-out ids are those of training sentences, too."""
    options = {
        "integrator": UnadjustedLangevin(),
        "step_schedule": ConstantSteps(0.05),
        "noise": LinearNoise(),
    }
    run = persistent(**options)
    run.chains.fill_(100.0)
    run.begun.fill_(True)
    before = {name: value.clone() for name, value in run.state_dict().items()}
    run.train(held_out != "in eval mode")
    for ids in ([0, 1], [3, 70]):  # 70 is beyond the training sentences, as a larger held-out split has them
        target = replace(target_of([0, 1]), batch=Batch(torch.tensor([[5], [5]]), torch.tensor(ids)))
        state = torch.get_rng_state()
        found = run(target, 7, NOW if held_out == "in eval mode" else None)
        torch.set_rng_state(state)
        expected = ShortRunLangevin(3, **options)(target, 7)
        assert torch.equal(found.z, expected.z)
        assert torch.equal(found.info["log_joint"], expected.info["log_joint"])
    assert all(torch.equal(before[name], value) for name, value in run.state_dict().items())


def test_a_first_visit_is_a_short_run_and_the_next_goes_on_from_its_end() -> None:
    """Oracle: the recursion of an Euler step on its own noise, K = 1: z' = z (1 - s c) + sqrt(2 s) e."""
    run = persistent(
        num_steps=1, num_chains=2, integrator=UnadjustedLangevin(), step_schedule=ConstantSteps(0.05)
    )
    first = run(target_of([3, 1], key=9), 2, NOW)
    expected = ShortRunLangevin(3, UnadjustedLangevin(), ConstantSteps(0.05))(
        target_of([3, 1], key=9), 2, NOW
    )
    assert torch.equal(first.z, expected.z)
    assert first.info["cold"].all()
    assert run.begun.tolist() == [False, True, False, True]
    still = persistent(
        num_steps=1, num_chains=2, integrator=UnadjustedLangevin(), step_schedule=ConstantSteps(0.05)
    )
    still.begun.fill_(True)  # from the origin, an Euler step is its noise
    noise = still(target_of([1, 3, 0], key=4), 2, NOW).z
    second = run(target_of([1, 3, 0], key=4), 2, NOW)
    kept = first.z[:, [1, 0]]
    moved = kept * (1 - 0.05 * CURVATURE[[1, 3]])[:, None] + noise[:, :2]
    torch.testing.assert_close(second.z[:, :2], moved, rtol=0, atol=1e-12)
    assert second.info["cold"].tolist() == [[False, False, True]] * 2
    for place, example in enumerate((1, 3, 0)):
        assert torch.equal(run.chains[example], second.z[:, place])
    assert not run.chains[2].any()


def test_a_chain_does_not_depend_on_its_neighbours_though_some_are_cold_and_some_diverge() -> None:
    """Sentence 2 is so steep that its chain diverges and starts again; 0 is cold, 1 goes on. To the bit."""

    def visited(ids: list[int]) -> tuple[PersistentLangevin, dict[int, Tensor]]:
        run = persistent(num_steps=20, cold_steps=5, num_chains=3, integrator=UnadjustedLangevin(),
                         step_schedule=ConstantSteps(0.1))  # fmt: skip
        run.chains[[1, 2]] = torch.linspace(-1, 1, 12).view(2, 3, 2)
        run.begun[[1, 2]] = True
        draws = run(target_of(ids, key=6), 3, NOW)
        assert draws.info["halved"].any(0).tolist() == [i == 2 for i in ids]
        return run, {i: draws.z[:, place] for place, i in enumerate(ids)}

    together = visited([0, 1, 2, 3])[1]
    for ids in ([0], [1], [2], [2, 1], [3, 2]):
        alone = visited(ids)[1]
        assert all(torch.equal(alone[i], together[i]) for i in ids)


def test_a_diverged_chain_is_kept_as_it_started_again_and_halvings_last() -> None:
    run = persistent(integrator=UnadjustedLangevin(), step_schedule=ConstantSteps(0.1), num_steps=30)
    run.begun.fill_(True)
    draws = run(target_of([2, 0], key=1), 1, NOW)
    assert draws.z.abs().max() < 10
    assert torch.equal(run.chains[[2, 0]], draws.z.movedim(1, 0))
    assert draws.info["cold"].tolist() == [[True, False]]
    assert run.cold.step_scale < 1


def test_the_noise_scale_follows_training() -> None:
    """Without noise a chain climbs to the mode, which is the origin."""
    run = persistent(num_steps=300, noise=LinearNoise(0.0, 1.0, 8.0), step_schedule=ConstantSteps(0.03))
    for epoch in (0.0, 0.0):
        z = run(target_of([0, 1]), 1, Progress(step=0, epoch=epoch)).z
    assert z.abs().max() < 1e-3
    assert run(target_of([0, 1]), 1, Progress(step=0, epoch=9.0)).z.abs().max() > 1e-2


# --- Runs --------------------------------------------------------------------------------------------------

TINY = {
    **PCFG,
    "preset": "persistent_small",
    "model": {"prior": {"dim": 3}, "decoder": {"embedding": 4, "hidden": 6}},
    "inference": {"cold_steps": 6, "num_chains": 2},
    "training": {"epochs": 2, "batch_size": 16, "num_samples": 2},
    "validation": {"num_sentences": 6, "num_samples": 8, "pilot_chains": 4},
}


def chains_of(out: Path) -> dict[str, Tensor]:
    tensors, _ = checkpoint.load(out / "last.safetensors")
    return {name: value for name, value in tensors.items() if name.startswith(("model", "inference"))}


def test_a_run_that_stopped_resumes_bit_identical(tmp_path: Path) -> None:
    """Oracle: the run never stopped. Without the chains in the checkpoint the second epoch would start cold."""
    config, asked = parse_config(TINY), []

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) == 4  # of three batches an epoch

    train(config, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(config, tmp_path / "cut", told=Told(should_stop=should_stop))
    early = chains_of(tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True)
    whole, cut = chains_of(tmp_path / "whole"), chains_of(tmp_path / "cut")
    assert whole["inference/chains"].shape == (40, 2, 3)
    assert whole["inference/begun"].all()
    assert early["inference/begun"].any()
    assert not torch.equal(early["inference/chains"], whole["inference/chains"])
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


# --- Refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["num_steps", "cold_steps", "num_chains"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=sentence(f"{name} must be at least 1; got 0.")):
        persistent(**{name: 0})


def test_a_list_of_steps_serves_runs_of_its_own_length_alone() -> None:
    with pytest.raises(ValueError, match="3"):
        persistent(num_steps=4, cold_steps=3, step_schedule=ListedSteps([0.1, 0.1, 0.1]))
    persistent(num_steps=3, cold_steps=3, step_schedule=ListedSteps([0.1, 0.1, 0.1]))
    persistent(step_schedule=GeometricSteps())


def test_what_has_no_chain_to_be_found_is_refused_in_training() -> None:
    message = (
        "chains are kept of 4 sentences and the batch has the id 8; give num_examples of the training split, and "
        "call eval() for sentences that are not in it."
    )
    foreign = replace(target_of([0, 1]), batch=Batch(torch.tensor([[5], [5]]), torch.tensor([8, 1])))
    with pytest.raises(ValueError, match=sentence(message)):
        persistent()(foreign, 1, NOW)
    message = (
        "1 chains of each sentence are kept and 2 draws were asked for; set num_chains of the inference to "
        "num_samples of training."
    )
    with pytest.raises(ValueError, match=sentence(message)):
        persistent()(target_of([0]), 2, NOW)
    message = (
        "persistent chains are found by the ids of sentences, and this target has none; use the inference "
        "'short_run'."
    )
    with pytest.raises(ValueError, match=sentence(message)):
        persistent()(replace(target_of([0]), batch=None), 1, NOW)
    message = (
        "chains are kept of at most 16,777,216 sentences; the training split has 16,777,217. Train on fewer, or use "
        "the inference 'short_run'."
    )
    with pytest.raises(ValueError, match=sentence(message)), torch.device("meta"):
        persistent(num_examples=2**24 + 1)


def test_the_configuration_keeps_as_many_chains_as_it_draws() -> None:
    inference = {"kind": "persistent", "num_chains": 3}
    message = (
        "the inference 'persistent' keeps num_chains = 3 of each sentence and training.num_samples is 1; make them "
        "equal."
    )
    assert problems({"inference": inference}) == [message]
    parse_config({**PCFG, "inference": inference, "training": {"num_samples": 3}})
    assert problems({"inference": {"kind": "persistent", "num_examples": 7}}) == [
        "inference 'persistent': num_examples follows from the data's training split; leave it out"
    ]
