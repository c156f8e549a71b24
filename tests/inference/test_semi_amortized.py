"""Semi-amortised inference against the unrolled loop in autograd, and against the recursion on a Gaussian model."""

import math
import re

import pytest
import torch
from torch import Tensor, nn

from sri_pyro.inference import EvidenceLowerBound, SemiAmortized
from sri_pyro.inference.amortized import standard_normals
from sri_pyro.models import GaussianMixture, LatentTextModel
from sri_pyro.numerics.kl_weights import LinearWeight
from sri_pyro.target import Target
from sri_pyro.types import Batch, Draws, Progress
from tests.inference.encoding import BATCH, DIM, START, Observed, Table, encoder, text
from tests.oracles import gate, randomise, sentence

pytestmark = pytest.mark.usefixtures("float64")
KEYED = BATCH.keyed(5)


def unrolled(
    inference: SemiAmortized, model: LatentTextModel, batch: Batch, beta: float, closed_kl: bool
) -> tuple[Tensor, Tensor]:
    """Mean and log-variance after all steps, the loop written out and its whole graph kept."""
    law = inference.encoder(batch)
    state = [law.mean, law.variance.log()]
    velocity = [torch.zeros_like(part) for part in state]
    noises = standard_normals(batch, law.mean, inference.num_steps, index=1)
    for noise in noises:
        mean, log_variance = state
        z = mean + (log_variance / 2).exp() * noise
        score = sum(
            model.decoder(z[b][None], batch.select(torch.tensor([b]))).log_prob(
                batch.select(torch.tensor([b])).tokens
            )
            for b in range(len(batch))
        )
        if closed_kl:
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        else:
            entropy = 0.5 * (log_variance + 1 + math.log(2 * math.pi)).sum()
            kl = -entropy - model.prior().log_prob(z).sum()
        loss = (beta * kl - score.sum()) / inference.nominal_batch
        for i, gradient in enumerate(torch.autograd.grad(loss, state, create_graph=True)):
            # The norm of nominal_batch sentences that are like these.
            norm = (gradient.square().sum() * inference.nominal_batch / len(batch)).sqrt()
            if inference.clip_norm and norm > inference.clip_norm:
                gradient = gradient * inference.clip_norm / norm
            velocity[i] = inference.momentum * velocity[i] - gradient
        state = [part + inference.step_size * v for part, v in zip(state, velocity, strict=True)]
    return state[0], state[1]


def gradients(loss: Tensor, *modules: nn.Module) -> list[Tensor]:
    weights = [weight for module in modules for weight in module.parameters()]
    return list(torch.autograd.grad(loss, weights, retain_graph=True, materialize_grads=True))


@pytest.mark.parametrize(
    ("decoder", "mixture", "clip_norm"),
    [("lstm", False, 0.0), ("lstm", False, 0.2), ("gru", False, 0.2), ("bag_of_words", True, 0.0), ("lstm", True, 0.2)],
)  # fmt: skip
def test_the_gradient_is_that_of_the_unrolled_loop(decoder: str, mixture: bool, clip_norm: float) -> None:
    """Encoder's, decoder's and prior's weights, through five steps with momentum.

    Oracle: float64 autograd of the loop, in which sentences are scored one by one. Catches a velocity whose adjoint
    is dropped, clipping without a derivative, a missing part of the weights, steps reversed under other noise, and
    the pathwise part of the KL left out.
    """
    model, network = text(decoder, GaussianMixture(DIM, components=2) if mixture else None), encoder()
    beta = LinearWeight(0.3, 1.0, 10)
    inference = SemiAmortized(
        network, 5, step_size=3.0, momentum=0.6, clip_norm=clip_norm, nominal_batch=4, kl_weight=beta
    )
    target, now = model.target(KEYED), Progress(3, 2.0)
    draws = inference(target, 2, now)
    mean, log_variance = unrolled(inference, model, KEYED, beta(now), closed_kl=not mixture)
    assert draws.law is not None
    torch.testing.assert_close(draws.law.mean, mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(draws.law.variance.log(), log_variance, rtol=1e-10, atol=1e-12)

    law = torch.distributions.Normal(mean, (log_variance / 2).exp())
    z = mean + law.stddev * standard_normals(KEYED, mean, 2)
    by_hand = Draws(z, law.log_prob(z).sum(-1), law=torch.distributions.Independent(law, 1))
    objective = EvidenceLowerBound(beta)
    found = gradients(objective(target, draws, now), network, model)
    exact = gradients(objective(target, by_hand, now), network, model)
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-10)
    at_the_draws = gradients(objective(target, draws.detach(), now), model)
    through = max(
        float((a - b).abs().max()) for a, b in zip(found[-len(at_the_draws) :], at_the_draws, strict=True)
    )
    assert through > 1e-3, "the model's weights must have a part through the refinement, or nothing was shown"
    unclipped = SemiAmortized(
        network, 5, step_size=3.0, momentum=0.6, clip_norm=0.0, nominal_batch=4, kl_weight=beta
    )
    moved = unclipped(target, 2, now).z - draws.z
    assert bool(moved.abs().max() > 1e-3) == bool(clip_norm), "clipping must be at work where it is tested"


def test_the_stopped_gradient_is_that_of_the_objective_in_the_refined_moments() -> None:
    """Encoder: the Jacobian of its own moments times the objective's gradient in the refined ones. Model: at the draws.

    Catches a graph that is cut altogether, and one that goes through the refinement after all.
    """
    model, network = text(), encoder()
    inference = SemiAmortized(network, 4, step_size=2.0, nominal_batch=3, through="stop")
    exact = SemiAmortized(network, 4, step_size=2.0, nominal_batch=3)
    target = model.target(KEYED)
    draws, objective = inference(target, 2, START), EvidenceLowerBound()
    torch.testing.assert_close(draws.z, exact(target, 2, START).z)
    found = gradients(objective(target, draws, START), network, model)

    assert draws.law is not None
    end = torch.stack([draws.law.mean, draws.law.variance.log()]).detach().requires_grad_()
    law = torch.distributions.Independent(torch.distributions.Normal(end[0], (end[1] / 2).exp()), 1)
    z = end[0] + law.stddev * standard_normals(KEYED, end[0], 2)
    loss = objective(target, Draws(z, law.log_prob(z), law=law), START)
    (slope,) = torch.autograd.grad(loss, end, retain_graph=True)
    own = network(KEYED)
    linear = (slope * torch.stack([own.mean, own.variance.log()])).sum()
    right = gradients(linear, network) + gradients(loss, model)
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-12)
    other = gradients(objective(target, exact(target, 2, START), START), network)
    assert max(float((a - b).abs().max()) for a, b in zip(found, other, strict=False)) > 1e-3


def linear_gaussian(rows: int) -> Observed:
    """Correlated in the posterior, so that the best factorised Gaussian is narrower than its marginals."""
    weight = torch.tensor([[1.0, 0.8, -0.2], [0.4, 0.9, 0.7], [0.6, 0.6, 1.2], [-0.5, 0.2, 0.4]])
    return Observed(weight, torch.tensor([[1.5, -0.4, 0.8, -1.0]]).expand(rows, -1))


def test_the_mean_follows_the_heavy_ball_and_ends_at_the_best_factorised_gaussian() -> None:
    r"""The best q with independent coordinates has the posterior's mean and the variances :math:`1 / \Lambda_{dd}`.

    The expected mean obeys the heavy-ball recursion exactly, for the noise enters it linearly: checked by 6 numbers
    at 5.9 standard errors, a false alarm in 1e8. The variances have a bias of the order of the step, and are to be
    within 4 % of the best; the posterior's marginals are off by more.
    """
    model, rows = linear_gaussian(2000), 2000
    mean, precision = model.posterior()
    best = 1 / precision.diagonal()
    table = Table(torch.full((rows, 3), 0.7), torch.full((rows, 3), -1.5))
    few, many = (
        SemiAmortized(table, num_steps=steps, step_size=size, clip_norm=0.0, nominal_batch=1)
        for steps, size in ((4, 0.1), (250, 0.016))
    )
    with torch.no_grad():
        early, late = (each(model.target(key=3), 1).law for each in (few, many))
    assert early is not None
    assert late is not None
    for law, inference in ((early, few), (late, many)):
        expected, velocity = torch.full((3,), 0.7), torch.zeros(3)
        for _ in range(inference.num_steps):
            velocity = inference.momentum * velocity - precision @ (expected - mean[0])
            expected = expected + inference.step_size * velocity
        error = law.mean.std(0) / math.sqrt(rows)
        assert ((law.mean.mean(0) - expected).abs() < gate(6) * error).all()
    torch.testing.assert_close(expected, mean[0], rtol=0, atol=1e-3)
    assert ((late.variance.mean(0) / best - 1).abs() < 0.04).all()
    marginal = torch.linalg.inv(precision).diagonal()
    assert ((marginal / best - 1) > 0.1).all(), "or nothing was shown"


def test_what_is_scored_is_drawn_with_other_noise_than_what_was_fitted() -> None:
    model = text()
    draws = SemiAmortized(encoder(), 4)(model.target(KEYED), 3)
    assert draws.law is not None
    drawn = (draws.z - draws.law.mean) / draws.law.stddev
    fitted = standard_normals(KEYED, draws.z[0], 4, index=1)
    torch.testing.assert_close(drawn, standard_normals(KEYED, draws.z[0], 3))
    assert (drawn[:, None] - fitted).abs().amin((2, 3)).min() > 1e-6
    assert len(fitted.reshape(-1, DIM).unique(dim=0)) == 12  # every step has noise of its own
    torch.testing.assert_close(draws.log_q, draws.law.log_prob(draws.z))


def refined(inference: SemiAmortized, batch: Batch) -> Tensor:
    return inference(text_model().target(batch), 1, START).z[0]


def text_model() -> LatentTextModel:
    torch.manual_seed(4)
    return text()


@pytest.mark.parametrize("clip_norm", [0.0, 0.05])
def test_a_sentence_is_refined_alike_in_every_batch_unless_it_is_clipped(clip_norm: float) -> None:
    """Alone, beside others, and beside copies of itself: the last even where the gradient is clipped.

    Catches noise by place, a gradient divided by the batch at hand, and padding that is read.
    """
    inference = SemiAmortized(encoder(), 4, step_size=3.0, clip_norm=clip_norm, nominal_batch=8)
    together = refined(inference, KEYED)
    for row in range(3):
        alone = refined(inference, KEYED.select(torch.tensor([row])))
        copies = refined(inference, KEYED.select(torch.tensor([row, row, row])))
        torch.testing.assert_close(copies, alone.expand(3, -1))
        if clip_norm:
            assert (alone[0] - together[row]).abs().max() > 1e-6
        else:
            torch.testing.assert_close(alone[0], together[row])


def test_nominal_batch_says_what_step_and_norm_are_of() -> None:
    """Four sentences and a step on their mean: the authors' rule, by hand, for one step that is clipped."""
    model, network = text_model(), encoder()
    batch = Batch(torch.cat([BATCH.tokens, BATCH.tokens[:1]]), key=2)
    inference = SemiAmortized(network, 1, step_size=0.7, clip_norm=0.01, nominal_batch=4)
    law = network(batch)
    mean, log_variance = law.mean.detach().requires_grad_(), law.variance.log().detach().requires_grad_()
    z = mean + (log_variance / 2).exp() * standard_normals(batch, mean, 1, index=1)[0]
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
    loss = (kl - model.target(batch).log_likelihood(z[None])[0]).mean()
    of_mean, of_log_variance = torch.autograd.grad(loss, [mean, log_variance])
    found = inference(model.target(batch)).law
    assert found is not None
    torch.testing.assert_close(found.mean, mean - 0.7 * 0.01 * of_mean / of_mean.norm())
    moved = log_variance - 0.7 * 0.01 * of_log_variance / of_log_variance.norm()
    torch.testing.assert_close(found.variance.log(), moved)


def test_the_kl_weight_counts_inside_and_evaluation_takes_the_last() -> None:
    target = text_model().target(KEYED)
    network = encoder()
    annealed = SemiAmortized(network, 4, kl_weight=LinearWeight(0.1, 1.0, 10))
    final = SemiAmortized(network, 4)
    assert torch.equal(annealed(target).z, final(target).z)
    assert torch.equal(annealed(target, 1, Progress(0, 10.0)).z, final(target).z)
    assert (annealed(target, 1, START).z - final(target).z).abs().max() > 1e-4


def kept(num_steps: int) -> int:
    """Numbers that the refinement keeps for its backward pass."""
    waiting = [SemiAmortized(encoder(), num_steps)(text_model().target(KEYED), 1, START).z.grad_fn]
    while (node := waiting.pop()).name() != "_RefinementBackward":
        waiting += [parent for parent, _ in node.next_functions if parent is not None]
    return sum(tensor.numel() for tensor in node.saved_tensors)


def test_a_step_keeps_its_moments_alone() -> None:
    """Mean, log-variance, their velocities and the noise: five numbers for each coordinate, and no hidden state."""
    assert kept(12) - kept(2) == 10 * 5 * len(BATCH) * DIM


def test_dropout_is_off_while_refining_and_while_going_back() -> None:
    """In training mode the moments and their gradient are those of eval mode, bit by bit, and modes are as before."""

    def run(training: bool) -> list[Tensor]:
        torch.manual_seed(4)
        model = text(dropout=0.5).train(training)
        network = encoder()
        law = SemiAmortized(network, 4, step_size=3.0)(model.target(KEYED), 1, START).law
        assert law is not None
        found = gradients(law.mean.sum() + law.stddev.sum(), network, model)
        assert all(part.training is training for part in model.modules())
        return [law.mean, *found]

    assert all(map(torch.equal, run(True), run(False)))


def test_masks_that_are_shared_are_those_of_the_refinement() -> None:
    """One thinned network: the gradient of the objective is that of the unrolled loop under its masks."""
    model, network = text(dropout=0.5).train(), encoder()
    target = model.target(KEYED, "shared")
    inference = SemiAmortized(network, 2, step_size=3.0, clip_norm=0.0, nominal_batch=1)
    found = gradients(inference(target, 1, START).law.mean.sum(), model)  # type: ignore[union-attr]

    law = network(KEYED)
    state, velocity = [law.mean, law.variance.log()], [torch.zeros(3, DIM), torch.zeros(3, DIM)]
    for noise in standard_normals(KEYED, law.mean, 2, index=1):
        z = state[0] + (state[1] / 2).exp() * noise
        kl = 0.5 * (state[0].square() + state[1].exp() - 1 - state[1]).sum()
        slopes = torch.autograd.grad(kl - target.log_likelihood(z[None]).sum(), state, create_graph=True)
        velocity = [0.5 * v - slope for v, slope in zip(velocity, slopes, strict=True)]
        state = [part + 3.0 * v for part, v in zip(state, velocity, strict=True)]
    torch.testing.assert_close(found, gradients(state[0].sum(), model), rtol=1e-8, atol=1e-10)


def test_masks_that_move_are_refused_where_the_way_back_would_see_others() -> None:
    target = text(dropout=0.5).train().target(KEYED, "fresh")
    message = (
        "through = 'exact' looks at the model twice and needs it to stand still, which it does not with "
        "inference_dropout = 'fresh'; use 'off' or 'shared', or through = 'stop'."
    )
    with pytest.raises(ValueError, match=sentence(message)):
        SemiAmortized(encoder(), 2)(target)
    assert SemiAmortized(encoder(), 2, through="stop")(target).z.requires_grad
    with torch.no_grad():
        assert SemiAmortized(encoder(), 2)(target).z.shape == (1, 3, DIM)


def test_weights_that_changed_before_the_way_back_are_noticed() -> None:
    model = text()
    draws = SemiAmortized(encoder(), 2)(model.target(KEYED))
    randomise(model, 0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        draws.z.sum().backward()


def test_weights_that_do_not_learn_have_no_gradient() -> None:
    model, network = text(), encoder()
    model.requires_grad_(False)
    target: Target = model.target(KEYED)
    SemiAmortized(network, 2)(target).z.sum().backward()
    assert all(weight.grad is None for weight in model.parameters())
    assert all(weight.grad is not None for weight in network.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0},
         "num_steps must be at least 1; got 0. For an encoder alone use the inference 'amortized'."),
        ({"momentum": 1.0}, "momentum must be at least 0 and less than 1; got 1.0."),
        ({"through": "all"}, "unknown through 'all'; known: exact, stop."),
        ({"step_size": 0.0}, "step_size must be a positive finite number; got 0.0."),
        ({"clip_norm": -1.0}, "clip_norm must be a finite number of at least 0; got -1.0."),
        ({"nominal_batch": 0}, "nominal_batch must be a positive finite number; got 0."),
    ],
)  # fmt: skip
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SemiAmortized(encoder(), **options)
