"""What a verdict is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["bad", "caution", "info", "good"]
LEVELS: Final[tuple[Level, ...]] = ("bad", "caution", "info", "good")
"""The worst first."""


@dataclass(frozen=True)
class Verdict:
    """One plain statement about a model or its inference.

    Attributes:
        topic: ``likelihood``, ``code``, ``short_run``, ``noise``, ``rest``, ``aggregate``, ``run_aggregate``,
            ``jensen`` or ``sandwich``.
        level: ``bad``, ``caution``, ``info`` or ``good``.
        headline: The statement.
        evidence: The numbers it rests on.
        advice: What to do.
    """

    topic: str
    level: Level
    headline: str
    evidence: str
    advice: str

    @property
    def mark(self) -> str:
        """The level as readers see it, on the page and on the terminal."""
        return "Note" if self.level == "info" else self.level.capitalize()


def spoken(verdicts: Sequence[Verdict]) -> list[str]:
    """Verdicts as lines for the terminal: what is bad or calls for caution is followed by what to do.

    Example:
        >>> bad = Verdict("code", "bad", "COLLAPSED.", "KL is 0.", "Train again.")
        >>> spoken([bad, Verdict("likelihood", "good", "Trustworthy.", "k-hat is 0.2.", "Compare.")])
        ['BAD: COLLAPSED. KL is 0.', '  what to do: Train again.', 'GOOD: Trustworthy. k-hat is 0.2.']
    """
    lines = []
    for verdict in verdicts:
        lines.append(f"{verdict.mark.upper()}: {verdict.headline} {verdict.evidence}")
        if verdict.level in ("bad", "caution"):
            lines.append(f"  what to do: {verdict.advice}")
    return lines
