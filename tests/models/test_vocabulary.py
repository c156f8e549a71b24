"""The output layer against the plain softmax in double precision, and its derivatives against those of cross-entropy.

Axes: N hidden states, H units, V words.
"""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sri_pyro.models.decoders import vocabulary
from sri_pyro.models.decoders.vocabulary import (
    column_shares,
    log_normaliser,
    token_log_probs,
    vocabulary_attention,
)
from sri_pyro.types import BOS, PAD

pytestmark = pytest.mark.usefixtures("float64")
SIZES = [(1, 1, 5), (1, 7, 9), (3, 1, 6), (5, 16, 40), (255, 4, 11), (256, 4, 11), (257, 4, 11), (700, 6, 2)]


def layer(n: int, width: int, words: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [N, H], weights [V, H] and biases [V], of which two words have no share where there are more."""
    bias = torch.randn(words)
    if words > 4:
        bias[[PAD, BOS]] = -torch.inf
    return torch.randn(n, width), scale * torch.randn(words, width), bias


def layer_of(*parts: Tensor) -> tuple[Tensor, ...]:
    """The same numbers as leaves."""
    return tuple(part.detach().clone().requires_grad_() for part in parts)


def plain_log_probs(h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """The oracle: cross-entropy of a linear layer, which stores all logits."""
    return -F.cross_entropy(F.linear(h, weight, bias), targets, reduction="none")


def assert_cross_entropy(*parts: Tensor, targets: Tensor, tolerance: float = 1e-12) -> None:
    """Log-probabilities, and the first derivative of their sum, of all three inputs."""
    answers = []
    for function, given in ((token_log_probs, parts), (plain_log_probs, [part.double() for part in parts])):
        leaves = layer_of(*given)
        value = function(*leaves, targets)
        answers.append([value.detach(), *torch.autograd.grad(value.sum(), leaves)])
    for ours, theirs in zip(*answers, strict=True):
        assert ours.dtype == parts[0].dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=["as it is", "many chunks", "wide", "wide and many chunks"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut where real sizes would be, and take narrow layers for wide ones."""
    if "chunks" in request.param:
        monkeypatch.setattr(vocabulary, "CHUNK", 50)
        monkeypatch.setattr(vocabulary._logits, "__defaults__", (50,))  # where it was read on import
        monkeypatch.setattr(vocabulary, "FEW_ROWS", 2)
    if "wide" in request.param:
        monkeypatch.setattr(vocabulary, "WIDE", 1)


def assert_plain_softmax(h: Tensor, weight: Tensor, bias: Tensor, tolerance: float = 1e-12) -> None:
    """Every function that has no targets, relative to numbers of order one or to the exact ones."""
    logits = h.double() @ weight.double().T + bias.double()
    mean, normaliser = vocabulary_attention(h, weight, bias)
    close = {"rtol": tolerance, "atol": tolerance}
    exact_mean, exact_normaliser = logits.softmax(-1) @ weight.double(), logits.logsumexp(-1)
    torch.testing.assert_close(mean.double(), exact_mean, **close)
    torch.testing.assert_close(normaliser.double(), exact_normaliser, **close)
    torch.testing.assert_close(log_normaliser(h, weight, bias).double(), exact_normaliser, **close)
    shares = column_shares(h, weight, bias).double()
    torch.testing.assert_close(shares, logits.softmax(-1).sum(0), rtol=tolerance, atol=tolerance * len(h))


# --- Values --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("size", SIZES)
def test_softmax_without_targets(size: tuple[int, int, int]) -> None:
    assert_plain_softmax(*layer(*size))


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("size", SIZES)
def test_log_probabilities_of_targets(size: tuple[int, int, int]) -> None:
    n, _, words = size
    assert_cross_entropy(*layer(*size), targets=torch.randint(3 if words > 4 else 0, words, (n,)))


@pytest.mark.usefixtures("_way")
def test_large_logits_neither_overflow_nor_lose_their_differences() -> None:
    """Logits of +-1e3, in one row far below zero throughout, where exponentials of either sign leave the range."""
    h = torch.tensor([[1e3, 0.0], [-1e3, 0.0], [0.0, 1.0], [1e3, 1.0]])
    weight = torch.tensor([[1.0, 0.3], [-1.0, 0.2], [1.0, 0.1], [0.999, 3.0], [1.0, 1.0]])
    bias = torch.zeros(5)
    assert_plain_softmax(h, weight, bias)
    assert_plain_softmax(h[:1], weight[:1].repeat(5, 1) * -1, bias)
    assert_cross_entropy(h, weight, bias, targets=torch.tensor([0, 2, 1, 3]), tolerance=1e-11)


@pytest.mark.parametrize("possible", [[0], [1999], [700, 1300], list(range(1200, 2000))])
def test_long_runs_of_impossible_words(possible: list[int]) -> None:
    """A kernel that works through the vocabulary in blocks meets blocks without any mass, at either end."""
    for n in (3, 300):
        h, weight, _ = layer(n, 4, 2000)
        bias = torch.full((2000,), -torch.inf)
        bias[possible] = torch.randn(len(possible))
        assert_plain_softmax(h, weight, bias)
        assert_cross_entropy(h, weight, bias, targets=torch.full((n,), possible[0]))


@pytest.mark.usefixtures("_way")
def test_a_lost_row_spoils_no_other() -> None:
    for n in (4, 300):
        h, weight, bias = layer(n, 5, 9)
        h[2, 1] = torch.nan
        others = torch.arange(n) != 2
        for found in (*vocabulary_attention(h, weight, bias), log_normaliser(h, weight, bias)):
            assert found[2].isnan().all()
            assert found[others].isfinite().all()


@pytest.mark.usefixtures("_way")
def test_no_row_is_nothing() -> None:
    """A fused kernel divides by the number of rows: with none the process would die of SIGFPE."""
    h, weight, bias = layer(0, 5, 8)
    assert_plain_softmax(h, weight, bias)
    h.requires_grad_()
    found = token_log_probs(h, weight, bias, torch.zeros(0, dtype=torch.int64))
    assert found.shape == (0,)
    found.sum().backward()
    assert h.grad.shape == (0, 5)


@pytest.mark.parametrize("n", [3, 300])
@pytest.mark.parametrize("width", [128, 1024, 1500])
def test_single_precision_and_widths_of_real_models(width: int, n: int) -> None:
    """``WIDE`` is met from both sides here, not set."""
    h, weight, bias = (part.float() for part in layer(n, width, 60, scale=width**-0.5))
    assert_plain_softmax(h, weight, bias, tolerance=1e-5)
    assert_cross_entropy(h, weight, bias, targets=torch.randint(4, 60, (n,)), tolerance=1e-5)


def test_rows_of_any_distance_in_memory() -> None:
    h, weight, bias = layer(300, 6, 9)
    bias = bias.repeat_interleave(2)[::2]
    for some in (h[:5], h[::7], h, h[:1].expand(300, -1)):
        assert_plain_softmax(some, weight.repeat_interleave(2, 0)[::2], bias)


@pytest.mark.parametrize("turned", ["states", "weights"])
def test_columns_of_any_distance_in_memory(turned: str) -> None:
    """A transposed weight, as tied or parametrised layers have: the answer is another one, without a word."""
    h, weight, bias = layer(300, 6, 9)
    if turned == "states":
        h = torch.cat([h, h]).T.contiguous().T[:300]
    else:
        weight = torch.cat([weight, weight]).T.contiguous().T[:9]
    assert_plain_softmax(h, weight, bias)


# --- Derivatives ---------------------------------------------------------------------------------------------


ABOUT = [which for which in itertools.product([True, False], repeat=3) if any(which)]


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize(
    "about", ABOUT, ids=lambda about: "".join(p for p, on in zip("hWb", about, strict=True) if on)
)
@pytest.mark.parametrize("size", [(5, 4, 9), (300, 3, 7)])
def test_first_and_second_derivatives_are_those_of_cross_entropy(
    size: tuple[int, int, int], about: tuple[bool, ...]
) -> None:
    """Of some inputs alone, each token weighted differently; mixed second ones along a direction."""
    parts, targets = layer(*size), torch.randint(3, size[2], (size[0],))
    weights, direction = torch.randn(size[0]), [torch.randn_like(part) for part in parts]
    direction[2][[PAD, BOS]] = 0  # an infinite bias cannot move
    answers = []
    for function in (token_log_probs, plain_log_probs):
        leaves = [part.detach().clone().requires_grad_(on) for part, on in zip(parts, about, strict=True)]
        learned = [leaf for leaf in leaves if leaf.requires_grad]
        value = function(*leaves, targets)
        first = torch.autograd.grad((weights * value).sum(), learned, create_graph=True)
        along = [way for way, on in zip(direction, about, strict=True) if on]
        slope = sum((gradient * way).sum() for gradient, way in zip(first, along, strict=True))
        second = torch.autograd.grad(slope, learned)
        answers.append([value, *first, *second])
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


UPSTREAM = {
    "alike": lambda n: torch.full((n,), -0.25),
    "nothing": torch.zeros,
    "one differs": lambda n: torch.cat([torch.ones(n - 1), torch.zeros(1)]),
    "all differ": torch.randn,
}


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("upstream", UPSTREAM)
@pytest.mark.parametrize(
    "about", ABOUT, ids=lambda about: "".join(p for p, on in zip("hWb", about, strict=True) if on)
)
def test_first_derivatives_whatever_tokens_count(about: tuple[bool, ...], upstream: str) -> None:
    """Without a second one; asked twice of one pass. Oracle: cross-entropy in double precision.

    What forward computes ahead serves tokens that count alike; used for others, or changed by its use, it is wrong.
    """
    parts, targets = layer(300, 3, 7), torch.randint(3, 7, (300,))
    weights, answers = UPSTREAM[upstream](300), []
    for function in (token_log_probs, plain_log_probs):
        leaves = [part.detach().clone().requires_grad_(on) for part, on in zip(parts, about, strict=True)]
        learned = [leaf for leaf in leaves if leaf.requires_grad]
        value = function(*leaves, targets)
        first = torch.autograd.grad(value, learned, weights, retain_graph=True)
        answers.append([*first, *torch.autograd.grad(value, learned, 3 * weights)])
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_nothing_is_computed_ahead_where_nothing_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, targets = layer(5, 3, 7), torch.randint(3, 7, (5,))
    made: list[int] = []
    ahead = vocabulary._with_gradient
    monkeypatch.setattr(vocabulary, "_with_gradient", lambda *given: made.append(1) or ahead(*given))
    h, *layer_ = layer_of(*parts)
    with torch.no_grad():
        token_log_probs(h, *layer_, targets)
    token_log_probs(h, *parts[1:], targets).sum().backward()
    assert not made
    token_log_probs(h.detach(), *layer_, targets)
    assert made


@pytest.mark.usefixtures("_way")
def test_derivatives_are_finite_differences() -> None:
    """Also of the derivative itself; the oracle that knows no autograd."""
    h, weight, bias = layer_of(*layer(6, 3, 4))
    targets = torch.tensor([0, 3, 1, 2, 1, 1])
    assert torch.autograd.gradcheck(lambda *parts: token_log_probs(*parts, targets), (h, weight, bias))
    assert torch.autograd.gradgradcheck(lambda *parts: token_log_probs(*parts, targets), (h, weight, bias))


# --- Memory --------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Remembers the most numbers behind any tensor that an operation makes; an expanded bias is no more than itself."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for part in tree_leaves(made):
            if isinstance(part, Tensor):
                held = part.untyped_storage().nbytes() // part.element_size()
                self.elements = max(self.elements, held)
        return made


@pytest.mark.parametrize("wide", [False, True])
def test_no_tensor_is_as_large_as_tokens_times_vocabulary(
    wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and first derivative; the plain layer, under the same eyes, makes one."""
    n, width, words = 2500, 2, 2000
    most = vocabulary.CHUNK
    assert most < n * words
    monkeypatch.setattr(vocabulary, "WIDE", 1 if wide else 1024)
    parts, targets = layer_of(*layer(n, width, words)), torch.randint(4, words, (n,))
    with Largest() as largest:
        plain_log_probs(*parts, targets)
    assert largest.elements >= n * words
    with Largest() as largest:
        token_log_probs(*parts, targets).sum().backward()
        (token_log_probs(*parts, targets) * torch.randn(n)).sum().backward()
        for function in (vocabulary_attention, log_normaliser, column_shares):
            function(*(part.detach() for part in parts))
    assert largest.elements <= most
