"""Conditioned LSTMs of any sizes, and log p(x | z) with its gradient from the equations in double precision.

Nothing of the library is used but the packing of sentences into one matrix, when a ``ConditionedLSTM`` is made.
Axes: S draws, B sentences, T tokens, L tokens of one sentence, D latent dimensions, H hidden units, V words; G = 4 H
gates: input, forget, output, candidate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sri_pyro.models.decoders.fast_lstm import ConditionedLSTM
from sri_pyro.models.decoders.packed import Packing

WIRINGS = ["hidden", "cell"]
WIDTHS = ["as wide as can be", "narrow"]
RAGGED = (2, 1, 7, 3, 3, 12, 1)
MANY = tuple(n * 7 % 9 + 1 for n in range(40))
"""Tokens of each sentence."""


@dataclass(frozen=True)
class Example:
    """All that log p(x | z) of a batch is made of besides z, in single precision, sentence by sentence."""

    lengths: tuple[int, ...]
    wiring: str
    token_BTG: Tensor
    target_BT: Tensor
    recurrent_HG: Tensor
    code_to_gates_GD: Tensor
    code_to_start_HD: Tensor
    start_bias_H: Tensor
    weight_VH: Tensor
    bias_V: Tensor
    mask_BTH: Tensor | None = None

    @classmethod
    def draw(
        cls,
        units: int,
        words: int,
        dim: int,
        lengths: Sequence[int],
        wiring: str = "hidden",
        masked: bool = False,
    ) -> Example:
        """At random; gates and logits are of order one."""
        shape = len(lengths), max(lengths)
        with_bias = wiring == "hidden"
        return cls(
            lengths=tuple(lengths),
            wiring=wiring,
            token_BTG=normal(*shape, 4 * units),
            target_BT=torch.randint(words, shape),
            recurrent_HG=normal(units, 4 * units) / math.sqrt(units),
            code_to_gates_GD=normal(4 * units, dim) / math.sqrt(max(1, dim)),
            code_to_start_HD=normal(units, dim) / math.sqrt(max(1, dim)),
            start_bias_H=normal(units) if with_bias else torch.zeros(units, dtype=torch.float32),
            weight_VH=2 * normal(words, units) / math.sqrt(units),
            bias_V=normal(words),
            mask_BTH=(torch.rand(*shape, units, dtype=torch.float32) > 0.4) / 0.6 if masked else None,
        )

    def codes(self, draws: int) -> Tensor:
        """Codes for every sentence, [S, B, D]."""
        return normal(draws, len(self.lengths), self.code_to_start_HD.shape[1])

    def of(self, sentences: Sequence[int]) -> Example:
        """Some of the sentences, in this order."""
        some = list(sentences)
        return replace(
            self,
            lengths=tuple(self.lengths[n] for n in some),
            token_BTG=self.token_BTG[some],
            target_BT=self.target_BT[some],
            mask_BTH=None if self.mask_BTH is None else self.mask_BTH[some],
        )

    def conditioned(self) -> ConditionedLSTM:
        """The library's, packed."""
        longest = max(self.lengths)
        packing = Packing.of((torch.arange(longest) < torch.tensor(self.lengths)[:, None]).long())
        target_N = packing.pack(self.target_BT[:, :longest])
        return ConditionedLSTM(
            packing=packing,
            sentence_N=packing.sentences(),
            token_gates_NG=packing.pack(self.token_BTG[:, :longest]),
            recurrent_HG=self.recurrent_HG,
            recurrent_GH=self.recurrent_HG.T.contiguous(),
            code_to_gates_GD=self.code_to_gates_GD,
            code_to_start_HD=self.code_to_start_HD,
            start_bias_H=self.start_bias_H,
            hidden_wiring=self.wiring == "hidden",
            target_weight_NH=self.weight_VH[target_N],
            target_bias_N=self.bias_V[target_N],
            output_weight_VH=self.weight_VH,
            output_bias_V=self.bias_V,
            state_mask_NH=None if self.mask_BTH is None else packing.pack(self.mask_BTH[:, :longest]),
        )

    def states(self, z: Tensor) -> list[Tensor]:
        """Hidden states that predict the tokens of every sentence, no dropout yet, each [S, L, H]."""
        return [self._states_of_one(z[:, n].double(), n) for n in range(len(self.lengths))]

    def _states_of_one(self, z: Tensor, n: int) -> Tensor:
        state = z @ self.code_to_start_HD.double().T + self.start_bias_H.double()
        h, c = (state, torch.zeros_like(state)) if self.wiring == "hidden" else (state.tanh(), state)
        states = []
        for t in range(self.lengths[n]):
            gates = self.token_BTG[n, t].double() + z @ self.code_to_gates_GD.double().T
            gates = gates + h @ self.recurrent_HG.double()
            let_in, forget, let_out, candidate = gates.chunk(4, -1)
            c = forget.sigmoid() * c + let_in.sigmoid() * candidate.tanh()
            h = let_out.sigmoid() * c.tanh()
            states.append(h)
        return torch.stack(states, 1)

    def value(self, z: Tensor) -> Tensor:
        """Log p(x | z), shape [S, B]."""
        return torch.stack([self._scored(states, n) for n, states in enumerate(self.states(z))], 1)

    def _scored(self, states: Tensor, n: int) -> Tensor:
        if self.mask_BTH is not None:
            states = states * self.mask_BTH[n, : self.lengths[n]].double()
        logits = states @ self.weight_VH.double().T + self.bias_V.double()
        target = self.target_BT[n, : self.lengths[n]].expand(len(states), -1)[..., None]
        return (logits.gather(-1, target)[..., 0] - logits.logsumexp(-1)).sum(-1)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same and its gradient in z, shape [S, B, D], by autograd."""
        z = z.detach().double().requires_grad_()
        value = self.value(z)
        (gradient,) = torch.autograd.grad(value.sum(), z, allow_unused=True, materialize_grads=True)
        return value.detach(), gradient


def normal(*shape: int) -> Tensor:
    """Single precision, whatever the default."""
    return torch.randn(shape, dtype=torch.float32)


def error(found: Tensor, exact: Tensor) -> float:
    """Relative to the length of the exact one: over all rows, or a tenth of the worst row's where that is more."""
    assert found.dtype == torch.float32
    assert found.shape == exact.shape
    off, length = (torch.atleast_2d(part).norm(dim=-1) for part in (found.double() - exact, exact))
    return max(
        float(off.norm() / length.norm().clamp(min=1e-20)), float((off / length.clamp(min=1e-20)).max()) / 10
    )


def functions_for(width: str, loaded: Callable[..., Any], panel: Callable[[Any], int]) -> Any:
    """The compiled functions for the vectors of this processor, or for half of them where they are of 64 bytes."""
    whole, narrow = loaded(), loaded("NARROW")
    if whole is None or narrow is None:
        pytest.skip("it cannot be compiled here")
    if width == "narrow" and panel(narrow) == panel(whole):
        pytest.skip("this processor has no wider vectors")
    return narrow if width == "narrow" else whole


# --- Exactly -------------------------------------------------------------------------------------------------

GUARD = 4096


def assert_same_bits(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Numbers of single precision as integers, so that NaN equals itself and zero differs from minus zero."""
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.contiguous().view(torch.int32), theirs.contiguous().view(torch.int32))


def guarded(*shape: int) -> tuple[Tensor, Tensor]:
    """Room full of NaN, and the larger tensor that it lies in."""
    size = math.prod(shape)
    around = torch.full((2 * GUARD + size,), 7.0, dtype=torch.float32)
    around[GUARD : GUARD + size] = torch.nan
    return around[GUARD : GUARD + size].view(shape), around


def untouched_around(around: Tensor) -> bool:
    """Whether what is beside that room is as it was."""
    return bool((around[:GUARD] == 7).all() and (around[-GUARD:] == 7).all())
