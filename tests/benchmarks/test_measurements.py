"""What is computed from times, and what else a measurement says, against answers known without it."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contestants.ours import Ours
from benchmarks.measurements import MEASUREMENTS, Run, accuracy, growth, hessian, langevin, million
from benchmarks.problem import Problem
from benchmarks.sizes import SIZES, Size
from benchmarks.timing import Effort
from sri_pyro.models.decoders.cells import plain_cells

TINY = Size("S", vocabulary=23, embedding=5, hidden=7, batch=6, length=4, latent=3, steps=3)


def test_names_are_unique() -> None:
    assert max(Counter(measurement.name for measurement in MEASUREMENTS).values()) == 1


# --- Useful work ---------------------------------------------------------------------------------------------


def counted(work, *arguments) -> int:
    """Flops of all matrix products, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        work(*arguments)
    return counter.get_total_flops()


def test_least_work_of_a_step_is_that_of_its_matrix_products() -> None:
    """Counted on plain autograd in z; D is small beside H and V, and the first state has no reverse product."""
    size = Size("wide", vocabulary=3_000, embedding=8, hidden=96, batch=4, length=16, latent=1)
    functional = hessian.FunctionalLSTM(Problem.build(replace(size, batch=1)))
    z = torch.zeros(size.batch, 1)
    found = counted(torch.func.grad(functional.log_joint), z)
    assert found == pytest.approx(size.step_flops, rel=0.02)


def test_least_work_of_a_weight_step_is_three_passes() -> None:
    size = Size("wide", vocabulary=500, embedding=64, hidden=96, batch=4, length=16, latent=1)
    hidden, words = torch.zeros(size.tokens, size.hidden), torch.zeros(size.tokens, size.embedding)
    w = {name: torch.from_numpy(weight) for name, weight in Problem.build(size).weights.items()}

    def forward() -> None:
        _ = hidden @ w["output.weight"].T, hidden @ w["cell.weight_hh_l0"].T
        _ = words @ w["cell.weight_ih_l0"][:, : size.embedding].T

    assert size.weight_flops == 3 * counted(forward)
    assert size.training_flops == 20 * size.step_flops + size.weight_flops


@pytest.mark.parametrize("kind", [langevin.STEP, langevin.TRAINING])
def test_rows_of_a_contest(kind: str) -> None:
    """Times that are made up: ours at half of the better product's rate, and others slower by known factors."""
    size = SIZES["S"]
    flops = size.step_flops if kind == langevin.STEP else size.training_flops
    slow = np.array([1.0, 2.0, 5.0])
    fair = flops / langevin.PRODUCT_FLOPS * slow  # our seconds at the whole peak, one second for the product
    seconds = {
        "ours": 2 * fair, "plain": 2.5 * fair, "pyro": 6 * fair, "autograd": 4 * fair,
        "square": slow, "logits": 2 * slow, "mean output weight": 3 * slow,
    }  # fmt: skip
    rows = {row.name: row for row in langevin.rows(kind, size, {k: list(v) for k, v in seconds.items()})}
    prefix = f"{kind}/S"
    assert rows[f"{prefix}/pyro_over_ours"].spread == pytest.approx((3, 3, 3, 3))
    assert rows[f"{prefix}/autograd_over_plain"].spread == pytest.approx((1.6, 1.6, 1.6, 3))
    assert rows[f"{prefix}/useful_share_ours"].spread == pytest.approx((50, 50, 50, 3))
    assert rows[f"{prefix}/useful_share_ours"].met is False
    assert rows[f"{prefix}/useful_share_plain"].spread.value == pytest.approx(40)
    assert rows[f"{prefix}/peak"].spread.value == pytest.approx(langevin.PRODUCT_FLOPS / 2 / 1e9)
    assert not any("jax" in name for name in rows)
    assert rows[f"{prefix}/autograd_over_ours"].met is True


def test_every_bar_belongs_to_a_row() -> None:
    names = {"ours", "plain", "pyro", "autograd", "jax", "square", "logits", "mean output weight"}
    for kind in (langevin.STEP, langevin.TRAINING):
        for size in SIZES.values():
            rows = list(langevin.rows(kind, size, {name: [1.0] for name in names}))
            asked = [
                bars[size.name]
                for (of, *_), bars in langevin.BARS.items()
                if of == kind and size.name in bars
            ]
            asked += [langevin.USEFUL[size.name]] if size.name in langevin.USEFUL else []
            assert sorted(row.bar.value for row in rows if row.bar) == sorted(asked)


# --- Growth --------------------------------------------------------------------------------------------------


def test_exponent_of_an_exact_power_is_exact() -> None:
    slope, error = growth.fitted_exponent([1, 2, 4, 8], [3 * n**1.7 for n in (1, 2, 4, 8)])
    assert slope == pytest.approx(1.7)
    assert error == pytest.approx(0, abs=1e-12)


def test_exponent_and_its_error_are_those_of_least_squares() -> None:
    sizes = [3, 5, 11, 20, 41]
    costs = np.exp(np.random.default_rng(0).standard_normal(5))
    (slope, _), covariance = np.polyfit(np.log(sizes), np.log(costs), 1, cov=True)
    assert growth.fitted_exponent(sizes, costs) == pytest.approx((slope, covariance[0, 0] ** 0.5))


def test_growth_finds_each_size_s_own_exponent() -> None:
    powers = {"length": 1.0, "vocabulary": 0.8, "hidden": 1.5, "draws": 0.9, "steps": 1.1}
    rows = growth.measure(Run(lambda text: None), lambda name, value: lambda: value ** powers[name])
    assert {row.name: round(row.spread.value, 6) for row in rows} == {
        f"growth/{n}": p for n, p in powers.items()
    }


# --- The Hessian, errors, agreement --------------------------------------------------------------------------


def test_both_hessians_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The baseline and the library against second differences of the library's gradient."""
    monkeypatch.setitem(hessian.CHAINS, "S", 3)
    ours, functional, z = hessian.built(TINY, "float64")
    found = functional.hessian(z[:, 0])
    torch.testing.assert_close(found, ours.target.hessian(z)[:, 0], rtol=1e-9, atol=1e-9)
    step = 1e-5
    for d in range(TINY.latent):
        move = step * torch.eye(TINY.latent, dtype=torch.float64)[d]
        up, down = (ours.target.log_joint_and_grad(z + sign * move)[1] for sign in (1, -1))
        torch.testing.assert_close(found[..., d], (up - down)[:, 0] / (2 * step), rtol=1e-6, atol=1e-6)


def test_gradient_error_is_of_rounding_and_of_the_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of one per cent put into the likelihood's gradient shows as one per cent."""
    quiet = Run(lambda text: None)
    errors = {row.name: row.spread.value for row in accuracy.gradient_errors(TINY, quiet)}
    assert all(1e-9 < error < 2e-6 for error in errors.values())
    route = type(Ours(Problem.build(TINY)).target.conditioned)
    right = route.value_and_grad

    def wrong(self, z):
        value, gradient = right(self, z)
        return value, 1.01 * gradient

    monkeypatch.setattr(route, "value_and_grad", wrong)
    errors = {row.name: row.spread.value for row in accuracy.gradient_errors(TINY, quiet)}
    assert errors["gradient_error/S/ours"] == pytest.approx(0.01, rel=1e-3)
    assert errors["gradient_error/S/autograd"] < 2e-6


def test_agreement_sees_a_contestant_that_leaves_something_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "available", lambda: False)
    quiet = Run(lambda text: None)
    assert all(row.met for row in accuracy.agreement(TINY, quiet))
    monkeypatch.setattr(accuracy.AutogradLoop, "_moved", lambda self, z, words, steps: z)
    missed = [row.name for row in accuracy.agreement(TINY, quiet) if not row.met]
    assert missed == ["agreement/autograd/weights"]


def test_plain_contestant_uses_nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a contest of the library with itself: ours calls what is compiled, if any is, and plain does not."""
    from sri_pyro.models.decoders import cells, compiled_lstm, packed

    whole_calls: list[None] = []
    plain_wanted: list[bool] = []
    run = compiled_lstm.Call.run

    def called(self, function):
        whole_calls.append(None)
        run(self, function)

    def spy(like):
        plain_wanted.append(cells.plain_is_wanted())
        return cells.PLAIN

    monkeypatch.setattr(compiled_lstm.Call, "run", called)
    monkeypatch.setattr(packed, "cells_for", spy)
    at_hand = compiled_lstm.compiled() is not None
    for plain in (False, True):
        contestant = Ours(Problem.build(TINY), plain=plain)
        for act in (lambda c=contestant: c.walk(1), contestant.train):
            whole_calls.clear()
            plain_wanted.clear()
            act()
            assert bool(whole_calls) == (at_hand and not plain)
            assert all(wanted == plain for wanted in plain_wanted)
            assert plain_wanted or not plain
    with plain_cells():
        assert cells.cells_for(torch.zeros(1)) is cells.PLAIN


# --- A million sentences, in small ---------------------------------------------------------------------------


def test_text_is_zipf_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(million, "PIECE", 700)
    million.write_text(tmp_path / "text.txt", 2_000)
    lines = [line.split() for line in (tmp_path / "text.txt").read_text().splitlines()]
    assert len(lines) == 2_000
    assert {len(words) for words in lines} == set(range(million.SHORTEST, million.LONGEST + 1))
    words = Counter(word for line in lines for word in line)
    total, harmonic = words.total(), sum(1 / n for n in range(1, million.DIFFERENT_WORDS + 1))
    for rank in (1, 2, 10):
        expected = total / rank / harmonic
        assert abs(words[f"w{rank - 1}"] - expected) < 6 * expected**0.5


def test_million_answers_for_a_small_text(tmp_path: Path) -> None:
    million.write_text(tmp_path / "text.txt", 300)
    answer = million.main({"path": str(tmp_path / "text.txt"), "epoch": True})
    assert answer["peak"] > 0
    assert answer["epoch"]["tokens"] > 250 * million.SHORTEST


def test_quick_efforts_are_short() -> None:
    assert Run(lambda text: None).effort(10, 50) == Effort(10, 50)
    assert Run(lambda text: None, quick=True).effort(10, 50).seconds < 10
