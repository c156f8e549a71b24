r"""The output layer without a token-by-vocabulary tensor: softmax means, normalisers and log-probabilities.

The gradient of a softmax layer is attention over the vocabulary,
:math:`\partial \log p(y \mid h)/\partial h = w_y - \mathbb{E}_{v \sim p}[w_v]`, so that a fused kernel gives it.
Axes: N hidden states, H units, V words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 4_000_000
"""Logits that exist at once, where any do: 16 MB in single precision."""
FEW_ROWS = 256
WIDE = 1024
"""From this many units on, two matrix products and a softmax between them outrun the fused kernel of the CPU,
if a chunk has at least ``FEW_ROWS`` rows."""


def vocabulary_attention(h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean output weight under the softmax, and its log-normaliser, for every hidden state.

    .. math:: \bar w(h) = \sum_v \operatorname{softmax}(W h + b)_v\, w_v, \qquad
              \ell(h) = \log \sum_v e^{w_v \cdot h + b_v}

    Returns:
        :math:`\bar w`, shape [N, H], and :math:`\ell`, shape [N].
    """
    if not len(h_NH):  # the fused kernel would divide by the number of rows
        return torch.zeros_like(h_NH), h_NH.new_zeros(0)
    chunked = h_NH.shape[1] >= WIDE and len(weight_VH) * FEW_ROWS <= CHUNK
    if h_NH.device.type == "cpu" and not chunked:
        h_NH, weight_VH = (
            h_NH.contiguous(),
            weight_VH.contiguous(),
        )  # the kernel takes units to lie side by side
        # The fused CPU kernel gives the log-normaliser along with the mean; the public wrapper drops it.
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            h_NH[None, None],
            weight_VH[None, None],
            weight_VH[None, None],
            attn_mask=bias_V.expand(1, 1, len(h_NH), -1),
            scale=1.0,
        )
        return out[0, 0], lse.reshape(-1)
    mean, normaliser = torch.empty_like(h_NH), h_NH.new_empty(len(h_NH))
    for rows, logits in _logits(h_NH, weight_VH, bias_V):
        normaliser[rows], _ = _mean_weight(logits, weight_VH, mean[rows])
    return mean, normaliser


def log_normaliser(h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor) -> Tensor:
    r""":math:`\ell(h)` alone, shape [N]: half the products of ``vocabulary_attention``."""
    normaliser = h_NH.new_empty(len(h_NH))
    for rows, logits in _logits(h_NH, weight_VH, bias_V, CHUNK // 4):
        normaliser[rows] = _exponentiate(logits)[0][:, 0]
    return normaliser


def column_shares(h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor) -> Tensor:
    """The probability of every word, summed over hidden states, shape [V]."""
    shares = torch.zeros_like(bias_V)
    for _, logits in _logits(h_NH, weight_VH, bias_V):
        _, total = _exponentiate(logits)
        shares += logits.T @ (1 / total[:, 0])
    return shares


def token_log_probs(h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, targets_N: Tensor) -> Tensor:
    r""":math:`\log \operatorname{softmax}(W h + b)_y` of one target word for every hidden state, nats, shape [N].

    Differentiable in h, W and b, once without a tensor of shape [N, V], and again at the price of one.
    """
    learning = torch.is_grad_enabled() and (weight_VH.requires_grad or bias_V.requires_grad)
    log_probs: Tensor = _TokenLogProbs.apply(h_NH, weight_VH, bias_V, targets_N, learning)  # type: ignore[no-untyped-call]
    return log_probs


class _TokenLogProbs(torch.autograd.Function):
    """Log-probabilities that keep no logits.

    Where weights are learned, forward computes their gradient along with the values, from the same exponentials, as it
    is if all tokens count alike: three products. Where they do not, backward computes the logits anew.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, learning: bool) -> Tensor:
        if learning:
            mean, normaliser, *ctx.of_layer = _with_gradient(h, weight, bias, targets)
        else:
            (mean, normaliser), ctx.of_layer = vocabulary_attention(h, weight, bias), None
        target_weight = weight[targets]
        ctx.save_for_backward(h, weight, bias, targets, normaliser, target_weight - mean)
        return (h * target_weight).sum(-1) + bias[targets] - normaliser

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, bias, targets, normaliser, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # the graph of a second derivative is wanted
            wanted = [x for x, needed in zip((h, weight, bias), ctx.needs_input_grad, strict=False) if needed]
            log_probs = _plain(h, weight, bias, targets)
            grads = iter(torch.autograd.grad(log_probs, wanted, grad, create_graph=True))
            return *(next(grads) if needed else None for needed in ctx.needs_input_grad[:3]), None, None
        of_h = grad[:, None] * slope if ctx.needs_input_grad[0] else None
        of_weight = of_bias = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            if ctx.of_layer is not None and len(grad) and bool((grad == grad[0]).all()):
                of_weight, of_bias = (grad[0] * part for part in ctx.of_layer)
            else:
                of_weight, of_bias = _layer_gradient(h, weight, bias, targets, normaliser, grad)
        return of_h, of_weight, of_bias, None, None


def _with_gradient(h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Mean weights and log-normalisers; and the gradient of all targets' summed log-probability in weight and bias."""
    mean, normaliser = torch.empty_like(h), h.new_empty(len(h))
    of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    for rows, logits in _logits(h, weight, bias):
        normaliser[rows], total = _mean_weight(logits, weight, mean[rows])
        of_weight.addmm_(logits.T, h[rows] / -total)
        of_bias.addmv_(logits.T, -1 / total[:, 0])
    of_weight.index_add_(0, targets, h)
    of_bias.index_add_(0, targets, torch.ones_like(normaliser))
    return mean, normaliser, of_weight, of_bias


def _layer_gradient(
    h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, normaliser: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient in weight and bias of the targets' log-probabilities, each with a factor of its own."""
    of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    for rows, logits in _logits(h, weight, bias):
        # -g p: the words' shares of each row's gradient.
        shares = logits.sub_(normaliser[rows, None]).exp_().mul_(-grad[rows, None])
        of_weight.addmm_(shares.T, h[rows])
        of_bias += shares.sum(0)
    of_weight.index_add_(0, targets, grad[:, None] * h)
    of_bias.index_add_(0, targets, grad)
    return of_weight, of_bias


def _plain(h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    return -F.cross_entropy(F.linear(h, weight, bias), targets, reduction="none")


def _exponentiate(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits [n, V] into exponentials, in place, up to a factor for each row; log of their sum, and the sum."""
    top = logits.amax(-1, keepdim=True)
    total = logits.sub_(top).exp_().sum(-1, keepdim=True)
    return top + total.log(), total


def _mean_weight(logits: Tensor, weight: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits [n, V] into exponentials, as ``_exponentiate``, and put their means of the weights into ``out``.

    Returns:
        Log-normalisers [n], and the sums of the exponentials [n, 1].
    """
    normaliser, total = _exponentiate(logits)
    torch.mm(logits, weight, out=out)
    out /= total
    return normaliser[:, 0], total


def _logits(h: Tensor, weight: Tensor, bias: Tensor, most: int = CHUNK) -> Iterator[tuple[slice, Tensor]]:
    """Logits of as many rows as there is room for, in a buffer that is used again."""
    step = max(1, most // len(weight))
    buffer = h.new_empty(min(step, len(h)), len(weight))
    for start in range(0, len(h), step):
        rows = slice(start, min(start + step, len(h)))
        yield rows, torch.addmm(bias, h[rows], weight.T, out=buffer[: rows.stop - rows.start])
