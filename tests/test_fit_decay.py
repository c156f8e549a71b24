"""The published rules of decay: the rate of every epoch, listed from their code, and the weights it leads to.

The validations are made up, so that a rule is seen from its beginning to its end.
"""

import math

import pytest

from sri_pyro.inference import FinalState
from sri_pyro.training import Training, fit
from tests.fitting import Listed, Regression, Scores, batches, gradient_by_hand, listed, plain_descent

pytestmark = pytest.mark.usefixtures("float64")
RATE = 1e-3
HE = Training(epochs=100, optimizer="sgd", learning_rate=RATE, decay="plateau", patience=2, max_decays=4, hold=15,
              clip_norm=0.0, log_every=1)  # fmt: skip
SA_VAE = Training(epochs=30, optimizer="sgd", learning_rate=RATE, decay="steady", patience=1, max_decays=5, hold=15,
                  clip_norm=0.0, log_every=1)  # fmt: skip


def rates(options: Training, nlls: list[float]) -> tuple[list[float], Scores]:
    """Of every epoch trained, in shares of the initial one."""
    model = Regression()
    scores = Scores(nlls, model)
    history = fit(model, Listed(), FinalState(), batches(1), options, validate=scores)
    return [float(record["learning_rate"]) / options.learning_rate for record in history.of("step")], scores


def test_he_halves_from_the_sixteenth_epoch_on_and_stops_at_the_fifth_halving() -> None:
    """Never better after the first epoch: halved after the epochs of index 15, 17, 19, 21, and ended after 23."""
    found, _ = rates(HE, [1.0] + [2.0] * 99)
    assert found == [1.0] * 16 + [0.5] * 2 + [0.25] * 2 + [0.125] * 2 + [0.0625] * 2


def test_he_counts_again_after_an_improvement() -> None:
    """Better at the 16th epoch, when a halving would be allowed for the first time: the next one waits for two."""
    found, _ = rates(HE, [1.0] + [2.0] * 14 + [0.5] + [2.0] * 84)
    assert found[:20] == [1.0] * 18 + [0.5] * 2


def test_sa_vae_halves_every_epoch_once_it_has_begun() -> None:
    """Worse at epochs 3 and 18 alone: it begins after the 18th, goes on while validation improves, and ends where the
    rate would be 1/64. The weights go on from where they are.

    Oracle for the weights: plain descent by hand at the rates listed.
    """
    nlls = [100.0 - epoch for epoch in range(1, 31)]
    nlls[2] = nlls[17] = 200.0
    expected = [1.0] * 18 + [0.5, 0.25, 0.125, 0.0625, 0.03125]
    found, scores = rates(SA_VAE, nlls)
    assert found == expected
    weight = [0.3, -0.2]
    for epoch, share in enumerate(expected):
        gradient = gradient_by_hand(weight, batches(1).batches[0], listed(1, 3, epoch))
        weight = plain_descent(weight, gradient, share * RATE)
    assert scores.weights[-1].tolist() == pytest.approx(weight, rel=1e-9)


def test_cyclical_starts_a_cosine_again_every_ten_epochs() -> None:
    """Oracle: their line, 0.5 (1 + cos(pi (epoch mod 10) / 10)), above the floor that ours has."""
    options = Training(
        epochs=40, learning_rate=RATE, decay="cosine", cycles=4, decay_factor=1e-6, log_every=1
    )
    found, _ = rates(options, [50.0 - epoch for epoch in range(40)])
    theirs = [0.5 * (1 + math.cos(math.pi * (epoch % 10) / 10)) for epoch in range(40)]
    assert found == pytest.approx(theirs, abs=2e-6)


def test_a_hold_does_not_delay_stopping_early() -> None:
    """It is about decays: early stopping has its patience."""
    found, _ = rates(Training(epochs=9, patience=2, hold=5, log_every=1), [1.0] + [2.0] * 8)
    assert len(found) == 3


def test_a_steady_decay_needs_patience_to_begin() -> None:
    with pytest.raises(ValueError, match=r"^patience must be at least 1 with decay = 'steady'; got 0\.$"):
        Training(decay="steady")
