"""On a GPU: every part does there what it does on the processor, and a whole run ends well.

The oracle is the same arithmetic in double precision on the processor, which the other tests hold to closed forms and
enumeration; a keyed draw is the same draw. What these catch: a tensor that is made on the wrong device, a fused cell
that computes something else, a chain that depends on where it runs.
"""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sri_pyro.cli import main
from sri_pyro.config import load_run
from sri_pyro.evaluation import EVIDENCE, estimate_evidence
from sri_pyro.inference import INFERENCES, FinalState, ShortRunLangevin
from sri_pyro.inference.short_run import frozen_tail
from sri_pyro.models import DECODERS, ENCODERS, PRIORS, LatentTextModel, LSTMDecoder
from sri_pyro.models.decoders.cells import PLAIN, cells_for
from sri_pyro.models.decoders.dropout import NOTHING_DROPPED, Masks
from sri_pyro.models.decoders.frozen_tail import TailOptions
from sri_pyro.models.decoders.vocabulary import log_normaliser, token_log_probs, vocabulary_attention
from sri_pyro.numerics import keyed
from sri_pyro.numerics.langevin import INTEGRATORS
from sri_pyro.types import Batch, Progress
from tests.cli.helpers import write_config
from tests.contracts.tables import BATCH, small
from tests.inference.helpers import built
from tests.models.test_cells import Found, Inputs, by_hand, inputs
from tests.oracles import EnumerableText, randomise
from tests.textbook import rows, small_lstm, thinning

GPU = torch.device("cuda")
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.usefixtures("float64"),
]
NOW = Progress(step=3, epoch=0.5)


def close(found: Tensor, exact: Tensor, tolerance: float = 1e-9) -> None:
    assert found.device.type == GPU.type
    torch.testing.assert_close(found.cpu(), exact, rtol=tolerance, atol=tolerance)


def moved(batch: Batch) -> Batch:
    return Batch(batch.tokens.to(GPU), batch.ids.to(GPU), batch.key)


def twin(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).to(GPU)


def masks_there(masks: Masks) -> Masks:
    return Masks(
        *(None if part is None else part.to(GPU) for part in (masks.unread, masks.words, masks.states))
    )


# --- The fast route -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 17, 130, 1024])
@pytest.mark.parametrize(("sentences", "draws"), [(1, 1), (1, 5), (7, 3)])
def test_fused_cell_is_the_textbook_cell(sentences: int, draws: int, width: int, dtype: torch.dtype) -> None:
    given = inputs(sentences, draws, width, dtype)
    expected, there = by_hand(given), Inputs(*(part.to(GPU) for part in given))
    cells = cells_for(there.gates)
    assert cells is not PLAIN
    cell, squashed, hidden = (torch.empty_like(there.before) for _ in range(3))
    cells.forward(there.gates, there.token, there.code, there.before, cell, squashed, hidden)
    activations = there.gates.clone()
    cells.reverse(
        there.gates, there.before, squashed, there.hidden_grad, there.later, there.cell_grad, there.total
    )
    found = Found(activations, cell, squashed, hidden, there.gates, there.cell_grad, there.total)
    for name, ours, exact in zip(Found._fields, found, expected, strict=True):
        rounding = 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(ours.double().cpu(), exact, rtol=rounding, atol=rounding, msg=name)


@pytest.mark.usefixtures("cells")
@pytest.mark.parametrize("wiring", ["hidden", "cell"])
@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [
        ((5, 1, 1, 1), [1]),
        ((5, 0, 2, 3), [2, 1, 3]),
        ((9, 3, 5, 4), [1, 6, 3, 2]),
        ((40, 7, 16, 3), [12, 1, 9, 5, 12]),
        ((2000, 4, 130, 4), [5, 7]),
        ((3000, 8, 1030, 4), [5, 7, 9]),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_fast_route(sizes: tuple, lengths: list[int], wiring: str, masked: bool) -> None:
    names = ("vocab_size", "latent_dim", "hidden", "embedding")
    decoder = small_lstm(wiring=wiring, **dict(zip(names, sizes, strict=True)))
    batch = Batch(rows(decoder.vocab_size, lengths))
    masks = thinning(decoder, batch.tokens) if masked else NOTHING_DROPPED
    here, there = (
        decoder.condition(batch, masks=masks),
        twin(decoder).condition(moved(batch), masks=masks_there(masks)),
    )
    for draws in (1, 3):
        z = torch.randn(draws, len(lengths), decoder.latent_dim)
        for found, exact in zip(there.value_and_grad(z.to(GPU)), here.value_and_grad(z), strict=True):
            close(found, exact)
        close(there.value(z.to(GPU)), here.value(z))
        if sizes[0] < 1000:
            close(there.hessian(z.to(GPU)), here.hessian(z))
            v = torch.randn_like(z)
            close(there.hessian_vector_product(z.to(GPU), v.to(GPU)), here.hessian_vector_product(z, v))


def test_a_recorded_gradient_is_the_same_to_the_bit() -> None:
    """Also where shapes change in between, and where two batches take turns in one room."""
    decoder = twin(small_lstm(vocab_size=50, hidden=16))
    lengths = ([3, 9, 1], [8, 2])
    routes = [decoder.condition(Batch(rows(50, some).to(GPU))) for some in lengths]
    for turn in range(12):
        for route, some in zip(routes, lengths, strict=True):
            z = torch.randn(1 + turn // 5, len(some), 3, device=GPU)
            for found, exact in zip(route.value_and_grad(z), route._exact(z), strict=True):
                assert torch.equal(found, exact)
    assert all(route.replay._graph is not None for route in routes)


def test_a_recorded_gradient_still_refuses_other_weights() -> None:
    decoder = twin(small_lstm())
    route, z = decoder.condition(moved(BATCH)), torch.randn(1, 4, 3, device=GPU)
    for _ in range(3):
        route.value_and_grad(z)
    with torch.no_grad():
        decoder.output.weight.add_(1)
    with pytest.raises(RuntimeError, match="weights have changed"):
        route.value_and_grad(z)


def test_single_precision_at_the_size_of_a_real_model() -> None:
    """Relative error of the likelihood's gradient, against double precision here."""
    decoder = LSTMDecoder(vocab_size=2000, latent_dim=32, embedding=64, hidden=128, dropout=0.0).eval()
    randomise(decoder, 0.1)
    batch, z = Batch(rows(2000, [12] * 32)), torch.randn(2, 32, 32)
    exact = decoder.condition(batch).value_and_grad(z)[1]
    found = twin(decoder).float().condition(moved(batch)).value_and_grad(z.float().to(GPU))[1].double().cpu()
    assert ((found - exact).norm() / exact.norm()).item() < 2e-6


def test_the_output_layer_and_its_weight_gradients() -> None:
    h, weight, bias = torch.randn(700, 9), torch.randn(8_000, 9), torch.randn(8_000)
    targets = torch.randint(8_000, (700,))
    for found, exact in zip(
        vocabulary_attention(h.to(GPU), weight.to(GPU), bias.to(GPU)),
        vocabulary_attention(h, weight, bias),
        strict=True,
    ):
        close(found, exact)
    close(log_normaliser(h.to(GPU), weight.to(GPU), bias.to(GPU)), log_normaliser(h, weight, bias))
    for slope in (torch.ones(700), torch.randn(700)):
        both = []
        for device in (torch.device("cpu"), GPU):
            leaves = [part.detach().to(device).requires_grad_() for part in (h, weight, bias)]
            log_probs = token_log_probs(*leaves, targets.to(device))
            both.append([log_probs, *torch.autograd.grad(log_probs, leaves, slope.to(device))])
        for exact, found in zip(*both, strict=True):
            close(found, exact)


def test_the_frozen_tail() -> None:
    decoder = small_lstm(vocab_size=60, hidden=7)
    batch, options = Batch(rows(60, [4, 9, 6])), TailOptions(20, 4, 3)
    model = LatentTextModel(small(PRIORS["standard_normal"]), decoder).eval()
    here = frozen_tail(model.target(batch), options)
    there = frozen_tail(twin(model).target(moved(batch)), options)
    z = torch.randn(2, 3, 3)
    for _ in range(5):
        for found, exact in zip(there.log_joint_and_grad(z.to(GPU)), here.log_joint_and_grad(z), strict=True):
            close(found, exact)
        z = z + 0.1


def test_no_token_by_vocabulary_tensor_is_kept() -> None:
    """1,600 tokens and 60,000 words: one tensor of logits has 366 MiB."""
    decoder = (
        LSTMDecoder(vocab_size=60_000, latent_dim=32, embedding=8, hidden=64, dropout=0.0).float().to(GPU)
    )
    batch, z = Batch(rows(60_000, [25] * 64).to(GPU)), torch.randn(1, 64, 32, device=GPU, dtype=torch.float32)
    route = decoder.eval().condition(batch)
    route.value_and_grad(z)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    route.value_and_grad(z)
    assert torch.cuda.max_memory_allocated() - before < 40 * 2**20


# --- Every part -----------------------------------------------------------------------------------------------


def test_keyed_noise_is_the_same_noise() -> None:
    keys = keyed.chains(7, torch.arange(50), 3)
    assert torch.equal(keyed.chains(7, torch.arange(50, device=GPU), 3).cpu(), keys)
    close(keyed.normal(keys.to(GPU), (5, 4), torch.float64), keyed.normal(keys, (5, 4), torch.float64), 1e-12)
    happened = keyed.happens(keys.to(GPU), (7,), 0.3).cpu()
    assert torch.equal(happened, keyed.happens(keys, (7,), 0.3))


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name: str) -> None:
    decoder = small(DECODERS[name]).eval()
    randomise(decoder, 0.6)
    there, z = twin(decoder), torch.randn(2, 4, 3)
    both = []
    for device, module, batch in ((torch.device("cpu"), decoder, BATCH), (GPU, there, moved(BATCH))):
        codes = z.to(device).requires_grad_()
        log_likelihood = module.log_likelihood(codes, batch.tokens)
        leaves = [codes, *module.parameters()]
        grads = torch.autograd.grad(log_likelihood.sum(), leaves, allow_unused=True)
        both.append([log_likelihood, *(grad for grad in grads if grad is not None)])
        with torch.no_grad():
            assert module.generate(codes[0]).device.type == device.type
    for exact, found in zip(*both, strict=True):
        close(found, exact)


@pytest.mark.parametrize("name", PRIORS)
def test_priors(name: str) -> None:
    prior, z = small(PRIORS[name]), torch.randn(5, 4, 3)
    close(twin(prior)().log_prob(z.to(GPU)), prior().log_prob(z))
    model = LatentTextModel(prior, small(DECODERS["lstm"])).eval()
    batch = Batch(BATCH.tokens, key=11)
    drawn = twin(model).target(moved(batch)).sample_prior(6)
    assert (drawn.shape, drawn.device.type) == ((6, 4, 3), GPU.type)
    if name == "standard_normal":
        close(drawn, model.target(batch).sample_prior(6))


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name: str) -> None:
    encoder = built(ENCODERS[name], vocab_size=8, latent_dim=3).eval()
    close(twin(encoder)(moved(BATCH)).mean, encoder(BATCH).mean)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_a_keyed_run_is_the_same_run(name: str) -> None:
    """Ten steps on text: positions to rounding, whichever cell moves them."""
    text, run = EnumerableText.build("lstm", latent_dim=3), ShortRunLangevin(10, small(INTEGRATORS[name]))
    batch = Batch(text.rows.tokens[:40], key=5)
    here = run(text.model.target(batch), 2)
    there = twin(run)(twin(text.model).target(moved(batch)), 2)
    close(there.z, here.z, 1e-8)
    close(there.info["log_joint"], here.info["log_joint"], 1e-8)


@pytest.mark.parametrize("name", INFERENCES)
@pytest.mark.parametrize("progress", [None, NOW], ids=["evaluation", "training"])
def test_inferences_and_a_weight_step(name: str, progress: Progress | None) -> None:
    text = EnumerableText.build("lstm", latent_dim=3)
    batch = Batch(text.rows.tokens[:5], torch.arange(5), key=5)
    torch.manual_seed(3)
    inference = built(INFERENCES[name], latent_dim=3, **({"warmup": 3} if name == "mcmc" else {}))
    model = twin(text.model)
    target = model.target(moved(batch))
    draws = twin(inference)(target, 1, progress)
    assert draws.z.device.type == GPU.type
    assert draws.z.isfinite().all()
    if name != "mcmc":  # its decisions hang on the last digit
        close(draws.z.detach(), inference(text.model.target(batch), 1, progress).z.detach(), 1e-7)
    FinalState()(target, draws, NOW).backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


@pytest.mark.parametrize("name", sorted(EVIDENCE.keys() - {"jacobian"}))
def test_evidence_is_the_same_evidence(name: str) -> None:
    text = EnumerableText.build("lstm", latent_dim=2)
    batch, run = Batch(text.rows.tokens[:20], key=8), ShortRunLangevin(10)
    here = estimate_evidence(text.model.target(batch), run, small(EVIDENCE[name]))[0]
    there = estimate_evidence(twin(text.model).target(moved(batch)), twin(run), small(EVIDENCE[name]))[0]
    spread = (here.se.square() + there.se.cpu().square()).sqrt()
    assert ((there.log_px.cpu() - here.log_px).abs() < 6 * spread + 1e-6).all()


# --- A whole run ----------------------------------------------------------------------------------------------


def test_a_whole_run_and_every_command(tmp_path: Path) -> None:
    """Trained, examined and told there, its evidence weighed both there and on the processor."""
    torch.set_default_dtype(torch.float32)
    config, run, text = write_config(tmp_path), tmp_path / "run", tmp_path / "other.txt"
    config.write_text(config.read_text().replace("test_fraction = 0.2", "test_fraction = 0.4"))
    text.write_text("the cat sits at home .\na dog waits by the sea .\n")
    assert main(["train", str(config), "--out", str(run), "--set", f"device={GPU.type}"]) == 0
    assert main(["train", str(config), "--out", str(run), "--resume", "--set", f"device={GPU.type}"]) == 0
    commands = {
        "evaluate": ["--set", "evaluation.num_sentences=24"],
        "doctor": [],
        "criticise": [],
        "reference": ["--num-sentences", "2", "--warmup", "20", "--draws", "40"],
        "calibrate": ["--num-simulations", "20", "--num-draws", "19"],
        "sample": ["--num", "3"],
        "score": [str(text)],
        "encode": [str(text)],
        "report": [],
    }
    for command, options in commands.items():
        assert main([command, str(run), *options]) == 0, command
    assert load_run(run).device.type == GPU.type
