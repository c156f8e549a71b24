"""Findings of every further analysis, small and of known law, and the way to a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sri_pyro.config.calibrate import calibration_findings
from sri_pyro.config.reference import Effort, reference_findings
from sri_pyro.evaluation.calibration import Calibration, names_of
from sri_pyro.evaluation.criticism import criticise
from sri_pyro.evaluation.doctor import DoctorOptions, examine
from sri_pyro.evaluation.doctor_runs import Dynamics
from sri_pyro.evaluation.drawing import Panel
from sri_pyro.evaluation.evidence import PriorImportance
from sri_pyro.evaluation.findings import Findings, read_findings, write_findings
from sri_pyro.evaluation.reference import Reference
from sri_pyro.evaluation.scoring import Known, Scores
from sri_pyro.numerics.langevin import UnadjustedLangevin
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.types import Batch, Draws
from tests.evaluation.helpers import selectable
from tests.evaluation.test_text_criticism import HELD_OUT, TRAINING, page
from tests.oracles import LinearGaussian

NUM, DRAWS = 400, 39
"""Simulations, and draws of each."""


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def calibration_of(powers: dict[str, tuple[float, ...]]) -> Findings:
    """Ranks of z_0, z_1, log likelihood and log joint by system: a power of 1 is uniform, one below 1 crowds at the
    ends, as draws that are too narrow make it.
    """
    found = {}
    for i, (name, power) in enumerate(powers.items()):
        generator = torch.Generator().manual_seed(i)
        centred = 2 * torch.rand(NUM, 4, generator=generator, dtype=torch.float64) - 1
        shares = (1 + centred.sign() * centred.abs() ** torch.tensor(power)) / 2
        ranks = (shares * (DRAWS + 1)).long().clamp(max=DRAWS)
        found[name] = Calibration.of(ranks, DRAWS, names_of(2), 2)
    return calibration_findings(found, [Batch(torch.full((NUM, 2), 5))])


def reference_of(
    widths: dict[str, tuple[float, float]], apart: float = 0.0, num: int = 300, dim: int = 3
) -> Findings:
    """Exact posteriors of two sentences, and inferences whose draws are so much as wide in one coordinate.

    Args:
        widths: Of z_1, on either sentence, by inference.
        apart: By how many deviations one of the chains of the second sentence lies off.
        num: Draws.
        dim: D.
    """
    oracle = LinearGaussian.build("power1", dim, 2.0)
    x = normal(2, dim, seed=1)
    mean, covariance = oracle.posterior(x)
    root = torch.linalg.cholesky(covariance)
    target = selectable(oracle, x)
    z = mean + normal(4, num, 2, dim, seed=2) @ root.T
    z[0, :, 1] += apart * covariance.diagonal().sqrt()
    log_joint = target.log_joint(z.flatten(0, 1)).reshape(z.shape[:-1])
    flat = torch.zeros_like(log_joint)
    known = {"own": Known.of(target, Reference(z, log_joint, flat + 1, flat.bool(), flat[0, 0], 0))}
    drawn, scores = {}, {}
    for i, (name, width) in enumerate(widths.items()):
        factor = torch.ones(2, dim, dtype=torch.float64)
        factor[:, 1] = torch.tensor(width)
        drawn[name] = mean + factor * (normal(num, 2, dim, seed=3 + i) @ root.T)
        scores[name] = Scores.of(target, Draws(drawn[name]), known["own"])
    batch = Batch(torch.full((2, 4), 5), torch.tensor([7, 31]))
    return reference_findings(known, scores, drawn, batch, Effort(num_sentences=2, num_samples=num))


def doctor_of(step: float, factors: tuple[float, ...] = (0.5, 1.0, 400.0)) -> Findings:
    """Of runs of four steps on a Gaussian posterior."""
    oracle = LinearGaussian.build("power1", dim=3, information=2.0)
    model = nn.Linear(1, 1)
    model.target = lambda batch: oracle.target(torch.ones(len(batch), 3, dtype=torch.float64))  # type: ignore[assignment]
    run = Dynamics(
        UnadjustedLangevin(), ConstantSteps(step), 4, 1.0, lambda target, num: target.sample_prior(num)
    )
    options = DoctorOptions(num_chains=16, factors=factors)
    batch = Batch(torch.full((3, 2), 5))
    return examine(model, nn.Identity(), run, [batch], PriorImportance(64), options)  # type: ignore[arg-type]


def prior(num: int) -> Tensor:
    return torch.randn(num, 2)


def criticism_of() -> Findings:
    """An inference too narrow, and a model like its data."""
    codes = {"posterior": prior(60), "inference": 0.4 * prior(60)}
    texts = {"prior": page(60, 11), "posterior": page(50, 12, least=2, most=4)}
    return criticise(codes, prior, lambda z: z, texts, HELD_OUT, TRAINING, replicates=99)


def back(folder: Path, findings: Findings, panels: Callable[..., list[Panel]]) -> list[Panel]:
    """Figures from findings that were written and read."""
    write_findings(folder, findings, {})
    found = read_findings(folder, findings.name)
    assert found is not None
    return panels(*found)


def whole(panels: list[Panel]) -> None:
    for panel in panels:
        assert panel.svg.startswith("<svg")
        assert panel.caption.endswith(".")
        assert panel.alt.endswith(".")
        assert "nan" not in panel.alt
    assert len({panel.title for panel in panels}) == len(panels)


def lines(svg: str, color: str, points: int) -> list[NDArray[np.float64]]:
    """Heights of the lines of a colour that run through so many points, upwards."""
    found = []
    for path, style in re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', svg):
        places = re.findall(r"[ML] (\S+) (\S+)", path)
        if f"stroke: var(--{color})" in style and len(places) == points:
            found.append(-np.array(places, dtype=float)[:, 1])
    return found


def markers(svg: str, color: str) -> int:
    """How many filled markers have a colour, those of the legend among them."""
    return len(re.findall(rf"<use[^>]*fill: var\(--{color}\)", svg))
