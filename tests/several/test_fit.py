"""``fit`` with one process, two and four: the same z, the same weights to rounding, one sum for each weight step."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.several.starting import values
from tests.several.work import BATCHES, STEEP_BATCHES, Found, Recipe, fitted, trained_ahead

RECIPES = {
    "everything at once": Recipe(mixture=True, tuned=True),
    "in single precision": Recipe(dtype="float32", options={"inference_dropout": "shared"}),
    "dropout afresh, along the path": Recipe("gru", trajectory=True, options={"inference_dropout": "fresh"}),
    "element by element": Recipe("wells", options={"optimizer": "sgd"}),
    "steep sentences": Recipe("wells", STEEP_BATCHES),
    "validated": Recipe(
        nlls=[5.0, 3.0, 4.0, 6.0],
        options={"epochs": 6, "decay": "plateau", "patience": 1, "max_decays": 1, "optimizer": "sgd"},
    ),
}
SIZES = [1, 2, 4]


@pytest.fixture(scope="module")
def found() -> dict[int, list[list[Found]]]:
    """By number of processes and recipe, what each process found."""
    recipes = list(RECIPES.values())
    by_process = {size: values(size, fitted, recipes) for size in SIZES}
    return {size: [list(of_recipe) for of_recipe in zip(*by_process[size], strict=True)] for size in SIZES}


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def alone(recipe: str, found: dict[int, Any]) -> Found:
    return found[1][list(RECIPES).index(recipe)][0]  # type: ignore[no-any-return]


@pytest.fixture(params=SIZES[1:])
def several(recipe: str, request: pytest.FixtureRequest, found: dict[int, Any]) -> list[Found]:
    return found[request.param][list(RECIPES).index(recipe)]  # type: ignore[no-any-return]


def rounding(recipe: str) -> float:
    return 1e-5 if RECIPES[recipe].dtype == "float32" else 1e-12


def drawn(several: list[Found]) -> dict[str, Tensor]:
    """What all processes drew, by step and sentence; a sentence that two have drawn must be drawn alike."""
    together: dict[str, Tensor] = {}
    for one in several:
        for name, z in one["drawn"].items():
            z = torch.tensor(z, dtype=torch.float64)
            assert torch.equal(together.setdefault(name, z), z)
    return together


def test_the_weights_are_those_of_one_process(recipe: str, alone: Found, several: list[Found]) -> None:
    """Oracle: one process. Catches a mean of means, a share without its weight, a norm clipped before the sum, noise
    that depends on the shard, an optimiser fed with a part of the gradient, a path that counts once a process.
    """
    for name, weight in alone["weights"].items():
        got = torch.tensor(several[0]["weights"][name], dtype=torch.float64)
        torch.testing.assert_close(
            got, torch.tensor(weight, dtype=torch.float64), rtol=0, atol=rounding(recipe), msg=name
        )


def test_all_processes_have_the_same_weights_to_the_bit(several: list[Found]) -> None:
    for one in several[1:]:
        assert one["weights"] == several[0]["weights"]
        assert one["scales"] == several[0]["scales"]
        assert one["next draw"] == several[0]["next draw"]


def test_every_sentence_draws_the_same_z(recipe: str, alone: Found, several: list[Found]) -> None:
    """Exactly, at the weights that are exactly the same: those of the first step.

    Where operations go element by element nothing but the noise could differ. The matrix products of a recurrent
    network may round otherwise in a matrix of other size, so that its z is compared to rounding.
    """
    one, many = drawn([alone]), drawn(several)
    assert one.keys() == many.keys()
    assert any(len(found["drawn"]) < len(alone["drawn"]) for found in several)  # the batch was cut
    exact = RECIPES[recipe].decoder == "wells"
    for name, z in one.items():
        tolerance = 0.0 if exact and name.startswith("0/") else 100 * rounding(recipe)
        torch.testing.assert_close(many[name], z, rtol=0, atol=tolerance, msg=name)


def test_the_records_are_those_of_one_process(recipe: str, alone: Found, several: list[Found]) -> None:
    """Losses are means over all sentences, norms those of the whole gradient, and events those of all processes."""
    assert [record["kind"] for record in several[0]["history"]] == [
        record["kind"] for record in alone["history"]
    ]
    for got, record in zip(several[0]["history"], alone["history"], strict=True):
        for name, value in record.items():
            expected = pytest.approx(value, rel=100 * rounding(recipe)) if isinstance(value, float) else value
            assert got[name] == expected, (record, got)


def test_there_is_one_sum_for_each_weight_step(several: list[Found], alone: Found) -> None:
    """And no other collective, which ``Sums`` forbids; the words at the beginning and after validations are none."""
    steps = sum(record["kind"] == "step" for record in alone["history"])
    assert several[0]["sums"] == steps
    assert alone["sums"] == 0


@pytest.mark.parametrize("size", SIZES)
def test_a_halving_stays_if_a_tenth_of_all_chains_diverged(size: int, found: dict[int, Any]) -> None:
    """Two of 24 sentences, one of 7, two of 24: the second step of three halves for good, in both epochs.

    The process that has both steep ones of 24 sees a third of its chains diverge, and that which has none of the
    7 sees none: both would decide otherwise on their own.
    """
    for process in found[size][list(RECIPES).index("steep sentences")]:
        assert process["scales"][:3] == [1.0, 0.5, 0.5]
    halved = {}
    for process in found[size][list(RECIPES).index("steep sentences")]:
        halved |= process["halved"]
    assert {name for name, count in halved.items() if count and name.startswith("0/")} == {"0/104", "0/108"}
    assert halved["1/201"] == 2


def test_every_sentence_is_somebodys(found: dict[int, Any]) -> None:
    """Of the batch of three the fourth process has none; it draws for the first one's, and its loss counts nothing."""
    for step, batch in enumerate(BATCHES):
        expected = {f"{step}/{example}" for example in batch.ids.tolist()}
        processes = found[4][0]
        held = [{name for name in one["drawn"] if name.startswith(f"{step}/")} for one in processes]
        assert set().union(*held) == expected
        sizes = [len(names) for names in held]
        assert sizes == ([1, 1, 1, 1] if len(batch) == 3 else [2, 2, 2, len(batch) - 6])


def test_the_first_process_validates_for_all(found: dict[int, Any]) -> None:
    """Each finds another nll; only the first one's is heard, and the rate falls, and training ends, for all alike."""
    for size in SIZES:
        records = found[size][list(RECIPES).index("validated")][0]["history"]
        assert [r["nll"] for r in records if r["kind"] == "validation"] == [5.0, 3.0, 4.0, 6.0]
        events = [r["message"] for r in records if r["kind"] == "event"]
        assert events == ["learning rate decayed to 0.005", "stopped early: validation no longer improves"]


def test_an_inference_trained_ahead_is_so_by_all_alike() -> None:
    """Oracle: one process. Each makes as many inner updates, on the same batches, and ends at the first one's word.

    Catches a loss of one's own sentences that decides, and batches drawn from a generator that is each one's own.
    """
    by_size = {size: values(size, trained_ahead) for size in SIZES}
    (alone,) = by_size[1]
    made = [record["inner_updates"] for record in alone["history"] if record["kind"] == "step"]
    steps = [after - before for before, after in zip([0.0, *made], made, strict=False)]
    assert steps[-3:] == [0.0] * 3
    assert len(set(steps[:-3])) > 1, "the loop is to end for the losses' sake"
    for several in by_size[2], by_size[4]:
        for one in several:
            assert one["ahead"] == alone["ahead"] is False
            assert one["weights"] == several[0]["weights"]
            for name, weight in alone["weights"].items():
                torch.testing.assert_close(
                    torch.tensor(one["weights"][name]), torch.tensor(weight), rtol=0, atol=1e-6, msg=name
                )
        counts = [r["inner_updates"] for r in several[0]["history"] if r["kind"] == "step"]
        assert counts == made
