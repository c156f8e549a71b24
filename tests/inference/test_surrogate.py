"""Runs under ``inner_softmax = "frozen_tail"``: where they follow the surrogate, where they must not, and its error."""

import pytest
import torch
from torch import Tensor

from sri_pyro.inference import ShortRunLangevin, SurrogateCheck
from sri_pyro.inference.short_run import frozen_tail
from sri_pyro.inference.surrogate import gradient_error
from sri_pyro.models import GRUDecoder, LatentTextModel, LSTMDecoder, StandardNormal
from sri_pyro.numerics.langevin import run_langevin
from sri_pyro.target import Target
from sri_pyro.types import EOS, PAD, Batch, Progress
from tests.oracles import randomise

pytestmark = pytest.mark.usefixtures("float64")
BATCH = Batch(torch.tensor([[5, 6, 14, EOS], [26, EOS, PAD, PAD], [9, 9, EOS, PAD]]))
TRAINING = Progress(step=0, epoch=0.0)


def target(decoder: type = LSTMDecoder) -> Target:
    torch.manual_seed(1)
    model = LatentTextModel(StandardNormal(3), decoder(vocab_size=30, latent_dim=3, embedding=4, hidden=6))
    randomise(model, 0.8)
    return model.eval().target(BATCH)


def run(inference: ShortRunLangevin, progress: Progress | None) -> Tensor:
    torch.manual_seed(2)
    return inference(target(), 2, progress).z


def tailed(candidates: int, refresh: int = 3) -> ShortRunLangevin:
    return ShortRunLangevin(
        6, inner_softmax="frozen_tail", candidates=candidates, tail_words=2, refresh=refresh
    )


def test_training_follows_the_surrogate_and_evaluation_never_does() -> None:
    exact = ShortRunLangevin(6)
    assert torch.equal(run(tailed(4), None), run(exact, None))
    assert (run(tailed(4), TRAINING) - run(exact, TRAINING)).abs().max() > 1e-6
    torch.testing.assert_close(run(tailed(30), TRAINING), run(exact, TRAINING), rtol=0, atol=1e-10)
    torch.testing.assert_close(run(tailed(4, refresh=1), TRAINING), run(exact, TRAINING), rtol=0, atol=1e-10)


def test_every_run_begins_with_an_anchor_of_its_own() -> None:
    """A tail that outlived its run would be about chains that are no more."""
    inference = tailed(4)
    first = run(inference, TRAINING)
    assert torch.equal(first, run(inference, TRAINING))


def test_the_error_is_that_of_the_gradients_along_the_run() -> None:
    """By the definition, from gradients that are asked for one by one."""
    inference, exact = tailed(4), target()
    torch.manual_seed(3)
    found = gradient_error(exact, inference)
    torch.manual_seed(3)
    start = exact.sample_prior(1)
    pairs = []
    surrogate = frozen_tail(exact, inference.tail)
    run_langevin(
        surrogate.log_joint_and_grad, start, inference.step_sizes(), inference.integrator,
        visit=lambda k, z, value, grad: pairs.append((grad, torch.autograd.grad(
            exact.log_joint(leaf := z.clone().requires_grad_()).sum(), leaf)[0])),
    )  # fmt: skip
    off = sum(float((g - e).square().sum()) for g, e in pairs)
    of = sum(float(e.square().sum()) for _, e in pairs)
    assert found == pytest.approx((off / of) ** 0.5, rel=1e-9)
    assert found > 1e-6
    assert gradient_error(exact, tailed(30)) < 1e-12


def test_the_check_speaks_when_it_is_time_and_only_where_there_is_a_surrogate() -> None:
    def make_target(batch: Batch) -> Target:
        return target()

    check = SurrogateCheck(tailed(4), every=10)
    assert set(check(make_target, BATCH, Progress(20, 0.0))) == {"inner_gradient_error"}
    assert check(make_target, BATCH, Progress(21, 0.0)) == {}
    assert SurrogateCheck(ShortRunLangevin(2), every=10)(make_target, BATCH, Progress(20, 0.0)) == {}


def test_a_model_without_a_fast_route_is_refused() -> None:
    with pytest.raises(ValueError, match="inner_softmax = 'frozen_tail' needs a decoder with a fast route"):
        tailed(4)(target(GRUDecoder), 1, TRAINING)


@pytest.mark.parametrize(
    "options", [{"inner_softmax": "sampled"}, {"candidates": 0}, {"tail_words": 0}, {"refresh": 0}]
)
def test_an_option_out_of_range_is_named(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ShortRunLangevin(3, **options)
