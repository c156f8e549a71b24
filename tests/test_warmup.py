"""Whether a warm-up is told to be longer than training."""

import pytest

from sri_pyro.config import parse_config
from sri_pyro.config.warmup import unreached
from tests.configurations import PCFG

RELEASED = (
    "preset=released"  # 0.05 for 15 epochs, then 0.05 more at the beginning of each: 0.2 from the 18th on
)


@pytest.mark.parametrize(
    ("overrides", "epochs", "told"),
    [
        (["inference.noise.epochs=6"], 4, "noise scale is 1, as in evaluation, and it comes to 0.683:"),
        (["inference.noise.epochs=6"], 6, ""),
        (["inference.noise.epochs=6", "inference.noise.start=1.0"], 4, ""),
        (["inference.noise={kind='constant', scale=0.1}"], 4, ""),
        ([RELEASED], 17, "noise scale is 0.2, as in evaluation, and it comes to 0.15:"),
        ([RELEASED], 18, ""),
        (["preset=anneal_vae", "objective.kl_weight.epochs=40", "objective.kl_weight.start=0.1"], 20,
         "KL weight is 1, as in evaluation, and it comes to 0.55:"),
        (["preset=anneal_vae", "objective.kl_weight.epochs=20"], 20, ""),
        # It begins anew in every cycle, and at the end of the last one: what counts is the best moment.
        (["preset=cyclical_vae", "objective.kl_weight.epochs=10"], 20, ""),
    ],
)  # fmt: skip
def test_a_warm_up_that_training_does_not_reach_is_told(overrides: list[str], epochs: int, told: str) -> None:
    """Oracle: the schedules by hand. Catches a schedule asked where training has ended, and nothing is learned."""
    said = unreached(parse_config(PCFG, [*overrides, f"training.epochs={epochs}"]))
    assert len(said) == bool(told)
    assert all(told in sentence and f"training.epochs = {epochs} ends" in sentence for sentence in said)
