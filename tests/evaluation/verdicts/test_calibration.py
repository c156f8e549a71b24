"""Verdicts on calibration, from ranks of known law."""

import torch

from sri_pyro.config.calibrate import calibration_findings
from sri_pyro.evaluation.calibration import Calibration, names_of
from sri_pyro.evaluation.verdicts.calibration import NARROW, WIDE, judge_calibration
from sri_pyro.types import Batch


def found(power: float) -> Calibration:
    """600 simulations whose ranks crowd at the ends (power below 1) or in the middle."""
    centred = 2 * torch.rand(600, 4, dtype=torch.float64) - 1
    spread = centred.sign() * centred.abs() ** power
    return Calibration.of(((spread + 1) / 2 * 200).long().clamp(max=199), 199, names_of(2), 2)


def test_each_inference_is_judged_and_the_worst_comes_first() -> None:
    """Oracle: the laws. An inference that is too sure and one that is not sure enough are told apart."""
    systems = {"right": found(1.0), "narrow": found(0.5), "wide": found(2.0)}
    batch = Batch(torch.full((600, 2), 5))
    verdicts = judge_calibration(calibration_findings(systems, [batch]).numbers)
    assert [verdict.level for verdict in verdicts] == ["bad", "bad", "good"]
    assert [verdict.headline for verdict in verdicts] == [
        "narrow: NOT calibrated.",
        "wide: NOT calibrated.",
        "right: calibrated, as far as 600 simulations tell.",
    ]
    assert verdicts[0].evidence.endswith(NARROW)
    assert verdicts[1].evidence.endswith(WIDE)
    assert "(z_0, z_1, log_likelihood, log_joint)" in verdicts[0].evidence
