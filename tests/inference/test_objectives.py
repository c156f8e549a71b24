"""Learning rules against sums written by hand and against the release's accumulated gradients.

Deterministic in float64: draws and paths are fixed, and only weight gradients are compared.
"""

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sri_pyro.inference import OBJECTIVES, Distilled, FinalState, ShortRunLangevin, Trajectory
from sri_pyro.models import GaussianMixture, LatentTextModel
from sri_pyro.types import Batch, Draws, Progress
from tests.oracles import EnumerableText

pytestmark = pytest.mark.usefixtures("float64")
NOW = Progress(step=7, epoch=0.5)


def text(decoder: str = "lstm") -> tuple[LatentTextModel, Batch]:
    """A model whose prior learns too, in eval mode, and four sentences of different length."""
    oracle = EnumerableText.build(decoder, latent_dim=2)
    model = LatentTextModel(GaussianMixture(2, components=3), oracle.model.decoder).eval()
    return model, oracle.rows.select(torch.tensor([0, 2, 7, 30]))


def draws_with_path(samples: int, steps: int = 3) -> Draws:
    path = torch.randn(samples, 4, steps + 1, 2)
    known = {"path": path, "log_encoder": torch.randn(samples, 4)}
    return Draws(path[:, :, -1], log_q=torch.randn(samples, 4), info=known)


def gradients(model: torch.nn.Module, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]


def assert_same(found: list[Tensor], exact: list[Tensor]) -> None:
    assert any(g.abs().max() > 1e-3 for g in exact)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def score_by_hand(model: LatentTextModel, batch: Batch, b: int, z: Tensor) -> tuple[Tensor, Tensor]:
    """Log p(z) and log p(x_b | z) of one sentence and one code, the sentence cut to its own length."""
    alone = Batch(batch.tokens[b : b + 1, : int(batch.lengths[b])])
    return model.prior().log_prob(z), model.decoder(z[None], alone).log_prob(alone.tokens)[0]


@pytest.mark.parametrize("decoder", ["lstm", "gru", "bag_of_words"])
@pytest.mark.parametrize("samples", [1, 3])
def test_final_state_is_the_negative_mean_log_joint(decoder: str, samples: int) -> None:
    """Catches a sum for the mean, a dropped prior (its weights would not learn), padding that is scored."""
    model, batch = text(decoder)
    draws = draws_with_path(samples)
    parts = [sum(score_by_hand(model, batch, b, draws.z[s, b])) for s in range(samples) for b in range(4)]
    exact = -torch.stack(parts).mean()
    found = FinalState()(model.target(batch), draws, NOW)
    assert found.ndim == 0
    assert found.item() == pytest.approx(exact.item(), abs=1e-10)
    learned = gradients(model, found)
    assert_same(learned, gradients(model, exact))
    prior = [g for (name, _), g in zip(model.named_parameters(), learned, strict=True) if "prior" in name]
    assert any(g.abs().max() > 1e-3 for g in prior)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ("elbo", "iwae")])
def test_draws_are_constants(name: str) -> None:
    """Even where a sampler is reparameterised, eq. 9 holds z fixed: nothing flows into the dynamics."""
    model, batch = text()
    source = torch.zeros((), requires_grad=True)
    constant = draws_with_path(2)
    info = {**constant.info, "path": constant.info["path"] + source}
    moving = replace(constant, z=constant.z + source, info=info)
    loss = OBJECTIVES[name]()(model.target(batch), moving, NOW)
    loss.backward()
    assert source.grad is None or source.grad.item() == 0


def test_trajectory_is_what_the_release_accumulates() -> None:
    """Oracle: the release's loop by hand. Each inner step calls backward on the summed -log p(x | z_k) and nobody
    clears the weights' gradients; then the batch mean at z_K is added, of log p(x, z_K) here, since this prior has
    weights and the release's has none.

    Catches z_0 left out, z_K counted as one more step, a mean in the inner loop, a prior that never learns, or that
    learns along the path.
    """
    model, batch = text()
    draws, target = draws_with_path(1), model.target(batch)
    for k in range(4):
        scores = [score_by_hand(model, batch, b, draws.info["path"][0, b, k]) for b in range(4)]
        if k < 3:
            (-torch.stack([log_likelihood for _, log_likelihood in scores]).sum()).backward()
        else:
            (
                -torch.stack([log_prior + log_likelihood for log_prior, log_likelihood in scores]).mean()
            ).backward()
    accumulated = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    assert_same(gradients(model, Trajectory()(target, draws, NOW)), accumulated)
    final = gradients(model, FinalState()(target, draws, NOW))  # positive control: another rule altogether
    assert any((a - b).abs().max() > 0.1 for a, b in zip(accumulated, final, strict=True))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_weight_of_a_model_learns(name: str) -> None:
    """A learnable prior had no gradient under ``trajectory``, in silence; its rule is that of ``final``,
    but where draws are weighted.
    """
    model, batch = text()
    draws, target = draws_with_path(2), model.target(batch)
    names = list(dict(model.named_parameters()))
    learned, final = (
        dict(zip(names, gradients(model, rule(target, draws, NOW)), strict=True))
        for rule in (OBJECTIVES[name](), FinalState())
    )
    assert all(gradient.abs().max() > 1e-6 for gradient in learned.values())
    for part in ("prior.logits", "prior.means", "prior.log_scales") if name != "iwae" else ():
        torch.testing.assert_close(learned[part], final[part], rtol=1e-9, atol=1e-12)


def test_trajectory_averages_over_chains() -> None:
    """With S chains the rule is the mean of the S single-chain rules, so that S does not scale the step."""
    model, batch = text()
    draws, target = draws_with_path(3), model.target(batch)
    path = draws.info["path"]
    single = [
        Trajectory()(target, Draws(path[s : s + 1, :, -1], info={"path": path[s : s + 1]}), NOW)
        for s in range(3)
    ]
    found = Trajectory()(target, draws, NOW)
    assert found.item() == pytest.approx((sum(single) / 3).item(), rel=1e-12)


def test_trajectory_learns_from_a_recorded_run() -> None:
    model, batch = text()
    target = model.target(batch)
    draws = ShortRunLangevin(3, record_path=True)(target, 1)
    loss = Trajectory()(target, draws, NOW)
    path = draws.info["path"]
    exact = (
        -sum(target.log_likelihood(path[:, :, k]).sum() for k in range(3)) - target.log_joint(draws.z).mean()
    )
    assert loss.item() == pytest.approx(exact.item(), rel=1e-12)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_trajectory_without_a_path_says_how_to_get_one() -> None:
    model, batch = text()
    sentence = (
        "the learning rule 'trajectory' needs every position of the run, and these draws carry only the last; "
        "set record_path = true on the inference 'short_run'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Trajectory()(model.target(batch), Draws(torch.zeros(1, 4, 2)), NOW)


def test_final_state_needs_no_path() -> None:
    model, batch = text()
    assert math.isfinite(FinalState()(model.target(batch), Draws(torch.zeros(1, 4, 2)), NOW).item())


def test_distilled_adds_the_encoder_where_chains_end() -> None:
    """Oracle: the mean written out. Catches the encoder scored where chains start, or with the model's sign."""
    model, batch = text()
    encoder = torch.tensor([[0.5, -1.0, 2.0, 0.0]], requires_grad=True)
    draws = Draws(torch.randn(1, 4, 2), info={"log_encoder": encoder})
    target = model.target(batch)
    found = Distilled(encoder_weight=3.0)(target, draws, NOW)
    assert found.item() == pytest.approx((FinalState()(target, draws, NOW) - 3.0 * 1.5 / 4).item(), abs=1e-12)
    (gradient,) = torch.autograd.grad(found, encoder)
    torch.testing.assert_close(gradient, torch.full((1, 4), -0.75))
    sentence = (
        "the objective 'distilled' teaches an encoder where chains end, and none starts them; give the inference "
        "'short_run' a start, such as start = { kind = \"lstm\" }."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Distilled()(target, Draws(draws.z), NOW)
