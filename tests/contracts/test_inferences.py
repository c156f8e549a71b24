"""Laws that every inference obeys: a newcomer is tested by existing, and a failure names it.

That no weight, gradient or mode is touched is a law in ``tests/inference/test_short_run.py``.
"""

import pyro
import pytest
import torch

from sri_pyro.inference import INFERENCES
from sri_pyro.types import Batch, Progress
from tests.inference.helpers import built
from tests.oracles import EnumerableText

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.usefixtures("empty_store")]
JOINT = {"mcmc"}
"""Those of which the sentences of a batch are one state of one chain: a draw depends on its neighbours, by design."""


def target_of(rows: list[int]):
    text = EnumerableText.build("lstm", latent_dim=3)
    return text.model.target(Batch(text.rows.tokens[rows], torch.tensor(rows), 5))


def inference_of(name: str):
    torch.manual_seed(3)  # an encoder's weights
    return built(INFERENCES[name], latent_dim=3, **({"warmup": 3} if name == "mcmc" else {}))


@pytest.mark.parametrize("name", sorted(INFERENCES.keys() - JOINT))
@pytest.mark.parametrize("progress", [None, Progress(step=0, epoch=0.0)], ids=["evaluation", "training"])
def test_a_keyed_draw_does_not_depend_on_its_neighbours(name: str, progress: Progress | None) -> None:
    """To rounding, whatever other sentences there are and in any order; and the generator stands where it stood."""
    inferences, state = [inference_of(name) for _ in range(2)], torch.get_rng_state()
    whole = inferences[0](target_of([0, 3, 5, 8]), 1, progress)
    part = inferences[1](target_of([5, 3]), 1, progress)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(part.z, whole.z[:, [2, 1]], rtol=0, atol=1e-9)
    if whole.log_q is not None:
        torch.testing.assert_close(part.log_q, whole.log_q[:, [2, 1]], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", INFERENCES)
def test_draws_are_functions_of_the_key(name: str) -> None:
    first, again = (inference_of(name)(target_of([0, 3]), 1) for _ in range(2))
    assert torch.equal(first.z, again.z)
    target = target_of([0, 3])
    model = EnumerableText.build("lstm", latent_dim=3).model
    assert target.batch is not None
    assert not torch.equal(inference_of(name)(model.target(target.batch.keyed(6)), 1).z, first.z)


@pytest.mark.parametrize("name", INFERENCES)
def test_an_inference_works_without_gradients_and_survives_its_state_dict(name: str) -> None:
    inference, other = inference_of(name), inference_of(name)
    expected = inference(target_of([0, 3]), 2)
    with torch.no_grad():
        found = inference(target_of([0, 3]), 2)
    torch.testing.assert_close(found.z, expected.z, rtol=0, atol=1e-9)
    other.load_state_dict(inference.state_dict())
    assert torch.equal(other(target_of([0, 3]), 2).z, expected.z)
    assert not list(pyro.get_param_store().keys())
