"""The table of measurements, in the order in which they are made and shown; a new one is a module and a line here."""

from __future__ import annotations

import torch

from benchmarks.measurements import (
    accuracy,
    cuda,
    evidence,
    growth,
    hessian,
    langevin,
    memory,
    million,
    parts,
    tail,
)
from benchmarks.measurements.measurement import Measurement, Run

MEASUREMENTS: tuple[Measurement, ...] = (
    *accuracy.MEASUREMENTS,
    *langevin.MEASUREMENTS,
    *parts.MEASUREMENTS,
    *tail.MEASUREMENTS,
    *hessian.MEASUREMENTS,
    *evidence.MEASUREMENTS,
    *memory.MEASUREMENTS,
    *growth.MEASUREMENTS,
    *million.MEASUREMENTS,
    *(cuda.MEASUREMENTS if torch.cuda.is_available() else ()),
)

__all__ = ["MEASUREMENTS", "Measurement", "Run"]
