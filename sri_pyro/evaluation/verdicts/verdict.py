"""What a verdict is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["good", "info", "caution", "bad"]


@dataclass(frozen=True)
class Verdict:
    """One plain statement about a model or its inference.

    Attributes:
        topic: ``likelihood``, ``code``, ``short_run``, ``noise``, ``rest``, ``aggregate`` or ``jensen``.
        level: ``good``, ``info``, ``caution`` or ``bad``.
        headline: The statement.
        evidence: The numbers it rests on.
        advice: What to do.
    """

    topic: str
    level: Level
    headline: str
    evidence: str
    advice: str
