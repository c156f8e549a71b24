"""Laws that every entry of every table obeys: a newcomer is tested by existing, and a failure names it.

To test a new table, add it to ``TABLES`` (names, documentation, schema) and write its own laws below.
"""

import inspect
import re
import typing

import pytest
import torch
from torch import Tensor, nn

from sri_pyro.data import SOURCES
from sri_pyro.evaluation import EVIDENCE
from sri_pyro.inference import INFERENCES, OBJECTIVES
from sri_pyro.models import DECODERS, PRIORS
from sri_pyro.models.decoders.base import Decoder
from sri_pyro.numerics.langevin import INTEGRATORS, run_langevin
from sri_pyro.numerics.schedules import NOISE_SCHEDULES, STEP_SCHEDULES
from sri_pyro.types import BOS, EOS, PAD, Batch, Progress
from tests.oracles import LinearGaussian, gate, quadrature, randomise, sentence, standard_normal_target

pytestmark = pytest.mark.usefixtures("float64")

TABLES = {
    "DECODERS": DECODERS,
    "EVIDENCE": EVIDENCE,
    "INFERENCES": INFERENCES,
    "INTEGRATORS": INTEGRATORS,
    "NOISE_SCHEDULES": NOISE_SCHEDULES,
    "OBJECTIVES": OBJECTIVES,
    "PRIORS": PRIORS,
    "SOURCES": SOURCES,
    "STEP_SCHEDULES": STEP_SCHEDULES,
}
ENTRIES = [(table, name) for table, entries in TABLES.items() for name in entries]

SMALL = {"vocab_size": 8, "latent_dim": 3, "dim": 3, "hidden": 5, "embedding": 4, "components": 3}
SMALL |= {"dropout": 0.0, "word_dropout": 0.0, "max_length": 6, "step_sizes": [0.3, 0.2, 0.1]}
BATCH = Batch(torch.tensor([[5, 6, 4, EOS], [6, EOS, PAD, PAD], [EOS, PAD, PAD, PAD], [1, 5, 5, 7]]))


def small(cls: type, **options):
    """Build an entry small: it gets those of the known options that its constructor has."""
    accepted = inspect.signature(cls).parameters
    return cls(**{name: value for name, value in (SMALL | options).items() if name in accepted})


def decoder_of(name: str, **options) -> Decoder:
    decoder = small(DECODERS[name], **options)
    randomise(decoder, 0.6)
    return decoder.eval()


# --- Every table -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_read_only(table: str) -> None:
    with pytest.raises(TypeError):
        TABLES[table]["mine"] = object


def options_of(cls: type) -> dict[str, inspect.Parameter]:
    """Options of a constructor; none where a class has no constructor of its own."""
    if cls.__init__ in (object.__init__, nn.Module.__init__):
        return {}
    return dict(inspect.signature(cls).parameters)


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_entries_are_named_and_documented(table: str, name: str) -> None:
    """The constructor is the schema of the configuration: every option typed, and explained by its name."""
    cls = TABLES[table][name]
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    documentation = "\n".join(base.__doc__ or "" for base in cls.__mro__[:-1])
    assert cls.__doc__
    hints = typing.get_type_hints(cls.__init__)
    for option, parameter in options_of(cls).items():
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY), option
        assert option in hints, f"{option} has no type"
        assert re.search(rf"\b{option}\b", documentation), f"{option} is not explained"


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_entries_have_defaults_for_all_that_data_does_not_decide(table: str, name: str) -> None:
    decided = {"vocab_size", "step_sizes", "path"}
    for option, parameter in options_of(TABLES[table][name]).items():
        assert option in decided or parameter.default is not parameter.empty, option


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_entries_refuse_unknown_options(table: str, name: str) -> None:
    with pytest.raises(TypeError):
        TABLES[table][name](nonsense=1)


# --- Priors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRIORS)
def test_prior_has_one_value_per_draw(name: str) -> None:
    prior = small(PRIORS[name])
    law = prior()
    assert prior.dim == 3
    assert law.batch_shape == ()
    assert law.event_shape == (3,)
    z = law.sample((4, 5))
    assert z.shape == (4, 5, 3)
    assert law.log_prob(z).shape == (4, 5)


@pytest.mark.parametrize("name", PRIORS)
def test_prior_integrates_to_one_and_samples_what_it_scores(name: str) -> None:
    """On a grid in one dimension; then sample averages of bounded functions against grid averages."""
    prior = small(PRIORS[name], dim=1)
    grid = torch.linspace(-30, 30, 6001)[:, None]
    mass = prior().log_prob(grid).detach().exp() * 0.01
    assert mass.sum().item() == pytest.approx(1.0, abs=1e-8)
    z, n = prior().sample((50_000,)).detach()[:, 0], 50_000
    worst = 0.0
    for function in (torch.tanh, torch.sin, lambda z: (z > 0.7).double()):
        values = function(grid[:, 0])
        mean = (mass * values).sum()
        spread = ((mass * values.square()).sum() - mean**2).sqrt()
        worst = max(worst, ((function(z).mean() - mean).abs() / spread * n**0.5).item())
    assert worst < gate(3)


@pytest.mark.parametrize("name", PRIORS)
def test_prior_is_smooth_in_z_and_built_afresh(name: str) -> None:
    prior = small(PRIORS[name])
    z = torch.randn(4, 3, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: prior().log_prob(z), z)
    assert prior() is not prior()
    before = prior().log_prob(z)
    randomise(prior)
    moved = not torch.equal(prior().log_prob(z), before)
    assert moved == bool(list(prior.parameters()))


@pytest.mark.parametrize("name", PRIORS)
def test_prior_follows_its_module(name: str) -> None:
    """A constant that is no buffer would stay behind in another precision or on another device."""
    prior = small(PRIORS[name]).float()
    assert prior().sample().dtype == torch.float32
    copy = small(PRIORS[name]).float()
    copy.load_state_dict(prior.state_dict())
    z = torch.randn(4, 3, dtype=torch.float32)
    assert torch.equal(copy().log_prob(z), prior().log_prob(z))


# --- Decoders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_scores_are_a_loop_over_its_steps(name: str) -> None:
    """Teacher forcing in one sweep against ``begin`` and ``advance``, one token at a time, BOS first."""
    decoder, z = decoder_of(name), torch.randn(4, 3)
    found = decoder.token_log_probs(z, BATCH.tokens)
    expected = torch.zeros(4, 4)
    for n, row in enumerate(BATCH.tokens.tolist()):
        state, before = decoder.begin(z[n : n + 1]), BOS
        for t, token in enumerate(row):
            if token == PAD:
                break
            logits, state = decoder.advance(torch.tensor([before]), z[n : n + 1], state)
            expected[n, t] = logits.log_softmax(-1)[0, token]
            before = token
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (found[BATCH.tokens == PAD] == 0).all()
    total = decoder.log_likelihood(z, BATCH.tokens)
    torch.testing.assert_close(total, expected.sum(-1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_broadcasts_codes_and_tokens(name: str) -> None:
    decoder, z = decoder_of(name), torch.randn(5, 2, 4, 3)
    found = decoder.log_likelihood(z, BATCH.tokens)
    assert found.shape == (5, 2, 4)
    one = decoder.log_likelihood(z[3, 1], BATCH.tokens)
    torch.testing.assert_close(found[3, 1], one, rtol=0, atol=1e-12)
    many = decoder.log_likelihood(z[0, 0, :1], BATCH.tokens)
    assert many.shape == (4,)
    single = decoder.log_likelihood(z[0, 0, 0], BATCH.tokens[2])
    assert single.shape == ()
    assert single.item() == pytest.approx(many[2].item(), abs=1e-12)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_ignores_padding_and_neighbours(name: str) -> None:
    decoder, z = decoder_of(name), torch.randn(4, 3)
    together = decoder.log_likelihood(z, BATCH.tokens)
    wider = torch.cat([BATCH.tokens, torch.full((4, 5), PAD)], -1)
    torch.testing.assert_close(decoder.log_likelihood(z, wider), together, rtol=0, atol=1e-12)
    for n, length in enumerate(BATCH.lengths.tolist()):
        alone = decoder.log_likelihood(z[n : n + 1], BATCH.tokens[n : n + 1, :length])
        torch.testing.assert_close(alone, together[n : n + 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_listens_to_z_and_teaches_every_weight(name: str) -> None:
    decoder = decoder_of(name)
    z = torch.randn(4, 3, requires_grad=True)
    decoder.log_likelihood(z, BATCH.tokens).sum().backward()
    assert (z.grad.abs().sum(-1) > 1e-6).all()
    for parameter, weight in decoder.named_parameters():
        assert weight.grad is not None, parameter
        assert weight.grad.abs().max() > 0, parameter


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_route_for_inference_is_autograd(name: str) -> None:
    decoder = decoder_of(name)
    route = decoder.condition(BATCH)
    if route is None:
        pytest.skip("no fast route")
    z = torch.randn(2, 4, 3, requires_grad=True)
    expected = decoder.log_likelihood(z, BATCH.tokens)
    (gradient,) = torch.autograd.grad(expected.sum(), z)
    value, fast = route.value_and_grad(z.detach())
    torch.testing.assert_close(value, expected.detach(), rtol=0, atol=1e-11)
    torch.testing.assert_close(fast, gradient, rtol=0, atol=1e-11)
    torch.testing.assert_close(route.value(z.detach()), expected.detach(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_writes_sentences(name: str) -> None:
    """No PAD before the end, no BOS ever, nothing but PAD after the end; z may have any leading shape."""
    decoder = decoder_of(name)
    drawn = decoder.generate(torch.randn(200, 2, 3), max_length=7)
    assert drawn.shape == (200, 2, 7)
    assert drawn.dtype == torch.int64
    assert not (drawn == BOS).any()
    ended = (drawn == EOS).cumsum(-1)
    after = (ended - (drawn == EOS).long()) > 0
    assert torch.equal(drawn == PAD, after)
    assert (ended[..., -1] == 0).any()
    assert (ended[..., -1] == 1).any()
    assert decoder.generate(torch.randn(3)).shape == (6,)  # max_length of the decoder


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_writes_without_dropout(name: str) -> None:
    """Generation in the middle of training must not see the masks of weight steps."""
    from sri_pyro.models import Strategy

    decoder = decoder_of(name, dropout=0.7)
    z = torch.randn(40, 3)
    calm = decoder.generate(z, strategy=Strategy.greedy())
    decoder.train()
    assert torch.equal(decoder.generate(z, strategy=Strategy.greedy()), calm)
    assert all(module.training for module in decoder.modules())


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_answers_with_a_distribution_as_long_as_the_batch(name: str) -> None:
    decoder, z = decoder_of(name), torch.randn(2, 4, 3)
    law = decoder(z, BATCH)
    assert law.batch_shape == (2, 4)
    assert law.event_shape == (4,)
    torch.testing.assert_close(law.log_prob(BATCH.tokens), decoder.log_likelihood(z, BATCH.tokens))
    assert decoder(z).sample().shape == (2, 4, 6)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_refuses_foreign_tokens(name: str) -> None:
    decoder, z = decoder_of(name), torch.zeros(1, 3)
    for tokens, span in (([8, EOS], "3 to 8"), ([-1, EOS], "-1 to 3")):
        message = (
            f"token ids must lie in [0, 8); got {span}. Encode the text with the vocabulary this decoder "
            "was built for."
        )
        with pytest.raises(ValueError, match=sentence(message)):
            decoder.log_likelihood(z, torch.tensor([tokens]))


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_refuses_codes_of_another_size(name: str) -> None:
    with pytest.raises(ValueError, match="latent"):
        decoder_of(name).log_likelihood(torch.zeros(4, 2), BATCH.tokens)


@pytest.mark.parametrize("length", [0, -1])
@pytest.mark.parametrize("name", DECODERS)
def test_decoder_refuses_to_write_nothing(name: str, length: int) -> None:
    """Zero must not fall back to the default in silence."""
    with pytest.raises(ValueError, match="max_length"):
        decoder_of(name).generate(torch.zeros(1, 3), max_length=length)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_survives_its_state_dict(name: str) -> None:
    decoder, copy, z = decoder_of(name), small(DECODERS[name]).eval(), torch.randn(4, 3)
    copy.load_state_dict(decoder.state_dict())
    found, expected = (d.log_likelihood(z, BATCH.tokens) for d in (copy, decoder))
    assert torch.equal(found, expected)


# --- Integrators -------------------------------------------------------------------------------------------


def wells(z: Tensor) -> tuple[Tensor, Tensor]:
    return (z.square() / 2 - z**4 / 4).sum(-1), z - z**3


@pytest.mark.parametrize("name", INTEGRATORS)
def test_integrator_is_pure(name: str) -> None:
    """Same arguments, same answer, nothing changed; the integrator itself remembers nothing."""
    integrator, z, noise = INTEGRATORS[name](), torch.randn(4, 2, 3), torch.randn(2, 4, 2, 3)
    from sri_pyro.numerics.langevin import StepSizes

    steps, inputs = StepSizes(0.0, 0.1, 0.2), (z.clone(), noise.clone())

    def once() -> tuple[Tensor, Tensor]:
        memory = integrator.begin(z, 0.1, 1.0, noise[0])
        kept = memory.clone()
        result = integrator.advance(z, memory, wells(z)[1], steps, 1.0, noise[1])
        assert torch.equal(memory, kept)
        return result

    first, second = once(), once()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(z, inputs[0])
    assert torch.equal(noise, inputs[1])
    assert first[0].shape == first[1].shape == z.shape or first[1].numel() == 0


@pytest.mark.parametrize("name", INTEGRATORS)
def test_integrator_moves_every_chain_alone(name: str) -> None:
    """A chain ends where it would have ended by itself, whatever runs beside it, in any leading shape."""
    integrator, z, noise = INTEGRATORS[name](), torch.randn(4, 2, 3), torch.randn(9, 4, 2, 3)
    together = run_langevin(wells, z, [0.1, 0.2, 0.1], integrator, noise=lambda k, like: noise[k])
    for s, b in ((0, 0), (3, 1)):
        alone = run_langevin(
            wells, z[s, b], [0.1, 0.2, 0.1], integrator, noise=lambda k, like, s=s, b=b: noise[k, s, b]
        )
        torch.testing.assert_close(alone, together[s, b], rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_integrator_without_noise_climbs_to_the_mode(name: str) -> None:
    oracle = LinearGaussian.build("power1", dim=4, information=2.0)
    _, x = oracle.sample(3)
    target = oracle.target(x)

    def run(start: Tensor) -> Tensor:
        return run_langevin(
            lambda z: (target.log_joint(z), target.value_and_grad(z).grad),
            start,
            [0.1] * 400,
            INTEGRATORS[name](),
            noise_scale=0.0,
        )

    start = torch.randn(2, 3, 4)
    found = run(start)
    assert torch.equal(found, run(start))
    torch.testing.assert_close(found, oracle.posterior(x)[0].expand(2, 3, 4), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_integrator_settles_on_the_prior_where_the_data_say_nothing(name: str) -> None:
    """Variance 1 after many steps, up to the stated O(s) inflation of ``ula`` at s = 0.02."""
    target = standard_normal_target(lambda z: 0 * z.sum(-1), batch_size=2, dim=2)
    z = run_langevin(
        lambda z: (target.log_joint(z), target.value_and_grad(z).grad),
        torch.zeros(20_000, 2, 2),
        [0.02] * 400,
        INTEGRATORS[name](),
    )
    off = (z.var(0) - 1).abs().max().item()
    assert off < gate(4) * (2 / 20_000) ** 0.5 + 0.0102
    assert quadrature(target).log_evidence.abs().max() < 1e-9


# --- Schedules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STEP_SCHEDULES)
def test_step_schedule_gives_one_positive_float_per_step(name: str) -> None:
    schedule = small(STEP_SCHEDULES[name])
    sizes = schedule(3)
    assert len(sizes) == 3
    assert all(type(size) is float and size > 0 for size in sizes)
    assert schedule(3) == sizes
    assert schedule(3) is not sizes


@pytest.mark.parametrize("name", STEP_SCHEDULES)
def test_step_schedule_refuses_a_run_without_steps(name: str) -> None:
    for num_steps in (0, -1):
        with pytest.raises(ValueError, match="num_steps"):
            small(STEP_SCHEDULES[name])(num_steps)


@pytest.mark.parametrize("name", NOISE_SCHEDULES)
def test_noise_schedule_ends_where_evaluation_stands(name: str) -> None:
    schedule = small(NOISE_SCHEDULES[name])
    final = schedule(None)
    scales = [schedule(Progress(step=0, epoch=epoch)) for epoch in (0.0, 0.5, 3.0, 7.9, 15.0, 40.0, 1e4)]
    assert all(type(scale) is float and scale >= 0 for scale in [*scales, final])
    assert scales[-1] == final
    assert scales == sorted(scales) or scales == sorted(scales, reverse=True)


@pytest.mark.parametrize("table", ["DECODERS", "INTEGRATORS", "NOISE_SCHEDULES", "PRIORS", "STEP_SCHEDULES"])
def test_small_builds_what_the_tables_hold(table: str) -> None:
    """The helper must not hide an entry that the laws above cannot build."""
    for name, cls in TABLES[table].items():
        assert isinstance(small(cls), nn.Module) == (table in {"PRIORS", "DECODERS"}), name
